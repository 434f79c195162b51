"""Random inputs and the accepted difference of outputs, to compare a model with its exported or shrunk form."""

import keras
import numpy as np


def random_inputs(model: keras.Model, count: int) -> list[np.ndarray]:
    """Returns an array with `count` random samples for each input of a model. Axes of unknown size have 8 entries.

    Integers are 0 or 1, which are valid indices of most embeddings.
    """
    rng = np.random.default_rng(0)
    shapes = [(count, *(n or 8 for n in x.shape[1:])) for x in model.inputs]
    return [
        (rng.normal(size=shape) if keras.backend.is_float_dtype(x.dtype) else rng.integers(0, 2, shape)).astype(x.dtype)
        for x, shape in zip(model.inputs, shapes, strict=True)
    ]


def accepted_difference(expected: np.ndarray, tolerance: float) -> float:
    """Returns the largest difference from float32 outputs that counts as rounding.

    It is `tolerance` relative to the largest output, or to 1 if that is larger. If all outputs are below 0.01, so that
    this would accept wrong ones, it is `100 * tolerance` relative to the largest output.
    """
    largest = float(np.abs(expected).max(initial=0))
    return min(tolerance * max(1.0, largest), 100 * tolerance * largest + 1e-9)
