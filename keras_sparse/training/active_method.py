"""Registers the method that trains a model in a `fit`, which can have only one."""

import weakref

import keras

_owners = weakref.WeakKeyDictionary()  # model -> (`params` of its last fit, weak reference to the method of it)


def method_in_fit(model: keras.Model, params: dict | None):
    """Returns the `SparseMethod` that trains a model in the `fit` with these callback `params`; None without one."""
    owner_params, method = _owners.get(model, (None, lambda: None))
    return method() if params is not None and params is owner_params else None


def check_alone(model: keras.Model, method) -> None:
    """Raises ValueError if `callbacks` of a `fit` has two methods.

    Keras gives all callbacks of one `fit` the same `params` dict, so the same dict means the same `fit`.
    """
    other = method_in_fit(model, method.params)
    if other is not None:
        raise ValueError(
            f"One sparse training method at a time: `callbacks` has {type(other).__name__} and "
            f"{type(method).__name__}, and each would undo what the other does. Leave one out."
        )
    _owners[model] = (method.params, weakref.ref(method))
