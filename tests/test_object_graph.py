"""Objects through which a model refers to its layers: a copy refers to its own layers by them, or is refused."""

import collections
import functools
import itertools
import types
import weakref

import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.conversion import object_graph
from nets import numpy


class Holder:
    """An object of a user's class."""

    def __init__(self, held):
        self.held = held


WORDS = [[str(i)] for i in range(10_000)]
HOLDERS = {  # name -> (function from a layer to an object that refers to it, function back to the layer)
    "deque": (lambda x: collections.deque([x], maxlen=3), lambda h: h[0]),
    "OrderedDict": (lambda x: Holder(collections.OrderedDict(a=x)), lambda h: next(iter(h.held.values()))),
    "defaultdict": (lambda x: Holder(collections.defaultdict(list, a=x)), lambda h: h.held["a"]),
    "UserDict": (lambda x: collections.UserDict(a=x), lambda h: h["a"]),
    "UserList": (lambda x: collections.UserList([x]), lambda h: h[0]),
    "ChainMap": (lambda x: collections.ChainMap({}, {"a": x}), lambda h: h["a"]),
    "MappingProxyType": (lambda x: types.MappingProxyType({"a": x}), lambda h: h["a"]),
    "SimpleNamespace": (lambda x: types.SimpleNamespace(a=x), lambda h: h.a),
    "weakref.ref": (weakref.ref, lambda h: h()),
    "weakref.proxy": (lambda x: Holder(weakref.proxy(x)), lambda h: h.held),
    "weakref.proxy of a variable": (
        lambda x: Holder((x, weakref.proxy(x.add_weight(shape=(1,), initializer="ones", name="scale")))),
        lambda h: lambda y: h.held[0](y) * h.held[1].value,
    ),
    "WeakValueDictionary": (lambda x: weakref.WeakValueDictionary(a=x), lambda h: h["a"]),
    "bound method of a dict": (lambda x: {"a": x}.get, lambda h: h("a")),
    "closure with much data": (
        lambda x: (lambda data, held: lambda: (data, held))(WORDS, {"a": x}),
        lambda h: h()[1]["a"],
    ),
    "lru_cache": (lambda x: functools.lru_cache(lambda: x), lambda h: h()),
    "partial": (lambda x: functools.partial(lambda y: y, y=x), lambda h: h()),
    "cycle": (lambda x: itertools.cycle([x]), next),
    "method": (lambda x: Holder(x).__init__, lambda h: h.__self__.held),
    "deque of objects": (lambda x: collections.deque([Holder(x)]), lambda h: h[0].held),
}


class Net(keras.Model):
    """A model that finds its layer through an object."""

    def __init__(self, hold, find):
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.holder, self.find = hold(self.dense), find

    def call(self, x):
        return self.find(self.holder)(x)


def built(hold, find):
    model = Net(hold, find)
    model(np.ones((2, 8), "float32"))
    return model


@pytest.mark.parametrize("kind", HOLDERS)
def test_a_copy_finds_its_own_layer(kind):
    model, x = built(*HOLDERS[kind]), np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    sparse = ks.sparsify(model, 0.5)
    same = ks.sparsify(model, 0.0)
    np.testing.assert_array_equal(numpy(same(x)), numpy(model(x)))
    np.testing.assert_allclose(numpy(sparse(x)), x @ numpy(sparse.dense.kernel), rtol=1e-5)
    before = numpy(model(x))
    sparse.dense.kernel_variable.assign(np.ones((8, 3)))
    np.testing.assert_allclose(numpy(sparse(x)), x @ sparse.dense.kernel_mask.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(numpy(model(x)), before)


def test_what_cannot_be_copied_is_refused_by_name_and_can_be_masked_in_place():
    model = Net(lambda x: (y for y in [x]), next)
    model.dense.build((None, 8))
    model.built = True
    with pytest.raises(ValueError, match="cannot be copied.*refers to layers or variables.*in_place=True"):
        ks.sparsify(model, 0.5)
    assert ks.report(ks.sparsify(model, 0.5, in_place=True)).sparsity == 0.5


@pytest.mark.tensorflow
def test_a_compiled_function_of_tensorflow_calls_the_layers_of_the_copy():
    import tensorflow as tf

    model = built(lambda x: tf.function(lambda y: x(y), jit_compile=True), lambda h: h)
    sparse, x = ks.sparsify(model, 0.5), np.ones((2, 8), "float32")
    np.testing.assert_allclose(numpy(sparse(x)), x @ numpy(sparse.dense.kernel), rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="jax.jit")
def test_a_compiled_function_of_jax_is_refused():
    import jax

    model = built(lambda x: jax.jit(lambda y: x(y)), lambda h: h)
    with pytest.raises(ValueError, match="PjitFunction.*refers to layers"):
        ks.sparsify(model, 0.5)


def test_a_subclassed_model_may_have_its_layers_in_a_list_only():
    class Listed(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [keras.layers.Dense(8), keras.layers.Dense(3)]

        def call(self, x):
            return self.blocks[1](self.blocks[0](x))

    model, x = Listed(), np.ones((2, 8), "float32")
    model(x)
    assert [w.shape for w in ks.masked_weights(ks.sparsify(model, 0.5))] == [(8, 8), (8, 3)]
    np.testing.assert_array_equal(numpy(ks.densify(ks.sparsify(model, 0.0))(x)), numpy(model(x)))


def test_a_functional_model_may_have_an_ordered_dict_of_outputs():
    inputs = keras.Input((8,))
    outputs = collections.OrderedDict(z=keras.layers.Dense(3)(inputs), y=keras.layers.Dense(2)(inputs))
    model, x = keras.Model(inputs, outputs), np.ones((2, 8), "float32")
    got, expected = ks.sparsify(model, 0.0)(x), model(x)
    assert list(got) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(numpy(got[name]), numpy(expected[name]))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="modules of PyTorch")
@pytest.mark.parametrize("first", [True, False])
def test_a_module_of_pytorch_is_trained_in_the_copy(first):
    import torch

    def module():
        return keras.layers.TorchModuleWrapper(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)))

    keras.utils.set_random_seed(0)
    model = keras.Sequential([*([module()] if first else [keras.layers.Dense(8), module()]), keras.layers.Dense(3)])
    x, y = np.random.default_rng(0).normal(size=(2, 32, 8)).astype("float32")
    model(x)
    sparse = ks.sparsify(model, 0.0)
    layer = sparse.layers[0 if first else 1]
    known = {id(p) for p in layer.module.parameters()}
    assert known == {id(v.value) for v in layer.trainable_weights}
    assert not known & {id(p) for p in model.parameters()}
    for m in (model, sparse):
        m.compile(keras.optimizers.SGD(0.1), "mse")
        m.fit(x, y[:, :3], epochs=2, verbose=0, shuffle=False)
    for a, b in zip(model.trainable_weights, sparse.trainable_weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))


def test_an_object_that_refers_to_too_many_others_is_refused(monkeypatch):
    monkeypatch.setattr(object_graph, "_MOST_OBJECTS", 1000)
    model = Net(*HOLDERS["closure with much data"])
    model(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match="class function in the model refers to more than 1,000 others"):
        ks.sparsify(model, 0.5)
