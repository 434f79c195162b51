"""Growth strategies: at which positions weights grow, and with which values.

A sparse training method has one of them. An update calls `observe` for the states of the layers, then `room`,
`positions` (or `preferences`, for layers with an N:M pattern) and `initial_values`.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from keras_sparse import _keras, backend, criteria
from keras_sparse.layers.mask_elements import mask_of, spread, to_elements
from keras_sparse.training.layer_state import LayerState, layer_states
from keras_sparse.validation import check_callable, check_choice, check_not_negative

GROWTH = ("anywhere", "live_units")


class Growth:
    """Base class of the strategies. Its defaults suit strategies that look at weights and masks only."""

    looks_at_batches = False  # Whether `keep` must get the batch of the last step before an update.
    is_ready = True  # Whether `observe` may be called.

    def check(self, model: keras.Model) -> None:
        """Raises an error if the strategy does not support the model."""

    def keep(self, batch) -> None:
        """Stores a batch that training has seen."""

    def forget(self) -> None:
        """Discards everything that belongs to one `fit`."""

    def observe(self, model: keras.Model, layers: list) -> list[LayerState]:
        """Returns the `LayerState` of each given masked weight."""
        return layer_states(layers)

    def room(self, layer: LayerState) -> int:
        """Returns the number of mask elements that can grow in a layer."""
        return layer.free

    def positions(self, layer: LayerState, count: int, rng: np.random.Generator) -> np.ndarray:
        """Returns the positions of `count` dead mask elements to grow: sorted int array."""
        raise NotImplementedError(f"{type(self).__name__} must define `positions`, which says where weights grow.")

    def preferences(self, layer: LayerState, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns a score for each given dead position. In each group of an N:M pattern the largest scores grow."""
        return rng.random(len(positions))

    def initial_values(self, shape: tuple, rng: np.random.Generator) -> np.ndarray:
        """Returns the initial values of grown weights: zeros of `shape`."""
        return np.zeros(shape)


class RandomGrowth(Growth):
    """Grows at random positions that were dead before the update.

    Args:
        where: "anywhere", or "live_units" for positions whose input unit and output unit each have a live weight in
            the layer. A weight of a unit without live inputs or without live outputs has no effect until the next
            update, and in a very sparse network most positions are of this kind.
        scale: float of at least 0, standard deviation of the normal distribution of the initial values. In a very
            sparse network, a unit whose live incoming weights are all 0 gets no gradient and stays at 0. Values of
            1e-4 avoid this, and are too small to change the outputs.
    """

    def __init__(self, where: str = "anywhere", scale: float = 1e-4):
        check_choice(where, "where", GROWTH)
        check_not_negative(scale, "scale")
        self.where, self.scale = where, scale

    def room(self, layer: LayerState) -> int:
        """Returns the number of mask elements that can grow in a layer."""
        return layer.free if self.where == "anywhere" else len(self._between(layer))

    def positions(self, layer: LayerState, count: int, rng: np.random.Generator) -> np.ndarray:
        """Returns `count` random positions to grow: sorted int array."""
        if self.where == "anywhere":
            return criteria.grow_random(layer.live, layer.size, count, rng)
        return np.sort(rng.choice(self._between(layer), count, replace=False, shuffle=False))

    def preferences(self, layer: LayerState, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns random scores. Those of positions between live units are the largest if `where` is "live_units"."""
        scores = super().preferences(layer, positions, rng)
        return scores if self.where == "anywhere" else scores + np.isin(positions, self._between(layer))

    def initial_values(self, shape: tuple, rng: np.random.Generator) -> np.ndarray:
        """Returns the initial values of grown weights: normal noise of `shape`."""
        return rng.normal(0.0, self.scale, shape)

    def _between(self, layer):
        units, live, shape = layer.units, layer.live, layer.mask_shape
        if units.last_groups > 1 and shape != layer.kernel.shape:  # A block may belong to several groups.
            shape = layer.kernel.shape
            live = np.flatnonzero(np.broadcast_to(spread(layer.mask, shape), shape))
        between = criteria.between_live_units(live, units.split(shape), units.inputs, units.outputs)
        if shape != layer.mask_shape:
            between = mask_of(between.reshape(shape), layer.mask_shape)
        return np.setdiff1d(np.flatnonzero(between), layer.live, assume_unique=True)


def random_growth(growth: str, regrow_scale: float) -> RandomGrowth:
    """Returns a `RandomGrowth` for the arguments of a method, with their names in error messages."""
    check_choice(growth, "growth", GROWTH)
    check_not_negative(regrow_scale, "regrow_scale")
    return RandomGrowth(growth, regrow_scale)


class LargestGradient(Growth):
    """Grows at the dead positions with the largest magnitude of the dense gradient, with value 0.

    The dense gradient is the gradient of the loss with respect to all entries of a weight, dead ones included. Mask
    elements of several weights are scored by their mean |gradient|.

    Args:
        name: str, name of the method, for messages.
        probe: `(x, y)` or `(x, y, sample_weight)`, a batch for the gradients; None for the latest training batch.
        gradients: function `(model, x, y, sample_weight) -> list of arrays`, which returns the dense gradient of each
            trainable masked weight; None for the gradient of the loss that the model is compiled with.

    Raises:
        ValueError: if `probe` is no batch or `gradients` no function.
    """

    def __init__(self, name: str, probe: tuple | None = None, gradients: Callable | None = None):
        if probe is not None and (not isinstance(probe, (tuple, list)) or len(probe) not in (2, 3)):
            raise ValueError(
                f"`probe` must be a batch, (x, y) or (x, y, sample_weight). Received: {type(probe).__name__}."
            )
        if gradients is not None:
            check_callable(gradients, "gradients", "(model, x, y, sample_weight) -> list of arrays")
        self.name, self.probe, self.gradients = name, probe, gradients
        self.forget()

    @property
    def looks_at_batches(self):
        """Whether it needs the latest training batch."""
        return self.probe is None

    @property
    def is_ready(self):
        """Whether there is a batch for the gradients."""
        return self.probe is not None or self._batch is not None

    def forget(self):
        """Discards the batch and the compiled gradient function."""
        self._batch = self._compiled = self._of = None

    def keep(self, batch):
        """Stores a batch that training has seen."""
        self._batch = keras.utils.unpack_x_y_sample_weight(batch)

    def check(self, model):
        """Raises ValueError if the loss that trains the model is unknown, so that its gradient is, too."""
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
        """Returns the `LayerState` of each given masked weight, with its dense gradient.

        Raises:
            ValueError: if there is no batch, or the gradients are not arrays of the shapes of the weights.
        """
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
                f"{getattr(model, 'input_shape', 'that it was built for')}. Received arrays of the shapes {shapes}."
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
        self._batch = None  # The next update must not use it again.
        pairs = zip(states, gradients, strict=True)
        return [dataclasses.replace(s, gradient=backend.to_numpy(g)) for s, g in pairs]

    def _take(self, model, layers, batch):
        if self.gradients is not None:
            return self.gradients(model, *batch)
        kernels = [x.variable for x in layers]
        of = [*kernels, model.loss, model.optimizer]  # `compile` replaces the last two
        if (
            self._compiled is None
            or len(of) != len(self._of)
            or any(a is not b for a, b in zip(of, self._of, strict=True))
        ):
            masks = [x.mask.value for x in layers]
            self._compiled = backend.dense_gradients(model, kernels, masks, lambda: [x.value() for x in layers])
            self._of = of
        return self._compiled(*batch)

    def positions(self, layer, count, rng):
        """Returns the `count` positions of the largest dense gradients: sorted int array."""
        scores = layer.magnitude(to_elements(layer.gradient, layer.mask_shape))
        return criteria.grow_strongest(layer.live, scores, count)

    def preferences(self, layer, positions, rng):
        """Returns the magnitude of the dense gradient at the given positions."""
        return np.abs(layer.gradient).ravel()[positions]

    def __getstate__(self):
        """Returns the settings only: the batch and compiled functions are not copied or pickled."""
        return {**vars(self), "_batch": None, "_compiled": None, "_of": None}
