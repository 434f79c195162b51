"""What a method does inside of each training step, right after the optimizer: at least, undo what that should not."""

import dataclasses
import functools

import numpy as np

from keras_sparse.layers.traversal import trainable_masked_layers
from keras_sparse.training.dead_weights import keep_zeros
from keras_sparse.training.site import sites_of, variables_of
from keras_sparse.training.standing import clear_away
from keras_sparse.training.train_step import Inside
from keras_sparse.training.update_schedule import Clock


class Within(Clock):
    """Leaves dead weights 0 and their slots fresh after every step, whatever the optimizer does.

    Args:
        **kwargs: of `Clock`.
    """

    def inside(self, epoch):
        """What is to be done there, right after the optimizer: nothing, if that leaves dead weights alone.

        Args:
            epoch: int from 0, that begins.

        Returns:
            None, or the arguments `(sites, own, settings)` that `on_kernels` will get; the last two as arrays.
        """
        model = self.model
        if keep_zeros(trainable_masked_layers(model), model.optimizer):
            return None
        # How many live in a layer changes, and does not matter.
        sites = tuple(dataclasses.replace(site, live=None) for site in sites_of(model))
        return sites, [], np.zeros(1, "float32")

    def on_kernels(self, sites, step, rate, settings, values, own):
        """What is done, in `keras.ops`: a pure function of arrays, compiled with the training step.

        Args:
            sites: tuple of `keras_sparse.training.site.Site`, one for each trainable masked layer.
            step: int32 scalar, the optimizer's step.
            rate: float32 scalar, its learning rate.
            settings: array.
            values: for each layer a list of arrays: kernel, mask, the optimizer's slots.
            own: list of arrays.

        Returns:
            `(values, own)`, as they become.
        """
        return [site.cleared(*x) for site, x in zip(sites, values, strict=True)], own

    _inside = _stands = None

    def on_train_begin(self, logs=None):
        """Clears away what a fit that was cut off has left."""
        clear_away(self.model)
        self._inside = None
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        """Stands behind the optimizer, if there is anything to do."""
        super().on_epoch_begin(epoch, logs)
        work, before = self.inside(epoch), self._stands
        self._stands = work and (work[0], len(work[1]))
        if self._inside and self._stands != before:
            self._inside.release()
            self._inside = None
        if work is None:
            return
        sites, own, settings = work
        if self._inside:
            self._inside.renew(own, settings)
            return
        variables = variables_of(trainable_masked_layers(self.model), self.model.optimizer)
        self._inside = Inside(self.model, functools.partial(self.on_kernels, sites), variables, own, settings)

    def on_train_batch_begin(self, batch, logs=None):
        """A step follows."""
        if self._inside:
            self._inside.expected = True

    def on_train_end(self, logs=None):
        """Gives the model its training function back."""
        clear_away(self.model)
        self._inside = None
