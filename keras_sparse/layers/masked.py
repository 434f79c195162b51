"""Keras layers with masked weights. `call` is Keras's own; only the weight that it reads is masked."""

import dataclasses
import zlib

import keras

from keras_sparse import _keras
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.layer_kinds import spatial_rank
from keras_sparse.layers.mask_elements import where_live
from keras_sparse.layers.masked_weight import LiveRegularizer, MaskedWeight, MaskSettings, holding, weight_properties
from keras_sparse.layers.masks import Mask
from keras_sparse.layers.nm_pattern import is_pattern, pattern_sparsity
from keras_sparse.validation import check_seed, check_sparsity


class MaskedLayer:
    """Mixin of a Keras layer that computes with `where(mask, weight, 0)` for some of its weights.

    A dead weight (mask False) has no effect on the output and gets no gradient. It is `where` and not a product, since
    NaN * 0 is NaN.

    Attributes:
        masked_attributes: tuple of str, a class attribute: names of the masked weights, such as "kernel".
        mask_settings: dict from these names to `MaskSettings`.
        <name>_mask: the `keras_sparse.layers.masks.Mask` of each weight.
        <name>_variable: the trainable variable of each weight.
    """

    masked_attributes = ()

    @property
    def masked_weights(self) -> list[MaskedWeight]:
        """The masked weights of this layer, in the order of `masked_attributes`."""
        return [MaskedWeight(self, name) for name in self.masked_attributes]

    def save_own_variables(self, store):
        """Sets dead weights to 0, then saves the variables as Keras does."""
        self._clear_dead_weights()
        self._set_masked_variables()
        with self._holding_variables():
            super().save_own_variables(store)

    @property
    def weights(self):
        """The list of weights. If Keras reads it to get the values of the model, dead weights are set to 0 before.

        Without a method among the callbacks, an optimizer such as Muon has changed dead weights by the time that
        `get_weights`, `get_state_tree`, `export` or the old .h5 format read them.
        """
        if _keras.is_reading_out():
            self._clear_dead_weights()
        return super().weights

    @property
    def variables(self):
        """The list of variables; see `weights`."""
        if _keras.is_reading_out():
            self._clear_dead_weights()
        return super().variables

    def _clear_dead_weights(self):
        for weight in self.masked_weights:
            weight.clear()

    def load_own_variables(self, store):
        """Loads the variables as Keras does; raises ValueError if the file has none for this layer."""
        if not len(store.keys()):
            raise ValueError(
                f"The file has no masked layer for {self.path!r}: it was written by a dense model, or by one of other "
                "layers. Load it into the model that wrote it, and give that to keras_sparse.sparsify."
            )
        with self._holding_variables():
            super().load_own_variables(store)
        self._set_masked_variables()

    def _holding_variables(self):
        # Some layers, such as ReversibleEmbedding, read or assign to their weights by attribute in files.
        return holding(self, {w.attribute: w.variable for w in self.masked_weights if w.built})

    def _set_masked_variables(self):
        # Keras saves and loads masks, which are sublayers, after their layer.
        for weight in self.masked_weights:
            weight.mask.set_masked_variable(weight.variable)

    def enable_lora(self, *args, **kwargs):
        """Raises NotImplementedError: the product that LoRA adds would not be 0 at dead weights."""
        raise NotImplementedError(
            f"LoRA would fill the dead weights of the masked layer {self.name!r}. Apply it to "
            "`keras_sparse.densify(model)` instead."
        )

    def quantize(self, *args, **kwargs):
        """Raises NotImplementedError: quantize the result of `densify` instead."""
        raise NotImplementedError(
            f"The masked layer {self.name!r} cannot be quantized in place. Quantize "
            "`keras_sparse.densify(model)` instead."
        )


class _LiveInitializer:
    """Initializer that sets dead weights to 0 and uses another initializer for live ones.

    An assignment after `build` is not possible: Keras may build a layer in a stateless scope, which discards it. This
    is an object and no function, since Keras cannot make large variables on several devices of JAX from functions.
    """

    def __init__(self, initializer, layer):
        self.initializer, self.layer = initializer, layer

    def __call__(self, shape, dtype=None):
        live = self.layer._draw(mask_shape(self.layer.granularity, shape, spatial_rank(self.layer)))
        return where_live(live, self.initializer(shape, dtype=dtype))


class MaskedKernel(MaskedLayer):
    """Mixin of a Keras layer that masks its kernel when it is built.

    Args:
        sparsity: float in [0, 1), the removed fraction of the kernel. The live weights are drawn at random when the
            layer is built: exactly `round(size * (1 - sparsity))` mask elements, but at least one.
        granularity: "weight", "kernel_slice" (k x k slices of a convolution), "4x4" (blocks of inputs by outputs),
            "2:4" (2 of each 4 inputs are live, if `sparsity` is above 0), or the shape of the mask, a tuple that
            broadcasts to the shape of the kernel.
        seed: int of at least 0. The mask is a function of the seed and the path of the layer, in any process and on any
            backend. If it is a tuple of ints, the mask is a function of the tuple only.
        method_state: bool, whether the layer also holds the state of the sparse training method.
            `keras_sparse.sparsify` sets it in one layer of a model.
        *args: arguments of the Keras layer.
        **kwargs: arguments of the Keras layer.

    Attributes:
        kernel_mask: `keras_sparse.layers.masks.Mask`.
        kernel_variable: the trainable `keras.Variable`.

    Raises:
        ValueError: if an argument is out of its range, or LoRA or quantization is requested.

    Example:

    >>> layer = MaskedDense(300, sparsity=0.9)
    >>> layer.build((None, 784))
    >>> int(layer.kernel_mask.numpy().sum())
    23520
    """

    masked_attributes = ("kernel",)
    kernel, kernel_variable = weight_properties("kernel").values()

    def __init__(
        self,
        *args,
        sparsity: float = 0.0,
        granularity: str | tuple = "weight",
        seed: int | tuple = 0,
        method_state: bool = False,
        **kwargs,
    ):
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
        if is_pattern(granularity):
            sparsity = pattern_sparsity(granularity, sparsity)
        for number in seed if isinstance(seed, (tuple, list)) else [seed]:
            check_seed(number)
        seed = tuple(map(int, seed)) if isinstance(seed, (tuple, list)) else int(seed)
        # Past `__setattr__`, which on TensorFlow wraps dicts.
        object.__setattr__(self, "mask_settings", {"kernel": MaskSettings(float(sparsity), granularity, seed)})
        self.kernel_mask = Mask(name="kernel_mask")
        self._starts_with_method_state = method_state

    @property
    def sparsity(self) -> float:
        """The removed fraction of the kernel at the start of training."""
        return self.mask_settings["kernel"].sparsity

    @property
    def granularity(self) -> str | tuple:
        """What one mask element covers."""
        return self.mask_settings["kernel"].granularity

    @property
    def seed(self) -> int | tuple:
        """The seed of the initial mask."""
        return self.mask_settings["kernel"].seed

    def build(self, input_shape):
        """Builds the Keras layer and the mask of its kernel."""
        super().build(input_shape)
        shape = mask_shape(self.granularity, self.kernel_variable.shape, spatial_rank(self))
        self.masked_weights[0].build_mask(shape, default_seed=self._path_seed())
        if self._starts_with_method_state:
            self.kernel_mask.add_method_state()

    def add_weight(self, *args, **kwargs):
        """Adds a weight as Keras does. Dead weights of the kernel start at 0, and only live ones are regularized."""
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
        """Returns the config of the Keras layer and the arguments of the mixin."""
        return {
            **super().get_config(),
            **dataclasses.asdict(self.mask_settings["kernel"]),
            "method_state": self._starts_with_method_state or self.kernel_mask.method_state is not None,
        }


MASKED = {}  # Keras layer class -> class of this file that masks its kernel


def _masked(cls):
    """Registers a masked class for saving and in `MASKED`."""
    _, plain = cls.__bases__
    MASKED[plain] = cls
    return keras.saving.register_keras_serializable(package="keras_sparse")(cls)


@_masked
class MaskedDense(MaskedKernel, keras.layers.Dense):
    """`keras.layers.Dense` with a masked kernel. `MaskedKernel` describes the arguments that it adds."""


@_masked
class MaskedConv1D(MaskedKernel, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with a masked kernel. `MaskedKernel` describes the arguments that it adds."""


@_masked
class MaskedConv2D(MaskedKernel, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a masked kernel. `MaskedKernel` describes the arguments that it adds."""


@_masked
class MaskedConv3D(MaskedKernel, keras.layers.Conv3D):
    """`keras.layers.Conv3D` with a masked kernel. `MaskedKernel` describes the arguments that it adds."""


@_masked
class MaskedConv2DTranspose(MaskedKernel, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with a masked kernel. `MaskedKernel` describes the arguments that it adds."""


@_masked
class MaskedDepthwiseConv2D(MaskedKernel, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a masked kernel. `MaskedKernel` describes the arguments that it adds."""


@_masked
class MaskedEinsumDense(MaskedKernel, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` with a masked kernel. `MaskedKernel` describes the arguments that it adds."""
