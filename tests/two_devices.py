"""Trains on two logical CPUs with MirroredStrategy and compares with one; run by test_contract.py."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from nets import assert_dead_is_zero, compiled, live_weights, mlp, state
from test_contract import METHODS

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(48, 8)).astype("float32"), np.arange(48, dtype="int32") % 3


def train(strategy):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = compiled(mlp())
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    model.fit(data, epochs=3, callbacks=[METHODS[sys.argv[1]]()], shuffle=False, verbose=0)
    return model


two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
on_one, on_two = train(tf.distribute.get_strategy()), train(two)
assert live_weights(on_one) == live_weights(on_two)
assert_dead_is_zero(on_two)
for (a, m), (b, n) in zip(state(on_one), state(on_two), strict=True):
    np.testing.assert_array_equal(m, n)
    np.testing.assert_allclose(a, b, atol=1e-5)
import keras_sparse as ks  # noqa: E402

for layer in ks.masked_layers(on_two):
    for variable in (layer.kernel_variable, layer.kernel_mask.value):
        replicas = two.experimental_local_results(variable.value)
        assert len(replicas) == 2
        np.testing.assert_array_equal(replicas[0].numpy(), replicas[1].numpy())

ks.check_replicas(on_two)
mask = ks.masked_layers(on_two)[1].kernel_mask.value
killed = two.experimental_local_results(mask.value)[1]
killed.assign(np.zeros(killed.shape, bool))
with pytest.raises(RuntimeError, match="replicas of .*second/kernel_mask.* differ"):
    ks.check_replicas(on_two)
