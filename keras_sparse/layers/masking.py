"""Masks weights of a built layer in place, by swapping its class, and takes the masks off again.

As `torch.nn.utils.parametrize` does it: the layer gets a subclass of its class in which the weight is a property that
returns the masked weight. So any layer can be masked, one of the user's own, too, and stays an instance of its class.

Files: the config of a composite layer, a subclassed model or a layer of the user's own says nothing of masks. It is
written as `{"layer": the plain layer, "masks": [...]}`, with an entry for each masked weight inside of it, at any
depth. Loading makes the plain layer, and masks it in place as soon as it is built.
"""

import contextlib
import dataclasses
import functools

import keras

from keras_sparse import _keras
from keras_sparse.layers.granularity import mask_shape
from keras_sparse.layers.masked import MASKED, MaskedLayer, spatial_rank
from keras_sparse.layers.masked_weight import LiveRegularizer, MaskSettings, storage, weight_properties
from keras_sparse.layers.masks import Mask
from keras_sparse.layers.recurrent import MasksOncePerSequence
from keras_sparse.layers.traversal import addresses, flatten


class RecordsMasks:
    """Mixin of a Keras layer or model that writes the masks inside of it to its config.

    Attributes:
        plain_class: of the class: that of the layer without masks.
        pending_masks: the masks of the config that the layer was made from, while it is not built; else None.
    """

    plain_class = None
    pending_masks = None

    def __new__(cls, *args, **kwargs):
        """Makes a plain layer: layers are masked after they are built."""
        return cls.plain_class(*args, **kwargs)

    def get_config(self):
        """Returns the plain layer as Keras serializes it, and how each weight inside of it is masked."""
        masks = [
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
        for key in ("build_config", "compile_config"):  # which Keras writes beside this config
            layer.pop(key, None)
        return {"layer": layer, "masks": masks}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the plain layer that `get_config` wrote, which is masked when it is built."""
        if set(config) != {"layer", "masks"}:
            return cls.plain_class.from_config(config)
        known = {cls.plain_class.__name__: cls.plain_class} if cls.plain_class else {}
        known = {k: v for k, v in known.items() if k == config["layer"]["class_name"]}
        layer = keras.saving.deserialize_keras_object(config["layer"], {**known, **(custom_objects or {})})
        vars(layer)["pending_masks"] = config["masks"]
        layer.__class__ = masked_class(type(layer))
        layer._mask_if_built()
        return layer

    def build_from_config(self, config):
        """Builds the layer as Keras does, and masks it."""
        super().build_from_config(config)
        self._mask_if_built()

    def __call__(self, *args, **kwargs):
        """Calls the layer. The first call may build layers inside of it, which are masked then."""
        outputs = super().__call__(*args, **kwargs)
        if self.pending_masks is not None and not _keras.in_stateless_scope():
            self._mask_if_built()
        return outputs

    def load_own_variables(self, store):
        """Loads Keras's variables; raises ValueError if masks of the file have no weight yet."""
        self._mask_if_built()
        if self.pending_masks is not None:
            raise ValueError(
                f"The masks of {self.name!r} of class {self.plain_class.__name__} cannot be loaded: layers inside of "
                f"it are not built, or are not those of the file: {[x['class'] for x in self.pending_masks]}. Give the "
                "class a method `build` that builds them; or make the model, sparsify it and load its `.weights.h5`."
            )
        super().load_own_variables(store)

    def _mask_if_built(self):
        """Masks what the config said, if all of it is built."""
        # A wrapper may hold the weight of its layer itself, SpectralNormalization does, and takes it when it is built.
        if self.pending_masks is None or not self.built:
            return
        layers, masks = dict(addresses(self)), {}
        for entry in self.pending_masks:
            layer = layers.get(entry["layer"])
            if layer is None or not layer.built or plain_class(layer).__name__ != entry["class"]:
                return
            masks.setdefault(id(layer), (layer, []))[1].append(entry)
        del vars(self)["pending_masks"]
        if id(self) in masks:
            self.__class__ = self.plain_class
        fields = [f.name for f in dataclasses.fields(MaskSettings)]
        for layer, entries in masks.values():
            settings = {e["weight"]: MaskSettings.from_config({k: e[k] for k in fields}) for e in entries}
            mask_layer(layer, dict.fromkeys(settings), settings)
            for entry in entries:
                if entry["method_state"]:
                    getattr(layer, f"{entry['weight']}_mask").add_method_state()
        mask_recurrent(self)


@functools.cache
def masked_class(cls, attributes=()):
    """Returns the subclass of a layer's class in which some weights are masked.

    Args:
        cls: class of a Keras layer or model.
        attributes: tuple of str, the names of the weights; () for a layer that only has masked layers inside of it.

    Returns:
        A class. The config of its instances records their masks: `RecordsMasks`.
    """
    bases, namespace = [RecordsMasks], {"plain_class": cls, "__module__": __name__, "__doc__": cls.__doc__}
    if issubclass(cls, keras.layers.RNN):
        bases.append(MasksOncePerSequence)
    if attributes:
        bases.append(MaskedLayer)
        namespace["masked_attributes"] = attributes
        for attribute in attributes:
            namespace |= weight_properties(attribute)
    made = type(cls)(f"Masked{cls.__name__}", (*bases, cls), namespace)
    # All such classes share one name: any of them reads what any other wrote, in a process that made none of them, too.
    return _register(made)


_register = keras.saving.register_keras_serializable(package="keras_sparse", name="MaskedLayer")
_register(RecordsMasks)


def mask_layer(layer, masks, settings):
    """Masks weights of a built Keras layer, in place: its class becomes a masked one.

    Args:
        layer: built layer that is not masked.
        masks: dict from the name of a weight to a boolean array, True where live, whose shape divides the weight's; or
            to None to draw it by the settings.
        settings: dict from that name to `MaskSettings`.
    """
    cls, attributes = type(layer), tuple(masks)
    is_kernel = cls in MASKED and attributes == ("kernel",)
    variables = {name: vars(layer).pop(name, None) for name in attributes}
    with _keras.unlocked(layer):
        layer.__class__ = MASKED[cls] if is_kernel else masked_class(cls, attributes)
        for name, variable in variables.items():
            if variable is not None:  # held under that very name
                setattr(layer, name, variable)
            setattr(layer, f"{name}_mask", Mask(name=f"{name}_mask"))
    # Past `__setattr__`, which on TensorFlow wraps dicts.
    object.__setattr__(layer, "mask_settings", dict(settings))
    if is_kernel:
        layer._starts_with_method_state = False
    vars(layer)["_quantize"] = vars(layer).pop("quantize", None)  # of the class that it had
    for weight in layer.masked_weights:
        shape = mask_shape(weight.settings.granularity, weight.shape, spatial_rank(layer))
        with _keras.scope_of(layer):
            weight.build_mask(shape, masks[weight.attribute])
        if weight.variable.regularizer is not None:
            weight.variable.regularizer = LiveRegularizer(weight.variable.regularizer, weight)
        weight.clear()


def unmask_layer(layer):
    """Makes a masked layer the plain Keras layer again, in place, its dead weights 0.

    Args:
        layer: built layer of a masked class, or one that only records the masks inside of it.
    """
    plain, weights = plain_class(layer), layer.masked_weights if isinstance(layer, MaskedLayer) else []
    for weight in weights:
        weight.variable.assign(weight.value())
        if weight.variable.regularizer is not None:
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


def plain_class(layer):
    """Returns the class that a layer has without masks; None for one of a class that a user derived from a masked."""
    cls = type(layer)
    if not issubclass(cls, (MaskedLayer, RecordsMasks)):
        return cls
    return vars(cls).get("plain_class") or next((k for k, v in MASKED.items() if v is cls), None)


@contextlib.contextmanager
def _plain_classes(layer):
    """In this context, a layer and those inside of it have the classes that they have without masks."""
    changed = [(x, type(x)) for x in (layer, *flatten(layer)) if isinstance(x, (MaskedLayer, RecordsMasks))]
    try:
        for x, _ in changed:
            x.__class__ = plain_class(x)
        yield
    finally:
        for x, cls in changed:
            x.__class__ = cls


def has_masks(layer):
    """Returns whether a layer or one inside of it is masked."""
    return any(isinstance(x, MaskedLayer) for x in (layer, *flatten(layer)))


def mask_recurrent(layer):
    """Makes the recurrent layers in a layer or model that have masked cells apply the masks once for a sequence."""
    for x in (layer, *flatten(layer)):
        if isinstance(x, keras.layers.RNN) and not isinstance(x, RecordsMasks) and has_masks(x):
            x.__class__ = masked_class(type(x))


def record_masks(model):
    """Makes a model's files bring its masks back, whatever hides them from Keras's configs.

    A functional or Sequential model writes down each of its layers. A layer or model of another class writes down only
    how it was made: the outermost of these get a class that adds the masks of all layers inside of them.

    Args:
        model: built `keras.Model` with masked layers.
    """
    shown = model.layers if _keras.lists_layers_in_config(model) else [model]
    for layer in shown:
        if layer is not model and isinstance(layer, keras.Model):
            record_masks(layer)
        elif not isinstance(layer, (MaskedLayer, RecordsMasks)) and has_masks(layer):
            layer.__class__ = masked_class(type(layer))
