"""One masked weight: the variable that the optimizer trains, its mask, and the weight that the layer computes with."""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_sparse import backend
from keras_sparse.layers.granularity import Pattern, live_count, random_mask, where_live
from keras_sparse.layers.layouts import laid_out_beside
from keras_sparse.layers.masks import Mask
from keras_sparse.layers.units import Units, units_of


@dataclasses.dataclass(frozen=True)
class MaskSettings:
    """How the mask of one weight is drawn.

    Attributes:
        sparsity: float in [0, 1), the removed fraction.
        granularity: as for `keras_sparse.layers.granularity.mask_shape`.
        seed: int of at least 0, or tuple of them.
    """

    sparsity: float = 0.0
    granularity: str | tuple = "weight"
    seed: int | tuple = 0

    @classmethod
    def from_config(cls, config: dict) -> "MaskSettings":
        """Makes settings of what JSON made of `dataclasses.asdict`: its lists are tuples."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


@dataclasses.dataclass(frozen=True)
class MaskedWeight:
    """A masked weight of a layer. Two are equal if they are the same weight of the same layer.

    Attributes:
        layer: `keras.Layer`, a `keras_sparse.layers.masked.MaskedLayer`.
        attribute: str, the name under which the layer holds the weight, such as "kernel" or "recurrent_kernel".
    """

    layer: object
    attribute: str

    @property
    def name(self) -> str:
        """The name of the layer; with that of the weight if the layer has several masked ones."""
        return self._named(self.layer.name)

    @property
    def path(self) -> str:
        """The path of the layer, likewise."""
        return self._named(self.layer.path)

    def _named(self, layer):
        return layer if len(self.layer.masked_attributes) == 1 else f"{layer}/{self.attribute}"

    @property
    def variable(self):
        """The trainable `keras.Variable` under the mask.

        Raises:
            AttributeError: if the layer is not built.
        """
        variable = self._variable()
        if variable is None:
            raise AttributeError(
                f"Build the layer {self.layer.name!r} before reading its {self.attribute}: call it on an input."
            )
        return variable

    def _variable(self):
        return vars(self.layer).get(storage(self.attribute))

    @property
    def mask(self) -> Mask:
        """The `keras_sparse.layers.masks.Mask`."""
        return getattr(self.layer, f"{self.attribute}_mask")

    @property
    def settings(self) -> MaskSettings:
        """How the mask was drawn."""
        return self.layer.mask_settings[self.attribute]

    @property
    def built(self) -> bool:
        """Whether the variable and the mask exist."""
        return self._variable() is not None and self.mask.built

    @property
    def trainable(self) -> bool:
        """Whether the layer is not frozen."""
        return self.layer.trainable and self.variable.trainable

    @property
    def shape(self) -> tuple:
        """Shape of the weight: tuple of ints."""
        return tuple(self.variable.shape)

    @property
    def units(self) -> Units:
        """The `Units` that the weight connects."""
        return units_of(self.layer, self.shape, self.attribute)

    @property
    def pattern(self) -> Pattern | None:
        """The N:M pattern that the mask keeps; None if it keeps none."""
        return Pattern.of(self.settings.granularity, self.shape, self.units.input_axis)

    def value(self):
        """Returns the tensor that the layer computes with: the weight, with dead ones 0."""
        return self.masked(self.variable)

    def masked(self, weights):
        """Returns a tensor of the weight's shape with 0 at dead places."""
        return where_live(self.mask.value, ops.convert_to_tensor(weights), 0)

    def clear(self):
        """Sets dead weights to 0, where variables can be assigned."""
        if self.built and backend.can_assign(self.variable, self.mask.value):
            self.variable.assign(self.value())

    def draw(self, shape, default_seed=()):
        """Returns a random mask of a shape: boolean array with the live weights that the settings ask for."""
        settings = self.settings
        seeds = [settings.seed, *default_seed] if isinstance(settings.seed, int) else settings.seed
        rng = np.random.default_rng(seeds)
        pattern = Pattern.of(settings.granularity, shape, self._input_axis(shape)) if settings.sparsity else None
        if pattern is not None:
            return pattern.strongest(rng.random(math.prod(shape))).reshape(shape)
        return random_mask(shape, max(1, live_count(math.prod(shape), settings.sparsity)), rng)

    def _input_axis(self, shape):
        return units_of(self.layer, shape, self.attribute).input_axis

    def build_mask(self, shape, mask=None, default_seed=()):
        """Makes the mask's variable.

        Args:
            shape: tuple of ints, the mask's.
            mask: boolean array of that shape; None to draw it.
            default_seed: ints that count where the settings have a single seed.
        """

        def initializer(shape, dtype=None):
            return ops.convert_to_tensor(self.draw(shape, default_seed) if mask is None else mask, dtype=dtype)

        with laid_out_beside(self.variable, self.mask):
            self.mask.build(shape, initializer=initializer)


def storage(attribute: str) -> str:
    """Returns the name under which a layer holds the variable of a masked weight, as Keras's layers do: "_kernel"."""
    return f"_{attribute}"


class LiveRegularizer:
    """A regularizer of the live weights only.

    The slope of |w| at 0 is 1 on JAX, and other regularizers couple weights: a dead weight would get a gradient.
    """

    def __init__(self, regularizer, weight: MaskedWeight):
        self.regularizer, self.weight = regularizer, weight

    def __call__(self, weights):
        """Returns the penalty of the live weights."""
        return self.regularizer(self.weight.masked(weights))


def weight_properties(attribute: str) -> dict:
    """Returns the properties of a masked layer for one masked weight, for the namespace of its class.

    `<attribute>` is the weight with dead ones 0, as the layer's `call` reads it; `<attribute>_variable` the variable.
    """

    def read(self):
        held = vars(self).get("_held_weights")
        return held[attribute] if held else MaskedWeight(self, attribute).value()

    def write(self, variable):  # Some Keras layers assign `kernel` itself when built, others `_kernel`.
        setattr(self, storage(attribute), variable)

    def variable(self):
        return MaskedWeight(self, attribute).variable

    read.__doc__ = f"The {attribute} that the layer computes with: dead weights are 0."
    variable.__doc__ = f"The trainable variable under the mask of the {attribute}."
    return {attribute: property(read, write), f"{attribute}_variable": property(variable)}
