"""Trains over four JAX devices, of one process or of two; run by test_replicas.py.

Command line: data_parallel or model_parallel; for one of two processes the coordinator's address, and which it is.
"""

import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.backend import read as view
from keras_sparse.training.optimizer_state import slots
from nets import compiled, mlp

x, y = np.random.default_rng(0).normal(size=(48, 8)).astype("float32"), np.arange(48, dtype="int32") % 3


def data_parallel(devices):
    return keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)


def model_parallel(devices):
    # One part of a kernel is on devices 0 and 1, the other on 2 and 3: each of two processes has one part, twice.
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), np.reshape(devices, (2, 2)).T)
    layouts = keras.distribution.LayoutMap(mesh)
    # The pattern also matches the paths of the mask and of scalar variables.
    layouts[".*first/kernel.*"] = (None, "model")
    layouts[".*second/kernel"] = ("model", None)
    layouts[".*conv/kernel"] = (None, None, None, "model")
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False)


def part_of_batches():
    """Returns the part of each batch that this process feeds: half of it if the processes hold different replicas."""
    if jax.process_count() == 1 or DISTRIBUTION is model_parallel:
        return slice(None), 8
    return np.arange(48).reshape(6, 2, 4)[:, jax.process_index()].ravel(), 4


def train(model, method, rows=slice(None), batch_size=8):
    model.fit(x[rows], y[rows], batch_size=batch_size, epochs=2, callbacks=[method], shuffle=False, verbose=0)
    return model


def masks_and_kernels(model):
    return [(view(layer.kernel_mask.value), view(layer.kernel_variable)) for layer in ks.masked_layers(model)]


def live(model):
    return sum(int(np.broadcast_to(m, w.shape).sum()) for m, w in masks_and_kernels(model))


def layouts(model):
    kernels = [(x.kernel_variable, x.kernel_mask.value) for x in ks.masked_layers(model)]
    held = [[kernel, mask, *(slot for slot, _ in slots(model.optimizer, kernel))] for kernel, mask in kernels]
    return [[v.value.sharding.devices_indices_map(tuple(v.shape)) for v in group] for group in held]


def assert_zeros(model):
    for layer, (mask, kernel) in zip(ks.masked_layers(model), masks_and_kernels(model), strict=True):
        dead = np.broadcast_to(mask == 0, kernel.shape)
        for variable in (layer.kernel_variable, *(slot for slot, _ in slots(model.optimizer, layer.kernel_variable))):
            assert not view(variable)[dead].any(), variable.path


def dynamic_sparse():
    method = ks.DynamicSparse(15, 3, threshold=0.05)
    method.check_replicas = True
    return method


def trains_as_on_one_device(method):
    keras.utils.set_random_seed(1)
    one = train(compiled(mlp()), method())
    keras.utils.set_random_seed(1)
    with DISTRIBUTION(keras.distribution.list_devices()).scope():
        model = compiled(mlp())
        budget = live(model)
        model.optimizer.build(model.trainable_variables)
        before = layouts(model)
        train(model, method(), *part_of_batches())
    assert live(model) == budget
    assert_zeros(model)
    assert layouts(model) == before
    for (m, a), (n, b) in zip(masks_and_kernels(one), masks_and_kernels(model), strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_allclose(a, b, atol=1e-5)
    ks.check_replicas(model)
    return model, before


def each_mask_lies_as_its_kernel(held):
    for kernel, *others in held:
        assert all(other == kernel for other in others)
    if DISTRIBUTION is model_parallel:
        assert [len({str(part) for part in kernel.values()}) for kernel, *_ in held] == [2, 2, 1]


def a_coarser_mask_lies_along():
    with DISTRIBUTION(keras.distribution.list_devices()).scope():
        dense = keras.Sequential([keras.Input((4, 4, 6)), keras.layers.Conv2D(8, 3, name="conv")])
        channels, pixels = (ks.sparsify(dense, 0.5, granularity=shape) for shape in ((1, 1, 1, 8), (3, 3, 6, 1)))
        inner = ks.layers.MaskedDense(8, sparsity=0.5, name="second")
        deferred = keras.Sequential([Outer(inner)])
        deferred.build((None, 6))  # In a stateless scope, variables get their values later.
    for model, split in ((channels, DISTRIBUTION is model_parallel), (pixels, False)):
        mask = ks.masked_layers(model)[0].kernel_mask.value.value
        assert mask.sharding.is_fully_replicated != split
        assert len(mask.sharding.device_set) == 4
        ks.check_replicas(model)
    mask, kernel = inner.kernel_mask.value.value, inner.kernel_variable.value
    assert mask.sharding == kernel.sharding
    ks.check_replicas(deferred)


def a_file_is_loaded_onto_all_devices(model, held):
    with tempfile.TemporaryDirectory() as folder, DISTRIBUTION(keras.distribution.list_devices()).scope():
        model.save(Path(folder) / "m.keras")
        loaded = keras.models.load_model(Path(folder) / "m.keras")
    assert layouts(loaded) == held
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(view(a), view(b))


def a_large_kernel_is_made_in_parts():
    """Keras initializes kernels of 250 MiB and more in parts, distributed over all devices."""
    large = mock.patch("keras.src.backend.jax.core.should_shard_at_init", return_value=True)
    with DISTRIBUTION(keras.distribution.list_devices()).scope(), large:
        model = compiled(mlp())
        model.optimizer.build(model.trainable_variables)
    each_mask_lies_as_its_kernel(layouts(model))
    for mask, kernel in masks_and_kernels(model):
        np.testing.assert_array_equal(kernel != 0, mask)


class Outer(keras.layers.Layer):
    """Layer that builds its inner layer when it is called."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


def a_replica_that_differs_is_named(model):
    layer = ks.masked_layers(model)[1]
    for variable in (layer.kernel_mask.value, layer.kernel_variable):
        value = variable.value
        shards = sorted(value.addressable_shards, key=lambda s: s.device.id)
        held = [(s.device, np.array(s.data)) for s in shards]
        if jax.process_index() == 0:
            held[1][1].flat[5] = 1 - held[1][1].flat[5]
        altered = [jax.device_put(array, device) for device, array in held]
        variable._value = jax.make_array_from_single_device_arrays(value.shape, value.sharding, altered)
        part = r"\[0:8, 0:12\]" if DISTRIBUTION is model_parallel else ""
        with pytest.raises(RuntimeError, match=rf"replicas of .*second/kernel.*{part} differ: checksums"):
            ks.check_replicas(model)
        variable._value = value
        ks.check_replicas(model)


if __name__ == "__main__":
    DISTRIBUTION = {f.__name__: f for f in (data_parallel, model_parallel)}[sys.argv[1]]
    jax.config.update("jax_num_cpu_devices", 2 if sys.argv[2:] else 4)
    if sys.argv[2:]:
        keras.distribution.initialize(sys.argv[2], 2, int(sys.argv[3]))
    assert len(keras.distribution.list_devices()) == 4
    model, held = trains_as_on_one_device(dynamic_sparse)
    each_mask_lies_as_its_kernel(held)
    a_replica_that_differs_is_named(model)
    a_coarser_mask_lies_along()
    a_large_kernel_is_made_in_parts()
    if jax.process_count() == 1:
        a_file_is_loaded_onto_all_devices(model, held)
    elif DISTRIBUTION is model_parallel:
        trains_as_on_one_device(lambda: ks.DeepR(alpha=1e-4, temperature=1e-6))
        trains_as_on_one_device(lambda: ks.RigL(fraction=0.3, period=3))
    print("all is well")
