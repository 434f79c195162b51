"""Masks weights of a built layer in place by changing its class, and removes the masks again.

The layer gets a subclass of its class, in which the weight is a property that returns the masked weight, as in
`torch.nn.utils.parametrize`. So any layer can be masked, custom ones too, and stays an instance of its class.

Files: the config of a composite layer, a subclassed model or a custom layer has no entries for masks inside it. So it
is saved as `{"layer": config of the plain layer, "masks": [...]}`, with an entry for each masked weight inside it, at
any depth. Loading makes the plain layer, and masks it in place as soon as it is built.
"""

import contextlib
import dataclasses
import functools

import keras
import numpy as np

from keras_sparse import _keras
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.layer_kinds import spatial_rank
from keras_sparse.layers.masked import MASKED, MaskedLayer
from keras_sparse.layers.masked_weight import LiveRegularizer, MaskSettings, storage, weight_properties
from keras_sparse.layers.masks import Mask
from keras_sparse.layers.recurrent import MasksOncePerSequence
from keras_sparse.layers.traversal import addresses, flatten


class RecordsMasks:
    """Mixin of a Keras layer or model that saves the masks inside it in its config.

    Attributes:
        plain_class: class attribute, the class of the layer without masks.
        pending_masks: list of the masks in the config of a layer that is not built yet, so that they cannot be made;
            None otherwise.
    """

    plain_class = None
    pending_masks = None

    def __new__(cls, *args, **kwargs):
        """Makes a plain layer, for code such as `type(layer)(...)`. Layers are masked after they are built."""
        return cls.plain_class(*args, **kwargs)

    def get_config(self):
        """Returns the config of the plain layer, as Keras serializes it, and the settings of all masks inside it."""
        # An address finds the layer after loading. The class is saved to check that it is the same layer.
        masks = self.pending_masks or [
            {
                "layer": address,
                "class": plain_class(layer).__name__,
                "weight": weight.attribute,
                **dataclasses.asdict(weight.settings),
                "method_state": weight.mask.method_state is not None,
            }
            for address, layer in addresses(self)
            if isinstance(layer, MaskedLayer)
            for weight in layer.masked_weights
        ]
        with _plain_classes(self):
            layer = keras.saving.serialize_keras_object(self)
        for key in ("build_config", "compile_config"):  # Keras saves both next to this config.
            layer.pop(key, None)
        return {"layer": layer, "masks": masks}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the plain layer from what `get_config` returned. It is masked when it is built."""
        if not {"layer", "masks"} <= set(config):  # that of the plain class: code may call `type(layer).from_config`
            return cls.plain_class.from_config(config)
        # Code may also add arguments to the config, such as another name.
        more = {k: v for k, v in config.items() if k not in ("layer", "masks")}
        saved = {**config["layer"], "config": {**config["layer"]["config"], **more}}
        # All masked classes are registered under one name, so `cls` may be another one than that of the saved layer.
        # Its plain class is passed as a custom object only if the name agrees.
        known = {cls.plain_class.__name__: cls.plain_class} if cls.plain_class else {}
        known = {k: v for k, v in known.items() if k == saved["class_name"]}
        layer = keras.saving.deserialize_keras_object(saved, {**known, **(custom_objects or {})})
        vars(layer)["pending_masks"] = config["masks"]
        layer.__class__ = masked_class(type(layer))
        layer._mask_if_built()
        return layer

    def build_from_config(self, config):
        """Builds the layer as Keras does, then masks it."""
        super().build_from_config(config)
        self._mask_if_built()

    def __call__(self, *args, **kwargs):
        """Calls the layer. The first call may build layers inside it, which are masked then."""
        outputs = super().__call__(*args, **kwargs)
        if self.pending_masks is not None and (not _keras.in_stateless_scope() or _keras.in_symbolic_scope()):
            self._mask_if_built()
        return outputs

    def load_own_variables(self, store):
        """Loads the variables as Keras does.

        Raises:
            ValueError: if layers inside are not built, so that the masks of the file cannot be made.
        """
        self._mask_if_built()
        if self.pending_masks is not None:
            raise ValueError(
                f"The masks of {self.name!r} of class {self.plain_class.__name__} cannot be loaded: layers inside of "
                f"it are not built, or are not those of the file: {[x['class'] for x in self.pending_masks]}. Give the "
                "class a method `build` that builds them; or make the model, sparsify it and load its `.weights.h5`."
            )
        super().load_own_variables(store)

    def _mask_if_built(self):
        """Makes the masks of the config, if all layers that they belong to are built."""
        # The outer layer must be built, too: a wrapper such as SpectralNormalization takes the variable of its layer
        # when it is built, and must not get a masked tensor.
        if self.pending_masks is None or not self.built:
            return
        # Collect the masks of each layer. Wait if a layer is missing or not built yet.
        layers, masks = dict(addresses(self)), {}
        for entry in self.pending_masks:
            layer = layers.get(entry["layer"])
            if layer is None or not layer.built or plain_class(layer).__name__ != entry["class"]:
                return
            masks.setdefault(id(layer), (layer, []))[1].append(entry)
        del vars(self)["pending_masks"]
        if id(self) in masks:  # `mask_layer` expects a layer of a plain class
            self.__class__ = self.plain_class
        # Draw the masks anew by their settings. The values in the file replace them when the variables are loaded.
        fields = [f.name for f in dataclasses.fields(MaskSettings)]
        for layer, entries in masks.values():
            settings = {e["weight"]: MaskSettings.from_config({k: e[k] for k in fields}) for e in entries}
            mask_layer(layer, dict.fromkeys(settings), settings)
            for entry in entries:
                if entry["method_state"]:
                    getattr(layer, f"{entry['weight']}_mask").add_method_state()
        record_masks(self)


@functools.cache
def masked_class(cls: type, attributes: tuple = ()) -> type:
    """Returns a subclass of a layer's class in which some weights are masked.

    Args:
        cls: class of a Keras layer or model.
        attributes: tuple of str, names of the weights; () for a layer that only has masked layers inside it.

    Returns:
        Subclass of `cls` and `RecordsMasks`, and of `MaskedLayer` if there are attributes. Its name is that of `cls`
        after "Masked".
    """
    bases, namespace = [RecordsMasks], {"plain_class": cls, "__module__": __name__, "__doc__": cls.__doc__}
    if issubclass(cls, keras.layers.RNN):
        bases.append(MasksOncePerSequence)
    if attributes:
        bases.append(MaskedLayer)
        namespace["masked_attributes"] = attributes
        for attribute in attributes:
            namespace |= weight_properties(attribute)
    if hasattr(cls, "save_to_preset"):  # of a model of keras-hub
        namespace["save_to_preset"] = _refuse_preset
    made = type(cls)(f"Masked{cls.__name__}", (*bases, cls), namespace)
    # All these classes are registered under one name. A process that loads a file has not made the class of the layer
    # yet, and any of them, `RecordsMasks` itself too, can make the layer from its config.
    return _register(made)


def _refuse_preset(model, *args, **kwargs):
    """Raises NotImplementedError: `from_preset` of keras-hub takes models of its own classes only."""
    raise NotImplementedError(
        f"A preset cannot hold the masks of {model.name!r}. Save it by `model.save('model.keras')`, or save the preset "
        "of `keras_sparse.densify(model)`, in which dead weights are zeros."
    )


_register = keras.saving.register_keras_serializable(package="keras_sparse", name="MaskedLayer")
_register(RecordsMasks)


def mask_layer(layer: keras.Layer, masks: dict[str, np.ndarray | None], settings: dict[str, MaskSettings]) -> None:
    """Masks weights of a built Keras layer in place, by changing its class.

    Args:
        layer: built layer that is not masked.
        masks: dict from names of weights to boolean arrays, True where live, whose shapes divide those of the weights.
            None instead of an array draws the mask by the settings.
        settings: dict from the same names to `MaskSettings`.
    """
    # Layers of Keras with a class in `MASKED` get that, whose config has the arguments of the mask. Others get a class
    # of `masked_class`.
    cls, attributes = type(layer), tuple(masks)
    is_kernel = cls in MASKED and attributes == ("kernel",)
    # The attribute becomes a property of the class, so the variable must leave the dict of the layer. Keras's Dense
    # has it as "_kernel" already; a layer that has it as "w" gets it back as "_w", by the setter of the property.
    variables = {name: vars(layer).pop(name, None) for name in attributes}
    with _keras.unlocked(layer):
        layer.__class__ = MASKED[cls] if is_kernel else masked_class(cls, attributes)
        for name, variable in variables.items():
            if variable is not None:
                setattr(layer, name, variable)
            setattr(layer, f"{name}_mask", Mask(name=f"{name}_mask"))
    # Bypass `__setattr__`, since Keras on TensorFlow would wrap the dict.
    object.__setattr__(layer, "mask_settings", dict(settings))
    if is_kernel:
        layer._starts_with_method_state = False
    vars(layer)["_quantize"] = vars(layer).pop("quantize", None)  # put aside: `MaskedLayer.quantize` is used now
    # Make the masks, restrict regularizers to live weights, and set dead weights to 0.
    for weight in layer.masked_weights:
        shape = mask_shape(weight.settings.granularity, weight.shape, spatial_rank(layer))
        with _keras.scope_of(layer):
            weight.build_mask(shape, masks[weight.attribute])
        if weight.variable.regularizer is not None:
            weight.variable.regularizer = LiveRegularizer(weight.variable.regularizer, weight)
        weight.clear()


def unmask_layer(layer: keras.Layer) -> None:
    """Restores the plain class of a masked layer in place, and sets its dead weights to 0.

    Args:
        layer: built layer of a masked class, or one that only saves the masks inside it.
    """
    # The steps of `mask_layer` in reverse order.
    plain, weights = plain_class(layer), layer.masked_weights if isinstance(layer, MaskedLayer) else []
    for weight in weights:
        weight.variable.assign(weight.value())
        if isinstance(weight.variable.regularizer, LiveRegularizer):  # else replaced since, by the user
            weight.variable.regularizer = weight.variable.regularizer.regularizer
        _keras.remove_sublayer(layer, f"{weight.attribute}_mask")
    layer.__class__ = plain
    for weight in weights:
        if not isinstance(getattr(plain, weight.attribute, None), property):
            vars(layer)[weight.attribute] = vars(layer).pop(storage(weight.attribute))
    for name in ("mask_settings", "_starts_with_method_state"):
        vars(layer).pop(name, None)
    if (quantize := vars(layer).pop("_quantize", None)) is not None:
        vars(layer)["quantize"] = quantize
    _keras.rebind_wrapped_methods(layer)  # of a layer that was made with a masked class


def plain_class(layer: keras.Layer) -> type | None:
    """Returns the class of a layer without masks; None if its class is a user's subclass of a masked class."""
    cls = type(layer)
    if not issubclass(cls, (MaskedLayer, RecordsMasks)):
        return cls
    return vars(cls).get("plain_class") or next((k for k, v in MASKED.items() if v is cls), None)


@contextlib.contextmanager
def _plain_classes(layer):
    """Context in which a layer and the layers inside it have their plain classes, for Keras's serialization."""
    changed = [(x, type(x)) for x in (layer, *flatten(layer)) if isinstance(x, (MaskedLayer, RecordsMasks))]
    # `get_config` of a custom class may read a weight, such as its shape. Without the property, it is an attribute.
    added = []
    try:
        for x, cls in changed:
            x.__class__ = plain_class(x)
            for name in getattr(cls, "masked_attributes", ()):
                if not hasattr(type(x), name) and name not in vars(x) and storage(name) in vars(x):
                    vars(x)[name] = vars(x)[storage(name)]
                    added.append((x, name))
        yield
    finally:
        for x, name in added:
            vars(x).pop(name)
        for x, cls in changed:
            x.__class__ = cls


def has_masks(layer: keras.Layer) -> bool:
    """Returns whether a layer, or one inside it, is masked."""
    return any(isinstance(x, MaskedLayer) for x in (layer, *flatten(layer)))


def record_masks(layer: keras.Layer) -> None:
    """Makes the configs of a layer or model, and of all layers inside it, contain the masks inside of them.

    The config of a functional or Sequential model contains those of its layers. The config of any other layer or model
    contains the arguments of its constructor only. So these get a class that adds the masks: `RecordsMasks`. Those
    inside of others get it, too, since a part of a model may be saved or cloned on its own. Recurrent layers then also
    apply the masks of their cells once a sequence; see `masked_class`.

    Args:
        layer: built `keras.Layer` or `keras.Model` with masked layers inside.
    """
    for x in (layer, *flatten(layer)):
        if not isinstance(x, (MaskedLayer, RecordsMasks)) and not _keras.lists_layers_in_config(x) and has_masks(x):
            x.__class__ = masked_class(type(x))
