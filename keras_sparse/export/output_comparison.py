"""Runs a model on random or given inputs and compares outputs, to verify its exported or shrunk form."""

import functools
import os
import warnings
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_sparse.export.signature import input_structure
from keras_sparse.layers.traversal import flatten


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


def outputs_of(model: keras.Model, arrays: list[np.ndarray], values: list[tuple] | None = None) -> list[np.ndarray]:
    """Returns the outputs of a model in inference, a list of float32 arrays.

    No variable of the model changes, such as the states of stateful recurrent layers.

    Args:
        model: `keras.Model`.
        arrays: list with an array for each input.
        values: list of `(variable, value)`, for variables that have other values than those of the model.
    """
    given = keras.tree.pack_sequence_as(input_structure(model), [ops.convert_to_tensor(x) for x in arrays])
    with keras.StatelessScope(state_mapping=values):
        outputs = model(given, training=False)
    return [ops.convert_to_numpy(ops.cast(x, "float32")) for x in keras.tree.flatten(outputs)]


# Of the dtypes in which layers may compute, other than float32.
_ROUNDING = {"float16": 0.02, "bfloat16": 0.1}


def rounding_tolerance(model: keras.Model) -> float:
    """Returns the tolerance for the rounding of the layers that compute in half precision, 0.0 if none does.

    See `accepted_difference`.
    """
    return max(_ROUNDING.get(x.compute_dtype, 0.0) for x in (model, *flatten(model)))


def accepted_difference(expected: np.ndarray, tolerance: float) -> float:
    """Returns the largest difference from float32 outputs that counts as rounding.

    It is `tolerance` relative to the largest output, or to 1 if that is larger. If all outputs are below 0.01, so that
    this would accept wrong ones, it is `100 * tolerance` relative to the largest output.
    """
    largest = float(np.abs(expected).max(initial=0))
    return min(tolerance * max(1.0, largest), 100 * tolerance * largest + 1e-9)


def effect_of_rounding(model: keras.Model, arrays: list[np.ndarray], expected: list[np.ndarray]) -> list[float]:
    """Returns how much the outputs change if each weight is rounded differently: the largest change of each output.

    Deep networks amplify rounding errors, for which a fixed tolerance would be too strict. Measured on networks of 6 to
    48 layers, a correct LiteRT file differs by 0.6 to 1.1 times this number.

    Args:
        model: `keras.Model`.
        arrays: list with an array for each input.
        expected: list of arrays, the `outputs_of` the model.
    """
    rng = np.random.default_rng(0)
    values = []
    for variable in model.variables:
        if keras.backend.standardize_dtype(variable.dtype) == "float32":
            array = ops.convert_to_numpy(variable)
            noise = rng.normal(scale=np.finfo("float32").epsneg, size=array.shape)
            values.append((variable, ops.convert_to_tensor((array * (1 + noise)).astype("float32"))))
    with np.errstate(invalid="ignore"):  # infinity - infinity
        changes = [x - y for x, y in zip(expected, outputs_of(model, arrays, values), strict=True)]
    return [_largest_finite(x) for x in changes]


_TOLERANCE = 1e-5  # of exported float32 outputs, see `accepted_difference`
# So many times `effect_of_rounding` count as rounding, too, up to this fraction of the largest output.
_TIMES_ROUNDING, _MOST_ROUNDING = 4, 0.01
# The largest root mean square of differences for other weights, relative to that of the outputs.
_RMS_TOLERANCE = {"float16": 0.02, "int8": 0.25}
_LOST = 0.5  # Differences above this part of what outputs vary by between samples are warned of.


def check_exported_outputs(model: keras.Model, run: Callable, samples: list, weights: str, path: os.PathLike) -> None:
    """Raises RuntimeError if the outputs of a file differ from those of the model.

    Warns if outputs in float16 or int8 differ by more than half of what they vary by between samples.

    Args:
        model: `keras.Model`.
        run: function that runs the file, from a list of arrays to a list of arrays.
        samples: list with an array for each input.
        weights: "float32", "float16" or "int8", which determines the tolerance.
        path: path of the file, for messages.
    """
    tolerance = max(_TOLERANCE, rounding_tolerance(model))
    expected = outputs_of(model, samples)
    effects = functools.cache(lambda: effect_of_rounding(model, samples, expected))
    for i, (x, y) in enumerate(zip(expected, run(samples), strict=True)):
        difference, limit = _difference(x, np.asarray(y, "float32"), weights, tolerance)
        if difference > limit and weights == "float32":
            rounding = _TIMES_ROUNDING * effects()[i]
            limit = max(limit, min(rounding, _MOST_ROUNDING * _largest_finite(x)))
        if not difference <= limit:  # True for NaN, too
            raise RuntimeError(
                f"The exported file does not compute what {model.name!r} does, and was not kept. Expected: outputs of "
                f"shape {x.shape} that differ by at most {limit:.2g}. Received: shape {np.shape(y)}, a difference of "
                f"{difference:.2g}, on {len(samples[0])} inputs. Nothing was written to {str(path)!r}. "
                + _ADVICE["nan" if np.isnan(x).any() else "float32" if weights == "float32" else "rounded"]
            )
        if weights != "float32" and x.ndim:
            _warn_of_lost_variation(model, path, weights, difference, x)


def _warn_of_lost_variation(model, path, weights, difference, expected):
    """Warns if the root mean square of differences is above half of that by which outputs vary between samples."""
    with np.errstate(invalid="ignore"):  # of infinite outputs
        varies = _rms(expected - expected.mean(axis=0))
    if difference > _LOST * varies > 0:
        warnings.warn(
            f"Outputs of the file {str(path)!r} differ from those of {model.name!r} by {difference:.2g}, and those "
            f"vary by {varies:.2g} between inputs (root mean squares): {weights} hardly tells inputs apart. Subtract a "
            "large offset from the outputs, or give weights='float32'.",
            UserWarning,
            stacklevel=5,
        )


_ADVICE = {
    "nan": "Those of the model itself are NaN: give inputs as `representative_dataset` for which they are numbers.",
    "float32": "Remove layers one by one to find the one that the format does not support, and report it.",
    "rounded": "Give typical inputs as `representative_dataset`, or weights='float32'.",
}


def _difference(expected, got, weights, tolerance):
    """Returns `(difference, largest accepted difference)` of two arrays of outputs."""
    if expected.shape != got.shape:
        return np.nan, 0.0
    # Infinite numbers must be the same ones; LiteRT may give the largest float32 instead.
    infinite = np.isinf(expected)
    if not (np.sign(expected[infinite]) * got[infinite] >= np.finfo("float32").max).all():
        return np.nan, 0.0
    expected, got = expected[~infinite], got[~infinite]
    difference = np.abs(got - expected).astype("float64")
    if weights == "float32":
        return float(difference.max(initial=0)), accepted_difference(expected, tolerance)
    limit = _RMS_TOLERANCE[weights] * _rms(expected)
    return _rms(difference), limit


def _largest_finite(array):
    """Returns the largest finite magnitude in an array, a float; 0 if there is none."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0))


def _rms(array):
    """Returns the root mean square, a float; 0 for an empty array."""
    return float(np.sqrt(np.mean(np.square(array, dtype="float64")))) if array.size else 0.0
