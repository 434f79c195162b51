"""Random numbers inside of a compiled step: each is a pure function of a key, a position and a step.

So a draw depends neither on the order in which positions are held nor on what was drawn before: a resumed run, another
replica and another backend draw the same.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011: Threefry-2x32 with 20 rounds.
"""

import math

import numpy as np
from keras import ops

ROUNDS = 64  # how many draws a position has at a step
ROW = 512  # ints that are drawn at once
_BITS = 12  # of their hashes
_SIGN = -1  # the counter of what is drawn once for all steps; those of steps are not negative


def key_of(*numbers):
    """The key that belongs to some ints of at least 0: two ints, of 32 bits each."""
    return tuple(np.random.SeedSequence(numbers).generate_state(2, np.uint32).view(np.int32).tolist())


def normal(key, positions, step):
    """A standard normal number for each position: float32 array of the shape of `positions`, int32."""
    bits = ops.bitwise_and(ops.right_shift(threefry(key, positions, _counter(positions, step, 0))[0], 9), (1 << 23) - 1)
    uniform = (ops.cast(bits, "float32") + 0.5) * 2.0**-22 - 1.0  # in (-1, 1), its ends left out
    return math.sqrt(2) * ops.erfinv(uniform)


def distinct(key, step, draw, below):
    """Rows of random ints, those that count distinct.

    An int that comes twice in a row counts the first time. To find that out by a table that is smaller than the range
    of the ints, their hashes are compared, so that now and then one of two unlike ints does not count either. The hash
    is a random one, new for each row and draw: so this happens to all alike.

    Args:
        key: of `key_of`.
        step: int32 scalar.
        draw: int32 scalar in [1, ROUNDS), which of the draws of the step.
        below: for each row an int of at least 1.

    Returns:
        `(int32 array, boolean array)`, both of shape `(len(below), ROW)`: ints of at least 0, below the row's `below`,
        and which of them count.
    """
    shape = (len(below), ROW)
    below = np.array(below)[:, None]
    place = ops.arange(math.prod(shape), dtype="int32")
    bits, others = (ops.reshape(x, shape) for x in threefry(key, place, _counter(place, step, draw)))
    bits = ops.bitwise_and(bits, (1 << 31) - 1)
    drawn = ops.mod(bits, below.astype("int32"))
    # Multiply-shift (Dietzfelbinger et al., 1997).
    hashes = ops.bitwise_and(ops.right_shift(drawn * ops.bitwise_or(others[:, :1], 1), 32 - _BITS), (1 << _BITS) - 1)
    tables = ops.arange(shape[0], dtype="int32")[:, None] * (1 << _BITS)
    slots = ops.reshape(hashes + tables, (-1,))
    first = ops.equal(ops.take(ops.segment_max(-place, slots, shape[0] << _BITS), slots), -place)
    # So that all ints are equally likely.
    fair = ops.less_equal(bits, ((1 << 31) // below * below - 1).astype("int32"))
    return drawn, ops.logical_and(fair, ops.reshape(first, shape))


def signs(key, positions):
    """-1 or 1 for each position, for life: float32 array of the shape of `positions`, int32."""
    bits = threefry(key, positions, ops.full_like(positions, _SIGN))[0]
    return 1 - 2 * ops.cast(bits < 0, "float32")


def threefry(key, first, second):
    """The block cipher: two int32 arrays of random bits for two int32 arrays of counters, and a key."""
    keys = (*key, _wrapped(key[0] ^ key[1] ^ 0x1BD11BDA))
    first, second = first + keys[0], second + keys[1]
    for i in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            first = first + second
            second = ops.bitwise_xor(_rotated(second, rotation), first)
        first, second = first + keys[(i + 1) % 3], second + _wrapped(keys[(i + 2) % 3] + i + 1)
    return first, second


def _counter(positions, step, draw):
    return ops.broadcast_to(step * ROUNDS + draw, positions.shape)


def _rotated(x, left):
    # Shifts to the right bring in the sign.
    right = ops.bitwise_and(ops.right_shift(x, 32 - left), (1 << left) - 1)
    return ops.bitwise_or(ops.left_shift(x, left), right)


def _wrapped(number):
    """The int of 32 bits, with a sign, that overflow makes of an int."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)
