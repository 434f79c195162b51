"""The state of a sparse training method, as the bytes of a variable.

Files, `get_weights`, `restore_best_weights` and the state of a stateless loop contain variables, and nothing else. So
the name of the method, the step of its last update and its state dict are written as JSON into one uint8 variable.
"""

import dataclasses
import json

import numpy as np

CAPACITY = 1024  # bytes


@dataclasses.dataclass(frozen=True)
class MethodState:
    """The state of a method in a model.

    Attributes:
        method: str, name of the class of the method; None if no method has trained the model.
        last_update: int, the optimizer step up to which all updates have been made; -1 before the first `fit`.
        state: dict from str to number, str, bool, list or small array, the result of the method's `get_state`.
    """

    method: str | None = None
    last_update: int = -1
    state: dict = dataclasses.field(default_factory=dict)

    def state_of(self, method: str) -> dict:
        """Returns the state if it is that of a method of this name; {} if another one has trained the model."""
        return self.state if self.method in (None, method) else {}

    def to_bytes(self) -> np.ndarray:
        """Returns the state as a uint8 array of length `CAPACITY`.

        Raises:
            ValueError: if the state is too long, or has an entry of another type.
        """
        try:
            text = json.dumps(dataclasses.asdict(self), default=_array_to_json, separators=(",", ":"))
        except TypeError as error:
            raise ValueError(
                f"`get_state` of {self.method} must return a dict of numbers, strings, lists and small arrays. "
                f"Received: {self.state!r}, with which JSON says: {error}."
            ) from error
        written = text.encode()
        if len(written) > CAPACITY:
            raise ValueError(
                f"`get_state` of {self.method} must fit into {CAPACITY} bytes as JSON. Received: {len(written)} bytes, "
                f"of the entries {sorted(self.state)}. Keep numbers and small arrays in it only."
            )
        return np.frombuffer(bytearray(written.ljust(CAPACITY, b"\0")), "uint8")

    @classmethod
    def from_bytes(cls, array: np.ndarray) -> "MethodState":
        """Returns the state that `to_bytes` wrote; an empty one for an array of zeros."""
        text = np.asarray(array, "uint8").tobytes().rstrip(b"\0").decode()
        return cls(**json.loads(text, object_hook=_array_from_json)) if text else cls()


def _array_to_json(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return {"array": value.tolist(), "dtype": value.dtype.name}
    raise TypeError(f"{type(value).__name__} cannot be written")


def _array_from_json(value):
    return np.array(value["array"], value["dtype"]) if value.keys() == {"array", "dtype"} else value
