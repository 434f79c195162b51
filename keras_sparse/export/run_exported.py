"""Runs exported files on arrays: for users of LiteRT files, and to compare an export with its model."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_sparse.export.checksum import verify_checksum
from keras_sparse.export.signature import Signature, ordered
from keras_sparse.validation import check_positive_int


def load_litert(path: str | os.PathLike, threads: int = 1) -> Callable:
    """Loads a `.tflite` file that `keras_sparse.export` wrote, and verifies its checksum.

    Args:
        path: str or `pathlib.Path`.
        threads: int of at least 1, the number of threads for inference.

    Returns:
        A function that returns the outputs as a list of arrays, in the order in which Keras flattens those of the
        model. It takes an array of inputs. If the model has several inputs, it takes a list of arrays, in the order of
        `model.inputs`, or a dict from the names of the inputs to arrays.

    Raises:
        ValueError: if the file is damaged or incomplete, has another format or version, or another program wrote it; in
            the returned function, if the arrays do not fit the inputs.
        FileNotFoundError: if there is no such file.
        ImportError: if `ai_edge_litert` is not installed.

    Example:

    >>> export(model, "model.tflite")
    >>> (logits,) = load_litert("model.tflite")(image[None])
    """
    check_positive_int(threads, "threads")
    data = Path(path).read_bytes()
    verify_checksum(data, str(path))
    return litert_function(data, threads)


def litert_function(data, threads=1):
    """Returns a function that runs any `.tflite` file, given as bytes or as a path; see `load_litert`."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "To run LiteRT files, install the package `ai-edge-litert`: pip install 'keras_sparse[export]'."
        ) from error
    data = data if isinstance(data, bytes) else Path(data).read_bytes()
    interpreter = Interpreter(model_content=data, num_threads=threads)
    # The file identifies inputs and outputs by name. The tensors of its graph have no defined order.
    known = Signature.from_file(data)
    call = interpreter.get_signature_runner()
    details = call.get_input_details()
    details = {name: details[name] for name in ordered(details, known.inputs)}
    batch_size = int(next(iter(details.values()))["shape_signature"][0])

    def run(arrays):
        arrays = _input_arrays(arrays, details)
        parts = [call(**dict(zip(details, x, strict=True))) for x in _batches(arrays, batch_size)]
        return [_joined([x[name] for x in parts]) for name in ordered(parts[0], known.outputs)]

    return run


def _input_arrays(given, details):
    """Returns the array of each input of a LiteRT file, from an array, a list of arrays or a dict.

    Args:
        given: as for the function that `load_litert` returns.
        details: dict from names of inputs to what the interpreter says of them, in the order of `given`.

    Raises:
        ValueError: if the arrays do not fit the inputs.
    """
    shapes = {name: tuple(int(n) for n in detail["shape_signature"][1:]) for name, detail in details.items()}
    expected = ", ".join(f"{name!r} of shape (batch, {', '.join(map(str, shape))})" for name, shape in shapes.items())
    advice = f"Expected: an array for each input: {expected}; -1 is any size."
    if isinstance(given, dict):
        if given.keys() != details.keys():
            raise ValueError(f"The names are not those of the inputs. {advice} Received: {sorted(given)}.")
        arrays = [given[name] for name in details]
    elif len(details) == 1 and not (isinstance(given, (list, tuple)) and len(given) == 1):
        arrays = [given]
    else:
        arrays = list(given) if isinstance(given, (list, tuple)) else [given]
    try:
        arrays = [np.asarray(x) for x in arrays]
    except ValueError as error:  # The rows of a list have several lengths.
        raise ValueError(f"The arrays do not fit the inputs: {error}. {advice}") from error
    fits = len(arrays) == len(details) and all(
        x.ndim == len(shape) + 1 and len(x) and all(n in (-1, m) for n, m in zip(shape, x.shape[1:], strict=True))
        for x, shape in zip(arrays, shapes.values(), strict=True)
    )
    if not fits or len({len(x) for x in arrays}) != 1:
        received = [x.shape for x in arrays]
        raise ValueError(
            f"The arrays do not fit the inputs. {advice} All need the same number. Received: the shapes {received}."
        )
    dtypes = [np.dtype(detail["dtype"]) for detail in details.values()]
    for x, dtype in zip(arrays, dtypes, strict=True):
        # Floats may be rounded, but integers must be the numbers that were given.
        if x.dtype.kind not in "fiub" or (dtype.kind != "f" and not np.array_equal(x, x.astype(dtype))):
            raise ValueError(
                f"The numbers do not fit the inputs. {advice} Their dtypes: {[d.name for d in dtypes]}. Received: "
                f"an array of dtype {x.dtype}, whose values {dtype.name} does not have."
            )
    return [x.astype(dtype, copy=False) for x, dtype in zip(arrays, dtypes, strict=True)]


def onnx_function(path):
    """Returns a function that runs an ONNX file, from a list of arrays to a list of arrays."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "`export` runs an ONNX file to verify it, which needs the package `onnxruntime`: pip install "
            "'keras_sparse[export]'."
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names, batch_size = [x.name for x in session.get_inputs()], session.get_inputs()[0].shape[0]

    def run(arrays):
        parts = [session.run(None, dict(zip(names, x, strict=True))) for x in _batches(arrays, batch_size)]
        return [_joined(x) for x in zip(*parts, strict=True)]

    return run


def saved_model_function(path, known):
    """Returns a function that runs the endpoint `serve` of a SavedModel, from a list of arrays to a list of arrays.

    Args:
        path: str or `pathlib.Path`.
        known: `Signature` of the model.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    endpoint = loaded.signatures["serving_default"]
    names = ordered(endpoint.structured_input_signature[1], known.inputs)

    def run(arrays):
        outputs = endpoint(**dict(zip(names, map(tf.constant, arrays), strict=True)))
        return [np.asarray(outputs[name]) for name in ordered(outputs, known.outputs)]

    return run


def _joined(parts):
    """Returns the outputs of several batches as one array. Those of a single batch need not have a batch axis."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _batches(arrays, batch_size):
    """Yields the parts of arrays for a model with a fixed batch size, or the whole arrays if it has none."""
    count = len(arrays[0])
    size = batch_size if isinstance(batch_size, (int, np.integer)) and batch_size > 0 else max(1, count)
    if count % size:
        raise ValueError(
            f"The file computes {size} inputs a call: the number of inputs must be a multiple of that. Received: "
            f"{count}. Pad the last batch, or export with another `batch_size`."
        )
    for start in range(0, count, size):
        yield [x[start : start + size] for x in arrays]
