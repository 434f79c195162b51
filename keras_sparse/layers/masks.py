"""The mask: which elements of a weight are live."""

import math

import keras
import numpy as np
from keras import ops

from keras_sparse import _keras, backend
from keras_sparse.layers import method_state
from keras_sparse.layers.layouts import laid_out_beside


@keras.saving.register_keras_serializable(package="keras_sparse")
class Mask(keras.layers.Layer):
    """Holds the mask of one weight, and in one layer of a model what its sparse training method has to remember.

    It is a layer of its own because Keras saves variables layer by layer: a mask that a `Dense` subclass added to
    itself would be saved and then fail to load.

    Attributes:
        value: uint8 variable, 1 where live and 0 where dead. Its shape broadcasts to the weight's. A number and not a
            boolean, since Keras's tools take the weights of a model for numbers: TensorBoard draws them.
        method_state: uint8 variable of `keras_sparse.layers.method_state`, which travels wherever the weights do; None
            in all layers of a model but the first masked one.
    """

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    method_state = None
    step_variables = ()  # what acts inside of the training step carries from one to the next; in no file
    loaded = False  # whether `method_state` comes from a file and no method has gone on with it yet

    def build(self, mask_shape, initializer="ones"):
        """Creates the mask.

        Args:
            mask_shape: shape of the mask.
            initializer: `(shape, dtype) -> array of 0 and 1`, or a Keras initializer's name.
        """
        self.value = self.add_weight(
            name="value", shape=mask_shape, dtype="uint8", initializer=initializer, trainable=False
        )

    @property
    def variables(self):
        """Keras's list, and what is carried inside of the training step: `fit` on JAX hands a step these only."""
        return [*super().variables, *self.step_variables]

    def carry(self, variables):
        """Takes the variables that the training step carries, in place of those it has."""
        object.__setattr__(self, "step_variables", tuple(variables))  # A built layer takes no variables by `=`.

    def add_method_state(self):
        """Creates `method_state`, empty, if there is none."""
        if self.method_state is not None:
            return
        with _keras.unlocked(self), laid_out_beside(self.value, self):
            self.method_state = self.add_weight(
                name="method_state",
                shape=(method_state.CAPACITY,),
                dtype="uint8",
                initializer="zeros",
                trainable=False,
            )

    def save_own_variables(self, store):
        """Saves the mask and what the method remembers, by name."""
        store["value"] = self.numpy().astype("uint8")
        if self.method_state is not None:
            store["method_state"] = backend.read(self.method_state)

    def load_own_variables(self, store):
        """Loads what `save_own_variables` saved, or an earlier version's file; says what is wrong with a misfit."""
        held = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118 - Keras's store is no dict
        name = "value" if "value" in held else "0"  # of version 0.1
        if name not in held:
            raise ValueError(
                f"The file has no mask for {self.path!r}: it was written by a dense model. Load it into the dense "
                "model and give that to keras_sparse.sparsify, whose masks then start from its weights."
            )
        if held[name].shape != tuple(self.value.shape):
            raise ValueError(
                f"The file's mask for {self.path!r} has the shape {held[name].shape}, the layer's "
                f"{tuple(self.value.shape)}. Build the model as the one that was saved: with its `granularity`, and "
                "layers of its size."
            )
        self.value.assign(held[name].astype("uint8"))
        state = held.get("method_state") if name == "value" else method_state.of_version_0_1(held)
        if state is not None:
            self.add_method_state()
        if self.method_state is not None:
            self.method_state.assign(np.zeros(method_state.CAPACITY, "uint8") if state is None else state)
            self.loaded = True

    def quantize(self, *args, **kwargs):
        """Not supported; `keras.Model.quantize` asks the layers without sublayers, and makes a warning of it."""
        raise NotImplementedError(
            f"The masked layer of {self.path!r} cannot be quantized in place, and was left as it is. Quantize "
            "`keras_sparse.densify(model)` instead."
        )

    def numpy(self) -> np.ndarray:
        """Returns the mask as a boolean NumPy array, True where live."""
        if not self.built:
            raise AttributeError(f"Build the layer of {self.name!r} before reading its mask: call it on an input.")
        return backend.read(self.value).astype(bool)

    # A mask can be given wherever an array of booleans can: to NumPy, to `keras.ops`, to an index.

    def __array__(self, dtype=None, copy=None):
        """Returns `numpy()`, for `numpy.asarray` and for `keras.ops` on all backends."""
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __getitem__(self, index):
        """Returns a part of `numpy()`."""
        return self.numpy()[index]

    def __jax_array__(self):
        """Returns the mask as a tensor of booleans, for `keras.ops` on JAX."""
        return ops.cast(self.value, "bool")

    @property
    def dtype(self) -> str:
        """Type of the mask as an array: "bool"."""
        return "bool"

    @property
    def shape(self) -> tuple:
        """Shape of the mask, a tuple of ints."""
        return tuple(self.value.shape)

    @property
    def ndim(self) -> int:
        """Number of axes of the mask."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements of the mask."""
        return math.prod(self.shape)
