"""One masked weight of a layer: its variable, its mask, and the tensor that the layer computes with."""

import contextlib
import dataclasses
import math

import numpy as np
from keras import ops

from keras_sparse import backend
from keras_sparse.criteria import live_count, random_mask
from keras_sparse.layers.connected_units import Units, units_of
from keras_sparse.layers.device_layouts import laid_out_beside
from keras_sparse.layers.gradient_masking import masks_only_gradient, with_masked_gradient
from keras_sparse.layers.mask_elements import spread, where_live
from keras_sparse.layers.masks import Mask
from keras_sparse.layers.nm_pattern import NMPattern, is_pattern


@dataclasses.dataclass(frozen=True)
class MaskSettings:
    """How the mask of one weight is drawn.

    Attributes:
        sparsity: float in [0, 1), the removed fraction.
        granularity: as for `keras_sparse.layers.granularity.mask_shape`.
        seed: int of at least 0, or tuple of ints of at least 0.
    """

    sparsity: float = 0.0
    granularity: str | tuple = "weight"
    seed: int | tuple = 0

    @classmethod
    def from_config(cls, config: dict) -> "MaskSettings":
        """Returns the settings from `dataclasses.asdict` as JSON gives it back: with lists in place of tuples."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


@dataclasses.dataclass(frozen=True)
class MaskedWeight:
    """A masked weight of a layer. Two of them are equal if layer and attribute are the same.

    Attributes:
        layer: `keras.Layer`, a `keras_sparse.layers.masked.MaskedLayer`.
        attribute: str, the name of the weight in the layer, such as "kernel" or "recurrent_kernel".
    """

    layer: object
    attribute: str

    @property
    def name(self) -> str:
        """The name of the layer, followed by that of the weight if the layer has several masked weights."""
        return self._named(self.layer.name)

    @property
    def path(self) -> str:
        """The path of the layer, followed by the name of the weight if the layer has several masked weights."""
        return self._named(self.layer.path)

    def _named(self, layer):
        return layer if len(self.layer.masked_attributes) == 1 else f"{layer}/{self.attribute}"

    @property
    def variable(self):
        """The trainable `keras.Variable`, without the mask.

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
        """Whether neither the layer nor the variable is frozen."""
        return self.layer.trainable and self.variable.trainable

    @property
    def shape(self) -> tuple:
        """The shape of the weight: tuple of ints."""
        return tuple(self.variable.shape)

    @property
    def size(self) -> int:
        """The number of entries of the weight."""
        return math.prod(self.variable.shape)

    @property
    def element_size(self) -> int:
        """The number of entries that one mask element covers."""
        return self.size // self.mask.size

    def live(self) -> np.ndarray:
        """Returns which entries are live: boolean array of the shape of the weight, whatever a mask element covers."""
        return np.broadcast_to(spread(self.mask.numpy(), self.shape), self.shape)

    def count_live(self) -> int:
        """Returns the number of live entries."""
        return int(np.count_nonzero(self.mask.numpy())) * self.element_size

    @property
    def units(self) -> Units:
        """The units that the weight connects."""
        return units_of(self.layer, self.shape, self.attribute)

    @property
    def pattern(self) -> NMPattern | None:
        """The N:M pattern of the mask; None if it has none."""
        return self._pattern(self.shape)

    def _pattern(self, shape):
        # Find the input axis only for patterns: each update reads this property, and most masks have no pattern.
        granularity = self.settings.granularity
        if not is_pattern(granularity):
            return None
        return NMPattern.of(granularity, shape, units_of(self.layer, shape, self.attribute).input_axis)

    def value(self):
        """Returns the tensor that the layer computes with: `where(mask, variable, 0)`."""
        return self.masked(self.variable)

    def masked(self, weights):
        """Returns `weights` with 0 at dead positions, and no gradient there.

        Args:
            weights: tensor of the shape of the weight: its variable, or one that is 0 where that is.
        """
        apply = with_masked_gradient if masks_only_gradient(self.variable) else where_live
        return apply(self.mask.value, weights)

    def clear(self):
        """Sets dead weights to 0, unless the code runs where variables cannot be assigned, such as in a trace."""
        if self.built and backend.can_assign(self.variable, self.mask.value):
            self.variable.assign(self.value())

    def draw(self, shape, default_seed=()):
        """Returns a random mask of the given shape, by the settings: boolean array.

        Args:
            shape: tuple of ints, shape of the mask.
            default_seed: sequence of ints that are added to the seed if it is a single int.
        """
        settings = self.settings
        seeds = [settings.seed, *default_seed] if isinstance(settings.seed, int) else settings.seed
        rng = np.random.default_rng(seeds)
        pattern = self._pattern(shape) if settings.sparsity else None
        if pattern is not None:
            return pattern.strongest(rng.random(math.prod(shape))).reshape(shape)
        return random_mask(shape, max(1, live_count(math.prod(shape), settings.sparsity)), rng)

    def build_mask(self, shape, mask=None, default_seed=()):
        """Creates the variable of the mask.

        Args:
            shape: tuple of ints, shape of the mask.
            mask: boolean array of this shape; None for `draw`.
            default_seed: as for `draw`.
        """

        def initializer(shape, dtype=None):
            return ops.convert_to_tensor(self.draw(shape, default_seed) if mask is None else mask, dtype=dtype)

        with laid_out_beside(self.variable, self.mask):
            self.mask.build(shape, initializer=initializer)


def storage(attribute: str) -> str:
    """Returns the name under which a layer holds the variable of a masked weight: "_kernel", as in Keras."""
    return f"_{attribute}"


class LiveRegularizer:
    """Regularizer that applies another one to the live weights only.

    Otherwise dead weights would get a gradient: JAX takes 1 for the derivative of |w| at 0, and some regularizers
    couple weights.
    """

    def __init__(self, regularizer, weight: MaskedWeight):
        self.regularizer, self.weight = regularizer, weight

    def __call__(self, weights):
        """Returns the penalty of the live weights."""
        return self.regularizer(self.weight.masked(weights))


@contextlib.contextmanager
def holding(layer, held: dict):
    """Context in which the attributes of a masked layer return other objects than the masked weights.

    Args:
        layer: `keras_sparse.layers.masked.MaskedLayer`.
        held: dict from the names of all its masked attributes to what they return.
    """
    before = vars(layer).get("_held_weights")  # A recurrent layer may be inside the cell of another one.
    vars(layer)["_held_weights"] = held
    try:
        yield
    finally:
        if before is None:
            del vars(layer)["_held_weights"]
        else:
            vars(layer)["_held_weights"] = before


def weight_properties(attribute: str) -> dict:
    """Returns the properties for one masked weight, for the namespace of the class of a masked layer.

    `<attribute>` is the masked weight, as `call` reads it. `<attribute>_variable` is the variable.
    """

    def read(self):
        # In the loop of a recurrent layer, the masked weight was computed before the loop; see `holding`.
        held = vars(self).get("_held_weights")
        return held[attribute] if held else MaskedWeight(self, attribute).value()

    def write(self, variable):  # In `build`, some Keras layers assign to `kernel`, others to `_kernel`.
        setattr(self, storage(attribute), variable)

    def variable(self):
        return MaskedWeight(self, attribute).variable

    read.__doc__ = f"The {attribute} that the layer computes with: dead weights are 0."
    variable.__doc__ = f"The trainable variable of the {attribute}, without the mask."
    return {attribute: property(read, write), f"{attribute}_variable": property(variable)}
