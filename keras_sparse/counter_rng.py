"""Counter-based random numbers for compiled steps: each is a pure function of a key, a position and a step.

The generator has no state, so that a draw depends neither on the order of the positions nor on earlier draws. A resumed
run, another replica and another backend draw the same numbers.

The generator is Threefry-2x32 with 20 rounds. It encrypts a counter of two 32-bit words, here `(position, step * ROUNDS
+ draw)`, into two words of random bits. All words are int32, whose overflow wraps around, since PyTorch lacks most
operations for uint32.

Reference:
    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import math

import numpy as np
from keras import ops

ROUNDS = 64  # maximum number of draws for a position in a step
ROW = 512  # number of ints in a row of `distinct`
_BITS = 12  # number of bits of the hashes in `distinct`
_SIGN = -1  # second counter word of `signs`, which do not depend on the step; the counters of steps are not negative


def key_of(*numbers: int) -> tuple[int, int]:
    """Derives a key from some ints of at least 0.

    Args:
        *numbers: ints of at least 0, such as a seed.

    Returns:
        Tuple of two Python ints in [-2**31, 2**31).
    """
    return tuple(np.random.SeedSequence(numbers).generate_state(2, np.uint32).view(np.int32).tolist())


def normal(key: tuple[int, int], positions, step):
    """Draws a standard normal number for each position.

    Args:
        key: key made by `key_of`.
        positions: int32 tensor.
        step: int32 scalar of at least 0.

    Returns:
        float32 tensor of the shape of `positions`.
    """
    # The upper 23 bits of a word: an int in [0, 2**23). The mask removes the sign that the shift repeats.
    bits = ops.bitwise_and(ops.right_shift(threefry(key, positions, _counter(positions, step, 0))[0], 9), (1 << 23) - 1)
    # u = (bits + 1/2) / 2**22 - 1, uniform in (-1, 1). The offset of 1/2 excludes the ends, where erfinv is infinite.
    uniform = (ops.cast(bits, "float32") + 0.5) * 2.0**-22 - 1.0
    # The inverse of the normal distribution function: z = sqrt(2) * erfinv(u).
    return math.sqrt(2) * ops.erfinv(uniform)


def distinct(key: tuple[int, int], step, draw, below):
    """Draws rows of random ints, and marks a subset of each row in which no int is repeated.

    Repetitions are found by a hash table, which is smaller than the range of the ints. The first int with a given hash
    is valid, later ones are not. So a few ints are rejected although they occur once, because another int has the same
    hash. The hash function is random and differs between rows and draws, so that no int is rejected more often than
    another.

    Args:
        key: key made by `key_of`.
        step: int32 scalar of at least 0.
        draw: int32 scalar in [1, ROUNDS), the index of the draw in this step. Index 0 is used by `normal`.
        below: sequence of ints of at least 1, the exclusive upper bound of each row.

    Returns:
        Tuple `(ints, valid)` of an int32 and a boolean tensor of shape `(len(below), ROW)`. Ints are in [0, bound of
        their row); those that are `valid` differ from each other.
    """
    shape = (len(below), ROW)
    below = np.array(below)[:, None]
    # The counter: place in the array, step and draw. The first word gives the ints, the second the hash functions.
    place = ops.arange(math.prod(shape), dtype="int32")
    bits, others = (ops.reshape(x, shape) for x in threefry(key, place, _counter(place, step, draw)))
    # 31 random bits, modulo the bound.
    bits = ops.bitwise_and(bits, (1 << 31) - 1)
    drawn = ops.mod(bits, below.astype("int32"))
    # Multiply-shift hashing (Dietzfelbinger et al., 1997): the upper _BITS bits of the int times a random odd number.
    hashes = ops.bitwise_and(ops.right_shift(drawn * ops.bitwise_or(others[:, :1], 1), 32 - _BITS), (1 << _BITS) - 1)
    # Every row has a table of its own, with 2**_BITS slots.
    tables = ops.arange(shape[0], dtype="int32")[:, None] * (1 << _BITS)
    slots = ops.reshape(hashes + tables, (-1,))
    # The first int of each slot: the smallest place, as the maximum of the negated places.
    first = ops.equal(ops.take(ops.segment_max(-place, slots, shape[0] << _BITS), slots), -place)
    # Reject bits from the largest multiple of the bound on, so that the modulo is unbiased.
    fair = ops.less_equal(bits, ((1 << 31) // below * below - 1).astype("int32"))
    return drawn, ops.logical_and(fair, ops.reshape(first, shape))


def signs(key: tuple[int, int], positions):
    """Draws -1 or 1 for each position, the same at every step.

    Args:
        key: key made by `key_of`.
        positions: int32 tensor.

    Returns:
        float32 tensor of the shape of `positions`.
    """
    bits = threefry(key, positions, ops.full_like(positions, _SIGN))[0]
    return 1 - 2 * ops.cast(bits < 0, "float32")


def threefry(key: tuple[int, int], first, second):
    """Encrypts counters by the block cipher Threefry-2x32.

    Args:
        key: key made by `key_of`.
        first: int32 tensor, the first word of each counter.
        second: int32 tensor of the same shape, the second word.

    Returns:
        Tuple of two int32 tensors of the same shape, each with 32 random bits per entry.
    """
    # Key schedule: the two words of the key, and their parity (the constant is the one of Skein).
    keys = (*key, _wrapped(key[0] ^ key[1] ^ 0x1BD11BDA))
    # Key injection before the first round.
    first, second = first + keys[0], second + keys[1]
    for i in range(5):
        # Four rounds: x0 += x1; x1 = rotate_left(x1, rotation) ^ x0. Two lists of rotations alternate.
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            first = first + second
            second = ops.bitwise_xor(_rotated(second, rotation), first)
        # Key injection after every four rounds: the next two words of the key, and the number of the injection.
        first, second = first + keys[(i + 1) % 3], second + _wrapped(keys[(i + 2) % 3] + i + 1)
    return first, second


def _counter(positions, step, draw):
    """Makes the second word of the counters."""
    return ops.broadcast_to(step * ROUNDS + draw, positions.shape)


def _rotated(x, left):
    """Rotates the bits of int32 words to the left."""
    # A shift of an int32 to the right copies the sign bit: the mask keeps the `left` bits that are shifted out.
    right = ops.bitwise_and(ops.right_shift(x, 32 - left), (1 << left) - 1)
    return ops.bitwise_or(ops.left_shift(x, left), right)


def _wrapped(number):
    """Wraps a Python int to the range of int32, as overflow does."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)
