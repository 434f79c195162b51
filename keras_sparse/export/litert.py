"""Converts a dense Keras model to a LiteRT file with sparse tensors."""

import dataclasses
from pathlib import Path

import keras
import numpy as np

from keras_sparse.export import flatbuffer
from keras_sparse.export.checksum import signed
from keras_sparse.export.sparse_tensors import Stored, store_sparsely


@dataclasses.dataclass(frozen=True)
class Converted:
    """A LiteRT model, dense as TensorFlow converts it, and with sparse tensors.

    Attributes:
        dense: bytes.
        sparse: bytes.
        stored: `keras_sparse.export.sparse_tensors.Stored`, how each tensor is stored in the latter.
    """

    dense: bytes
    sparse: bytes
    stored: Stored


def convert(model, path, weights, samples, batch_size) -> Converted:
    """Converts a model, and writes nothing but a temporary file at `path`.

    TensorFlow's own EXPERIMENTAL_SPARSITY is not used: with float16 or dynamic range it stores blocks that the runtime
    cannot read, and the file answers nonsense without an error.

    Args:
        model: `keras.Model` without masks.
        path: `pathlib.Path` ending in ".tflite".
        weights: "float32", "float16" or "int8".
        samples: list of arrays, one an input, by which int8 finds the ranges of activations; else None.
        batch_size: int, or None for any.

    Returns:
        `Converted`.
    """
    model.export(
        str(path),
        format="litert",
        input_signature=_signature(model, batch_size),
        verbose=False,
        **_settings(weights, samples, batch_size or 1),
    )
    dense = Path(path).read_bytes()
    read = flatbuffer.read(dense, str(path))
    stored = store_sparsely(read)
    return Converted(dense, signed(read), stored)


def _signature(model, batch_size):
    """The inputs with a fixed batch size, in the structure that the model takes; each in a list of its own."""
    specs = [
        keras.InputSpec(shape=(batch_size, *x.shape[1:]), dtype=x.dtype, name=x.name.split(":")[0])
        for x in model.inputs
    ]
    return specs if len(specs) == 1 else [keras.tree.pack_sequence_as(model.input, specs)]


def _settings(weights, samples, batch_size):
    """What TensorFlow's converter is told, as `keras.Model.export` takes it."""
    import tensorflow as tf

    builtins = tf.lite.OpsSet.TFLITE_BUILTINS
    if weights == "float32":
        return {"target_spec": {"supported_ops": [builtins]}}
    if weights == "float16":
        return {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "target_spec": {"supported_ops": [builtins], "supported_types": [tf.float16]},
        }

    def representative():
        for start in range(len(samples[0])):
            # The last ones come round to the first, so that each batch is whole.
            rows = np.arange(start, start + batch_size) % len(samples[0])
            yield [x[rows] for x in samples]

    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": representative,
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
    }
