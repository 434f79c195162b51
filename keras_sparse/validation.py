"""Checks arguments, with messages that say what was expected and what was received."""

import inspect
import numbers
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def check_positive_int(value: Any, name: str) -> None:
    """Raises ValueError unless `value` is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` must be an int of at least 1. Received: {name}={value!r}.")


def check_not_negative_int(value: Any, name: str) -> None:
    """Raises ValueError unless `value` is an int of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"`{name}` must be an int of at least 0. Received: {name}={value!r}.")


def check_number(value: Any, name: str, expected: str, accept: Callable[[float], bool]) -> None:
    """Raises ValueError unless `value` is a number for which `accept` is true.

    Args:
        value: the argument.
        name: str, the name of the argument, used in the message.
        expected: str, the range of valid numbers, used in the message, such as "in (0, 1]".
        accept: function `number -> bool`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not accept(value):
        raise ValueError(f"`{name}` must be a number {expected}. Received: {name}={value!r}.")


def check_not_negative(value: Any, name: str) -> None:
    """Raises ValueError unless `value` is a finite number of at least 0."""
    check_number(value, name, "of at least 0", lambda x: 0 <= x < np.inf)


def check_fraction(value: Any, name: str) -> None:
    """Raises ValueError unless `value` is a number in (0, 1]."""
    check_number(value, name, "in (0, 1]", lambda x: 0 < x <= 1)


def check_choice(value: Any, name: str, choices: Sequence) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in list(choices):  # A dict would refuse values that have no hash.
        raise ValueError(f"`{name}` must be one of {list(choices)}. Received: {name}={value!r}.")


def check_path(value: Any, name: str) -> None:
    """Raises TypeError unless `value` is a str or another path, such as `pathlib.Path`."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"`{name}` must be a str or a pathlib.Path. Received: {name}={value!r}.")


def check_callable(value: Any, name: str, form: str, example: str = "") -> None:
    """Raises ValueError unless `value` can be called with the positional arguments of `form`.

    Args:
        value: the argument.
        name: str, the name of the argument, used in the message.
        form: str, the arguments and the result, such as "layer -> bool" or "(shapes, sparsity) -> list".
        example: str, a function of this form, used in the message.
    """
    arguments = form.split(" -> ")[0].strip("()").split(", ")
    expected = f"`{name}` must be a function `{form}`" + (f", such as {example}" if example else "")
    if not callable(value):
        raise ValueError(f"{expected}. Received: {name}={value!r}.")
    try:
        signature = inspect.signature(value)
    except ValueError:  # Some functions written in C have none.
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ValueError(f"{expected}. Received: {name}={value!r}, which cannot be called so: {error}.") from error


def check_sparsity(sparsity: Any, name: str = "sparsity") -> None:
    """Raises ValueError unless `sparsity` is a number in [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, numbers.Real) or not 0 <= sparsity < 1:
        raise ValueError(
            f"`{name}` is the removed fraction of the weights and must be a number in [0, 1): 0.9 keeps a tenth. "
            f"Received: {name}={sparsity!r}."
        )


def check_seed(seed: Any) -> None:
    """Raises ValueError unless `seed` is an int of at least 0."""
    check_not_negative_int(seed, "seed")
