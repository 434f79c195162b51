"""Runs a model on random or given inputs and compares outputs, to verify its exported or shrunk form."""

import keras
import numpy as np
from keras import ops

from keras_sparse.export.signature import input_structure


def has_random_inputs(model: keras.Model) -> bool:
    """Returns whether `random_inputs` can make inputs: not of strings."""
    return all(x.dtype != "string" for x in model.inputs)


def random_inputs(model: keras.Model, count: int) -> list[np.ndarray]:
    """Returns an array with `count` random samples for each input of a model, or as many as its fixed batch size.

    Axes of unknown size have 8 entries. Integers are 0 or 1, which are valid indices of most embeddings.
    """
    rng = np.random.default_rng(0)
    shapes = [(x.shape[0] or count, *(n or 8 for n in x.shape[1:])) for x in model.inputs]
    return [
        (rng.normal(size=shape) if keras.backend.is_float_dtype(x.dtype) else rng.integers(0, 2, shape)).astype(x.dtype)
        for x, shape in zip(model.inputs, shapes, strict=True)
    ]


def outputs_of(model: keras.Model, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the outputs of a model in inference, a list of float32 arrays, for an array for each input.

    No variable of the model changes, such as the states of stateful recurrent layers.
    """
    given = keras.tree.pack_sequence_as(input_structure(model), [ops.convert_to_tensor(x) for x in arrays])
    with keras.StatelessScope():
        outputs = model(given, training=False)
    return [ops.convert_to_numpy(ops.cast(x, "float32")) for x in keras.tree.flatten(outputs)]


def accepted_difference(expected: np.ndarray, tolerance: float) -> float:
    """Returns the largest difference from float32 outputs that counts as rounding.

    It is `tolerance` relative to the largest output, or to 1 if that is larger. If all outputs are below 0.01, so that
    this would accept wrong ones, it is `100 * tolerance` relative to the largest output.
    """
    largest = float(np.abs(expected).max(initial=0))
    return min(tolerance * max(1.0, largest), 100 * tolerance * largest + 1e-9)
