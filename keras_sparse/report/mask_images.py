"""Images of masks: which weights of a layer are live, and which pixels of the input they connect to."""

import math
import struct
import zlib

import keras
import numpy as np

from keras_sparse import _keras
from keras_sparse.layers.layer_kinds import TRANSPOSED_CONVOLUTIONS, spatial_rank

# Six colors of matplotlib's "viridis", from dark to light. They differ for color-blind readers and in gray.
COLORMAP = np.array([(68, 1, 84), (65, 68, 135), (42, 120, 142), (34, 168, 132), (122, 209, 81), (253, 231, 37)])
MAX_SIZE = 400  # pixels of the longer side of a downsampled mask


def mask_matrix(weight) -> np.ndarray:
    """Returns the density of a mask between each input unit and each output unit of its layer.

    Args:
        weight: `keras_sparse.layers.masked_weight.MaskedWeight`.

    Returns:
        Float array of shape `(inputs, outputs)` with values in [0, 1]. An axis that indexes both input and output
        units, such as the groups of a convolution, is part of the rows. Other axes, such as height and width of a
        convolution's kernel, are averaged.
    """
    units = weight.units
    full = weight.live().reshape(units.split(weight.shape))
    rows, columns = list(units.inputs), [i for i in units.outputs if i not in units.inputs]
    others = [i for i in range(full.ndim) if i not in (*rows, *columns)]
    ordered = full.transpose(*others, *rows, *columns)
    height = math.prod(full.shape[i] for i in rows)
    return ordered.reshape(math.prod(full.shape[i] for i in others), height, -1).mean(axis=0)


def downsample(matrix, max_size=MAX_SIZE) -> np.ndarray:
    """Returns a matrix of at most `max_size` rows and columns: means over blocks, of which the last may be smaller."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        starts = np.arange(0, size, -(-size // max_size))
        if len(starts) < size:
            sums = np.add.reduceat(matrix, starts, axis=axis)
            matrix = sums / np.expand_dims(np.diff([*starts, size]), 1 - axis)
    return matrix


def input_image_shape(model) -> tuple | None:
    """Returns `(height, width, channels)` of the model's input if it has the shape of an image, else None."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) not in (3, 4) or None in shape[1:]:
        return None
    return (*shape[1:], 1)[:3]


def pixel_connectivity(weight, image_shape) -> np.ndarray | None:
    """Returns the number of live weights of each pixel of the input image.

    Args:
        weight: `MaskedWeight`, the first of a model.
        image_shape: tuple `(height, width, channels)` or None, from `input_image_shape`.

    Returns:
        Int array of shape `(height, width)`; None if the weight does not connect pixels to units.
    """
    if image_shape is None or len(weight.shape) != 2 or weight.shape[0] != math.prod(image_shape):
        return None
    return weight.live().sum(axis=1).reshape(image_shape).sum(axis=2)


def kernel_windows(weight) -> np.ndarray | None:
    """Returns the masks of a convolution's kernels, with a row for each input and a column for each output channel.

    Args:
        weight: `MaskedWeight`.

    Returns:
        Float array, 1 where live, 0 where dead and 0.5 between kernels; None if the layer is not a 2-D convolution, or
        a side would be longer than 1024 pixels.
    """
    if len(weight.shape) != 4 or spatial_rank(weight.layer) != 2:
        return None
    live = weight.live()
    if isinstance(weight.layer, TRANSPOSED_CONVOLUTIONS):  # whose last two axes are outputs, inputs
        live = live.swapaxes(2, 3)
    height, width, inputs, outputs = live.shape
    if max(inputs * (height + 1), outputs * (width + 1)) > 1024:
        return None
    mask = live.transpose(2, 0, 3, 1)
    framed = np.pad(mask.astype("float32"), ((0, 0), (0, 1), (0, 0), (0, 1)), constant_values=0.5)
    return framed.reshape(inputs * (height + 1), outputs * (width + 1))[:-1, :-1]


def first_layer_image(model, weight) -> tuple:
    """Returns the image of the first layer of a model for images.

    Args:
        model: `keras.Model`.
        weight: the first `MaskedWeight` of the model.

    Returns:
        `("connectivity", pixel_connectivity)` for a layer that connects to all pixels, `("windows", kernel_windows)`
        for a convolution, or `(None, None)`.
    """
    shape = input_image_shape(model) if _reads_pixels(model, weight.layer) else None
    images = (
        ("connectivity", pixel_connectivity(weight, shape)),
        ("windows", kernel_windows(weight)),
    )
    return next(((name, matrix) for name, matrix in images if matrix is not None), (None, None))


# Layers that neither mix nor move the entries of their input.
_IN_PLACE = (
    *(keras.layers.Flatten, keras.layers.Reshape, keras.layers.Dropout, keras.layers.GaussianNoise),
    *(keras.layers.Rescaling, keras.layers.Normalization, keras.layers.BatchNormalization),
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.Identity),
)


def _reads_pixels(model, layer):
    """Returns whether the inputs of a layer are the entries of the input of a functional model, in their order."""
    if not _keras.is_functional(model):
        return False
    nodes = [n for n in _keras.graph_nodes(keras.Function(model.inputs, model.outputs)) if not n.is_input]
    made_by = {id(x): n for n in nodes for x in n.outputs}
    node = next((n for n in nodes if n.operation is layer), None)
    while node is not None:
        tensor = node.arguments.keras_tensors[0]
        if any(tensor is x for x in model.inputs):
            return True
        node = made_by.get(id(tensor))
        if node is not None and not isinstance(node.operation, _IN_PLACE):
            return False
    return False


def encode_png(matrix, min_size=256) -> bytes:
    """Encodes a matrix as a PNG file, dark where it is 0 and light where it is largest.

    Args:
        matrix: 2-D array of numbers of at least 0.
        min_size: int, pixels. If the longer side is shorter, each number becomes a square of pixels.

    Returns:
        bytes, the content of the file.
    """
    levels = np.asarray(matrix, "float64") / (np.max(matrix) or 1)
    stops = np.linspace(0, 1, len(COLORMAP))
    pixels = np.stack([np.interp(levels, stops, channel) for channel in COLORMAP.T], axis=-1).astype("uint8")
    scale = max(1, min_size // max(pixels.shape[:2]))
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = pixels.shape[:2]
    # Each line begins with the number of its filter, 0 for none. The header tells 8 bits a channel and RGB.
    lines = np.concatenate([np.zeros((height, 1), "uint8"), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*x) for x in chunks)


def _chunk(kind, content):
    """Returns a chunk of a PNG file: length, kind, content and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
