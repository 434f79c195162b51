"""Keras layers whose kernel is masked: `call` stays Keras's own, only the kernel that it reads changes."""

import math
import zlib

import keras
import numpy as np
from keras import ops

from keras_sparse.layers.masks import Mask, live_count, mask_shape, random_mask
from keras_sparse.validation import check_seed, check_sparsity


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

    Every other argument is the Keras layer's. `kernel_mask` is the `keras_sparse.layers.masks.Mask`.
    """

    def __init__(self, *args, sparsity=0.0, granularity="weight", seed=0, **kwargs):
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

    def build(self, input_shape):
        """Builds the Keras layer and the mask over its kernel."""
        super().build(input_shape)
        self.kernel_mask.build(
            mask_shape(self.granularity, self.kernel_variable.shape, self._spatial_rank),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(self._draw(shape)),
        )

    def add_weight(self, *args, **kwargs):
        """As in Keras, but the kernel starts with its dead weights at 0, and only live ones are regularized."""
        if kwargs.get("name") == "kernel":
            dense = keras.initializers.get(kwargs["initializer"])

            # By initializer, never by an assignment after: Keras may build a layer inside a stateless scope, which
            # forgets assignments.
            def masked(shape, dtype=None):
                live = self._draw(mask_shape(self.granularity, shape, self._spatial_rank))
                kernel = dense(shape, dtype=dtype)
                return ops.where(live, kernel, ops.zeros_like(kernel))

            kwargs["initializer"] = masked
            if kwargs.get("regularizer") is not None:
                kwargs["regularizer"] = self._of_live(keras.regularizers.get(kwargs["regularizer"]))
        return super().add_weight(*args, **kwargs)

    def _of_live(self, regularizer):
        # The slope of |w| at 0 is 1 on JAX, and others couple weights: a dead one would get a gradient.
        return lambda weights: regularizer(self._masked(weights))

    def _masked(self, weights):
        weights = ops.convert_to_tensor(weights)
        return ops.where(ops.convert_to_tensor(self.kernel_mask.value), weights, ops.zeros_like(weights))

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
        """Keras's, with dead weights as 0, even where an optimizer such as Muon moves them and no method is at work."""
        variables = {}
        super().save_own_variables(variables)
        variables["0"] = ops.convert_to_numpy(self.kernel)  # In Keras's layers the kernel comes first.
        for name, value in variables.items():
            store[name] = value

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
        """The Keras layer's config and the three arguments of the mixin."""
        return {
            **super().get_config(),
            "sparsity": self.sparsity,
            "granularity": self.granularity,
            "seed": self.seed,
        }


MASKED = {}  # Keras layer class -> its masked class


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
