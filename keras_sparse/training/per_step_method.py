"""Acting inside of the compiled training step, right after the optimizer: for methods that act at every step."""

import functools
import itertools

import numpy as np
from keras import ops

from keras_sparse.backend import elements
from keras_sparse.layers.traversal import masked_layers, trainable_masked_layers
from keras_sparse.replicas import check_replicas
from keras_sparse.training.dead_weights import finite
from keras_sparse.training.optimizer_state import iterations
from keras_sparse.training.site import sites_of, variables_of
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.train_step import compiled, tensors, write
from keras_sparse.validation import check_optimizer, check_step


class InStep(SparseMethod):
    """Base of methods that act on the layers after every optimizer step, and keep the number of live weights of each.

    A subclass has `begin`, `settings` and `act`. `act` is compiled with the training step, so nothing goes to the host
    and back, and `steps_per_execution` may be any. What it remembers, such as the positions of the live weights, is
    made anew from masks and weights at each epoch, so that no checkpoint lacks it.

    That the live weights are as many as they must be is checked at the end of each epoch, and so are the replicas.

    Args:
        **kwargs: of `SparseMethod`, but for `period`.
    """

    def begin(self, sites, layers):
        """What `act` remembers.

        Args:
            sites: tuple of `Site`, one for each trainable masked layer.
            layers: list of these layers.

        Returns:
            List of arrays. The first holds the live positions, layer by layer, int32 and 1-D; the last how many
            weights died, an int32 scalar.
        """
        raise NotImplementedError

    def settings(self):
        """What `act` needs of the epoch's schedules: float32 array of one dimension."""
        raise NotImplementedError

    def act(self, sites, step, rate, settings, weights, slots, own):
        """What a step makes of the layers, in `keras.ops`: a pure function of arrays.

        Args:
            sites: tuple of `Site`, one for each trainable masked layer, as are the lists that follow.
            step: int32 scalar, the optimizer's step.
            rate: float32 scalar, its learning rate.
            settings: as `settings` makes it.
            weights: list of arrays, the kernels.
            slots: list of lists of arrays, the optimizer's.
            own: list of arrays, as `begin` makes them.

        Returns:
            `(weights, masks, slots, own)`; `masks` is a list of boolean arrays.
        """
        raise NotImplementedError

    # In `fit`.

    def inside(self, epoch):
        """What `act` needs, until it ends."""
        if epoch >= self.ends():
            return super().inside(epoch)
        sites = sites_of(self.model)
        return sites, self.begin(sites, trainable_masked_layers(self.model)), self.settings()

    def on_epoch_end(self, epoch, logs=None):
        """Checks, and adds to the logs."""
        model = self.model
        batches, per_step = iterations(model.optimizer)
        self._step = batches // per_step
        if own := self._inside and self._inside.own():
            self._close(model, self._stands[0], own)
            layers = trainable_masked_layers(model)
            if not finite(layers):
                self._skip(layers, model.optimizer, masked_layers(model)[0].kernel_mask)
        super().on_epoch_end(epoch, logs)

    # In a loop of one's own.

    _kept = None  # what `act` remembers from one call to the next

    def recall(self, memory):
        """Begins anew with another model."""
        self._kept, self._compiled = None, {}

    def update(self, model, step, epoch=0, optimizer=None):
        """Acts once, after the optimizer's step; see `SparseMethod.update`."""
        check_step(step, "step")
        check_step(epoch, "epoch")
        check_optimizer(optimizer)
        optimizer = optimizer or getattr(model, "optimizer", None)
        if optimizer is None:
            raise ValueError(
                f"{type(self).__name__} goes by the optimizer's learning rate, and {model.name!r} is not compiled with "
                "one. Pass optimizer=... of the loop."
            )
        layers, memory = trainable_masked_layers(model), masked_layers(model)[0].kernel_mask
        self._epoch, self._step = epoch, step
        if memory is not self._recalled:
            self.recall(memory)
            self._recalled = memory
            self.start(model)
        if not finite(layers):
            self._skip(layers, optimizer, memory)
            return
        sites = sites_of(model, optimizer)
        own = self.begin(sites, layers)
        if self._kept and np.array_equal(np.sort(self._kept[0]), own[0]):
            own = [*self._kept[:-1], own[-1]]
        rate = np.float32(ops.convert_to_numpy(optimizer.learning_rate))
        variables = variables_of(layers, optimizer)
        act = self._compiled.setdefault(sites, compiled(functools.partial(self.on_kernels, sites)))
        values, own = act(np.int32(step), rate, self.settings(), tensors(variables), own)
        write(variables, values)
        self._kept = [np.array(ops.convert_to_numpy(x)) for x in own]
        self._close(model, sites, self._kept)
        self._updates += 1

    # In both.

    def on_kernels(self, sites, step, rate, settings, values, own):
        """Clears what the optimizer does not leave clean, and acts."""
        values, own = super().on_kernels(sites, step, rate, settings, values, own)
        if own:
            weights, slots = [x[0] for x in values], [x[2:] for x in values]
            weights, masks, slots, own = self.act(sites, step, rate, settings, weights, slots, own)
            values = [[w, mask, *held] for w, mask, held in zip(weights, masks, slots, strict=True)]
        return values, own

    def _close(self, model, sites, own):
        """Checks what steps have left, and counts."""
        ends = itertools.accumulate(site.live for site in sites)
        for site, layer, end in zip(sites, trainable_masked_layers(model), ends, strict=True):
            live = np.sort(own[0][end - site.live : end]) - site.first
            found = np.flatnonzero(elements.view(layer.kernel_mask.value))
            if not np.array_equal(live, found):
                raise RuntimeError(
                    f"{type(self).__name__} broke an invariant: {len(live)} weights of {layer.name!r} must be live "
                    f"after step {self._step} (received {len(found)}), and the mask must say which. Start again from "
                    "the last checkpoint; if nothing else has written to the mask, please report it."
                )
        died = int(own[-1])
        self._dropped += died
        self._grown += died
        elements.assign(masked_layers(model)[0].kernel_mask.last_update, self._step)
        if self.check_replicas:
            check_replicas(model)
