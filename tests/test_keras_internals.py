"""Tests that Keras has the undocumented attributes that the package uses; see `keras_sparse/_keras/`."""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_sparse
from keras_sparse import _keras, backend

PACKAGE = Path(keras_sparse.__file__).parent
OURS = {"_keras", "_backend", "_getframe", "_self_"}


def holders():
    """Makes an object of each kind in `_keras.ATTRIBUTES`."""
    inputs = keras.Input((2,))
    layer = keras.layers.Dense(3)
    outputs = layer(inputs)
    model = keras.Model(inputs, outputs)
    optimizers = [keras.optimizers.SGD(), keras.optimizers.Adagrad()]
    for optimizer in optimizers:
        optimizer.build(model.trainable_variables)
    return {
        "layer": layer,
        "operation": layer,
        "function": model,
        "model": model,
        "tracker": layer._tracker,
        "tensor": keras.layers.Masking()(keras.Input((3, 2))),
        "node": layer._inbound_nodes[0],
        "variable": layer.kernel,
        "optimizer": optimizers[0],
        "adagrad": optimizers[1],
        "multi optimizer": keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.SGD()),
    }


OF_BACKEND = _keras.ATTRIBUTES_OF_BACKENDS[backend.name]
NAMES = [(k, n) for attributes in (_keras.ATTRIBUTES, OF_BACKEND) for k, names in attributes.items() for n in names]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_keras_has_the_attributes(kind, name):
    holder = holders()[kind]
    seen = set(dir(holder))
    if kind == "model":  # Keras makes some of them in `fit` and `evaluate` only.

        class Looks(keras.callbacks.Callback):
            """Collects the attributes that a model has in a `fit`."""

            def on_train_batch_end(self, batch, logs=None):
                seen.update(dir(self.model))

            on_test_batch_end = on_train_batch_end

        holder.compile("sgd", "mse")
        data = np.ones((4, 2)), np.ones((4, 3))
        holder.fit(*data, batch_size=2, validation_data=data, verbose=0, callbacks=[Looks()])
    assert name in seen, (
        f"Keras {keras.__version__} has no attribute {name!r} of a {kind} any more: mend keras_sparse/_keras/"
    )


def test_each_attribute_is_listed():
    """Every `x._name` and "_name" in `_keras/` is in `ATTRIBUTES`, except for `self._name`."""
    text = re.sub(r'"""(?s:.*?)"""|#.*', "", "".join(p.read_text() for p in (PACKAGE / "_keras").glob("[a-z]*.py")))
    used = set(re.findall(r"(?<!self)\.(_[a-z]\w*)", text)) | set(re.findall(r"""["'](_[a-z]\w*)["']""", text))
    of_backends = [names for kinds in _keras.ATTRIBUTES_OF_BACKENDS.values() for names in kinds.values()]
    listed = {n for names in (*_keras.ATTRIBUTES.values(), *of_backends) for n in names}
    assert used - OURS - listed == set()


def test_the_functions_that_read_values_exist():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    methods = {n for n in _keras.READERS if hasattr(model, n)}
    saving = keras.src.legacy.saving.legacy_h5_format
    assert _keras.READERS - methods - {"export_saved_model"} == {n for n in _keras.READERS if hasattr(saving, n)}
    assert hasattr(keras.src.export.saved_model, "export_saved_model")


def test_no_other_file_touches_private_attributes_of_keras():
    """Other files may use private names that this package defines, as attributes and in strings."""
    texts = {p: re.sub(r'"""(?s:.*?)"""|#.*', "", p.read_text()) for p in PACKAGE.rglob("*.py")}
    whole = "\n".join(texts.values())
    ours = {"_make", "_self_"}  # of namedtuple, and a prefix of TensorFlow
    ours |= set(re.findall(r"(?:self|cls)\.(_[a-z]\w*)", whole))
    ours |= set(re.findall(r"(?:def|import|as|for) (_[a-z]\w*)", whole))
    ours |= set(re.findall(r"""vars\(\w+\)(?:\[|\.update\()["'](_[a-z]\w*)""", whole)) | {"_held_weights"}
    ours |= set(re.findall(r"^\s*(_[a-z]\w*)\b(?=.*=)", whole, re.MULTILINE))
    for path, text in texts.items():
        if path.parent.name not in ("_keras", "backend"):
            used = re.findall(r"(?<!self)(?<!cls)\.(_[a-z]\w*)", text) + re.findall(r"[\"'](_[a-z]\w*)[\"']", text)
            found = set(used) - ours
            assert not found, f"{path.relative_to(PACKAGE)} uses {sorted(found)}: go through keras_sparse/_keras/"


def test_the_backend_is_asked_for_in_one_place():
    asking = [p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if "keras.backend.backend()" in p.read_text()]
    assert [str(p) for p in asking] == ["backend/__init__.py"]


def test_the_backends_have_all_functions_and_no_others():
    """A function that replaces a default has its arguments."""

    def functions(name):
        tree = ast.parse((PACKAGE / "backend" / f"{name}.py").read_text())
        found = [x for x in tree.body if isinstance(x, ast.FunctionDef) and not x.name.startswith("_")]
        return {x.name: [a.arg for a in (*x.args.args, *filter(None, [x.args.vararg]))] for x in found}

    shared = {"assign_all", "inner_optimizer", "scope", "tensors"}  # of common.py
    default, *own = map(functions, ("default", "tensorflow", "jax", "torch"))
    for of_backend in own:
        assert {**default, **of_backend}.keys() | shared == set(backend.__all__) - {"DEPENDENCY_ATTRIBUTES"}
        for name in of_backend.keys() & default.keys():
            assert of_backend[name] == default[name], name
