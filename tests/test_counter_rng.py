"""Tests `counter_rng.py`: known answers, comparison with plain Python, and distributions."""

import functools
import math

import numpy as np
import pytest
from keras import ops

import threefry as plain
from keras_sparse import counter_rng
from keras_sparse.backend import compiled
from keras_sparse.training import rewiring
from keras_sparse.training.layer_state import LayerSpec
from keras_sparse.training.rewiring import activate, exclusive_sum
from nets import numpy

POSITIONS = np.arange(20_000, dtype="int32")


def as_int32(number):
    return int(np.array(number, "uint32").view("int32"))


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [  # from the file kat_vectors of Random123, the authors' library: threefry 2x32 with 20 rounds
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(key, counter, answer):
    assert plain.threefry(key, counter) == list(answer)
    first, second = (ops.convert_to_tensor(np.array([as_int32(c)], "int32")) for c in counter)
    ours = counter_rng.threefry(tuple(map(as_int32, key)), first, second)
    assert [int(numpy(x).view("uint32")[0]) for x in ours] == list(answer)


def test_draws_equal_plain_python():
    key, same = counter_rng.key_of(3, 1), plain.key_of(3, 1)
    positions = np.array([0, 1, 77, 2**30], "int32")
    noise = numpy(counter_rng.normal(key, ops.convert_to_tensor(positions), np.int32(12)))
    assert noise == pytest.approx([plain.normal(same, int(p), 12) for p in positions], rel=1e-5)
    assert numpy(counter_rng.signs(key, ops.convert_to_tensor(positions))).tolist() == [
        plain.sign(same, int(p)) for p in positions
    ]


def test_noise_is_standard_normal_and_new_at_each_step_and_position():
    key = counter_rng.key_of(0, 0)
    one, other = (numpy(counter_rng.normal(key, ops.convert_to_tensor(POSITIONS), np.int32(s))) for s in (1, 2))
    n = len(one)
    assert abs(one.mean()) < 4 / math.sqrt(n)
    assert abs(one.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((one**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(n)
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 4 / math.sqrt(n)


@functools.cache
def _distinct(below):
    return compiled(lambda step, draw: counter_rng.distinct(counter_rng.key_of(1), step, draw, below))


def rows(below, step, draw=2):
    return map(numpy, _distinct(below)(np.int32(step), np.int32(draw)))


def test_rows_equal_plain_python():
    below = (7, 1 << 20, 3 * (1 << 29))
    drawn, counts = rows(below, 5)
    for place, n in enumerate(below):
        assert drawn[place][counts[place]].tolist() == plain.row(plain.key_of(1), 5, 2, place, n)


@pytest.mark.parametrize("below", [1, 300, 1 << 20, 3 * (1 << 29)])
def test_valid_ints_are_distinct_and_equally_likely(below):
    """With the bound 3 * 2^29 a quarter of the draws is rejected, or else the first third would be twice as likely."""
    found = []
    for step in range(40):
        drawn, counts = (x[0] for x in rows((below,), step))
        found.append(drawn[counts])
        assert len(set(found[-1].tolist())) == len(found[-1])
    found = np.concatenate(found)
    assert found.min() >= 0
    assert found.max() < below
    if below > 300:  # If the bound is large, few draws are rejected because of collisions.
        fair = 2**31 // below * below / 2**31
        assert 0.9 * fair < len(found) / (40 * counter_rng.ROW) < fair + 0.02
    bins = min(below, 8)
    count = np.bincount((found.astype("int64") * bins) // below, minlength=bins)
    expected = len(found) / bins
    assert ((count - expected) ** 2 / expected).sum() < 30  # 7 degrees of freedom: p = 1e-4


def test_all_pairs_of_ints_are_equally_likely():
    """The hash function is random so that no pair is rejected more often than others."""
    n, count, steps = 12, np.zeros((12, 12)), 600
    for step in range(steps):
        drawn, counts = (x[0] for x in rows((n,), step))
        first = drawn[counts][:4]
        count[np.ix_(first, first)] += 1
    pairs = count[np.triu_indices(n, 1)]
    expected = pairs.sum() / len(pairs)
    assert pairs.sum() > 0.9 * steps * 6
    assert ((pairs - expected) ** 2 / expected).sum() < 110  # 65 degrees of freedom: p = 4e-4


SIZES = (200, 50)  # of two layers; a frozen layer of 30 weights is between them


def spec(first, size, live):
    return LayerSpec(first, size, live, fresh=(), momentum=None, factor=0.0, nesterov=False, zeros=True)


@functools.cache
def _activate(specs, small):
    return compiled(
        lambda step, masks, live, crossed: activate(counter_rng.key_of(0), step, specs, masks, live, crossed)
    )


EACH_ALONE, LARGE_AND_SMALL, JOINED = 0, 100, 2**20  # limits up to which masks are concatenated


def activated(masks, crossed, step=0, order=None):
    """Calls `activate` for two layers; returns for each the mask, live positions before and after, and the dropped."""
    specs = tuple(spec(f, n, int(np.count_nonzero(m))) for f, n, m in zip((0, 230), SIZES, masks, strict=True))
    lives = [np.flatnonzero(m).astype("int32") + s.first for m, s in zip(masks, specs, strict=True)]
    live, flags = np.concatenate(lives), np.concatenate(crossed)
    if order is not None:
        live, flags = live[order], flags[order]
    shaped = [masks[0].reshape(20, 10), masks[1].reshape(5, 2, 5)]
    after, found, gone = _activate(specs, rewiring.SMALL)(np.int32(step), shaped, live, flags)
    after, found, gone = list(map(numpy, after)), numpy(found), numpy(gone)
    assert [m.shape for m in after] == [(20, 10), (5, 2, 5)]
    parts = [np.split(x, [specs[0].live]) for x in (live, found, gone)]
    return [
        (mask.ravel(), live - s.first, found - s.first, gone)
        for s, mask, live, found, gone in zip(specs, after, *parts, strict=True)
    ]


@pytest.mark.parametrize(
    ("density", "small"),
    [
        *((d, JOINED) for d in (0.02, 0.5, 0.9, 0.99, 1.0)),
        (0.02, EACH_ALONE),
        (0.9, LARGE_AND_SMALL),
        (1.0, EACH_ALONE),
    ],
)
def test_as_many_are_activated_as_die_and_none_that_just_died(density, small, monkeypatch):
    monkeypatch.setattr(rewiring, "SMALL", small)
    rng = np.random.default_rng(7)
    for step in range(5):
        # The layers differ: in one all dropped weights are replaced, in the other not, and the other way round.
        masks = [rng.permutation(n) < round(n * d) for n, d in zip(SIZES, (density, 1.02 - density), strict=True)]
        crossed = [rng.random(np.count_nonzero(m)) < 0.5 for m in masks]
        for place, (after, live, found, gone) in enumerate(activated(masks, crossed, step)):
            mask = masks[place]
            assert np.count_nonzero(after) == np.count_nonzero(mask)
            np.testing.assert_array_equal(np.sort(found), np.flatnonzero(after))
            assert not after[live[gone]].any()
            assert not mask[found[gone]].any()
            np.testing.assert_array_equal(found[~gone], live[~gone])
            dead, dying = np.flatnonzero(~mask).tolist(), live[crossed[place]].tolist()
            reference = plain.activate(plain.key_of(0), step, place, dead, dying, len(mask))
            assert (found[gone].tolist(), set(live[gone].tolist())) == reference
            assert np.count_nonzero(gone) == min(len(dying), len(dead))


@pytest.mark.parametrize("live", [17, 45])  # of 50: enough dead weights, or fewer than cross zero
def test_the_order_of_live_positions_does_not_matter(live):
    rng = np.random.default_rng(0)
    masks = [np.arange(200) < 1, rng.permutation(50) < live]
    crossed = [np.array([True]), np.arange(live) % 2 == 0]
    order = np.array([0, *(1 + rng.permutation(live))])
    one, other = activated(masks, crossed)[1], activated(masks, crossed, order=order)[1]
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[3][order[1:] - 1], other[3])
    np.testing.assert_array_equal(np.sort(one[2]), np.sort(other[2]))


def test_more_weights_cross_zero_than_are_drawn_at_once():
    live = np.arange(6_000, dtype="int32")
    arguments = ([(np.arange(20_000) < 6_000).reshape(200, 100)], live, live >= 0)
    activates = compiled(lambda *arrays: activate(counter_rng.key_of(0), 3, (spec(0, 20_000, 6_000),), *arrays))
    (mask,), found, gone = activates(*arguments)
    mask, found, gone = numpy(mask), numpy(found), numpy(gone)
    assert gone.all()
    assert len(set(found.tolist())) == 6_000
    assert found.min() >= 6_000
    np.testing.assert_array_equal(np.sort(found), np.flatnonzero(mask))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1024, 2500])
def test_exclusive_sum_counts_the_true_entries_before_each_position(count):
    flags = np.random.default_rng(count).random(count) < 0.5
    found = numpy(exclusive_sum(ops.convert_to_tensor(flags)))
    np.testing.assert_array_equal(found, [np.count_nonzero(flags[:i]) for i in range(count)])


@pytest.mark.parametrize("small", [LARGE_AND_SMALL, JOINED])
def test_a_layer_without_live_weights_gets_none(small, monkeypatch):
    monkeypatch.setattr(rewiring, "SMALL", small)
    masks = [np.zeros(200, bool), np.arange(50) < 30]
    (empty, *_), (after, _, found, gone) = activated(masks, [np.zeros(0, bool), np.arange(30) < 4])
    assert not empty.any()
    assert np.count_nonzero(after) == 30
    assert np.count_nonzero(gone) == 4
    np.testing.assert_array_equal(np.sort(found), np.flatnonzero(after))


def test_each_dead_position_is_as_likely_as_any_other():
    masks = [np.arange(200) < 1, np.arange(50) < 30]
    count = np.zeros(50)
    for step in range(300):
        after = activated(masks, [np.array([False]), np.arange(30) < 4], step)[1][0]
        count += after & ~masks[1]
    assert count.sum() == 1200
    expected = 1200 / 20
    assert ((count[30:] - expected) ** 2 / expected).sum() < 50  # 19 degrees of freedom: p = 1e-4
