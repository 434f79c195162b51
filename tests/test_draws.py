"""Random numbers by counter: against known answers, plain Python, and what they should be distributed like."""

import functools
import math

import numpy as np
import pytest
import threefry as plain
from keras import ops
from nets import numpy

from keras_sparse.methods import draws
from keras_sparse.methods.deepr import before, wake
from keras_sparse.methods.inside import compiled

POSITIONS = np.arange(20_000, dtype="int32")


def as_int32(number):
    return int(np.array(number, "uint32").view("int32"))


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [  # of Random123, the authors' library: its file kat_vectors, threefry 2x32 with 20 rounds
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(key, counter, answer):
    assert plain.threefry(key, counter) == list(answer)
    first, second = (ops.convert_to_tensor(np.array([as_int32(c)], "int32")) for c in counter)
    ours = draws.threefry(tuple(map(as_int32, key)), first, second)
    assert [int(numpy(x).view("uint32")[0]) for x in ours] == list(answer)


def test_draws_equal_plain_python():
    key, same = draws.key_of(3, 1), plain.key_of(3, 1)
    positions = np.array([0, 1, 77, 2**30], "int32")
    noise = numpy(draws.normal(key, ops.convert_to_tensor(positions), np.int32(12)))
    assert noise == pytest.approx([plain.normal(same, int(p), 12) for p in positions], rel=1e-5)
    assert numpy(draws.signs(key, ops.convert_to_tensor(positions))).tolist() == [
        plain.sign(same, int(p)) for p in positions
    ]


def test_noise_is_standard_normal_and_new_at_each_step_and_position():
    key = draws.key_of(0, 0)
    one, other = (numpy(draws.normal(key, ops.convert_to_tensor(POSITIONS), np.int32(s))) for s in (1, 2))
    n = len(one)
    assert abs(one.mean()) < 4 / math.sqrt(n)
    assert abs(one.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((one**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(n)
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 4 / math.sqrt(n)


@pytest.mark.parametrize("below", [1, 7, 1 << 20, 3 * (1 << 29)])
def test_ints_that_count_are_equally_likely(below):
    """Of 3 * 2^29 a quarter of the draws does not count: else the first quarter would come twice as often."""
    drawn, counts = map(
        numpy, draws.integers(draws.key_of(1), ops.convert_to_tensor(POSITIONS), np.int32(5), np.int32(2), below)
    )
    drawn, n = drawn[counts], counts.sum()
    assert drawn.min() >= 0
    assert drawn.max() < below
    expected = 2**31 // below * below / 2**31
    assert abs(counts.mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / len(counts)) + 1e-12
    bins = min(below, 8)
    found = np.bincount((drawn.astype("int64") * bins) // below, minlength=bins)
    assert ((found - n / bins) ** 2 / (n / bins)).sum() < 30  # 7 degrees of freedom: p = 1e-4


@functools.cache
def _wake(key, size):
    return compiled(lambda step, mask, live, crossed: wake(key, step, size, mask, live, crossed))


def woken(mask, crossed, step=0, seed=0):
    live = np.flatnonzero(mask).astype("int32")
    key = draws.key_of(seed, 0)
    after, found, staying = map(numpy, _wake(key, len(mask))(np.int32(step), mask, live, crossed))
    return live, after, found, staying


@pytest.mark.parametrize("density", [0.02, 0.5, 0.9, 0.99, 1.0])
def test_as_many_wake_as_die_and_none_that_just_died(density):
    rng = np.random.default_rng(7)
    for step in range(5):
        mask = rng.permutation(200) < round(200 * density)
        crossed = rng.random(np.count_nonzero(mask)) < 0.5
        live, after, found, staying = woken(mask, crossed, step)
        assert np.count_nonzero(after) == np.count_nonzero(mask)
        np.testing.assert_array_equal(np.sort(found), np.flatnonzero(after))
        gone = crossed & ~staying
        assert not after[live[gone]].any()
        assert not mask[found[gone]].any()
        np.testing.assert_array_equal(found[~gone], live[~gone])
        dead, dying = np.flatnonzero(~mask).tolist(), live[crossed].tolist()
        reference = plain.wake(plain.key_of(0, 0), step, dead, dying, len(mask))
        assert (found[gone].tolist(), set(live[gone].tolist())) == reference
        if density < 0.9:
            assert not staying.any()


@pytest.mark.parametrize("live", [17, 45])  # of 50: many to wake, or fewer than cross
def test_it_does_not_matter_in_which_order_live_positions_are_held(live):
    rng = np.random.default_rng(0)
    mask = rng.permutation(50) < live
    positions, crossed = np.flatnonzero(mask).astype("int32"), np.arange(live) % 2 == 0
    order = rng.permutation(live)
    key = draws.key_of(0, 0)
    one, other = (
        [numpy(x) for x in wake(key, ops.cast(9, "int32"), 50, *map(ops.convert_to_tensor, (mask, *lists)))]
        for lists in ((positions, crossed), (positions[order], crossed[order]))
    )
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[2][order], other[2])
    np.testing.assert_array_equal(np.sort(one[1]), np.sort(other[1]))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1024, 2500])
def test_how_many_are_true_before_each(count):
    flags = np.random.default_rng(count).random(count) < 0.5
    found = numpy(before(ops.convert_to_tensor(flags)))
    np.testing.assert_array_equal(found, [np.count_nonzero(flags[:i]) for i in range(count)])


def test_each_dead_position_is_as_likely_as_any_other():
    mask, count = np.arange(30) < 10, np.zeros(30)
    for step in range(300):
        _, after, _, _ = woken(mask, np.arange(10) < 4, step)
        count += after & ~mask
    assert count.sum() == 1200
    expected = 1200 / 20
    assert ((count[10:] - expected) ** 2 / expected).sum() < 50  # 19 degrees of freedom: p = 1e-4
