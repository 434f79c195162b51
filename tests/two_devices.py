"""Trains on two logical CPUs with MirroredStrategy and compares with one; run by test_contract.py."""

import numpy as np
import pytest
import tensorflow as tf

import keras_sparse as ks
from nets import assert_dead_is_zero, live_weights, mlp, ready, state
from test_contract import METHODS

x, y = np.random.default_rng(0).normal(size=(48, 8)).astype("float32"), np.arange(48, dtype="int32") % 3


def on_one():  # One function for each strategy, since `ready` caches one model for each function.
    return mlp()


def on_two():
    return mlp()


def train(strategy, build, method):
    with strategy.scope():
        model = ready(build)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    model.fit(data, epochs=3, callbacks=[method], shuffle=False, verbose=0)
    return model


def compare(two, name):
    single, double = (
        train(strategy, build, METHODS[name]())
        for strategy, build in ((tf.distribute.get_strategy(), on_one), (two, on_two))
    )
    assert live_weights(single) == live_weights(double)
    assert_dead_is_zero(double)
    for (a, m), (b, n) in zip(state(single), state(double), strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_allclose(a, b, atol=1e-5)
    for layer in ks.masked_layers(double):
        for variable in (layer.kernel_variable, layer.kernel_mask.value):
            replicas = two.experimental_local_results(variable.value)
            assert len(replicas) == 2
            np.testing.assert_array_equal(replicas[0].numpy(), replicas[1].numpy())
    return double


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
