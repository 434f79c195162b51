"""Dropping some live weights inside of the compiled step, and waking as many dead ones of the same layer at random.

Masks of large layers are only read and written at single positions, so that the work goes by the live weights and the
drawn positions, whatever the size of a layer.
"""

import itertools

import numpy as np
from keras import ops

from keras_sparse import counter_rng as draws

MOST_POSITIONS = 2**31 - 1  # of int32, by which draws are made
SMALL = 2**20  # Up to this size the masks of layers are joined and taken apart at each step: a byte for each weight.


def wake(key, step, specs, masks, live, crossed):
    """Drops the weights that crossed zero, and wakes as many of the same layer that were dead.

    Positions are drawn until as many dead ones have come as crossed zero, so all sets of dead positions are equally
    likely. If they run out, the crossed ones of the highest positions stay.

    Args:
        key: of `draws.key_of`.
        step: int32 scalar.
        specs: for each layer an object with `first`, `size` and `live`, ints.
        masks: list of arrays of booleans or bytes, the masks of the layers before, in the shapes of their kernels.
        live: int32 array, the live positions, counted as in `LayerSpec.first`, layer by layer. Those of a layer may
            have any order.
        crossed: boolean array like it, which of them crossed zero.

    Returns:
        `(masks, live, gone)`: the masks and the live positions after, each woken one in the place of one that died,
        and a boolean array like `live`, True for what died.
    """
    parts, groups, count = parts_of(specs), _groups(specs), live.shape[0]
    one, most = ops.cast(1, "int32"), np.int32(MOST_POSITIONS)
    firsts = ops.convert_to_tensor(np.array([spec.first for spec in specs], "int32"))
    # The woken of all layers go into one array: those of a layer from `begins` on, `needed` of them.
    rank = before(ops.pad(crossed, (0, 1)))
    bounds = ops.take(rank, np.cumsum([0, *(spec.live for spec in specs)]))
    begins, needed = bounds[:-1], bounds[1:] - bounds[:-1]

    # Each turn of the search draws a row of positions for each layer. What wakes is marked in the masks at once, so
    # that it does not wake again. What crossed zero stays marked until the search is over, so that it does not wake.
    def missing(draw, found, *_):
        return ops.logical_and(draw < draws.ROUNDS, ops.any(found < needed))

    def search(draw, found, woken, *marks):
        drawn, counts = draws.distinct(key, step, draw, [spec.size for spec in specs])
        marked = [elements_at(mark, group.rows(drawn)) for mark, group in zip(marks, groups, strict=True)]
        dead = ops.logical_and(counts, ops.logical_not(ops.cast(_in_order(marked, groups), "bool")))
        # The number of dead ones of the same layer found before each: it wakes if that is less than are needed.
        place = ops.reshape(before(ops.reshape(dead, (-1,))), drawn.shape)
        place = place - place[:, :1] + found[:, None]
        wakes = ops.logical_and(dead, place < needed[:, None])
        # Arrays have fixed lengths: what does not wake is written, too, to a place behind the end of `woken`.
        place = ops.where(wakes, place + begins[:, None], count)
        woken = with_elements(woken, ops.reshape(place, (-1,)), ops.reshape(drawn + firsts[:, None], (-1,)))
        marks = [group.marked(mark, drawn, wakes, live) for mark, group in zip(marks, groups, strict=True)]
        return draw + one, found + ops.sum(ops.cast(wakes, "int32"), axis=1), woken, *marks

    start = (one, ops.zeros_like(needed), ops.zeros((count + 1,), "int32"), *(group.join(masks) for group in groups))
    _, found, woken, *marks = ops.while_loop(missing, search, start)

    def some_stay():
        # The crossed ones of each layer by position, from `begins` on as in `woken`: those before the limit die.
        ordered = ops.pad(ops.sort(ops.where(crossed, live, most)), (0, 1), constant_values=most)
        limits = ops.where(found < needed, ops.take(ordered, begins + found), most)
        unused = ops.cumsum(needed - found) - (needed - found)
        layer = ops.searchsorted(firsts, live, side="right") - 1
        gone = ops.logical_and(crossed, live < ops.take(limits, layer))
        return gone, before(gone) + ops.take(unused, layer)

    gone, place = ops.cond(ops.any(found < needed), some_stay, lambda: (crossed, rank[:-1]))
    masks = list(masks)
    for mark, group in zip(marks, groups, strict=True):
        stays = ops.concatenate([ops.logical_not(gone[parts[i]]) for i in group.layers])
        for i, mask in zip(group.layers, group.split(with_elements(mark, group.positions(live), stays)), strict=True):
            masks[i] = ops.reshape(mask, masks[i].shape)
    return masks, ops.where(gone, ops.take(woken, place), live), gone


class _Group:
    """Layers whose masks are one array in the search: the flat ones one after another, or that of a single layer.

    Args:
        specs: of all layers.
        layers: list of ints, which of them.
    """

    def __init__(self, specs, layers):
        self.specs, self.layers = specs, layers
        self._parts = parts_of(specs)
        self._ends = list(itertools.accumulate(specs[i].size for i in layers))
        self._offsets = [0, *self._ends[:-1]]

    def join(self, masks):
        """The array, from the list of all layers' masks."""
        if len(self.layers) == 1:
            return masks[self.layers[0]]  # As it is: XLA copies a large array that is made flat and written to.
        return ops.concatenate([ops.reshape(masks[i], (-1,)) for i in self.layers])

    def split(self, mark):
        """The masks, flat or in shape, that the array consists of."""
        if len(self.layers) == 1:
            return [mark]
        return [mark[offset:end] for offset, end in zip(self._offsets, self._ends, strict=True)]

    def rows(self, drawn):
        """Positions in the array, from those within layers that are drawn: a row for each layer."""
        return self._chosen(drawn) + ops.convert_to_tensor(np.array(self._offsets, "int32")[:, None])

    def positions(self, live):
        """Positions in the array of the layers' live weights."""
        shifts = [offset - self.specs[i].first for offset, i in zip(self._offsets, self.layers, strict=True)]
        return ops.concatenate([live[self._parts[i]] + by for i, by in zip(self.layers, shifts, strict=True)])

    def marked(self, mark, drawn, wakes, live):
        """The array, True where a drawn position wakes."""
        living = [(i, offset) for i, offset in zip(self.layers, self._offsets, strict=True) if self.specs[i].live]
        if not living:  # Nothing dies here, so nothing wakes.
            return mark
        # What does not wake writes True, too, to a position where that is already: a live one.
        layer, offset = living[0]
        harmless = live[self._parts[layer].start] - self.specs[layer].first + offset
        positions = ops.reshape(ops.where(self._chosen(wakes), self.rows(drawn), harmless), (-1,))
        return with_elements(mark, positions, ops.ones(positions.shape, "bool"))

    def _chosen(self, rows):
        return rows if len(self.layers) == len(self.specs) else ops.take(rows, np.array(self.layers, "int32"), axis=0)


def _groups(specs):
    """The small layers are one group, since XLA takes long to compile many scatters; each large one is its own."""
    small = [i for i, spec in enumerate(specs) if spec.size <= SMALL]
    large = [[i] for i, spec in enumerate(specs) if spec.size > SMALL]
    return [_Group(specs, layers) for layers in ([small] if small else []) + large]


def _in_order(rows, groups):
    """The rows of all groups, in one array, in the order of the layers."""
    order = np.argsort([i for group in groups for i in group.layers])
    return rows[0] if len(groups) == 1 else ops.take(ops.concatenate(rows), order.astype("int32"), axis=0)


def before(flags, levels=2):
    """How many are True before each: int32 array like `flags`, a boolean array of one dimension.

    A running sum of many numbers is the slowest part of a step, so it is made of sums of 32, by a matrix. Its factors
    are at most 32, which all precisions hold exactly that devices multiply matrices in.
    """
    if levels == 0:
        counts = ops.cast(flags, "int32")
        return ops.cumsum(counts) - counts
    rows = -(-flags.shape[0] // 32)
    table = ops.reshape(ops.pad(ops.cast(flags, "float32"), (0, 32 * rows - flags.shape[0])), (rows, 32))
    within = ops.cast(ops.matmul(table, np.tri(32, k=-1, dtype="float32").T), "int32")
    return ops.reshape(within + before(ops.sum(table, axis=1), levels - 1)[:, None], (-1,))[: flags.shape[0]]


def parts_of(specs):
    """For each layer the slice of its weights in an array of the live weights of all layers."""
    return [slice(*x) for x in itertools.pairwise([0, *itertools.accumulate(spec.live for spec in specs)])]


def elements_at(array, positions):
    """The elements of an array at flat positions."""
    return ops.take(ops.reshape(array, (-1,)), positions)


def with_elements(array, positions, values):
    """The array with other elements at some flat positions."""
    # XLA writes in place to an array that nothing else reads later; but not if it is made flat for that: that copies.
    places = ops.unravel_index(positions, array.shape) if len(array.shape) > 1 else (positions,)
    return ops.scatter_update(array, ops.stack(places, axis=1), ops.cast(values, array.dtype))
