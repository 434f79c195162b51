"""Tests `check_replicas` on one device; tests/two_devices.py and tests/jax_devices.py use several devices."""

import socket
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse import backend
from nets import compiled, mlp
from processes import Script


def test_one_device_agrees_with_itself(blobs):
    method = ks.DynamicSparse(15, 5, threshold=0.05)
    method.check_replicas = True
    compiled(mlp()).fit(*blobs, batch_size=8, callbacks=[method], verbose=0)
    assert method.updates_in_fit


def test_a_copy_that_differs_is_named(monkeypatch):
    model = mlp()
    third = ks.masked_layers(model)[2].kernel_mask.value
    copies = backend.copies

    def one_more(variable):
        held = copies(variable)
        return [*held, (held[0][0], ~held[0][1])] if variable is third else held

    monkeypatch.setattr(backend, "copies", one_more)
    with pytest.raises(RuntimeError, match=r"replicas of .*last/.*mask.* differ: checksums \['\w{8}', '\w{8}'\]"):
        ks.check_replicas(model)


@pytest.mark.jax
def test_a_difference_on_any_jax_device_is_found():
    variable = keras.Variable(np.arange(4.0))
    ((part, array),) = backend.copies(variable)
    assert part == ((0, 4),)
    np.testing.assert_array_equal(array, np.arange(4.0))


JAX_DEVICES = Path(__file__).with_name("jax_devices.py")


@pytest.mark.jax
@pytest.mark.parametrize("distribution", ["data_parallel", "model_parallel"])
def test_four_devices_of_jax(distribution):
    assert "all is well" in Script(JAX_DEVICES, distribution).finish()


@pytest.mark.long
@pytest.mark.jax
@pytest.mark.parametrize("distribution", ["data_parallel", "model_parallel"])
def test_two_processes_of_jax(distribution):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    for script in [Script(JAX_DEVICES, distribution, address, process) for process in range(2)]:
        assert "all is well" in script.finish()
