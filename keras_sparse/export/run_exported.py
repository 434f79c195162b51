"""Runs exported files on arrays: for users of LiteRT files, and to compare an export with its model."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_sparse.export.checksum import verify_checksum
from keras_sparse.export.input_arrays import input_arrays
from keras_sparse.export.signature import Signature, ordered
from keras_sparse.validation import check_path, check_positive_int


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
        TypeError: if `path` is not a path.
        FileNotFoundError: if there is no such file.
        ImportError: if `ai_edge_litert` is not installed.

    Example:

    >>> export(model, "model.tflite")
    >>> (logits,) = load_litert("model.tflite")(image[None])
    """
    check_path(path, "path")
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
    specs = [_input_spec(name, detail) for name, detail in details.items()]
    batch_size = int(next(iter(details.values()))["shape_signature"][0])

    def run(arrays):
        arrays = input_arrays(arrays, specs, "The argument")
        arrays = [np.char.encode(x, "utf-8") if x.dtype.kind == "U" else x for x in arrays]
        parts = [call(**dict(zip(details, x, strict=True))) for x in _batches(arrays, batch_size)]
        if len(parts) > 1 and not all(known.batched):
            raise ValueError(
                "Outputs of the model have no batch axis, or depend on the inputs before, and the file computes "
                f"{batch_size} inputs a call. Received: "
                f"{len(arrays[0])} inputs. Give {batch_size} at a time, or export with another `batch_size`."
            )
        return [_joined([x[name] for x in parts]) for name in ordered(parts[0], known.outputs)]

    return run


def _input_spec(name, detail):
    """Returns the `keras.InputSpec` of an input from what LiteRT's interpreter says of it. A size of -1 may be any."""
    shape = [None if n < 0 else int(n) for n in detail["shape_signature"]]
    dtype = np.dtype(detail["dtype"])
    return keras.InputSpec(shape=(None, *shape[1:]), dtype="string" if dtype.kind in "SUO" else dtype.name, name=name)


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
    names = ordered(endpoint.structured_input_signature[1], [_name_in_signature(x) for x in known.inputs])

    def run(arrays):
        outputs = endpoint(**dict(zip(names, map(tf.constant, arrays), strict=True)))
        return [np.asarray(outputs[name]) for name in ordered(outputs, known.outputs)]

    return run


def _name_in_signature(name):
    """Returns the name that TensorFlow gives an input in a SavedModel: of letters, digits and "_", a letter first."""
    name = re.sub("[^a-zA-Z0-9]", "_", name)
    return name if name[:1].isalpha() else f"arg_{name}"


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
