"""Tests random masks, and the arrangement of kernels by mask elements."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_sparse.criteria import random_mask
from keras_sparse.layers.mask_elements import from_elements, to_elements


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 2**32))
def test_a_random_mask_has_exactly_what_is_asked(shape, fraction, seed):
    live = int(np.prod(shape) * fraction)
    mask = random_mask(tuple(shape), live, np.random.default_rng(seed))
    assert (mask.shape, mask.dtype, mask.sum()) == (tuple(shape), bool, live)


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=5))
def test_arranging_by_elements_and_back(axes):
    shape = tuple(n for n, _ in axes)
    mask_shape = tuple(1 if broadcast else n for n, broadcast in axes)
    weights = np.arange(np.prod(shape), dtype=float).reshape(shape)
    elements = to_elements(weights, mask_shape)
    assert elements.shape[1] == np.prod(mask_shape)
    np.testing.assert_array_equal(from_elements(elements, shape, mask_shape), weights)
    broadcast = tuple(i for i in range(len(shape)) if mask_shape[i] != shape[i])
    np.testing.assert_allclose(elements.mean(axis=0), weights.mean(axis=broadcast).ravel())


@pytest.mark.parametrize("mask_shape", [(1, 1, 3, 4), (1, 1, 1, 4), (2, 2, 3, 4)])
def test_usual_arrangements_are_views(mask_shape):
    weights = np.zeros((2, 2, 3, 4))
    assert np.shares_memory(to_elements(weights, mask_shape), weights)
