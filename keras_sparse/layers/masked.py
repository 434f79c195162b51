"""Keras layers whose weights are masked: `call` stays Keras's own, only the weight that it reads changes."""

import dataclasses
import zlib

import keras
from keras import ops

from keras_sparse.layers.granularity import mask_shape, where_live
from keras_sparse.layers.masked_weight import LiveRegularizer, MaskedWeight, MaskSettings, weight_properties
from keras_sparse.layers.masks import Mask
from keras_sparse.layers.reading import is_reading_out
from keras_sparse.validation import check_seed, check_sparsity


class MaskedLayer:
    """Mixin of a Keras layer with masked weights: the layer computes with `where(mask, weight, 0)`.

    A dead weight (mask False) is exactly 0, takes no part in the output and receives no gradient. `where`, and not a
    product, so that a NaN in a dead weight cannot leak.

    Attributes:
        masked_attributes: tuple of str, of the class: the names of the masked weights.
        mask_settings: dict from such a name to `MaskSettings`.
        <name>_mask: for each name the `keras_sparse.layers.masks.Mask`.
        <name>_variable: for each name the trainable variable under the mask.
    """

    masked_attributes = ()

    @property
    def masked_weights(self) -> list[MaskedWeight]:
        """The masked weights of this layer."""
        return [MaskedWeight(self, name) for name in self.masked_attributes]

    def save_own_variables(self, store):
        """Saves Keras's variables, dead weights as 0."""
        self._clear_dead_weights()
        super().save_own_variables(store)

    @property
    def weights(self):
        """Keras's list. Where Keras takes the values out of a model by it, dead weights are set to 0 before.

        An optimizer such as Muon moves dead weights, and with no method at work nobody has undone that when
        `get_weights`, `get_state_tree`, `export` or the old .h5 format read them.
        """
        if is_reading_out():
            self._clear_dead_weights()
        return super().weights

    @property
    def variables(self):
        """Keras's list; see `weights`."""
        if is_reading_out():
            self._clear_dead_weights()
        return super().variables

    def _clear_dead_weights(self):
        for weight in self.masked_weights:
            weight.clear()

    def load_own_variables(self, store):
        """Loads Keras's variables; raises ValueError if the file does not know this layer."""
        if not len(store.keys()):
            raise ValueError(
                f"The file has no masked layer for {self.path!r}: it was written by a dense model, or by one of other "
                "layers. Load it into the model that wrote it, and give that to keras_sparse.sparsify."
            )
        super().load_own_variables(store)

    def enable_lora(self, *args, **kwargs):
        """Not supported: LoRA's product would fill the dead weights."""
        raise NotImplementedError(
            f"LoRA would fill the dead weights of the masked layer {self.name!r}. Apply it to "
            "`keras_sparse.densify(model)` instead."
        )

    def quantize(self, *args, **kwargs):
        """Not supported: quantize the densified model instead."""
        raise NotImplementedError(
            f"The masked layer {self.name!r} cannot be quantized in place. Quantize "
            "`keras_sparse.densify(model)` instead."
        )


class _LiveInitializer:
    """An initializer of the live weights of a layer, with the dead ones at 0.

    By initializer, never by an assignment after: Keras may build a layer inside a stateless scope, which forgets
    assignments. And no function: of those, Keras cannot make large kernels on several devices of JAX.
    """

    def __init__(self, initializer, layer):
        self.initializer, self.layer = initializer, layer

    def __call__(self, shape, dtype=None):
        live = self.layer._draw(mask_shape(self.layer.granularity, shape, spatial_rank(self.layer)))
        return where_live(live, ops.convert_to_tensor(self.initializer(shape, dtype=dtype)), 0)


class MaskedKernel(MaskedLayer):
    """Mixin of a Keras layer that is built with a mask over its kernel.

    Args:
        sparsity: float in [0, 1), the removed fraction of the kernel. The live weights are drawn at random when
            the layer is built: exactly `round(size * (1 - sparsity))` of them, but at least one. Defaults to 0.
        granularity: "weight", "kernel_slice" (whole k x k slices of a convolution), "4x4" (blocks of inputs by
            outputs), "2:4" (2 of each 4 inputs live, if `sparsity` is above 0), or the mask's shape as a tuple that
            broadcasts to the kernel's.
        seed: int of at least 0: the same seed and layer path give the same mask in any process, on any backend. Or a
            tuple of them, which alone decides.
        method_state: bool, whether the layer holds what a sparse training method remembers, beside its mask.
            `keras_sparse.sparsify` sets it in one layer of a model.

    Every other argument is the Keras layer's. `kernel_mask` is the `keras_sparse.layers.masks.Mask`.
    """

    masked_attributes = ("kernel",)
    locals().update(weight_properties("kernel"))

    def __init__(self, *args, sparsity=0.0, granularity="weight", seed=0, method_state=False, **kwargs):
        check_sparsity(sparsity)
        super().__init__(*args, **kwargs)
        if getattr(self, "lora_rank", None) or self.quantization_mode:
            raise ValueError(
                f"{type(self).__name__} supports neither LoRA nor quantization: its kernel is a masked variable. "
                "Remove `lora_rank` and use a float dtype policy. Received: "
                f"lora_rank={getattr(self, 'lora_rank', None)}, dtype={self.dtype_policy.name!r}."
            )
        # Keras's JSON turns tuples into lists.
        granularity = tuple(granularity) if isinstance(granularity, list) else granularity
        for number in seed if isinstance(seed, (tuple, list)) else [seed]:
            check_seed(number)
        seed = tuple(map(int, seed)) if isinstance(seed, (tuple, list)) else int(seed)
        # Past `__setattr__`, which on TensorFlow wraps dicts.
        object.__setattr__(self, "mask_settings", {"kernel": MaskSettings(float(sparsity), granularity, seed)})
        self.kernel_mask = Mask(name="kernel_mask")
        self._starts_with_method_state = method_state

    @property
    def sparsity(self) -> float:
        """The removed fraction of the kernel with which the layer starts."""
        return self.mask_settings["kernel"].sparsity

    @property
    def granularity(self) -> str | tuple:
        """What a mask element covers."""
        return self.mask_settings["kernel"].granularity

    @property
    def seed(self) -> int | tuple:
        """The seed of the first mask."""
        return self.mask_settings["kernel"].seed

    def build(self, input_shape):
        """Builds the Keras layer and the mask over its kernel."""
        super().build(input_shape)
        shape = mask_shape(self.granularity, self.kernel_variable.shape, spatial_rank(self))
        self.masked_weights[0].build_mask(shape, default_seed=self._path_seed())
        if self._starts_with_method_state:
            self.kernel_mask.add_method_state()

    def add_weight(self, *args, **kwargs):
        """As in Keras, but the kernel starts with its dead weights at 0, and only live ones are regularized."""
        if kwargs.get("name") == "kernel":
            kwargs["initializer"] = _LiveInitializer(keras.initializers.get(kwargs["initializer"]), self)
            if kwargs.get("regularizer") is not None:
                regularizer = keras.regularizers.get(kwargs["regularizer"])
                kwargs["regularizer"] = LiveRegularizer(regularizer, self.masked_weights[0])
        return super().add_weight(*args, **kwargs)

    def _draw(self, shape):
        return self.masked_weights[0].draw(shape, self._path_seed())

    def _path_seed(self):
        return [zlib.crc32(self.path.encode())]

    def get_config(self):
        """The Keras layer's config and the arguments of the mixin."""
        return {
            **super().get_config(),
            **dataclasses.asdict(self.mask_settings["kernel"]),
            "method_state": self._starts_with_method_state or self.kernel_mask.method_state is not None,
        }


def spatial_rank(layer) -> int:
    """How many leading axes of a layer's weights are spatial: Keras's convolutions have a rank, other layers none."""
    return getattr(layer, "rank", 0)


MASKED = {}  # Keras layer class -> the class of this file that masks its kernel


def _masked(cls):
    """Registers a masked class with Keras's saving and under the Keras class that it masks."""
    MASKED[cls.__mro__[3]] = cls
    return keras.saving.register_keras_serializable(package="keras_sparse")(cls)


@_masked
class MaskedDense(MaskedKernel, keras.layers.Dense):
    """`keras.layers.Dense` with a masked kernel; `MaskedKernel` has the three arguments it adds."""


@_masked
class MaskedConv1D(MaskedKernel, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with a masked kernel; `MaskedKernel` has the three arguments it adds."""


@_masked
class MaskedConv2D(MaskedKernel, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a masked kernel; `MaskedKernel` has the three arguments it adds."""


@_masked
class MaskedConv3D(MaskedKernel, keras.layers.Conv3D):
    """`keras.layers.Conv3D` with a masked kernel; `MaskedKernel` has the three arguments it adds."""


@_masked
class MaskedConv2DTranspose(MaskedKernel, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with a masked kernel; `MaskedKernel` has the three arguments it adds."""


@_masked
class MaskedDepthwiseConv2D(MaskedKernel, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a masked kernel; `MaskedKernel` has the three arguments it adds."""


@_masked
class MaskedEinsumDense(MaskedKernel, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` with a masked kernel; `MaskedKernel` has the three arguments it adds."""
