"""Threefry-2x32 in plain Python, written from Salmon et al. (2011), and the random draws of DeepR."""

import math
import statistics

import numpy as np

WORD = 1 << 32
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def threefry(key, counter):
    """Encrypts two words of a counter with a key of two words; returns two words."""
    schedule = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x = [(c + k) % WORD for c, k in zip(counter, schedule, strict=False)]
    for turn in range(20):
        x[0] = (x[0] + x[1]) % WORD
        x[1] = (x[1] << ROTATIONS[turn % 8] | x[1] >> (32 - ROTATIONS[turn % 8])) % WORD ^ x[0]
        if turn % 4 == 3:
            block = turn // 4 + 1
            x[0] = (x[0] + schedule[block % 3]) % WORD
            x[1] = (x[1] + schedule[(block + 1) % 3] + block) % WORD
    return x


def key_of(*numbers):
    return [int(n) for n in np.random.SeedSequence(numbers).generate_state(2)]


def bits(key, position, step, draw):
    return threefry(key, (position, (step * 64 + draw) % WORD))[0]


def normal(key, position, step):
    """Draws a normal number by the inverse distribution function, from 23 bits."""
    uniform = ((bits(key, position, step, 0) >> 9) + 0.5) / 2**23
    return statistics.NormalDist().inv_cdf(uniform)


def sign(key, position):
    """Draws the fixed sign of a position."""
    return -1 if threefry(key, (position, WORD - 1))[0] >> 31 else 1


def row(key, step, draw, place, below):
    """Draws a row of ints; returns the valid ones in order."""
    words = [threefry(key, (place * 512 + i, (step * 64 + draw) % WORD)) for i in range(512)]
    numbers, odd, seen, counting = [w[0] % 2**31 for w in words], words[0][1] | 1, set(), []
    for number in numbers:
        drawn = number % below
        slot = drawn * odd % WORD >> 20
        if number < 2**31 // below * below and slot not in seen:
            counting.append(drawn)
        seen.add(slot)
    return counting


def activate(key, step, place, dead, dying, size):
    """Draws as many positions of `dead` as weights are dropped; returns their list, and the set of dropped ones."""
    free, found = set(dead), []
    for draw in range(1, 64):
        for drawn in row(key, step, draw, place, size):
            if len(found) < len(dying) and drawn in free:
                found.append(drawn)
                free.remove(drawn)
        if len(found) == len(dying):
            break
    return found, set(sorted(dying)[: len(found)])


def deviation(eta, temperature):
    return math.sqrt(2 * eta * temperature)
