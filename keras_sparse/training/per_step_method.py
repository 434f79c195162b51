"""Acting inside of the compiled training step, right after the optimizer: for methods that act at every step."""

import functools
import itertools

import keras
import numpy as np
from keras import ops

from keras_sparse import backend
from keras_sparse.layers.traversal import trainable_masked_weights
from keras_sparse.training.dead_weights import finite
from keras_sparse.training.layer_state import layer_specs, variables_of
from keras_sparse.training.optimizer_state import check_optimizer
from keras_sparse.training.sparse_method import SparseMethod


class PerStepMethod(SparseMethod):
    """Base of methods that act on the layers after every optimizer step, and keep the number of live weights of each.

    A subclass has `begin`, `settings` and `act`. `act` is compiled with the training step, so nothing goes to the host
    and back, and `steps_per_execution` may be any. What it remembers, such as the positions of the live weights, is
    made anew from masks and weights at each epoch, so that no checkpoint lacks it.

    That the live weights are as many as they must be is checked at the end of each epoch, and so are the replicas.

    Args:
        **kwargs: of `SparseMethod`, but for `period`.
    """

    def begin(self, specs, layers):
        """What `act` remembers.

        Args:
            specs: tuple of `LayerSpec`, one for each trainable masked layer.
            layers: list of these layers.

        Returns:
            List of arrays. The first holds the live positions, layer by layer, int32 and 1-D; the last how many
            weights died, an int32 scalar.
        """
        raise NotImplementedError

    def settings(self):
        """What `act` needs of the epoch's schedules: float32 array of one dimension."""
        raise NotImplementedError

    def act(self, specs, step, rate, settings, weights, masks, slots, own):
        """What a step makes of the layers, in `keras.ops`: a pure function of arrays.

        Args:
            specs: tuple of `LayerSpec`, one for each trainable masked layer, as are the lists that follow.
            step: int32 scalar, the optimizer's step.
            rate: float32 scalar, its learning rate.
            settings: as `settings` makes it.
            weights: list of arrays, the kernels.
            masks: list of uint8 arrays, 1 where live: as the variables are, since to cast is to copy.
            slots: list of lists of arrays, the optimizer's.
            own: list of arrays, as `begin` makes them.

        Returns:
            `(weights, masks, slots, own)`, as they become.
        """
        raise NotImplementedError

    # In `fit`.

    def step_action(self, epoch):
        """What `act` needs, until it ends."""
        if epoch >= self.update_schedule.ends():
            return super().step_action(epoch)
        specs = layer_specs(self.model)
        return specs, self.begin(specs, trainable_masked_weights(self.model)), self.settings()

    def end_steps(self, model, specs, carried):
        """Checks what the steps of an epoch have left, and counts."""
        if not carried:
            return
        layers = trainable_masked_weights(model)
        self._close(model, specs, carried)
        if not finite(layers):
            self._skip(model, layers, model.optimizer)

    # In a loop of one's own.

    def update(self, model, step, epoch=0, optimizer=None):
        """Acts once, after the optimizer's step; see `SparseMethod.update`."""
        check_optimizer(optimizer)
        if not isinstance(optimizer or getattr(model, "optimizer", None), keras.optimizers.Optimizer):
            raise ValueError(
                f"{type(self).__name__} goes by the optimizer's learning rate, and {model.name!r} is not compiled with "
                f"one of Keras. Pass optimizer=... of the loop. Received: optimizer={optimizer!r}."
            )
        is_new = not self._written.is_of(model)
        optimizer = self._begin_update(model, step, epoch, optimizer)
        layers = trainable_masked_weights(model)
        if is_new:
            self._kept, self._compiled = None, {}
            self.start(model)
        if not finite(layers):
            self._skip(model, layers, optimizer)
            return
        specs = layer_specs(model, optimizer)
        carried = self.begin(specs, layers)
        if self._kept and np.array_equal(np.sort(self._kept[0]), carried[0]):
            carried = [*self._kept[:-1], carried[-1]]
        rate = np.float32(ops.convert_to_numpy(optimizer.learning_rate))
        variables = variables_of(layers, optimizer)
        act = self._compiled.setdefault(specs, backend.compiled(functools.partial(self.act_on_layers, specs)))
        values, carried = act(np.int32(step), rate, self.settings(), backend.tensors(variables), carried)
        backend.assign_all(variables, values)
        self._kept = [np.array(ops.convert_to_numpy(x)) for x in carried]
        self._close(model, specs, self._kept)
        self._updates += 1

    _kept = None  # what `act` carries from one call of `update` to the next
    _compiled = None

    def __getstate__(self):
        """As of the base; what is compiled stays behind."""
        return {**super().__getstate__(), "_kept": None, "_compiled": None}

    # In both.

    def act_on_layers(self, specs, step, rate, settings, values, carried):
        """Clears what the optimizer does not leave clean, and acts."""
        values, carried = super().act_on_layers(specs, step, rate, settings, values, carried)
        if carried:
            weights, masks, slots = [x[0] for x in values], [x[1] for x in values], [x[2:] for x in values]
            weights, masks, slots, carried = self.act(specs, step, rate, settings, weights, masks, slots, carried)
            values = [[w, mask, *held] for w, mask, held in zip(weights, masks, slots, strict=True)]
        return values, carried

    def _close(self, model, specs, carried):
        """Checks what steps have left, and counts."""
        ends = itertools.accumulate(spec.live for spec in specs)
        for spec, layer, end in zip(specs, trainable_masked_weights(model), ends, strict=True):
            live = np.sort(carried[0][end - spec.live : end]) - spec.first
            found = np.flatnonzero(backend.read(layer.mask.value))
            if not np.array_equal(live, found):
                raise RuntimeError(
                    f"{type(self).__name__} broke an invariant: {len(live)} weights of {layer.name!r} must be live "
                    f"after step {self._step} (received {len(found)}), and the mask must say which. Start again from "
                    "the last checkpoint; if nothing else has written to the mask, please report it."
                )
        died = int(carried[-1])
        self._end_update(model, died, died)
