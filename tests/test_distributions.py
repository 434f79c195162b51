import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_sparse as ks
from keras_sparse import distributions
from keras_sparse.criteria import live_count

LENET = [(784, 300), (300, 100), (100, 10)]


def live(shapes, sparsities):
    return [live_count(math.prod(s), x) for s, x in zip(shapes, sparsities, strict=True)]


def test_uniform_on_lenet():
    assert live(LENET, distributions.uniform(LENET, 0.98)) == [4704, 600, 20]


def test_erdos_renyi_by_hand():
    """The shares are n_in + n_out = 1084, 400, 110; 5,324 live weights are 3.34 times as many."""
    total = 1084 + 400 + 110
    expected = [round(5324 * n / total) for n in (1084, 400, 110)]
    assert live(LENET, distributions.erdos_renyi(LENET, 0.98)) == expected


def test_erdos_renyi_makes_small_layers_dense_and_shares_the_rest():
    """At density .5 of 266,200 weights, fc2 and fc3 would get more than they have: they are dense, fc1 has the rest."""
    assert live(LENET, distributions.erdos_renyi(LENET, 0.5)) == [133100 - 31000, 30000, 1000]


def test_erdos_renyi_kernel_counts_the_kernel_axes():
    shapes = [(3, 3, 16, 16), (1, 1, 16, 64)]  # (3+3+16+16) : (1+1+16+64) = 38 : 82
    assert live(shapes, distributions.erdos_renyi_kernel(shapes, 0.9)) == [
        105,
        228,
    ]  # of round(332.8) = 333
    assert live(shapes, distributions.erdos_renyi(shapes, 0.9))[0] > 105 * 2  # 9 * 32 : 80


SHAPES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("name", sorted(distributions.DISTRIBUTIONS))
@given(shapes=SHAPES, sparsity=st.floats(0, 1, exclude_max=True))
def test_every_distribution_is_exact_to_the_weight(name, shapes, sparsity):
    counts = live(shapes, distributions.get(name)(shapes, sparsity))
    assert sum(counts) == round(sum(map(math.prod, shapes)) * (1 - sparsity))
    assert all(0 <= k <= math.prod(s) for k, s in zip(counts, shapes, strict=True))


def test_unknown_distribution_lists_the_known():
    with pytest.raises(ValueError, match="Unknown distribution: 'ball'.*erdos_renyi_kernel"):
        distributions.get("ball")


@pytest.mark.parametrize("name", ["erdos_renyi", "erdos_renyi_kernel"])
def test_einsum_dense_is_as_dense_as_the_dense_layer_of_its_units(name):
    """In "abc,cde->abde" the last two axes of the kernel are output axes."""

    def density(layer, shape):
        model = keras.Sequential([keras.Input(shape), layer, keras.layers.Flatten(), keras.layers.Dense(10)])
        return [np.mean(x.kernel_mask.numpy()) for x in ks.masked_layers(ks.sparsify(model, 0.9, distribution=name))]

    einsum = density(keras.layers.EinsumDense("abc,cde->abde", (1, 8, 8)), (1, 64))
    assert einsum == density(keras.layers.Dense(64), (64,))
