"""Models of many kinds, with layers of one's own, for tests: each is built, and small."""

import keras
import numpy as np
from keras import layers

SEQUENCE = (6, 4)  # time steps, features


@keras.saving.register_keras_serializable("any_models")
class Block(layers.Layer):
    """A residual block with two dense layers and a weight of its own."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.second = layers.Dense(units, activation="relu"), layers.Dense(units)

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.first.build(shape)
        self.second.build((*shape[:-1], self.units))

    def call(self, x):
        return self.second(self.first(x)) + keras.ops.matmul(x, self.w)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("any_models")
class Lazy(layers.Layer):
    """A layer without `build`: its layers are built when it is first called. One is in a list."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first, self.blocks = layers.Dense(units), [Block(units), layers.LayerNormalization()]

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("any_models")
class Subclassed(keras.Model):
    """A subclassed model with recurrent layers, a block of one's own and a step of its own."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.recurrent = layers.Bidirectional(layers.LSTM(units))
        self.block, self.out = Lazy(units), layers.Dense(3)

    def call(self, x):
        return self.out(self.block(self.recurrent(x)))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("any_models")
class OwnDense(layers.Dense):
    """A subclass of a Keras layer that reads its kernel in a method of its own."""

    def call(self, x):
        return keras.ops.tanh(keras.ops.matmul(x, self.kernel) + self.bias)


@keras.saving.register_keras_serializable("any_models")
class Private(layers.Layer):
    """A layer that holds its weight under a private name, behind a property that transposes it."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self._w = self.add_weight(shape=(self.units, shape[-1]), name="w")

    @property
    def w(self):
        return keras.ops.transpose(self._w)

    def call(self, x):
        return keras.ops.matmul(x, self.w)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("any_models")
class Tied(layers.Layer):
    """Reads the kernel of one layer in another place, transposed."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.encode = layers.Dense(units, use_bias=False)

    def build(self, shape):
        self.encode.build(shape)

    def call(self, x):
        return keras.ops.matmul(self.encode(x), keras.ops.transpose(self.encode.kernel))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def sequential(*inner, shape=SEQUENCE):
    return keras.Sequential([keras.Input(shape), *inner, layers.Flatten(), layers.Dense(3)])


def attention():
    x = keras.Input(SEQUENCE)
    y = layers.MultiHeadAttention(2, 4)(x, x)
    y = layers.GroupQueryAttention(4, 2, 1)(y, y)
    y = layers.LayerNormalization()(x + y)
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, *SEQUENCE), "float32"))
    return model


def subclassed_inside():
    x = keras.Input(SEQUENCE)
    return keras.Model(x, Subclassed()(x))


# name -> (how to make it, shape of an input, how many weights are masked, what to include)
CASES = {
    "lstm": (lambda: sequential(layers.LSTM(8)), SEQUENCE, 3, ()),
    "gru and simple": (lambda: sequential(layers.GRU(8, return_sequences=True), layers.SimpleRNN(5)), SEQUENCE, 5, ()),
    "stacked cells": (lambda: sequential(layers.RNN([layers.LSTMCell(4), layers.GRUCell(5)])), SEQUENCE, 5, ()),
    "bidirectional": (lambda: sequential(layers.Bidirectional(layers.GRU(8))), SEQUENCE, 5, ()),
    "time distributed": (lambda: sequential(layers.TimeDistributed(layers.Dense(5))), SEQUENCE, 2, ()),
    "spectral": (lambda: sequential(layers.SpectralNormalization(layers.Dense(5))), SEQUENCE, 2, ()),
    "separable": (
        lambda: sequential(layers.SeparableConv1D(8, 3), layers.Conv1DTranspose(4, 3), layers.DepthwiseConv1D(2)),
        *(SEQUENCE, 5, ()),
    ),
    "convolutional lstm": (lambda: sequential(layers.ConvLSTM2D(4, 2), shape=(3, 5, 5, 2)), (3, 5, 5, 2), 3, ()),
    "attention": (attention, SEQUENCE, 9, ()),
    "block": (lambda: sequential(Block(8)), SEQUENCE, 4, ["w"]),
    "built when called": (lambda: sequential(Lazy(8)), SEQUENCE, 5, ["w"]),
    "subclass of a layer": (lambda: sequential(OwnDense(8)), SEQUENCE, 2, ()),
    "private weight": (lambda: sequential(Private(8)), SEQUENCE, 2, ["_w"]),
    "tied": (lambda: sequential(Tied(8)), SEQUENCE, 2, ()),
    "embedding": (lambda: sequential(layers.Embedding(9, 4), shape=(6,)), (6,), 2, ["embeddings"]),
    "subclassed": (subclassed, SEQUENCE, 9, lambda variable: variable.path.endswith("/w")),
    "subclassed inside": (subclassed_inside, SEQUENCE, 9, "w"),
}


def data(shape, count=24):
    """Inputs and labels of three classes."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (count, *shape)) if len(shape) == 1 else rng.normal(size=(count, *shape))
    return x.astype("int32" if len(shape) == 1 else "float32"), rng.integers(0, 3, count)
