"""The order of a model's inputs and outputs in an exported file, which identifies them by name."""

import dataclasses
import json
import re

import keras

from keras_sparse.layers.traversal import flatten

METADATA_NAME = b"keras_sparse.signature"
_PREFIX = b"keras_sparse.signature:"
_END = b"\n"  # JSON escapes it in names.


@dataclasses.dataclass(frozen=True)
class Signature:
    """The names of inputs and outputs in an exported file, in the order in which Keras flattens those of the model.

    Attributes:
        inputs: list of str.
        outputs: list of str.
        batched: list of bool, for each output whether its first axis is the batch, and each batch has its own outputs:
            those of layers with a state depend on the batches before.
    """

    inputs: list
    outputs: list
    batched: list = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, model) -> "Signature":
        """Returns the names that Keras gives the inputs and outputs of a functional or Sequential model."""
        paths = [path for path, _ in keras.tree.flatten_with_path(output_structure(model))]
        is_dict = all(len(path) == 1 and isinstance(path[0], str) for path in paths)
        outputs = [path[0] if is_dict else f"output_{i}" for i, path in enumerate(paths)]
        fixed = None if any(getattr(x, "stateful", False) for x in flatten(model)) else model.inputs[0].shape[0]
        batched = [
            len(x.shape) > 0 and x.shape[0] in (None, fixed) for x in keras.tree.flatten(output_structure(model))
        ]
        return cls([spec.name for spec in input_specs(model)], outputs, batched)

    def to_bytes(self) -> bytes:
        """Returns the names as bytes, for the metadata of a file."""
        return _PREFIX + json.dumps(dataclasses.asdict(self)).encode() + _END

    @classmethod
    def from_file(cls, data: bytes) -> "Signature":
        """Returns what `to_bytes` wrote into the bytes of a file; a signature without names if there is nothing."""
        start = data.find(_PREFIX)
        if start < 0:
            return cls([], [])
        return cls(**json.loads(data[start + len(_PREFIX) : data.index(_END, start)]))


def input_specs(model) -> list:
    """Returns a `keras.InputSpec` for each input of a functional or Sequential model: shape, dtype and name."""
    return [keras.InputSpec(shape=x.shape, dtype=x.dtype, name=x.name.split(":")[0]) for x in model.inputs]


def input_structure(model):
    """Returns the structure of a model's inputs. A Sequential model has the attribute `input` only if it was called."""
    return getattr(model, "input", model.inputs[0])


def output_structure(model):
    """Returns the structure of a model's outputs, also if it is a Sequential model that was not called."""
    return getattr(model, "output", model.outputs[0])


def ordered(names, known: list) -> list:
    """Returns names of inputs or outputs in the order of `known`; if those are others, sorted, "x_9" before "x_10"."""
    names = list(names)
    return known if sorted(known) == sorted(names) else sorted(names, key=_natural_sort_key)


def _natural_sort_key(name):
    return [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)]
