"""What a sparse training method may choose, and what it does where it does not."""

import dataclasses

import numpy as np

from keras_sparse.layers.traversal import trainable_masked_weights
from keras_sparse.training.dead_weights import leaves_zeros
from keras_sparse.training.layer_state import layer_specs, live_weights


class Choices:
    """The methods that a subclass of `keras_sparse.SparseMethod` overrides; `drop` is the one that it has to."""

    moves = True  # Whether the method needs dead positions to grow at.
    owes_updates = True  # Whether a run that goes on makes up for an update that its checkpoint lacks.

    def budget(self, layers):
        """How many weights must live after the update: as many as before, unless a method says otherwise."""
        return live_weights(layers)

    def drop(self, layers):
        """What dies: for each `LayerState` a boolean array like its `live`, True where dropped."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say what to drop: give it a method `drop`. drop(self, layers) returns for "
            "each layer a boolean array as long as `layer.live`, such as criteria.weakest(layer.scores, count)."
        )

    def redistribute(self, layers, dropped):
        """How many mask elements each layer grows, a list of ints: as many as it lost, unless overridden."""
        return [np.count_nonzero(d) for d in dropped]

    def grow(self, layer, count, rng):
        """Where a layer grows: `count` positions, none of them live before the update."""
        return self.regrowth.positions(layer, count, rng)

    def initial_values(self, shape, rng):
        """The values that new weights start with: array of `shape`."""
        return self.regrowth.initial_values(shape, rng)

    def get_state(self):
        """What the method must remember over a restart: dict of str to numbers, strings and small arrays."""
        return {}

    def set_state(self, state):
        """Goes on with a dict that `get_state` made, of a model that is loaded or restored; {} for a new one."""

    def logs(self):
        """The method's own entries in the epoch's logs."""
        return {}

    def check(self, model, layers):
        """Raises an error where the method cannot train these layers; called at the beginning of `fit`."""

    def start(self, model):
        """Called before the first step of `fit`, after callbacks that restore a checkpoint have done so."""

    def may_be_idle(self):
        """Whether it is as it should be that no update of this fit dropped anything."""
        return False

    # Inside of the training step.

    def step_action(self, epoch):
        """What is to be done right after the optimizer of each step: nothing, if that leaves dead weights alone.

        Args:
            epoch: int from 0, that begins.

        Returns:
            None, or `(specs, carried, settings)` for `act_on_layers`; the last two are arrays.
        """
        model = self.model
        if leaves_zeros(trainable_masked_weights(model), model.optimizer):
            return None
        # How many live in a layer changes, and does not matter.
        specs = tuple(dataclasses.replace(spec, live=None) for spec in layer_specs(model))
        return specs, [], np.zeros(1, "float32")

    def act_on_layers(self, specs, step, rate, settings, values, carried):
        """What is done there, in `keras.ops`: a pure function of arrays, compiled with the training step.

        Args:
            specs: tuple of `keras_sparse.training.layer_state.LayerSpec`, one for each trainable masked layer.
            step: int32 scalar, the optimizer's step.
            rate: float32 scalar, its learning rate.
            settings: array.
            values: for each layer a list of arrays: kernel, mask, the optimizer's slots.
            carried: list of arrays.

        Returns:
            `(values, carried)`, as they become.
        """
        return [spec.cleared(*x) for spec, x in zip(specs, values, strict=True)], carried

    def end_steps(self, model, specs, carried):
        """Called at the end of an epoch with what `carried` has become, if there was a `step_action`."""
