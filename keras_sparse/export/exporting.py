"""Exports a model to a file for other runtimes, runs the file, and keeps it only if it computes the same."""

import functools
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_sparse import backend
from keras_sparse.conversion.densify import densify
from keras_sparse.conversion.maskable_weights import check_convertible
from keras_sparse.export import litert, running
from keras_sparse.export.replacing import replacing
from keras_sparse.validation import check_choice, check_positive_int

_FORMATS = {".tflite": "litert", ".onnx": "onnx", "": "tf_saved_model"}
_WEIGHTS = ("float32", "float16", "int8")
# How far the outputs of a float32 file may be off: so much where they are at most 1, or of the largest one; and by that
# part of the largest one at most, since small outputs are to be compared as well.
_EXACT, _PART = 1e-5, 1e-3
# Where weights are rounded: the root mean square of the differences over that of the outputs.
_ROUNDED = {"float16": 0.02, "int8": 0.25}
_COMPARED = 16  # samples


def export(model, path, format=None, weights="float32", representative_dataset=None, batch_size=1):
    """Exports a model for inference elsewhere; a LiteRT file holds sparse weights sparsely.

    The file is run and compared with the model before it is put in its place. If it computes something else, or
    anything fails, there is no new file, and an older one stays. A warning says, before the file is there, if it is not
    smaller than a dense one, or not faster; `keras_sparse.deployment_report` tells why, layer by layer.

    In LiteRT a float32 dense layer that is sparse enough computes with its live weights only. All other weights are
    stored sparsely and made dense when the file is loaded. int8 weights of dense layers are stored dense: LiteRT cannot
    load them otherwise. SavedModel and ONNX hold dead weights as zeros.

    Args:
        model: a built `keras.Model`, sparse or dense. It is not changed. LiteRT needs the TensorFlow backend.
        path: str or `pathlib.Path`: of a file that ends in ".tflite" or ".onnx", or of a folder for a SavedModel.
        format: "litert", "onnx", "tf_saved_model"; None to go by the ending of the path.
        weights: "float32"; for LiteRT also "float16", half the bytes, or "int8", a quarter: then activations are whole
            numbers, too, and dense layers are the fastest.
        representative_dataset: array of a hundred inputs or so as the model will get them, or a list of arrays where it
            has several inputs. int8 takes from it how large activations get; and the comparison is made on it, else on
            random inputs.
        batch_size: int of at least 1, of each call of the LiteRT model, or None for any. Sparse dense layers are not
            faster from 16 on.

    Returns:
        The size in bytes of what was written, an int.

    Raises:
        ValueError: if the model is none or not built, an argument is unknown or does not go with another, or the
            backend cannot write the format.
        RuntimeError: if the exported file computes something else than the model.
        FileNotFoundError: if the folder of the path does not exist.
        ImportError: if a package is missing: pip install 'keras_sparse[export]'.

    Example:

    >>> export(model, "model.tflite")
    >>> export(model, "model.tflite", weights="int8", representative_dataset=x_train[:200])
    """
    check_convertible(model, "export")
    path = Path(path)
    format = _format(path, format)
    _check_weights(format, weights, representative_dataset)
    if batch_size is not None:
        check_positive_int(batch_size, "batch_size")
    dense = densify(model)
    if not getattr(dense, "inputs", None):
        raise ValueError(
            f"`export` needs to know the shapes of the model's inputs. Received: {model.name!r}, of class "
            f"{type(model).__name__}. Wrap it: `x = keras.Input(shape); keras.Model(x, model(x))`."
        )
    size = batch_size or 1
    samples = _samples(dense, representative_dataset, size)
    # All of them calibrate; a few are compared, in whole batches.
    count = max(size, min(_COMPARED, len(samples[0])) // size * size)
    compared = [x[:count] for x in samples]
    _outputs(dense, compared)  # Keras exports what has been called.
    with replacing(path) as new:
        if format == "litert":
            made = litert.convert(dense, new, weights, samples if weights == "int8" else None, batch_size)
            _check_same(model, running.run_litert(made.sparse), compared, weights, path)
            _warn(path, _what_it_does_not_give(made))
            new.write_bytes(made.sparse)
        else:
            dense.export(str(new), format=format, verbose=False)
            run = {"onnx": running.run_onnx, "tf_saved_model": running.run_saved_model}[format]
            _check_same(model, run(new), compared, weights, path)
            _warn(
                path, f"neither smaller nor faster than a dense model's: the format {format!r} holds zeros as numbers"
            )
    return _size(path)


def _format(path, format):
    """The name of a format, by the ending of a path if none is given."""
    if format is None:
        check_choice(path.suffix, "the ending of path", _FORMATS)
        return _FORMATS[path.suffix]
    check_choice(format, "format", _FORMATS.values())
    ending = next(k for k, v in _FORMATS.items() if v == format)
    if ending and path.suffix != ending:
        raise ValueError(f"For {format!r} the path must end in {ending!r}. Received: path={str(path)!r}.")
    return format


def _check_weights(format, weights, representative_dataset):
    check_choice(weights, "weights", _WEIGHTS)
    if format != "litert" and weights != "float32":
        raise ValueError(
            f"`weights` other than 'float32' are for LiteRT. Received: weights={weights!r} for the format {format!r}. "
            "Give a path that ends in '.tflite', or quantize the file by the tools of its format."
        )
    if weights == "int8" and representative_dataset is None:
        raise ValueError(
            "`weights='int8'` needs `representative_dataset`, about a hundred inputs: they tell how large activations "
            "get. Received: representative_dataset=None. Give some of the training data, such as x_train[:200]."
        )
    if (format == "litert" and backend.name != "tensorflow") or (
        format == "tf_saved_model" and backend.name == "torch"
    ):
        raise ValueError(
            f"The format {format!r} needs another backend. Received: {backend.name!r}. Write the model by "
            "keras_sparse.save_model, and export it in a process with KERAS_BACKEND=tensorflow, which reads it."
        )


def _samples(model, given, batch_size):
    """A list of arrays, one an input: those given, or random ones."""
    shapes, dtypes = [tuple(x.shape[1:]) for x in model.inputs], [x.dtype for x in model.inputs]
    if given is None:
        rng, count = np.random.default_rng(0), max(_COMPARED, batch_size)
        draws = [
            rng.normal if keras.backend.is_float_dtype(d) else functools.partial(rng.integers, 0, 2) for d in dtypes
        ]
        # An axis of any size: of 8, which most layers take.
        shapes = [tuple(n or 8 for n in shape) for shape in shapes]
        return [draw(size=(count, *s)).astype(d) for draw, s, d in zip(draws, shapes, dtypes, strict=True)]
    arrays = [np.asarray(x) for x in (keras.tree.flatten(given) if len(shapes) > 1 else [given])]
    received = [(x.shape, str(x.dtype)) for x in arrays]
    fits = len(arrays) == len(shapes) and len({len(x) if x.ndim else 0 for x in arrays}) == 1
    for x, shape in zip(arrays, shapes, strict=False):
        fits = fits and x.ndim == len(shape) + 1 and len(x) and x.dtype.kind in "fiub"
        fits = fits and all(n is None or n == m for n, m in zip(shape, x.shape[1:], strict=False))
    if not fits:
        raise ValueError(
            f"`representative_dataset` must be an array of inputs of the shape {shapes}, with the number of inputs as "
            f"first axis, or a list of such arrays, one for each of the model's inputs. Received: {received}."
        )
    # Fewer than a batch come round.
    rows = np.arange(max(len(arrays[0]), batch_size)) % len(arrays[0])
    return [x[rows].astype(d) for x, d in zip(arrays, dtypes, strict=True)]


def _check_same(model, run, samples, weights, path):
    """Raises RuntimeError if the outputs of a file differ from those of the model by more than rounding."""
    for x, y in zip(_outputs(model, samples), run(samples), strict=True):
        off, limit = _difference(x, np.asarray(y, "float32"), weights)
        if not off <= limit:  # NaN is no number of any size.
            raise RuntimeError(
                f"The exported file does not compute what {model.name!r} does, and was not kept. Expected: outputs of "
                f"the shape {x.shape}, at most {limit:.2g} off; received: shape {np.shape(y)}, {off:.2g} off, on "
                f"{len(samples[0])} inputs. Nothing was written to {str(path)!r}. "
                + _ADVICE["float32" if weights == "float32" else "rounded"]
            )


def _outputs(model, arrays):
    """A list of arrays: what a model gives for a list of them."""
    given = [ops.convert_to_tensor(x) for x in arrays]
    given = given[0] if len(given) == 1 else keras.tree.pack_sequence_as(model.input, given)
    return [ops.convert_to_numpy(ops.cast(x, "float32")) for x in keras.tree.flatten(model(given, training=False))]


_ADVICE = {
    "float32": "Leave out layers one by one to find which the format cannot hold, and report it.",
    "rounded": "Give inputs that are like the real ones as `representative_dataset`, or weights='float32'.",
}


def _difference(expected, got, weights):
    """`(how far they are apart, how far they may be)`."""
    if expected.shape != got.shape:
        return np.nan, 0.0
    difference, largest = np.abs(got - expected).astype("float64"), float(np.abs(expected).max(initial=0))
    if weights == "float32":
        return float(difference.max(initial=0)), min(_EXACT * max(1.0, largest), _PART * largest + 1e-9)
    limit = _ROUNDED[weights] * np.sqrt(np.mean(np.square(expected, dtype="float64"))) + 1e-9
    return float(np.sqrt(np.mean(np.square(difference)))), float(limit)


def _what_it_does_not_give(made):
    """What sparsity does not give a LiteRT file, in words; None if it is smaller and faster."""
    dense, sparse = len(made.dense), len(made.sparse)
    if sparse >= dense:
        return f"neither smaller ({sparse:,} bytes, dense {dense:,}) nor faster than a dense one"
    if not made.stored.computed:
        return f"smaller ({sparse:,} bytes, dense {dense:,}) but not faster than a dense one"
    return None


def _warn(path, what):
    if what:
        warnings.warn(
            f"The export to {str(path)!r} will be {what}. keras_sparse.deployment_report(model) tells why, layer by "
            "layer.",
            UserWarning,
            stacklevel=3,
        )


def _size(path):
    return sum(x.stat().st_size for x in path.rglob("*") if x.is_file()) if path.is_dir() else path.stat().st_size
