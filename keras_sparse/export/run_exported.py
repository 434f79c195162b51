"""Runs exported files on arrays: for users of LiteRT files, and to compare an export with its model."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_sparse.export.checksum import verify_checksum


def load_litert(path: str | os.PathLike, threads: int = 1) -> Callable:
    """Loads a `.tflite` file that `keras_sparse.export` wrote, and verifies its checksum.

    Args:
        path: str or `pathlib.Path`.
        threads: int of at least 1, the number of threads for inference.

    Returns:
        A function that takes an array of inputs, or a list of arrays if the model has several inputs, and returns the
        list of outputs.

    Raises:
        ValueError: if the file is damaged or incomplete, has another format or version, or another program wrote it.
        FileNotFoundError: if there is no such file.
        ImportError: if `ai_edge_litert` is not installed.

    Example:

    >>> export(model, "model.tflite")
    >>> (logits,) = load_litert("model.tflite")(image[None])
    """
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
    source = {"model_content": data} if isinstance(data, bytes) else {"model_path": str(data)}
    interpreter = Interpreter(num_threads=threads, **source)
    # The signature has names for inputs and outputs. The tensors of the graph have no defined order.
    signature = interpreter.get_signature_runner()
    inputs = signature.get_input_details()
    names = sorted(inputs, key=_natural_sort_key)
    batch_size = int(inputs[names[0]]["shape_signature"][0])

    def run(arrays):
        arrays = arrays if isinstance(arrays, (list, tuple)) else [arrays]
        arrays = [np.asarray(x, inputs[name]["dtype"]) for name, x in zip(names, arrays, strict=True)]
        parts = [signature(**dict(zip(names, x, strict=True))) for x in _batches(arrays, batch_size)]
        return [np.concatenate([x[name] for x in parts]) for name in sorted(parts[0], key=_natural_sort_key)]

    return run


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
        return [np.concatenate(x) for x in zip(*parts, strict=True)]

    return run


def saved_model_function(path):
    """Returns a function that runs the endpoint `serve` of a SavedModel, from a list of arrays to a list of arrays."""
    import keras
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def run(arrays):
        given = [tf.constant(x) for x in arrays]
        signature = loaded.signatures["serving_default"].structured_input_signature[1]
        if len(given) == 1:
            return [np.asarray(x) for x in keras.tree.flatten(loaded.serve(given[0]))]
        names = sorted(signature, key=_natural_sort_key)
        outputs = loaded.signatures["serving_default"](**dict(zip(names, given, strict=True)))
        return [np.asarray(outputs[name]) for name in sorted(outputs, key=_natural_sort_key)]

    return run


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


def _natural_sort_key(name):
    """Returns a key that sorts "output_10" after "output_9": the order in which Keras flattens inputs and outputs."""
    return [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]
