"""Augmentation of training images, in pure NumPy.

An augmentation has two methods: `draw(rng, n)` returns random numbers of shape `(n, ...)`, and
`apply(images, draws, size)` uses them. Since every process draws for the whole batch and applies its part, several
processes make the same images as a single one.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class PadCropFlip:
    """Pads by reflection, crops a random window of the original size, and mirrors with probability 1/2.

    Attributes:
        padding: int, pixels on each side.
    """

    padding: int = 4

    def draw(self, rng, n):
        """Draws an int array of shape `(n, 3)`: vertical offset, horizontal offset, and 1 to mirror."""
        return rng.integers(0, (2 * self.padding + 1, 2 * self.padding + 1, 2), (n, 3))

    def apply(self, images, draws, size=None):
        """Returns augmented images of the same shape."""
        n, height, width, channels = images.shape
        down, right, mirror = draws.T
        columns = np.arange(width)
        columns = right[:, None] + np.where(mirror[:, None], columns[::-1], columns)
        rows = down[:, None] + np.arange(height)
        # The padded images are not made: their rows and columns are looked up in the images.
        rows, columns = (
            np.pad(np.arange(pixels), self.padding, mode="reflect")[index]
            for pixels, index in ((height, rows), (width, columns))
        )
        pixels = (np.arange(n)[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
        return images.reshape(-1, channels).take(pixels, axis=0)


@dataclasses.dataclass(frozen=True)
class ResizedCropFlip:
    """Crops a window of random area and aspect ratio, resizes it, and mirrors with probability 1/2.

    Attributes:
        area: tuple of floats in (0, 1], the range of the window's area as a fraction of the image's.
        ratio: tuple of positive floats, the range of width / height.
    """

    area: tuple = (0.08, 1.0)
    ratio: tuple = (3 / 4, 4 / 3)

    def draw(self, rng, n):
        """Draws a float array of shape `(n, 5)`: area, ratio, vertical and horizontal place, and mirroring."""
        draws = rng.random((n, 5))
        draws[:, 0] = self.area[0] + draws[:, 0] * (self.area[1] - self.area[0])
        low, high = np.log(self.ratio)
        draws[:, 1] = np.exp(low + draws[:, 1] * (high - low))
        return draws

    def apply(self, images, draws, size):
        """Returns augmented images of `size` by `size` pixels."""
        out = np.empty((len(images), size, size, images.shape[-1]), "float32")
        for i, (image, (area, ratio, down, right, mirror)) in enumerate(zip(images, draws, strict=True)):
            sides = np.array(image.shape[:2])
            box = np.minimum(np.sqrt(area * sides.prod() * np.array([1 / ratio, ratio])), sides)
            offset = (sides - box) * (down, right)
            rows, columns = (_resizing(int(sides[k]), offset[k], box[k], size) for k in (0, 1))
            crop = np.einsum("ih,hwc->iwc", rows, image.astype("float32"), optimize=True)
            out[i] = np.einsum("jw,iwc->ijc", columns[::-1] if mirror < 0.5 else columns, crop, optimize=True)
        return out


def _resizing(pixels, start, length, size):
    """Computes the matrix that resizes a window of a row of pixels by linear interpolation with antialiasing.

    Args:
        pixels: int, pixels of the row.
        start: float, start of the window.
        length: float, length of the window.
        size: int, pixels of the result.

    Returns:
        float32 array of shape `(size, pixels)`.
    """
    scale = length / size
    centres = start + (np.arange(size) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(pixels) - centres[:, None]) / max(scale, 1.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype("float32")


def centre(images, size):
    """Crops images of shape `(n, height, width, channels)` to their central `size` by `size` pixels."""
    down, right = ((n - size) // 2 for n in images.shape[1:3])
    return images[:, down : down + size, right : right + size]
