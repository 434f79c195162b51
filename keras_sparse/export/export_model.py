"""Exports a model for inference with other runtimes, and verifies the outputs of the exported file."""

import contextlib
import os
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_sparse import backend
from keras_sparse.atomic_write import atomic_write
from keras_sparse.conversion.densify import dense_copy
from keras_sparse.conversion.trainable_weights import check_convertible
from keras_sparse.export import litert, run_exported
from keras_sparse.export.input_arrays import input_arrays
from keras_sparse.export.output_comparison import check_exported_outputs, has_random_inputs, outputs_of, random_inputs
from keras_sparse.export.signature import Signature, input_specs, input_structure, output_structure
from keras_sparse.layers.traversal import flatten
from keras_sparse.validation import check_choice, check_path, check_positive_int

_FORMATS = {".tflite": "litert", ".onnx": "onnx", "": "tf_saved_model"}
_VERIFIED_SAMPLES = 16


def export(
    model: keras.Model,
    path: str | os.PathLike,
    format: str | None = None,
    weights: str = "float32",
    representative_dataset: np.ndarray | list | None = None,
    batch_size: int | None = 1,
) -> int:
    """Exports a model for inference with LiteRT, ONNX or TensorFlow. LiteRT files store sparse weights sparse.

    The exported file is run and its outputs are compared with those of the model before it replaces an existing file.
    If they differ, or the export fails, an existing file is unchanged. A warning is issued if the file is not
    smaller or not faster than that of a dense model; `keras_sparse.deployment_report` gives the reasons for each layer.

    LiteRT computes float32 dense layers that are sparse enough with their live weights only. Other weights are stored
    sparse and made dense when the file is loaded, except int8 weights of dense layers, which are stored dense.
    SavedModel and ONNX store zeros as numbers.

    Args:
        model: a built `keras.Model`, sparse or dense. It is not changed. LiteRT needs the TensorFlow backend.
        path: str or `pathlib.Path`: of a file that ends in ".tflite" or ".onnx", or of a folder for a SavedModel.
        format: "litert", "onnx", "tf_saved_model", or None to choose by the extension of `path`.
        weights: "float32"; for LiteRT also "float16", with half of the bytes, or "int8", with a quarter, which also
            quantizes activations and has the fastest dense layers.
        representative_dataset: array of about 100 typical inputs; if the model has several inputs, a list of arrays, or
            a dict from their names to arrays. int8 needs it to calibrate the ranges of activations. Outputs are
            compared on a part of it; without it, on random inputs.
        batch_size: int of at least 1, the fixed batch size of a LiteRT model, or None for any. A model whose inputs
            have a fixed batch size keeps it. Only a Sequential model, which may have that of the batch that built it,
            gets this one, unless its layers need the other. From 16 on, sparse dense layers are not faster than dense
            ones.

    Returns:
        The size of the file or folder in bytes, an int.

    Raises:
        ValueError: if `model` is not a Keras model or not built, an argument is not one of those above or cannot be
            combined with another one, or the backend cannot write the format.
        RuntimeError: if the outputs of the exported file differ from those of the model, or the format does not support
            an operation of the model.
        TypeError: if `path` is not a path.
        FileNotFoundError: if the parent folder of `path` does not exist.
        FileExistsError: if `path` is a folder where a file is to be written, or a folder with something else than a
            SavedModel.
        ImportError: if a package is missing: pip install 'keras_sparse[export]'.

    Example:

    >>> export(model, "model.tflite")
    >>> export(model, "model.tflite", weights="int8", representative_dataset=x_train[:200])
    """
    check_convertible(model, "export")
    check_path(path, "path")
    path = Path(path)
    format = _check_format(path, format)
    _check_combination(format, weights, representative_dataset)
    if batch_size is not None:
        check_positive_int(batch_size, "batch_size")
    dense = dense_copy(model)
    if not getattr(dense, "inputs", None):
        raise ValueError(
            f"`export` needs the shapes of the model's inputs. Received: {model.name!r}, of class "
            f"{type(model).__name__}. Wrap it: `x = keras.Input(shape); keras.Model(x, model(x))`."
        )
    dense = _without_nesting(_without_built_batch_size(dense))
    batch_size = _fixed_batch_size(dense, batch_size)
    size = batch_size or 1
    samples = _samples(dense, representative_dataset, size)
    if weights == "int8":
        is_free = all(x.shape[0] is None for x in dense.inputs)
        _check_finite_outputs(dense, samples, 32 if is_free else size)
        _check_no_loops(dense)
    # All samples calibrate int8. A few are used to compare outputs, in whole batches; a single one if the outputs are
    # not those of each sample, or depend on the batches before.
    several = all(x.shape[:1] == (None,) for x in (*dense.inputs, *getattr(dense, "outputs", ())))
    count = max(size, min(_VERIFIED_SAMPLES, len(samples[0])) // size * size) if several else size
    compared = [x[:count] for x in samples]
    _check_runs(dense, compared, is_random=representative_dataset is None)
    with atomic_write(path, folder=format == "tf_saved_model", replaces=_is_saved_model) as new:
        if format == "litert":
            with _conversion_errors(dense, format):
                converted = litert.convert(dense, new, weights, samples if weights == "int8" else None, batch_size)
            check_exported_outputs(model, run_exported.litert_function(converted.sparse), compared, weights, path)
            _warn_no_benefit(path, _missing_benefit(converted), f", weights={weights!r}, batch_size={batch_size}")
            new.write_bytes(converted.sparse)
        else:
            with _conversion_errors(dense, format):
                dense.export(str(new), format=format, verbose=False)
                if format == "onnx":
                    run = run_exported.onnx_function(new)
                else:
                    run = run_exported.saved_model_function(new, Signature.of(dense))
            check_exported_outputs(model, run, compared, weights, path)
            words = f"neither smaller nor faster than that of a dense model: {format!r} stores zeros as numbers"
            _warn_no_benefit(path, words, ", target='onnxruntime'" if format == "onnx" else None)
    return _size_in_bytes(path)


# What TensorFlow and Keras write into the folder of a SavedModel.
_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "keras_metadata.pb", "variables", "assets", "assets.extra", "debug"}


def _is_saved_model(folder):
    """Returns whether a folder holds a SavedModel and nothing else."""
    names = {x.name for x in folder.iterdir()}
    return "saved_model.pb" in names and names <= _SAVED_MODEL


def _without_built_batch_size(model):
    """Returns a Sequential model for any batch size; other models, and those with stateful layers, as they are.

    A Sequential model without `keras.Input` gets inputs of the batch size of its first call.
    """
    inputs = model.inputs[0]
    if type(model) is not keras.Sequential or inputs.shape[0] is None:
        return model
    if any(getattr(x, "stateful", False) for x in flatten(model)):
        return model
    free = keras.Input(batch_shape=(None, *inputs.shape[1:]), dtype=inputs.dtype, name=inputs.name)
    try:
        made = keras.Sequential([free, *model.layers], name=model.name)
    except Exception:  # A layer may need the batch size.
        return model
    return made if all(x.shape[:1] == (None,) for x in made.outputs) else model


def _fixed_batch_size(model, batch_size):
    """Returns the fixed batch size of a model's inputs; `batch_size` if they have none."""
    fixed = next((x.shape[0] for x in model.inputs if x.shape[0] is not None), None)
    if fixed is not None and batch_size not in (1, None, fixed):
        raise ValueError(
            f"`batch_size` must be that of the model's inputs, {fixed}, or left out. Received: batch_size={batch_size}."
        )
    return batch_size if fixed is None else fixed


@contextlib.contextmanager
def _conversion_errors(model, format):
    """Context manager that explains errors of Keras and TensorFlow, which may be pages long."""
    try:
        yield
    except (ImportError, OSError):  # a missing package, a full disk
        raise
    except Exception as error:
        policies = sorted({x.dtype_policy.name for x in flatten(model)})
        advice = " Recurrent layers need a fixed `batch_size`, or unroll=True." if _recurrent_loops(model) else ""
        raise RuntimeError(
            f"Keras or TensorFlow could not export {model.name!r} as {format!r}, and nothing was written. Expected: "
            "layers that the format supports, in float32, and inputs without spaces in their names. Received: inputs "
            f"{[x.name for x in model.inputs]}, layers of the dtype policies {policies}, and the error: "
            f"{str(error).strip()[:300]}{advice}"
        ) from error


def _without_nesting(model):
    """Returns a model with lists of inputs and outputs if those of a functional model are structures in structures.

    Signatures of TensorFlow and LiteRT know only lists and dicts.
    """
    nested = any(
        keras.tree.is_nested(x) for s in (input_structure(model), output_structure(model)) for x in _elements(s)
    )
    return keras.Model(model.inputs, model.outputs, name=model.name) if nested else model


def _elements(structure):
    """Returns the elements of a list, tuple or dict; none for a tensor."""
    if isinstance(structure, dict):
        return structure.values()
    return structure if isinstance(structure, (list, tuple)) else ()


def _check_format(path, format):
    """Returns the name of the format, chosen by the extension of `path` if `format` is None."""
    if format is None:
        if path.suffix not in _FORMATS:
            raise ValueError(
                "`path` must end in '.tflite' or '.onnx', or be a folder without extension, unless `format` is given. "
                f"Received: path={str(path)!r}, format=None."
            )
        return _FORMATS[path.suffix]
    check_choice(format, "format", _FORMATS.values())
    extension = next(k for k, v in _FORMATS.items() if v == format)
    if extension and path.suffix != extension:
        raise ValueError(f"For format={format!r}, `path` must end in {extension!r}. Received: path={str(path)!r}.")
    return format


def _check_combination(format, weights, representative_dataset):
    """Raises ValueError if arguments and backend cannot be combined."""
    check_choice(weights, "weights", litert.WEIGHTS)
    if format != "litert" and weights != "float32":
        raise ValueError(
            f"`weights` other than 'float32' are for LiteRT. Received: weights={weights!r} for the format {format!r}. "
            "Give a path that ends in '.tflite', or quantize the exported file with the tools of its format."
        )
    if weights == "int8" and representative_dataset is None:
        raise ValueError(
            "`weights='int8'` needs `representative_dataset`, about 100 inputs, to calibrate ranges of activations. "
            "Received: representative_dataset=None. Give some of the training data, such as x_train[:200]."
        )
    if (format == "litert" and backend.name != "tensorflow") or (
        format == "tf_saved_model" and backend.name == "torch"
    ):
        raise ValueError(
            f"The format {format!r} needs another backend. Received: {backend.name!r}. Save the model with "
            "keras_sparse.save_model, and export it in a process with KERAS_BACKEND=tensorflow."
        )


def _samples(model, given, batch_size):
    """Returns a list with an array for each input of a model: those given, or random ones if `given` is None.

    Raises:
        ValueError: if the arrays do not fit the inputs, or have NaN or infinity.
    """
    if given is None:
        if not has_random_inputs(model):
            raise ValueError(
                "`export` compares outputs on random inputs, and cannot make strings. Give some inputs as "
                "`representative_dataset`. Received: representative_dataset=None."
            )
        return random_inputs(model, max(_VERIFIED_SAMPLES, batch_size))
    arrays = input_arrays(given, input_specs(model), "`representative_dataset`")
    for spec, x in zip(input_specs(model), arrays, strict=True):
        if spec.dtype != "string" and not np.isfinite(x).all():
            raise ValueError(
                "`representative_dataset` must be finite, since outputs are compared on it. Received: "
                f"{np.count_nonzero(~np.isfinite(x))} NaN or infinite numbers for the input {spec.name!r}."
            )
    # Samples are repeated if there are fewer than a batch.
    rows = np.arange(max(len(arrays[0]), batch_size)) % len(arrays[0])
    return [x[rows] for x in arrays]


def _check_runs(model, samples, is_random):
    """Runs a model, since Keras exports only those that have been called. Raises ValueError if random samples fail."""
    try:
        outputs_of(model, samples)
    except Exception as error:
        if not is_random:
            raise
        raise ValueError(
            f"`export` compares outputs on random inputs, which {model.name!r} cannot take: integers of 0 and 1, "
            "numbers around 0, axes of unknown size of 8. Give some inputs as `representative_dataset`. Received: "
            f"{str(error).strip()[:300]}"
        ) from error


def _check_finite_outputs(model, samples, batch_size):
    """Raises ValueError if an output is not finite: the calibration of int8 would end the process without an error."""
    batches = litert.whole_batches(samples, batch_size)
    if not all(np.isfinite(x).all() for batch in batches for x in outputs_of(model, batch)):
        raise ValueError(
            f"`weights='int8'` needs samples for which {model.name!r} is finite. Received: outputs with NaN or "
            "infinity for some inputs of `representative_dataset`. Remove these inputs."
        )


def _check_no_loops(model):
    """Raises ValueError if a model has a loop: the calibration of int8 would end the process without an error."""
    import tensorflow as tf

    specs = [tf.TensorSpec(x.shape, x.dtype) for x in model.inputs]
    structure = input_structure(model)
    trace = tf.function(lambda *x: model(keras.tree.pack_sequence_as(structure, x), training=False))
    graph = trace.get_concrete_function(*specs).graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    if any(n.op in ("While", "StatelessWhile") for n in nodes):
        raise ValueError(
            f"`weights='int8'` cannot calibrate loops, which {model.name!r} has. Received: recurrent layers "
            f"{_recurrent_loops(model)}. "
            "Build them with unroll=True and a fixed number of steps, which needs the same weights, or export with "
            "weights='float16'."
        )


def _recurrent_loops(model):
    """Returns the names of the recurrent layers in a model that run as a loop."""
    return [x.name for x in flatten(model) if isinstance(x, keras.layers.RNN) and not x.unroll]


def _missing_benefit(converted):
    """Returns in which respect sparsity does not improve a LiteRT file, as words; None if it is smaller and faster."""
    dense, sparse = len(converted.dense), len(converted.sparse)
    if sparse >= dense:
        return f"neither smaller ({sparse:,} bytes, dense {dense:,}) nor faster than that of a dense model"
    if not converted.storage.computed_sparse:
        return f"smaller ({sparse:,} bytes, dense {dense:,}) but not faster than that of a dense model"
    return None


def _warn_no_benefit(path, words, arguments):
    """Warns that sparsity does not improve a file, as `words` say.

    Args:
        path: `Path` of the file.
        words: str, in which respects; None to give no warning.
        arguments: str, the further arguments of the `deployment_report` with the reasons; None if there is none.
    """
    report = f"keras_sparse.deployment_report(model{arguments}) gives the reasons for each layer."
    if words:
        told = f"The export to {str(path)!r} will be {words}."
        warnings.warn(told if arguments is None else f"{told} {report}", UserWarning, stacklevel=3)


def _size_in_bytes(path):
    return sum(x.stat().st_size for x in path.rglob("*") if x.is_file()) if path.is_dir() else path.stat().st_size
