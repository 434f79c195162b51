"""Tests reading variables and writing single elements on every backend."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_sparse import backend
from keras_sparse.backend import assign
from keras_sparse.backend import read as view
from keras_sparse.backend import write_elements as write
from keras_sparse.training.dead_weights import clear_variable as clear
from nets import numpy

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def variable(shape, dtype="float32"):
    values = np.arange(np.prod(shape)).reshape(shape) + 1
    return keras.Variable((values % 2 == 0) if dtype == "bool" else values, dtype=dtype, trainable=dtype != "bool")


@given(SHAPES, st.integers(0, 2**32 - 1))
def test_only_the_given_elements_are_written_in_every_variable(shape, seed):
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    positions = rng.choice(size, rng.integers(0, size + 1), replace=False)
    weights, mask, slot = variable(shape), variable(shape, "bool"), variable(shape)
    expected = [numpy(v).copy() for v in (weights, mask, slot)]
    values, alive = rng.normal(size=len(positions)), rng.random(len(positions)) < 0.5
    for array, new in zip(expected, (values, alive, 0.25), strict=True):
        array.flat[positions] = new
    write(positions, (weights, values), (mask, alive), (slot, 0.25))
    for v, array in zip((weights, mask, slot), expected, strict=True):
        np.testing.assert_array_equal(view(v), array)
        np.testing.assert_array_equal(numpy(v), array)


not_on_jax = pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unasked")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", pytest.param("float64", marks=not_on_jax)])
def test_other_precisions(dtype):
    weights = variable((3, 4), dtype)
    write(np.array([1, 7]), (weights, np.array([0.5, -2.0])))
    assert keras.backend.standardize_dtype(weights.dtype) == dtype
    assert view(weights).astype("float32").ravel().tolist() == [1, 0.5, 3, 4, 5, 6, 7, -2, 9, 10, 11, 12]


def test_a_copy_of_a_view_outlives_a_write():
    weights = variable((4,))
    before = view(weights).copy()
    write(np.array([2]), (weights, 9.0))
    assert before.tolist() == [1, 2, 3, 4]
    assert view(weights).tolist() == [1, 2, 9, 4]


def test_scalars_are_assigned():
    step, threshold = keras.Variable(-1, dtype="int32", trainable=False), keras.Variable(0.0)
    assign(step, 7)
    assign(threshold, 0.5)
    assert (int(view(step)), float(view(threshold))) == (7, 0.5)


def test_clear_sets_what_a_coarser_mask_calls_dead():
    weights = variable((2, 2, 1, 2))
    clear(weights, np.array([True, False]).reshape(1, 1, 1, 2), 0.5)
    assert view(weights).ravel().tolist() == [1, 0.5, 3, 0.5, 5, 0.5, 7, 0.5]


def test_clean_variables_are_not_written(monkeypatch):
    weights = keras.Variable(np.array([[0.5, 1.0], [0.5, 2.0]], "float32"))
    mask = np.array([False, True]).reshape(1, 2)
    written = []
    monkeypatch.setattr(backend, "assign", lambda variable, value: written.append(value))
    clear(weights, mask, 0.5)
    assert not written
    weights.assign([[0.5, 1.0], [np.nan, 2.0]])
    clear(weights, mask, 0.5)
    np.testing.assert_array_equal(written, [[[0.5, 1.0], [0.5, 2.0]]])


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_reading_a_written_variable_makes_no_copy(dtype):
    """After a scatter operation, TensorFlow copies the variable at every read, in each training step, too."""
    v = variable((40, 30), dtype)
    write(np.arange(9), (v, 1))
    assert view(v).ctypes.data == view(v).ctypes.data
