"""What training images go through: pure NumPy, the draws apart from what is done with them.

An augmentation has `draw(rng, n)`, random numbers of shape `(n, ...)`, and `apply(images, draws, size)`. So a
process that gets a part of a batch makes what one process makes of the whole.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class PadCropFlip:
    """Pads by reflection, crops the first size at random, and mirrors every other image.

    Attributes:
        padding: pixels on each side.
    """

    padding: int = 4

    def draw(self, rng, n):
        """Offsets down and right, and whether to mirror: int array of shape `(n, 3)`."""
        return rng.integers(0, (2 * self.padding + 1, 2 * self.padding + 1, 2), (n, 3))

    def apply(self, images, draws, size=None):
        """Images of the shape they came in."""
        p, (n, height, width, _) = self.padding, images.shape
        padded = np.pad(images, ((0, 0), (p, p), (p, p), (0, 0)), mode="reflect")
        down, right, mirror = draws.T
        columns = np.arange(width)
        columns = right[:, None] + np.where(mirror[:, None], columns[::-1], columns)
        rows = down[:, None] + np.arange(height)
        return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclasses.dataclass(frozen=True)
class ResizedCropFlip:
    """Crops a part of random area and shape, brings it to one size, and mirrors every other image.

    Attributes:
        area: least and most of the image's area.
        ratio: least and most of width over height.
    """

    area: tuple = (0.08, 1.0)
    ratio: tuple = (3 / 4, 4 / 3)

    def draw(self, rng, n):
        """Area, ratio, place down and right, and whether to mirror: float array of shape `(n, 5)`."""
        draws = rng.random((n, 5))
        draws[:, 0] = self.area[0] + draws[:, 0] * (self.area[1] - self.area[0])
        low, high = np.log(self.ratio)
        draws[:, 1] = np.exp(low + draws[:, 1] * (high - low))
        return draws

    def apply(self, images, draws, size):
        """Images of `size` by `size` pixels."""
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
    """The matrix that resizes `length` of so many pixels, from `start` on, to `size`, linearly and without aliasing."""
    scale = length / size
    centres = start + (np.arange(size) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(pixels) - centres[:, None]) / max(scale, 1.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype("float32")


def centre(images, size):
    """The central `size` by `size` pixels of images of shape `(n, height, width, channels)`."""
    down, right = ((n - size) // 2 for n in images.shape[1:3])
    return images[:, down : down + size, right : right + size]
