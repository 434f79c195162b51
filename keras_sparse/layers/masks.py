"""The mask of a weight, which holds the state of the method, too."""

import math

import keras
import numpy as np
from keras import ops

from keras_sparse import _keras, backend
from keras_sparse.layers import method_state
from keras_sparse.layers.device_layouts import laid_out_beside
from keras_sparse.layers.mask_elements import mask_of


@keras.saving.register_keras_serializable(package="keras_sparse")
class Mask(keras.layers.Layer):
    """Holds the mask of one weight and, in one layer of a model, the state of the sparse training method.

    It is a sublayer of the masked layer, since Keras saves variables layer by layer: `Dense` loads the variables that
    it knows, and would fail to load a mask that a subclass had added to it.

    A mask can be used like a boolean array: by NumPy, `keras.ops` and indexing.

    Attributes:
        value: uint8 variable, 1 where live and 0 where dead. Its shape divides that of the weight. It is not boolean,
            since some tools of Keras expect numbers: TensorBoard makes histograms of all weights.
        saved_as_difference: bool, whether files get the difference between the mask and that of the nonzero weights,
            which is nearly always 0 and compresses well, in place of the mask.
        method_state: uint8 variable, the bytes of `keras_sparse.layers.method_state.MethodState`; None in all layers of
            a model but one.
    """

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    method_state = None
    _variable = None
    step_variables = ()  # variables that `TrainStepHook` carries from step to step; they are not saved
    saved_as_difference = False
    loaded = False  # whether `method_state` was loaded from a file, and no method has used it since

    def build(self, mask_shape, initializer="ones"):
        """Creates the mask.

        Args:
            mask_shape: tuple of ints, shape of the mask.
            initializer: function `(shape, dtype) -> array of 0 and 1`, or the name of a Keras initializer.
        """
        self.value = self.add_weight(
            name="value", shape=mask_shape, dtype="uint8", initializer=initializer, trainable=False
        )

    @property
    def variables(self):
        """The list of variables, `step_variables` included, since `fit` on JAX passes only listed ones to a step."""
        return [*super().variables, *self.step_variables]

    def carry(self, variables):
        """Replaces `step_variables`."""
        object.__setattr__(self, "step_variables", tuple(variables))  # A built layer does not accept variables by `=`.

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
        """Saves the mask and the state of the method, by name."""
        if self.saved_as_difference:
            store["difference"] = (self.numpy() ^ self._nonzero()).astype("uint8")
        else:
            store["value"] = self.numpy().astype("uint8")
        self.set_masked_variable(None)
        if self.method_state is not None:
            store["method_state"] = backend.read(self.method_state)

    def load_own_variables(self, store):
        """Loads the mask and the state of the method.

        Raises:
            ValueError: if the file has no mask for this layer, or one of another shape.
        """
        held = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118 - Keras's store is no dict
        name = next((n for n in ("value", "difference") if n in held), None)
        if name is None:
            raise ValueError(
                f"The file has no mask for {self.path!r}: it was written by a dense model. Load it into the dense "
                "model and give that to keras_sparse.sparsify, whose masks then start from its weights."
            )
        if held[name].shape != tuple(self.value.shape):
            raise ValueError(
                f"The file's mask for {self.path!r} has the shape {held[name].shape}, and that of the layer has "
                f"{tuple(self.value.shape)}. Build the model with the layer sizes and the `granularity` of the saved "
                "model."
            )
        live = held[name].astype(bool)
        self.value.assign((live ^ self._nonzero() if name == "difference" else live).astype("uint8"))
        self.set_masked_variable(None)
        state = held.get("method_state")
        if state is not None:
            self.add_method_state()
        if self.method_state is not None:
            self.method_state.assign(np.zeros(method_state.CAPACITY, "uint8") if state is None else state)
            self.loaded = True

    def set_masked_variable(self, variable):
        """Sets the variable that is masked. The layer does so before the mask is saved or loaded, which unsets it."""
        object.__setattr__(self, "_variable", variable)  # Keras would count it as a variable of the mask by `=`.

    def _nonzero(self):
        """Returns which mask elements have a weight that is not 0: boolean array of the shape of the mask."""
        return mask_of(backend.read(self._variable), self.shape)

    def quantize(self, *args, **kwargs):
        """Raises NotImplementedError. `keras.Model.quantize` calls this for layers without sublayers, and warns."""
        raise NotImplementedError(
            f"The masked layer of {self.path!r} cannot be quantized in place, and was left as it is. Quantize "
            "`keras_sparse.densify(model)` instead."
        )

    def numpy(self) -> np.ndarray:
        """Returns the mask as a boolean NumPy array, True where live."""
        if not self.built:
            raise AttributeError(f"Build the layer of {self.path!r} before reading its mask: call it on an input.")
        return backend.read(self.value).astype(bool)

    # The mask as a boolean array.

    def __array__(self, dtype=None, copy=None):
        """Returns `numpy()`. Called by `numpy.asarray` and, on some backends, by `keras.ops`."""
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __getitem__(self, index):
        """Returns `numpy()[index]`."""
        return self.numpy()[index]

    def __jax_array__(self):
        """Returns the mask as a boolean tensor. Called by `keras.ops` on JAX."""
        return ops.cast(self.value, "bool")

    @property
    def dtype(self) -> str:
        """The dtype of the mask as an array: "bool"."""
        return "bool"

    @property
    def shape(self) -> tuple:
        """The shape of the mask: tuple of ints."""
        return tuple(self.value.shape)

    @property
    def ndim(self) -> int:
        """The number of axes of the mask."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of mask elements."""
        return math.prod(self.shape)
