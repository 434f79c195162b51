"""The checksum over replicas, on one device; tests/two_devices.py has it on two."""

import keras
import numpy as np
import pytest
from nets import compiled, mlp

import keras_sparse as ks
from keras_sparse import replicas


def test_one_device_agrees_with_itself(blobs):
    method = ks.DynamicSparse(15, 5, threshold=0.05)
    method.check_replicas = True
    compiled(mlp()).fit(*blobs, batch_size=8, callbacks=[method], verbose=0)


def test_a_copy_that_differs_is_named(monkeypatch):
    model = mlp()
    third = ks.masked_layers(model)[2].kernel_mask.value
    copies = replicas._copies
    monkeypatch.setattr(replicas, "_copies", lambda v: [*copies(v), ~copies(v)[0]] if v is third else copies(v))
    with pytest.raises(RuntimeError, match=r"replicas of .*last/.*mask.* differ: checksums \['\w{8}', '\w{8}'\]"):
        ks.check_replicas(model)


@pytest.mark.jax
def test_each_device_of_jax_is_looked_at():
    variable = keras.Variable(np.arange(4.0))
    assert len(replicas._copies(variable)) == 1
    np.testing.assert_array_equal(replicas._copies(variable)[0], np.arange(4.0))
