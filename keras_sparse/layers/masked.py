"""Keras layers whose kernel is masked: `call` stays Keras's own, only the kernel that it reads changes."""

import math
import zlib

import keras
import numpy as np
from keras import ops

from keras_sparse import _keras, backend
from keras_sparse.layers.layouts import laid_out_beside
from keras_sparse.layers.masks import Mask, live_count, mask_shape, random_mask
from keras_sparse.layers.reading import is_reading_out
from keras_sparse.validation import check_seed, check_sparsity


class _LiveInitializer:
    """An initializer of the live weights of a layer, with the dead ones at 0.

    By initializer, never by an assignment after: Keras may build a layer inside a stateless scope, which forgets
    assignments. And no function: of those, Keras cannot make large kernels on several devices of JAX.
    """

    def __init__(self, initializer, layer):
        self.initializer, self.layer = initializer, layer

    def __call__(self, shape, dtype=None):
        live = self.layer._draw(mask_shape(self.layer.granularity, shape, self.layer._spatial_rank))
        kernel = self.initializer(shape, dtype=dtype)
        return ops.where(live, kernel, ops.zeros_like(kernel))


class _LiveRegularizer:
    """A regularizer of the live weights of a layer.

    The slope of |w| at 0 is 1 on JAX, and other regularizers couple weights: a dead weight would get a gradient.
    """

    def __init__(self, regularizer, layer):
        self.regularizer, self.layer = regularizer, layer

    def __call__(self, weights):
        return self.regularizer(self.layer._masked(weights))


class MaskedKernel:
    """Mixin that puts a mask over the kernel of a Keras layer: the layer computes with `where(mask, kernel, 0)`.

    A dead weight (mask False) is exactly 0, takes no part in the output and receives no gradient. `where`, and not a
    product, so that a NaN in a dead weight cannot leak.

    Args:
        sparsity: float in [0, 1), the removed fraction of the kernel. The live weights are drawn at random when
            the layer is built: exactly `round(size * (1 - sparsity))` of them, but at least one. Defaults to 0.
        granularity: "weight", "kernel_slice" (whole k x k slices of a convolution), or the mask's shape as a
            tuple that broadcasts to the kernel's.
        seed: int of at least 0: the same seed and layer path give the same mask in any process, on any backend. Or a
            tuple of them, which alone decides.

        method_state: bool, whether the layer holds what a sparse training method remembers, beside its mask.
            `keras_sparse.sparsify` sets it in one layer of a model.

    Every other argument is the Keras layer's. `kernel_mask` is the `keras_sparse.layers.masks.Mask`.
    """

    def __init__(self, *args, sparsity=0.0, granularity="weight", seed=0, method_state=False, **kwargs):
        check_sparsity(sparsity)
        super().__init__(*args, **kwargs)
        if getattr(self, "lora_rank", None) or self.quantization_mode:
            raise ValueError(
                f"{type(self).__name__} supports neither LoRA nor quantization: its kernel is a masked variable. "
                "Remove `lora_rank` and use a float dtype policy. Received: "
                f"lora_rank={getattr(self, 'lora_rank', None)}, dtype={self.dtype_policy.name!r}."
            )
        self.sparsity = float(sparsity)
        # Keras's JSON turns tuples into lists.
        self.granularity = tuple(granularity) if isinstance(granularity, list) else granularity
        for number in seed if isinstance(seed, (tuple, list)) else [seed]:
            check_seed(number)
        self.seed = tuple(map(int, seed)) if isinstance(seed, (tuple, list)) else int(seed)
        self.kernel_mask = Mask(name="kernel_mask")
        self._starts_with_method_state = method_state

    def build(self, input_shape):
        """Builds the Keras layer and the mask over its kernel."""
        super().build(input_shape)
        self._build_mask()
        if self._starts_with_method_state:
            self.kernel_mask.add_method_state()

    def _build_mask(self, mask=None):
        def initializer(shape, dtype=None):
            return ops.convert_to_tensor(self._draw(shape) if mask is None else mask, dtype=dtype)

        shape = mask_shape(self.granularity, self.kernel_variable.shape, self._spatial_rank)
        with laid_out_beside(self.kernel_variable, self.kernel_mask):
            self.kernel_mask.build(shape, initializer=initializer)

    def add_weight(self, *args, **kwargs):
        """As in Keras, but the kernel starts with its dead weights at 0, and only live ones are regularized."""
        if kwargs.get("name") == "kernel":
            kwargs["initializer"] = _LiveInitializer(keras.initializers.get(kwargs["initializer"]), self)
            if kwargs.get("regularizer") is not None:
                kwargs["regularizer"] = _LiveRegularizer(keras.regularizers.get(kwargs["regularizer"]), self)
        return super().add_weight(*args, **kwargs)

    def _masked(self, weights):
        weights = ops.convert_to_tensor(weights)
        return ops.where(ops.cast(self.kernel_mask.value, "bool"), weights, ops.zeros_like(weights))

    def _draw(self, shape):
        seeds = [self.seed, zlib.crc32(self.path.encode())] if isinstance(self.seed, int) else self.seed
        live = max(1, live_count(math.prod(shape), self.sparsity))
        return random_mask(shape, live, np.random.default_rng(seeds))

    @property
    def _spatial_rank(self):
        return getattr(self, "rank", 0)  # Keras's convolutions have a rank, its dense layers none.

    @property
    def kernel(self):
        """The kernel the layer computes with, dead weights 0. `kernel_variable` is what the optimizer moves."""
        return self._masked(self.kernel_variable)

    @kernel.setter
    def kernel(self, variable):
        self._kernel = variable  # Some Keras layers assign `kernel` itself when built, others `_kernel`.

    @property
    def kernel_variable(self):
        """The trainable variable under the mask."""
        if getattr(self, "_kernel", None) is None:
            raise AttributeError(f"Build the layer {self.name!r} before reading its kernel: call it on an input.")
        return self._kernel

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
        kernel = getattr(self, "_kernel", None)
        if kernel is not None and self.kernel_mask.built and backend.can_assign(kernel, self.kernel_mask.value):
            kernel.assign(self._masked(kernel))

    def load_own_variables(self, store):
        """Keras's; says what a file that does not know this layer may be."""
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

    def get_config(self):
        """The Keras layer's config and the arguments of the mixin."""
        return {
            **super().get_config(),
            "sparsity": self.sparsity,
            "granularity": self.granularity,
            "seed": self.seed,
            "method_state": self._starts_with_method_state or self.kernel_mask.method_state is not None,
        }


MASKED = {}  # Keras layer class -> its masked class


def mask_layer(layer, mask, sparsity, granularity="weight", seed=0):
    """Masks the kernel of a built Keras layer, in place: its class becomes the masked one.

    Args:
        layer: built layer, of a class in `MASKED`.
        mask: boolean array, True where live, whose shape broadcasts to the kernel's; None to draw it from `sparsity`,
            `granularity` and `seed`, as `MaskedKernel` does.
        sparsity: float in [0, 1).
        granularity: as for `MaskedKernel`.
        seed: as for `MaskedKernel`.
    """
    kernel = vars(layer).pop("kernel", None)  # where a Keras layer holds the variable itself under that name
    with _keras.unlocked(layer):
        layer.__class__ = MASKED[type(layer)]
        if kernel is not None:
            layer.kernel = kernel
        layer.sparsity, layer.granularity, layer.seed = float(sparsity), granularity, seed
        layer.kernel_mask = Mask(name="kernel_mask")
        layer._starts_with_method_state = False
    vars(layer)["_quantize"] = vars(layer).pop("quantize", None)  # of the class that it had
    with _keras.scope_of(layer):
        layer._build_mask(mask)
    kernel = layer.kernel_variable
    if kernel.regularizer is not None:
        kernel.regularizer = _LiveRegularizer(kernel.regularizer, layer)
    kernel.assign(layer.kernel)


def unmask_layer(layer):
    """Makes a masked layer the plain Keras layer again, in place, its dead weights 0.

    Args:
        layer: built layer of one of the masked classes.
    """
    plain = next(k for k, v in MASKED.items() if v is type(layer))
    kernel = layer.kernel_variable
    kernel.assign(layer.kernel)
    if kernel.regularizer is not None:
        kernel.regularizer = kernel.regularizer.regularizer
    for name in ("sparsity", "granularity", "seed", "_starts_with_method_state"):
        delattr(layer, name)
    _keras.remove_sublayer(layer, "kernel_mask")
    layer.__class__ = plain
    if (quantize := vars(layer).pop("_quantize", None)) is not None:
        vars(layer)["quantize"] = quantize
    if not isinstance(getattr(plain, "kernel", None), property):
        vars(layer)["kernel"] = vars(layer).pop("_kernel")


def _masked(cls):
    """Registers a masked class with Keras's saving and under the Keras class that it masks."""
    MASKED[cls.__mro__[2]] = cls
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
