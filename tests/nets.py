"""Small nets, and functions that read their state."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_sparse as ks
from keras_sparse.training.optimizer_state import slots

numpy = keras.ops.convert_to_numpy
# On TensorFlow, XLA takes seconds to compile each network; on JAX steps are slow without it.
UNCOMPILED = ["--nojit_compile"] if keras.backend.backend() == "tensorflow" else []
needs_steps_per_execution = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras runs steps_per_execution=1 only on PyTorch"
)


def mlp(sparsity=0.6, seed=0, **kwargs):
    """Makes a net of three masked dense layers, 8-16-12-3, with 356 weights."""
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu", name="first"),
            layers.Dense(12, activation="relu", name="second"),
            layers.Dense(3, name="last"),
        ]
    )
    return ks.sparsify(model, sparsity, seed=seed, **kwargs)


def compiled(model, optimizer=None, **kwargs):
    """Compiles a model for `blobs`, and returns it. On TensorFlow, XLA is off by default, since it takes seconds."""
    if keras.backend.backend() == "tensorflow":
        kwargs.setdefault("jit_compile", False)
    model.compile(
        optimizer=optimizer or keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    return model


@functools.cache
def _made(build, arguments, optimizer, settings):
    keras.utils.set_random_seed(1)
    model = compiled(build(*arguments), optimizer and optimizer(), **dict(settings))
    model.optimizer.build(model.trainable_variables)
    variables = [*model.weights, *model.optimizer.variables]
    return model, variables, [numpy(v).copy() for v in variables]


def ready(build=mlp, *arguments, optimizer=None, **settings):
    """Returns `compiled(build(*arguments), optimizer(), **settings)` in its initial state.

    The model is cached, since tracing is slow: a call with the same arguments resets and returns the same model.
    """
    model, variables, first = _made(build, arguments, optimizer, tuple(settings.items()))
    for variable, value in zip(variables, first, strict=True):
        variable.assign(value)
    model._initial_epoch = None  # `keras.callbacks.BackupAndRestore` does not reset it.
    keras.utils.set_random_seed(1)  # the same state whether the model was made or cached
    return model


def state(model):
    """Returns `(weights, mask)` of every masked layer, as NumPy arrays."""
    return [(numpy(x.kernel_variable).copy(), x.kernel_mask.numpy().copy()) for x in ks.masked_layers(model)]


def live_weights(model):
    return sum(int(np.broadcast_to(m, w.shape).sum()) for w, m in state(model))


def assert_dead_is_zero(model):
    """Asserts that dead weights are exactly 0, and their optimizer slots equal those of a new optimizer."""
    for layer in ks.masked_layers(model):
        mask = np.broadcast_to(layer.kernel_mask.numpy(), layer.kernel_variable.shape)
        assert not numpy(layer.kernel_variable)[~mask].any(), layer.name
        for slot, fresh in slots(model.optimizer, layer.kernel_variable):
            np.testing.assert_array_equal(numpy(slot)[~mask], np.float32(fresh), err_msg=slot.path)


class Interrupts(keras.callbacks.Callback):
    """Interrupts `fit` before the third batch of an epoch, as Ctrl-C does."""

    async_safe = True

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt
