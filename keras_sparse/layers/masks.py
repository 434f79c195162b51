"""The mask: which weights of a kernel are live."""

import math

import keras
import numpy as np

from keras_sparse.criteria import grow_random

GRANULARITIES = ("weight", "kernel_slice")


@keras.saving.register_keras_serializable(package="keras_sparse")
class Mask(keras.layers.Layer):
    """The boolean variable of a masked layer, and what its sparse training method has to remember.

    It is a layer of its own because Keras saves variables layer by layer: a mask that a `Dense` subclass added to
    itself would be saved and then fail to load.

    Attributes:
        value: boolean variable, True where live. Its shape broadcasts to the kernel's.
        last_update: int32 scalar variable, the optimizer step up to which all updates are made; -1 before the
            first fit with a method.
        method: str, the name of the sparse training method that went on to here; None before the first fit with one.
        threshold: float32 scalar variable, the H of `keras_sparse.DynamicSparse`; 0 before its first update.
    """

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    method = None
    _loaded = False

    def build(self, mask_shape, initializer="ones"):
        """Creates the variables.

        Args:
            mask_shape: shape of the mask.
            initializer: `(shape, dtype) -> boolean array`, or a Keras initializer's name.
        """
        self.value = self.add_weight(
            name="value", shape=mask_shape, dtype="bool", initializer=initializer, trainable=False
        )
        self.last_update = self.add_weight(
            name="last_update",
            shape=(),
            dtype="int32",
            initializer=keras.initializers.Constant(-1),
            trainable=False,
        )
        self.threshold = self.add_weight(
            name="threshold", shape=(), dtype="float32", initializer="zeros", trainable=False
        )

    def forget(self):
        """Sets what is remembered back to the start."""
        self.last_update.assign(-1)
        self.threshold.assign(0.0)

    def begin(self, method, going_on):
        """Takes down which method trains from here on.

        Args:
            method: str, its name.
            going_on: bool, whether its optimizer has been at work before.

        Raises:
            ValueError: if it goes on where another one stopped whose file this is.
        """
        if self._loaded and going_on and self.method not in (None, method):
            raise ValueError(
                f"The loaded model is in the middle of its training by {self.method}, and {method} cannot go on with "
                f"that. Go on with {self.method}, or begin a new training: compile the model with a new optimizer."
            )
        self.method, self._loaded = method, False

    def save_own_variables(self, store):
        """Keras's, and the method's name."""
        super().save_own_variables(store)
        store["method"] = np.frombuffer((self.method or "").encode(), "uint8")

    def load_own_variables(self, store):
        """Keras's, and the method's name; says what is wrong with a file that does not fit."""
        numbers = [str(i) for i in range(len(self.weights))]
        missing = [n for n in numbers if n not in store.keys()]  # noqa: SIM118 - Keras's store has no `in`
        if missing:
            raise ValueError(
                f"The file has no mask for {self.path!r}: it was written by a dense model. Load it into the dense "
                "model and give that to keras_sparse.sparsify, whose masks then start from its weights."
            )
        shape = tuple(np.shape(store["0"]))
        if shape != tuple(self.value.shape):
            raise ValueError(
                f"The file's mask for {self.path!r} has the shape {shape}, the layer's {tuple(self.value.shape)}. "
                "Build the model as the one that was saved: with its `granularity`, and layers of its size."
            )
        super().load_own_variables({n: store[n] for n in numbers})
        name = store["method"] if "method" in store.keys() else []  # noqa: SIM118
        self.method = bytes(np.asarray(name, "uint8")).decode() or None
        self._loaded = True

    def quantize(self, *args, **kwargs):
        """Not supported; `keras.Model.quantize` asks the layers without sublayers, and makes a warning of it."""
        raise NotImplementedError(
            f"The masked layer of {self.path!r} cannot be quantized in place, and was left as it is. Quantize "
            "`keras_sparse.densify(model)` instead."
        )

    def numpy(self):
        """The mask as a boolean NumPy array."""
        if not self.built:
            raise AttributeError(f"Build the layer of {self.name!r} before reading its mask: call it on an input.")
        return keras.ops.convert_to_numpy(self.value)


def mask_shape(granularity, kernel_shape, spatial_rank):
    """Shape of the mask over a kernel.

    Args:
        granularity: "weight" for a mask element per weight; "kernel_slice" for one per k x k slice of a
            convolution (a kernel without spatial axes has slices of one weight); or the shape itself: a tuple that
            broadcasts to the kernel's, such as `(1, 1, 1, channels_out)`.
        kernel_shape: tuple of ints.
        spatial_rank: int, how many leading axes of the kernel are spatial.

    Returns:
        Tuple of ints.

    Raises:
        ValueError: if `granularity` is none of these.
    """
    kernel_shape = tuple(kernel_shape)
    if granularity == "weight":
        return kernel_shape
    if granularity == "kernel_slice":
        return (1,) * spatial_rank + kernel_shape[spatial_rank:]
    if (
        isinstance(granularity, tuple)
        and len(granularity) == len(kernel_shape)
        and all(n in (1, k) for n, k in zip(granularity, kernel_shape, strict=True))
    ):
        return granularity
    raise ValueError(
        f"`granularity` must be one of {GRANULARITIES} or a tuple that broadcasts to the kernel's shape {kernel_shape} "
        f"(each entry 1 or the kernel's). Received: granularity={granularity!r}."
    )


def random_mask(shape, live, rng):
    """A mask with exactly `live` elements True, all such masks being equally likely.

    Args:
        shape: tuple of ints.
        live: int in [0, product of `shape`].
        rng: `numpy.random.Generator`.

    Returns:
        Boolean NumPy array.
    """
    mask = np.zeros(shape, bool)
    mask.flat[grow_random(np.arange(0), mask.size, live, rng)] = True
    return mask


def mask_of(kernel, shape):
    """The mask that keeps the zeros of a kernel: an element lives if one of its weights is not 0.

    Args:
        kernel: array.
        shape: tuple of ints that broadcasts to the kernel's shape.

    Returns:
        Boolean NumPy array of that shape.
    """
    return to_elements(kernel, shape).any(axis=0).reshape(shape)


def to_elements(weights, shape):
    """Arranges a kernel by the elements of its mask.

    Args:
        weights: array, of the kernel's shape.
        shape: the mask's shape, which broadcasts to it.

    Returns:
        Array of shape `(weights per element, elements)`, a view where possible.
    """
    order, broadcast = _element_axes(weights.shape, shape)
    return weights.transpose(order).reshape(math.prod(weights.shape[i] for i in broadcast), -1)


def from_elements(elements, kernel_shape, shape):
    """The inverse of `to_elements`.

    Args:
        elements: array of shape `(weights per element, elements)`.
        kernel_shape: shape of the kernel.
        shape: the mask's shape.

    Returns:
        Array of shape `kernel_shape`.
    """
    order, _ = _element_axes(kernel_shape, shape)
    return elements.reshape([kernel_shape[i] for i in order]).transpose(np.argsort(order))


def _element_axes(kernel_shape, shape):
    """The kernel's axes, those over which the mask broadcasts first; and the latter."""
    broadcast = [i for i, n in enumerate(shape) if n != kernel_shape[i]]
    return [*broadcast, *(i for i in range(len(shape)) if i not in broadcast)], broadcast


def unit_axes(layer, rank):
    """The kernel's axes that number the input units, and those that number the output units."""
    if isinstance(layer, keras.layers.EinsumDense):
        operands, output = layer.equation.split("->")
        inputs, kernel = operands.split(",")
        return (
            [i for i, letter in enumerate(kernel) if letter in inputs],
            [i for i, letter in enumerate(kernel) if letter in output],
        )
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return [rank - 1], [rank - 2]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return [rank - 2], [rank - 2, rank - 1]
    return [rank - 2], [rank - 1]


def live_count(size, sparsity):
    """How many of `size` mask elements are live at `sparsity`, rounded to the nearest."""
    return round(size * (1 - sparsity))
