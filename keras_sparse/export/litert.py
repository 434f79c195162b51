"""Converts a dense Keras model to a LiteRT file with sparse tensors."""

import dataclasses
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_sparse.export import flatbuffer
from keras_sparse.export.checksum import write_with_checksum
from keras_sparse.export.signature import METADATA_NAME, Signature, input_specs, input_structure
from keras_sparse.export.sparse_tensors import TensorStorage, store_sparse

WEIGHTS = ("float32", "float16", "int8")  # the types of weights in a file


@dataclasses.dataclass(frozen=True)
class ConvertedModel:
    """A model in LiteRT's format, with and without sparse tensors.

    Attributes:
        dense: bytes of the `.tflite` file that TensorFlow's converter writes.
        sparse: bytes of the `.tflite` file with sparse tensors and a checksum.
        storage: `keras_sparse.export.sparse_tensors.TensorStorage`, how `sparse` stores each tensor.
    """

    dense: bytes
    sparse: bytes
    storage: TensorStorage


def convert(model, path, weights, samples, batch_size) -> ConvertedModel:
    """Converts a model.

    TensorFlow's own optimization EXPERIMENTAL_SPARSITY is not used: for float16 and dynamic range quantization it
    stores blocks that the runtime cannot read, and the file returns wrong numbers without an error.

    Args:
        model: `keras.Model` without masks.
        path: `pathlib.Path` that ends in ".tflite", of a temporary file for the dense model.
        weights: "float32", "float16" or "int8".
        samples: list with an array for each input, from which int8 calibrates the ranges of activations; else None.
        batch_size: int of at least 1, or None for any batch size.

    Returns:
        `ConvertedModel`.
    """
    with warnings.catch_warnings():
        # TensorFlow's converter itself uses its deprecated interpreter for calibration.
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
        model.export(
            str(path),
            format="litert",
            input_signature=_input_signature(model, batch_size),
            verbose=False,
            **_converter_settings(weights, samples, Signature.of(model).inputs, batch_size or 1),
        )
    dense = Path(path).read_bytes()
    parsed = flatbuffer.read(dense, str(path))
    storage = store_sparse(parsed)
    flatbuffer.add_metadata(parsed, METADATA_NAME, Signature.of(model).to_bytes())
    return ConvertedModel(dense, write_with_checksum(parsed), storage)


def whole_batches(samples, batch_size):
    """Yields samples in batches of one size, as lists of arrays. The last batch is completed with the first samples."""
    for start in range(0, len(samples[0]), batch_size):
        rows = np.arange(start, start + batch_size) % len(samples[0])
        yield [x[rows] for x in samples]


def _input_signature(model, batch_size):
    """Returns a list with one element: `keras.InputSpec`s with the batch size, in the structure of the inputs."""
    specs = [keras.InputSpec(shape=(batch_size, *x.shape[1:]), dtype=x.dtype, name=x.name) for x in input_specs(model)]
    return [keras.tree.pack_sequence_as(input_structure(model), specs)]


def _converter_settings(weights, samples, names, batch_size):
    """Returns the settings of TensorFlow's converter, as keyword arguments of `keras.Model.export`."""
    import tensorflow as tf

    builtins = tf.lite.OpsSet.TFLITE_BUILTINS
    if weights == "float32":
        return {"target_spec": {"supported_ops": [builtins]}}
    if weights == "float16":
        return {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "target_spec": {"supported_ops": [builtins], "supported_types": [tf.float16]},
        }

    def representative_dataset():
        for batch in whole_batches(samples, batch_size):
            # By name, since the converter sorts the inputs by name.
            yield dict(zip(names, batch, strict=True))

    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": representative_dataset,
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
    }
