"""What a sparse training method remembers, as the bytes of a variable: it goes wherever the weights of a model go.

Files, `get_weights`, `restore_best_weights` and JAX's state all carry variables, and nothing else. So the method's
name, the step of its last update and the entries of its state dict are written as JSON into one variable of bytes.
"""

import dataclasses
import json

import numpy as np

CAPACITY = 1024  # bytes


@dataclasses.dataclass(frozen=True)
class MethodState:
    """What a method has left in a model.

    Attributes:
        method: str, the name of its class; None if none has trained the model.
        last_update: int, the optimizer's step up to which all updates are made; -1 before the first `fit`.
        state: dict of str to number, str, bool, list or small array: the method's own.
    """

    method: str | None = None
    last_update: int = -1
    state: dict = dataclasses.field(default_factory=dict)

    def to_bytes(self):
        """The uint8 array, of length `CAPACITY`, that a model carries.

        Raises:
            ValueError: if the state is too long, or has an entry that is none of the above.
        """
        try:
            text = json.dumps(dataclasses.asdict(self), default=_array_to_json, separators=(",", ":"))
        except TypeError as error:
            raise ValueError(
                f"`state` of {self.method} must return a dict of numbers, strings, lists and small arrays. "
                f"Received: {self.state!r}, with which JSON says: {error}."
            ) from error
        written = np.frombuffer(text.encode(), "uint8")
        if len(written) > CAPACITY:
            raise ValueError(
                f"`state` of {self.method} must fit into {CAPACITY} bytes as JSON. Received: {len(written)} bytes, "
                f"of the entries {sorted(self.state)}. Keep numbers and small arrays in it only."
            )
        return np.pad(written, (0, CAPACITY - len(written)))

    @classmethod
    def from_bytes(cls, array):
        """The inverse of `to_bytes`; an array of zeros is an empty state."""
        text = np.asarray(array, "uint8").tobytes().rstrip(b"\0").decode()
        return cls(**json.loads(text, object_hook=_array_from_json)) if text else cls()


def of_version_0_1(store):
    """The bytes of what a file of version 0.1 holds beside a mask, a dict of arrays; None if there was no method."""
    name = bytes(np.asarray(store.get("method", []), "uint8")).decode() or None
    last_update, threshold = int(store.get("1", -1)), float(store.get("2", 0.0))
    if name is None and last_update < 0:
        return None
    return MethodState(name, last_update, {"threshold": threshold} if threshold else {}).to_bytes()


def _array_to_json(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return {"array": value.tolist(), "dtype": value.dtype.name}
    raise TypeError(f"{type(value).__name__} cannot be written")


def _array_from_json(value):
    return np.array(value["array"], value["dtype"]) if value.keys() == {"array", "dtype"} else value
