"""How weights grow: strategies that a sparse training method has.

Each has `observe`, which makes the states of the layers, `room`, `positions` and `initial_values`.
"""

import dataclasses

import keras
import numpy as np

from keras_sparse import _keras, backend, criteria
from keras_sparse.layers.granularity import to_elements
from keras_sparse.training.layer_state import layer_states
from keras_sparse.validation import check_choice, check_not_negative

GROWTH = ("anywhere", "live_units")


class Growth:
    """Base of the strategies: what those need not define that look at weights and masks only."""

    looks_at_batches = False  # Whether `keep` wants the batch that training saw last.
    is_ready = True  # Whether `observe` may be called.

    def check(self, model):
        """Raises an error where the strategy cannot work on a model."""

    def keep(self, batch):
        """Takes a batch that training has seen."""

    def forget(self):
        """Forgets what belongs to one `fit`."""

    def observe(self, model, layers):
        """The `LayerState` of each of some masked layers."""
        return layer_states(layers)

    def room(self, layer):
        """How many elements could grow in a layer."""
        return layer.free

    def preferences(self, layer, positions, rng):
        """How much some dead positions are to grow: a float for each, where as many of each group have to."""
        return rng.random(len(positions))

    def initial_values(self, shape, rng):
        """The values that new weights start with: zeros of `shape`."""
        return np.zeros(shape)


class RandomGrowth(Growth):
    """Grows at random positions among those that were dead before the update's drop.

    Args:
        where: "anywhere", or "live_units" for positions between two units that each have a live weight in the layer. A
            unit without live inputs or live outputs does nothing for the network; weights there are lost until the
            next update, and in a very sparse network they are most.
        scale: standard deviation of the normal distribution from which grown weights start, a float of at least 0. In a
            very sparse network a unit whose live incoming weights are all 0 passes no gradient either way, and stays
            stuck; 1e-4 frees it, too small to disturb anything.
    """

    def __init__(self, where="anywhere", scale=1e-4):
        check_choice(where, "growth", GROWTH)
        check_not_negative(scale, "regrow_scale")
        self.where, self.scale = where, scale

    def room(self, layer):
        """How many elements could grow in a layer."""
        return layer.free if self.where == "anywhere" else len(self._between(layer))

    def positions(self, layer, count, rng):
        """`count` positions to grow at."""
        if self.where == "anywhere":
            return criteria.grow_random(layer.live, layer.size, count, rng)
        return np.sort(rng.choice(self._between(layer), count, replace=False, shuffle=False))

    def initial_values(self, shape, rng):
        """The values that new weights start with: array of `shape`."""
        return rng.normal(0.0, self.scale, shape)

    def _between(self, layer):
        units = layer.units
        between = criteria.between_live_units(layer.live, units.split(layer.mask_shape), units.inputs, units.outputs)
        return np.setdiff1d(np.flatnonzero(between), layer.live, assume_unique=True)


class LargestGradient(Growth):
    """Grows where the loss would fall fastest: where the dense gradient is largest among what was dead before the drop.

    Of kernel slices the mean |gradient| counts. Grown weights start at 0.

    Args:
        name: str, of the method, for messages.
        probe: `(x, y)` or `(x, y, sample_weight)`, a batch to take gradients on; None for the one that training saw
            last.
        gradients: function `(model, x, y, sample_weight) -> list of arrays`, the gradient of the loss by the kernel of
            each trainable masked layer, dead weights included; None for that of the loss that the model is compiled
            with.
    """

    def __init__(self, name, probe=None, gradients=None):
        if probe is not None and (not isinstance(probe, (tuple, list)) or len(probe) not in (2, 3)):
            raise ValueError(
                f"`probe` must be a batch, (x, y) or (x, y, sample_weight). Received: {type(probe).__name__}."
            )
        if gradients is not None and not callable(gradients):
            raise ValueError(
                "`gradients` must be a function (model, x, y, sample_weight) -> list of arrays, one for each trainable "
                f"masked layer. Received: gradients={gradients!r}."
            )
        self.name, self.probe, self.gradients = name, probe, gradients
        self.forget()

    @property
    def looks_at_batches(self):
        """Whether it needs the batch that training saw last."""
        return self.probe is None

    @property
    def is_ready(self):
        """Whether there is a batch to take gradients on."""
        return self.probe is not None or self._batch is not None

    def forget(self):
        """Forgets the batch and the model's compiled gradients."""
        self._batch = self._compiled = self._of = None

    def keep(self, batch):
        """Takes a batch that training has seen."""
        self._batch = keras.utils.unpack_x_y_sample_weight(batch)

    def check(self, model):
        """Raises ValueError if the gradient of the loss that trains the model cannot be known."""
        if self.gradients is not None:
            return
        if not model.compiled:
            raise ValueError(
                f"{self.name} takes gradients of the loss that the model is compiled with, and "
                f"{model.name!r} is not. Call model.compile(optimizer, loss) before, or give gradients=..."
            )
        if not _keras.has_train_step_of_keras(model):
            raise ValueError(
                f"{self.name} takes gradients of the loss that the model is compiled with, and {model.name!r} of class "
                f"{type(model).__name__} has a train_step of its own, whose loss may be another. Give gradients="
                "function (model, x, y, sample_weight) -> list of arrays, one for each trainable masked layer."
            )

    def observe(self, model, layers):
        """The `LayerState` of each of some masked layers, with its dense gradient."""
        if not self.is_ready:
            raise ValueError(
                f"{self.name} saw no batch to take gradients on: it sees those of `fit` only, and with "
                "steps_per_execution above 1 only if `fit` knows the number of steps of an epoch. Give it one of your "
                "own, probe=(x, y)."
            )
        self.check(model)
        batch = keras.utils.unpack_x_y_sample_weight(tuple(self.probe or self._batch))
        states = layer_states(layers)
        try:
            gradients = self._take(model, layers, batch)
        except Exception as error:
            if self.probe is None or self.gradients is not None:
                raise
            shapes = keras.tree.map_structure(np.shape, tuple(self.probe))
            raise ValueError(
                f"`probe` must be a batch (x, y) that {model.name!r} can be trained on, whose inputs have the shape "
                f"{model.input_shape}. Received arrays of the shapes {shapes}."
            ) from error
        received = (
            [np.shape(g) for g in gradients] if isinstance(gradients, (list, tuple)) else type(gradients).__name__
        )
        expected = [s.kernel.shape for s in states]
        if received != expected:
            raise ValueError(
                f"`gradients` must return an array for each trainable masked layer, of the shapes {expected}. "
                f"Received: {received}."
            )
        pairs = zip(states, gradients, strict=True)
        return [dataclasses.replace(s, gradient=backend.to_numpy(g)) for s, g in pairs]

    def _take(self, model, layers, batch):
        if self.gradients is not None:
            return self.gradients(model, *batch)
        kernels = [x.variable for x in layers]
        if self._compiled is None or self._of != [id(v) for v in kernels]:
            masks = [x.mask.value for x in layers]
            self._compiled = backend.dense_gradients(model, kernels, masks, lambda: [x.value() for x in layers])
            self._of = [id(v) for v in kernels]
        return self._compiled(*batch)

    def positions(self, layer, count, rng):
        """The `count` positions where the dense gradient is largest."""
        scores = layer.magnitude(to_elements(layer.gradient, layer.mask_shape))
        return criteria.grow_strongest(layer.live, scores, count)

    def preferences(self, layer, positions, rng):
        """The magnitude of the dense gradient at some dead positions."""
        return np.abs(layer.gradient).ravel()[positions]

    def __getstate__(self):
        """The settings: a copy, or what is pickled, has seen no batch."""
        return {**vars(self), "_batch": None, "_compiled": None, "_of": None}
