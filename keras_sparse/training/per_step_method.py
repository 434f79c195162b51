"""Base class of methods that act after every optimizer step, inside the compiled training step."""

import dataclasses
import functools
import itertools
import weakref

import keras
import numpy as np
from keras import ops

from keras_sparse import backend
from keras_sparse.layers.traversal import trainable_masked_weights
from keras_sparse.training.dead_weights import finite
from keras_sparse.training.layer_state import LayerSpec, layer_specs, variables_of
from keras_sparse.training.optimizer_state import check_optimizer
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.step_conditions import computes_by_keras


@dataclasses.dataclass
class _Loop:
    """What a method keeps from one call of `update` to the next, for one model.

    Attributes:
        carried: list of the arrays that `act` returned; empty before the first call.
        compiled: dict from specs to compiled functions.
    """

    carried: list = dataclasses.field(default_factory=list)
    compiled: dict = dataclasses.field(default_factory=dict)


class PerStepMethod(SparseMethod):
    """Base class of methods that act after every optimizer step and keep the number of live weights of each layer.

    A subclass defines `begin`, `settings` and `act`. `act` is compiled with the training step: no data goes to the host
    and back, and any `steps_per_execution` is possible. Its state, such as the positions of the live weights, is
    computed from masks and weights at the beginning of each epoch, so that it need not be in checkpoints.

    The number of live weights is checked at the end of each epoch; so are the replicas, if `check_replicas` is True.

    Args:
        **kwargs: arguments of `SparseMethod` other than `period`.
    """

    def begin(self, specs: tuple[LayerSpec, ...], layers: list) -> list[np.ndarray]:
        """Returns the arrays that `act` carries from step to step.

        Args:
            specs: tuple of `LayerSpec`, one for each trainable masked weight.
            layers: list of these masked weights.

        Returns:
            List of arrays. The first is 1-D int32, the live positions, layer by layer. The last is an int32 scalar, the
            number of weights dropped so far.
        """
        raise NotImplementedError

    def settings(self) -> np.ndarray:
        """Returns the values of the schedules at this epoch, for `act`: 1-D float32 array."""
        raise NotImplementedError

    def act(self, specs: tuple[LayerSpec, ...], step, rate, settings, weights, masks, slots, carried) -> tuple:
        """Drops and grows after one optimizer step. It must be a pure function of arrays that uses `keras.ops`.

        Args:
            specs: tuple of `LayerSpec`, one for each trainable masked weight. The lists below have the same order.
            step: int32 scalar, the optimizer step.
            rate: float32 scalar, the learning rate.
            settings: array that `settings` returned.
            weights: list of arrays.
            masks: list of uint8 arrays, 1 where live. They are not cast to bool, since a cast is a copy.
            slots: list of lists of arrays, the optimizer slots of each weight.
            carried: list of arrays that `begin` or the previous step returned.

        Returns:
            The new `(weights, masks, slots, carried)`.
        """
        raise NotImplementedError

    # In `fit`.

    def step_action(self, epoch):
        """Returns the arguments of `act_on_layers`. After `until`, dead weights are only cleared."""
        if epoch >= self.update_schedule.ends():
            return super().step_action(epoch)
        # New weights start from what dead ones have. Code of the user's may change these.
        specs = layer_specs(self.model, zeros=None if computes_by_keras(self.model) else False)
        return specs, self.begin(specs, trainable_masked_weights(self.model)), self.settings()

    def end_steps(self, model, specs, carried):
        """Checks the live weights after the steps of an epoch, and updates the counts of the logs."""
        if not carried:
            return
        layers = trainable_masked_weights(model)
        self._check_and_count(model, specs, carried)
        if not finite(layers):
            self._skip(model, layers, model.optimizer)

    # In a custom training loop.

    def update(self, model, step, epoch=0, optimizer=None):
        """Acts once. Call it after every optimizer step; see `SparseMethod.update`."""
        check_optimizer(optimizer)
        if not isinstance(optimizer or getattr(model, "optimizer", None), keras.optimizers.Optimizer):
            raise ValueError(
                f"{type(self).__name__} goes by the optimizer's learning rate, and {model.name!r} is not compiled with "
                f"one of Keras. Pass optimizer=... of the loop. Received: optimizer={optimizer!r}."
            )
        numbered, optimizer = self._begin_update(model, step, epoch, optimizer)
        layers = [weight for _, weight in numbered]
        if model not in self._loops:
            self.start(model, optimizer)
            self._loops[model] = _Loop()
        loop = self._loops[model]
        if not finite(layers):
            self._skip(model, layers, optimizer)
            return
        specs = layer_specs(model, optimizer, zeros=False)  # The loss of the loop may change dead weights.
        carried = self.begin(specs, layers)
        # Go on with the arrays of the previous call, unless something else has changed the masks since.
        if loop.carried and np.array_equal(np.sort(loop.carried[0]), carried[0]):
            carried = [*loop.carried[:-1], carried[-1]]
        rate = np.float32(ops.convert_to_numpy(optimizer.learning_rate))
        variables = variables_of(layers, optimizer)
        act = loop.compiled.setdefault(specs, backend.compiled(functools.partial(self.act_on_layers, specs)))
        values, carried = act(np.int32(step), rate, self.settings(), backend.tensors(variables), carried)
        backend.assign_all(variables, values)
        loop.carried = [np.array(ops.convert_to_numpy(x)) for x in carried]
        self._check_and_count(model, specs, loop.carried)
        self._updates += 1

    def _forget_fit(self):
        super()._forget_fit()
        self._loops = weakref.WeakKeyDictionary()  # model -> _Loop

    def __getstate__(self):
        """Returns the settings and state; compiled functions cannot be copied or pickled."""
        return {**super().__getstate__(), "_loops": None}

    def __setstate__(self, state):
        """Restores what `__getstate__` returned."""
        vars(self).update(state, _loops=weakref.WeakKeyDictionary())

    # In both.

    def act_on_layers(self, specs, step, rate, settings, values, carried):
        """Clears dead weights if the optimizer changed them, then calls `act`."""
        values, carried = super().act_on_layers(specs, step, rate, settings, values, carried)
        if carried:
            weights, masks, slots = [x[0] for x in values], [x[1] for x in values], [x[2:] for x in values]
            weights, masks, slots, carried = self.act(specs, step, rate, settings, weights, masks, slots, carried)
            values = [[w, mask, *held] for w, mask, held in zip(weights, masks, slots, strict=True)]
        return values, carried

    def _check_and_count(self, model, specs, carried):
        """Raises RuntimeError unless masks and carried positions agree; updates state and counts."""
        ends = itertools.accumulate(spec.live for spec in specs)
        for spec, layer, end in zip(specs, trainable_masked_weights(model), ends, strict=True):
            live = np.sort(carried[0][end - spec.live : end]) - spec.first
            found = np.flatnonzero(layer.mask.numpy())
            if not np.array_equal(live, found):
                raise RuntimeError(
                    f"{type(self).__name__} broke an invariant: {len(live)} weights of {layer.name!r} must be live "
                    f"after step {self._step} (received {len(found)}), and the mask must say which. Start again from "
                    "the last checkpoint; if nothing else has written to the mask, please report it."
                )
        drop_count = int(carried[-1])
        self._end_update(model, drop_count, drop_count)
