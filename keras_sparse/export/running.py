"""Runs exported files on arrays: what an export is compared by, and what reads a LiteRT file that it wrote."""

import re
from pathlib import Path

import numpy as np

from keras_sparse.export.checksum import check


def load_litert(path, threads=1):
    """Returns a function that runs a `.tflite` file that `export` wrote, if not a byte of it has changed.

    Args:
        path: str or `pathlib.Path`.
        threads: int, on how many threads it computes.

    Returns:
        A function from an array, or a list of arrays where the model has several inputs, to a list of arrays.

    Raises:
        ValueError: if the file is damaged, cut off, of another format or version, or written by another program.
        FileNotFoundError: if there is none.
        ImportError: if `ai_edge_litert` is not installed.

    Example:

    >>> export(model, "model.tflite")
    >>> (logits,) = load_litert("model.tflite")(image[None])
    """
    data = Path(path).read_bytes()
    check(data, str(path))
    return run_litert(data, threads)


def run_litert(data, threads=1):
    """Returns the function of the bytes of any `.tflite` file, or of its path; see `load_litert`."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "To run LiteRT files takes the package `ai-edge-litert`: pip install 'keras_sparse[export]'."
        ) from error
    where = {"model_content": data} if isinstance(data, bytes) else {"model_path": str(data)}
    interpreter = Interpreter(num_threads=threads, **where)
    # By names: the tensors of the graph come in any order.
    signature = interpreter.get_signature_runner()
    inputs = signature.get_input_details()
    names = sorted(inputs, key=_natural)
    batch = int(inputs[names[0]]["shape_signature"][0])

    def run(arrays):
        arrays = arrays if isinstance(arrays, (list, tuple)) else [arrays]
        arrays = [np.asarray(x, inputs[name]["dtype"]) for name, x in zip(names, arrays, strict=True)]
        parts = [signature(**dict(zip(names, x, strict=True))) for x in _batches(arrays, batch)]
        return [np.concatenate([x[name] for x in parts]) for name in sorted(parts[0], key=_natural)]

    return run


def run_onnx(path):
    """Returns the function of an ONNX file, from a list of arrays to one; see `load_litert`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "An ONNX file is run before `export` returns, which takes `onnxruntime`: pip install "
            "'keras_sparse[export]'."
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names, batch = [x.name for x in session.get_inputs()], session.get_inputs()[0].shape[0]

    def run(arrays):
        parts = [session.run(None, dict(zip(names, x, strict=True))) for x in _batches(arrays, batch)]
        return [np.concatenate(x) for x in zip(*parts, strict=True)]

    return run


def run_saved_model(path):
    """Returns the function of a SavedModel's endpoint `serve`, from a list of arrays to one; see `load_litert`."""
    import keras
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def run(arrays):
        given = [tf.constant(x) for x in arrays]
        signature = loaded.signatures["serving_default"].structured_input_signature[1]
        if len(given) == 1:
            return [np.asarray(x) for x in keras.tree.flatten(loaded.serve(given[0]))]
        names = sorted(signature, key=_natural)
        outputs = loaded.signatures["serving_default"](**dict(zip(names, given, strict=True)))
        return [np.asarray(outputs[name]) for name in sorted(outputs, key=_natural)]

    return run


def _batches(arrays, batch):
    """Pieces of arrays for a model of a fixed batch size; all at once if it has none."""
    count = len(arrays[0])
    size = batch if isinstance(batch, (int, np.integer)) and batch > 0 else max(1, count)
    if count % size:
        raise ValueError(
            f"The file computes {size} inputs a call: the number of inputs must be a multiple of that. Received: "
            f"{count}. Fill up the last batch, or export with another `batch_size`."
        )
    for start in range(0, count, size):
        yield [x[start : start + size] for x in arrays]


def _natural(name):
    """A key by which "output_10" comes after "output_9", as Keras flattens what a model takes and gives."""
    return [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]
