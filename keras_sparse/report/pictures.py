"""Masks as pictures: where the live weights of a layer are, and which inputs of an image they look at."""

import math
import struct
import zlib

import numpy as np

# Dark to light, told apart by the colour-blind and in grey: six colours of matplotlib's "viridis".
COLOURS = np.array([(68, 1, 84), (65, 68, 135), (42, 120, 142), (34, 168, 132), (122, 209, 81), (253, 231, 37)])
LARGEST = 400  # pixels of a side of a reduced mask


def mask_matrix(weight) -> np.ndarray:
    """Returns the density of a mask between each input unit and each output unit of its layer.

    Args:
        weight: `keras_sparse.layers.masked_weight.MaskedWeight`.

    Returns:
        Float array of shape `(inputs, outputs)` with numbers in [0, 1]. Groups, heads and channels that are units of
        both sides are rows, and all other axes, such as those of a convolution's window, are averaged.
    """
    units, mask = weight.units, weight.mask.numpy()
    full = np.broadcast_to(mask.reshape(units.split(mask.shape)), units.split(weight.shape))
    rows, columns = list(units.inputs), [i for i in units.outputs if i not in units.inputs]
    others = [i for i in range(full.ndim) if i not in (*rows, *columns)]
    ordered = full.transpose(*others, *rows, *columns)
    height = math.prod(full.shape[i] for i in rows)
    return ordered.reshape(math.prod(full.shape[i] for i in others), height, -1).mean(axis=0)


def reduced(matrix, largest=LARGEST) -> np.ndarray:
    """Returns a matrix of at most `largest` rows and columns: means over blocks, of which the last may be smaller."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        starts = np.arange(0, size, -(-size // largest))
        if len(starts) < size:
            sums = np.add.reduceat(matrix, starts, axis=axis)
            matrix = sums / np.expand_dims(np.diff([*starts, size]), 1 - axis)
    return matrix


def input_grid(model) -> tuple | None:
    """Returns `(height, width, channels)` of the model's input if that may be one image, else None."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) not in (3, 4) or None in shape[1:]:
        return None
    return (*shape[1:], 1)[:3]


def connectivity(weight, grid) -> np.ndarray | None:
    """Returns how many live weights each pixel of an image has, as a picture of the image's size.

    Args:
        weight: `MaskedWeight`; the first of a model whose input is an image.
        grid: `(height, width, channels)`, of `input_grid`.

    Returns:
        Int array of shape `(height, width)`; None if the weight is not between pixels and units.
    """
    if grid is None or len(weight.shape) != 2 or weight.shape[0] != math.prod(grid):
        return None
    mask = np.broadcast_to(weight.mask.numpy(), weight.shape)
    return mask.sum(axis=1).reshape(grid).sum(axis=2)


def windows(weight) -> np.ndarray | None:
    """Returns the masks of a convolution's windows side by side, a row an input channel, a column an output channel.

    Args:
        weight: `MaskedWeight`.

    Returns:
        Float array, 1 where live, 0 where dead and 0.5 between windows; None if it is no 2-D convolution, or if that
        would be more than 1024 pixels on a side.
    """
    if len(weight.shape) != 4 or len(weight.layer.get_config().get("kernel_size", ())) != 2:
        return None
    height, width, inputs, outputs = weight.shape
    if max(inputs * (height + 1), outputs * (width + 1)) > 1024:
        return None
    mask = np.broadcast_to(weight.mask.numpy(), weight.shape).transpose(2, 0, 3, 1)
    framed = np.pad(mask.astype("float32"), ((0, 0), (0, 1), (0, 0), (0, 1)), constant_values=0.5)
    return framed.reshape(inputs * (height + 1), outputs * (width + 1))[:-1, :-1]


def of_first(model, weight) -> tuple:
    """Returns what the first layer of a model on images looks at.

    Args:
        model: `keras.Model`.
        weight: its first `MaskedWeight`.

    Returns:
        `("connectivity", matrix)` of a layer of all pixels, `("windows", matrix)` of a convolution, or `(None, None)`.
    """
    found = (("connectivity", connectivity(weight, input_grid(model))), ("windows", windows(weight)))
    return next(((name, matrix) for name, matrix in found if matrix is not None), (None, None))


def png(matrix, smallest=256) -> bytes:
    """Returns a matrix as a PNG file, dark where it is 0 and light where it is largest.

    Args:
        matrix: array of two axes, of numbers of at least 0.
        smallest: int, pixels; a smaller picture is enlarged, each number to a square.
    """
    levels = np.asarray(matrix, "float64") / (np.max(matrix) or 1)
    stops = np.linspace(0, 1, len(COLOURS))
    pixels = np.stack([np.interp(levels, stops, channel) for channel in COLOURS.T], axis=-1).astype("uint8")
    times = max(1, smallest // max(pixels.shape[:2]))
    pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    height, width = pixels.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), "uint8"), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*x) for x in chunks)


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
