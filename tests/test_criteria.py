"""Tests `criteria.py` against examples worked out by hand, and by properties over many shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_sparse import criteria

T, F = True, False


def test_below_by_hand():
    np.testing.assert_array_equal(criteria.below(np.array([0.5, 0.1, 0.05]), 0.2), [F, T, T])


def test_threshold_is_strict():
    assert not criteria.below(np.array([0.2, 0.3]), 0.2).any()


def test_below_never_empties_a_layer_but_keeps_its_largest():
    np.testing.assert_array_equal(criteria.below(np.array([0.1, 0.3, 0.2]), 1.0), [T, F, T])


def test_below_of_an_empty_layer_is_empty():
    assert criteria.below(np.zeros(0), 1.0).shape == (0,)


def test_limit_dropped_keeps_the_largest_over_all_layers():
    dropped = [np.array([T, T, F]), np.array([T, T])]
    scores = [np.array([0.4, 0.1, 0.0]), np.array([0.3, 0.2])]
    kept = criteria.limit_dropped(dropped, scores, 2)
    np.testing.assert_array_equal(kept[0], [F, T, F])
    np.testing.assert_array_equal(kept[1], [F, T])


def test_limit_dropped_changes_nothing_within_the_limit():
    dropped = [np.array([T, F]), np.array([T])]
    kept = criteria.limit_dropped(dropped, [np.ones(2), np.ones(1)], 2)
    assert [k.tolist() for k in kept] == [[T, F], [T]]


@pytest.mark.parametrize(
    ("total", "shares", "capacities", "expected"),
    [
        (10, [1, 1, 2], [99, 99, 99], [3, 2, 5]),  # 2.5, 2.5, 5: the tie goes to the first
        (7, [5, 3, 1], [99, 99, 99], [4, 2, 1]),  # 3.89, 2.33, 0.78
        (10, [8, 1, 1], [2, 99, 99], [2, 4, 4]),  # the overflow of the first is split evenly
        (5, [1, 0, 0], [2, 9, 3], [2, 2, 1]),  # no share left: by capacity, 3 * 9/12 and 3 * 3/12
        (0, [1, 2], [3, 3], [0, 0]),
    ],
)
def test_apportion_by_hand(total, shares, capacities, expected):
    assert criteria.apportion(total, shares, capacities) == expected


def test_apportion_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="Cannot place 5 in capacities"):
        criteria.apportion(5, [1, 1], [2, 2])


@given(
    st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**7)), min_size=1, max_size=60),
    st.floats(0, 1),
)
def test_apportion_is_exact_within_capacity_and_near_the_quota(entries, fraction):
    shares, capacities = (list(x) for x in zip(*entries, strict=True))
    total = int(sum(capacities) * fraction)
    result = criteria.apportion(total, shares, capacities)
    assert sum(result) == total
    assert all(0 <= n <= c for n, c in zip(result, capacities, strict=True))
    quotas = [total * s / sum(shares) for s in shares] if sum(shares) else []
    if quotas and all(q <= c for q, c in zip(quotas, capacities, strict=True)):
        assert all(abs(n - q) <= 1 for n, q in zip(result, quotas, strict=True))


@given(hnp.arrays(bool, hnp.array_shapes(max_dims=4, max_side=12)), st.floats(0, 1), st.integers(0, 2**32))
def test_grown_positions_were_dead_and_are_as_many_as_asked(mask, fraction, seed):
    count = int((~mask).sum() * fraction)
    grown = criteria.grow_random(np.flatnonzero(mask), mask.size, count, np.random.default_rng(seed))
    assert len(set(grown)) == len(grown) == count
    assert (np.diff(grown) > 0).all()
    assert not mask.flat[grown].any()
    # The same random draw from an explicit list of the dead positions.
    free = np.flatnonzero(~mask)
    listed = np.random.default_rng(seed).choice(free, count, replace=False, shuffle=False)
    np.testing.assert_array_equal(grown, np.sort(listed))


def test_regrowth_is_uniform_by_chi_square():
    """Draws 60,000 of 20 free positions: chi-square with 19 degrees of freedom, 0.1% quantiles 5.4 and 43.8."""
    live = np.arange(0, 30, 3)
    dead = np.setdiff1d(np.arange(30), live)
    rng = np.random.default_rng(7)
    hits = sum(np.bincount(criteria.grow_random(live, 30, 6, rng), minlength=30) for _ in range(10_000))
    assert not hits[live].any()
    # Drawing 6 of 20 without replacement lowers the variance of a count by the factor (20 - 6) / (20 - 1).
    chi = ((hits[dead] - 3000) ** 2 / 3000).sum() * 19 / 14
    assert 5.4 < chi < 43.8  # both tails, since counts that are too even are not random either


@pytest.mark.parametrize(("dropped", "expected"), [(89, 2.0), (90, 1.0), (100, 1.0), (110, 1.0), (111, 0.5), (0, 2.0)])
def test_threshold_doubles_and_halves_outside_the_tolerance(dropped, expected):
    assert criteria.adapt_threshold(1.0, dropped, target=100, tolerance=0.1) == expected


def test_the_weakest_by_hand():
    assert criteria.weakest(np.array([0.3, 0.1, 0.2, 0.1]), 2).tolist() == [False, True, False, True]
    assert criteria.weakest(np.array([0.1, 0.1, 0.1]), 1).tolist() == [
        True,
        False,
        False,
    ]  # ties go to the earlier element
    assert criteria.weakest(np.array([0.1]), 0).tolist() == [False]


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_the_strongest_dead_positions_are_those_a_sort_would_give(size, seed):
    rng = np.random.default_rng(seed)
    live = np.flatnonzero(rng.random(size) < 0.5)
    scores = rng.integers(0, 6, size).astype("float32")  # many ties
    dead = [i for i in range(size) if i not in set(live)]
    count = int(rng.integers(0, len(dead) + 1))
    before = scores.copy()
    grown = criteria.grow_strongest(live, scores, count)
    assert grown.tolist() == sorted(sorted(dead, key=lambda i: -scores[i])[:count])
    np.testing.assert_array_equal(scores, before)


def test_between_live_units_by_hand():
    # Three inputs and three outputs; the second input and the third output have no live weight.
    live = np.flatnonzero([[1, 0, 0], [0, 0, 0], [0, 1, 0]])
    assert criteria.between_live_units(live, (3, 3)).reshape(3, 3).tolist() == [[T, T, F], [F, F, F], [T, T, F]]
    # A convolution with kernel 2 x 1 and two input and output channels: any live weight makes its channels live.
    mask = np.zeros((2, 1, 2, 2), bool)
    mask[1, 0, 0, 1] = True
    between = criteria.between_live_units(np.flatnonzero(mask), mask.shape).reshape(mask.shape)
    np.testing.assert_array_equal(between, np.broadcast_to([[F, T], [F, F]], mask.shape))
