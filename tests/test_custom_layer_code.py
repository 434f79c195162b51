"""Weights that a user's layer reads past the attribute that is masked stay dense, with the reason."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_sparse as ks
from nets import numpy


class Private(keras.layers.Dense):
    def call(self, x):
        return ops.matmul(x, self._kernel)


class InLambda(keras.layers.Dense):
    def call(self, x):
        multiply = lambda y: ops.matmul(y, self._kernel)  # noqa: E731
        return multiply(x)


class InComprehension(keras.layers.Dense):
    def call(self, x):
        return ops.sum([ops.matmul(x, k) for k in (self._kernel for _ in range(1))], axis=0)


class ByName(keras.layers.Dense):
    def call(self, x):
        return ops.matmul(x, getattr(self, "_kernel"))  # noqa: B009


class Decorated(keras.layers.Dense):
    @functools.lru_cache  # noqa: B019
    def read(self):
        return self._kernel

    def call(self, x):
        return ops.matmul(x, self.read())


class NumPyDocs(keras.layers.Dense):
    """A subclass with a method that claims to be a function without Python code."""

    @functools.wraps(np.dot)
    def product(self, x):
        return x

    def call(self, x):
        return ops.matmul(x, self._kernel)


class Listed(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(8, 8), name="w")
        self.ws = [self.w]

    def call(self, x):
        return ops.matmul(x, self.ws[0])


class Alias(keras.layers.Layer):
    def build(self, shape):
        self.w = self.alias = self.add_weight(shape=(8, 8), name="w")

    def call(self, x):
        return ops.matmul(x, self.alias)


class Public(keras.layers.Dense):
    """A subclass that reads the kernel as Keras does."""

    def call(self, x):
        return 2 * super().call(x) + ops.sum(self.kernel)


class Outer(keras.layers.Layer):
    """Reads the weight of the layer inside by its private name."""

    def __init__(self, units):
        super().__init__()
        self.inner = keras.layers.Dense(units)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return ops.matmul(x, self.inner._kernel)


class ByList(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(8, 8), name="w")

    def call(self, x):
        return sum(ops.matmul(x, w) for w in self.trainable_weights)


PRIVATE = (Private, InLambda, InComprehension, ByName, Decorated, NumPyDocs)


def around(layer):
    return keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(3)])


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        *((kind(8), "is read (as|by) `_kernel`") for kind in PRIVATE),
        (Outer(8), "is read by `_kernel` in the `call` of 'outer"),
        (ByList(), "is read by `trainable_weights` in the `call` of 'by_list"),
        (Listed(), "is also held as 'ws'"),
        (Alias(), "is also held as '(alias|w)'"),
    ],
)
def test_it_stays_dense(layer, reason):
    model = around(layer)
    sparse = ks.sparsify(model, 0.5)
    assert [w.shape for w in ks.masked_weights(sparse)] == [(8, 3)]
    row = next(x for x in ks.report(sparse).dense if x.shape == (8, 8))
    assert reason.split("(")[0] in row.reason
    with pytest.raises(ValueError, match=f"cannot be masked: .*{reason}"):
        ks.sparsify(model, 0.5, include=[layer.name])


def test_a_subclass_that_reads_the_public_name_is_masked():
    sparse, x = ks.sparsify(around(Public(8)), 0.5), np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    assert [w.shape for w in ks.masked_weights(sparse)] == [(8, 8), (8, 3)]
    np.testing.assert_allclose(numpy(sparse(x)), numpy(ks.densify(sparse)(x)), rtol=1e-5)
