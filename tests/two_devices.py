"""Trains on two logical CPUs with MirroredStrategy and compares with one; run by test_contract.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from nets import assert_dead_is_zero, compiled, live_weights, mlp, state
from test_contract import METHODS

import keras_sparse as ks

x, y = np.random.default_rng(0).normal(size=(48, 8)).astype("float32"), np.arange(48, dtype="int32") % 3


def train(strategy, method):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = compiled(mlp())
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    model.fit(data, epochs=3, callbacks=[method], shuffle=False, verbose=0)
    return model


def compare(two, name):
    on_one, on_two = (train(strategy, METHODS[name]()) for strategy in (tf.distribute.get_strategy(), two))
    assert live_weights(on_one) == live_weights(on_two)
    assert_dead_is_zero(on_two)
    for (a, m), (b, n) in zip(state(on_one), state(on_two), strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_allclose(a, b, atol=1e-5)
    for layer in ks.masked_layers(on_two):
        for variable in (layer.kernel_variable, layer.kernel_mask.value):
            replicas = two.experimental_local_results(variable.value)
            assert len(replicas) == 2
            np.testing.assert_array_equal(replicas[0].numpy(), replicas[1].numpy())
    return on_two


def kill_a_replica(two, model):
    ks.check_replicas(model)
    mask = ks.masked_layers(model)[1].kernel_mask.value
    killed = two.experimental_local_results(mask.value)[1]
    killed.assign(np.zeros(killed.shape, bool))
    with pytest.raises(RuntimeError, match="replicas of .*second/kernel_mask.* differ"):
        ks.check_replicas(model)


if __name__ == "__main__":
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert two.num_replicas_in_sync == 2
    for name in METHODS:
        model = compare(two, name)
        print(name)
    kill_a_replica(two, model)
