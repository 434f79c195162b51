"""Rewiring inside the compiled step: drops given live weights, and activates as many random dead ones of the layer.

Masks of large layers are read and written at single positions only, so that the time depends on the number of live
weights and drawn positions, and not on the size of a layer.
"""

import itertools

import numpy as np
from keras import ops

from keras_sparse import counter_rng

MOST_POSITIONS = 2**31 - 1  # the largest int32, since positions are int32
SMALL = 2**20  # Layers of up to this many weights have their masks concatenated and split at each step.


def activate(key, step, specs, masks, live, crossed):
    """Drops the weights that crossed zero, and activates as many weights of the same layer that were dead.

    For each layer, random positions are drawn in rounds, and those that are dead are activated, until there are as many
    as crossed zero. So all sets of dead positions are equally likely. The number of rounds is limited: if too few dead
    positions were found by then, the crossed weights at the highest positions stay live.

    Args:
        key: key of `counter_rng.key_of`.
        step: int32 scalar, the optimizer step.
        specs: tuple of objects with the ints `first`, `size` and `live`, such as `LayerSpec`, one for each layer.
        masks: list of arrays of booleans or bytes, the masks, in the shapes of the weights.
        live: int32 array, the live positions, layer by layer, numbered as in `LayerSpec.first`. The positions of one
            layer may have any order.
        crossed: boolean array of the shape of `live`, True for the weights that crossed zero.

    Returns:
        `(masks, live, dropped)`: the new masks; the new live positions, in which each activated position takes the
        entry of a dropped one; and a boolean array of the shape of `live`, True for the entries that were dropped.
    """
    parts, groups, count = parts_of(specs), _groups(specs), live.shape[0]
    one, most = ops.cast(1, "int32"), np.int32(MOST_POSITIONS)
    firsts = ops.convert_to_tensor(np.array([spec.first for spec in specs], "int32"))
    # rank[j] = number of crossed weights before the j-th entry of `live`. Layer i needs as many new positions as it has
    # crossed weights: needed[i] = bounds[i + 1] - bounds[i]. The new positions of all layers are collected in the array
    # `activated`: those of layer i are activated[begins[i] : begins[i] + needed[i]]. At the end, the j-th entry of
    # `live`, if it crossed zero, becomes activated[rank[j]].
    rank = exclusive_sum(ops.pad(crossed, (0, 1)))
    bounds = ops.take(rank, np.cumsum([0, *(spec.live for spec in specs)]))
    begins, needed = bounds[:-1], bounds[1:] - bounds[:-1]
    possible = ops.minimum(needed, np.array([spec.size - spec.live for spec in specs], "int32"))

    # Each turn of the search draws a row of positions for each layer. Activated positions are marked in the masks at
    # once, so that no later turn activates them again. Positions of crossed weights stay marked until the search is
    # over, so that a weight that was just dropped is not activated.
    def missing(draw, found, *_):
        return ops.logical_and(draw < counter_rng.ROUNDS, ops.any(found < possible))

    def search(draw, found, activated, *marks):
        drawn, counts = counter_rng.distinct(key, step, draw, [spec.size for spec in specs])
        marked = [elements_at(mark, group.rows(drawn)) for mark, group in zip(marks, groups, strict=True)]
        dead = ops.logical_and(counts, ops.logical_not(ops.cast(_rows_by_layer(marked, groups), "bool")))
        # place[i, j] = number of dead positions of layer i found before the j-th of this row, in this turn or earlier.
        # The j-th position is activated if it is dead and place[i, j] < needed[i].
        place = ops.reshape(exclusive_sum(ops.reshape(dead, (-1,))), drawn.shape)
        place = place - place[:, :1] + found[:, None]
        activates = ops.logical_and(dead, place < needed[:, None])
        # Arrays in a compiled step have fixed lengths, so all drawn positions are written. Those that are not activated
        # go to the additional entry at the end of `activated`, which is never read.
        place = ops.where(activates, place + begins[:, None], count)
        activated = with_elements(activated, ops.reshape(place, (-1,)), ops.reshape(drawn + firsts[:, None], (-1,)))
        marks = [group.marked(mark, drawn, activates, live) for mark, group in zip(marks, groups, strict=True)]
        return draw + one, found + ops.sum(ops.cast(activates, "int32"), axis=1), activated, *marks

    start = (one, ops.zeros_like(needed), ops.zeros((count + 1,), "int32"), *(group.join(masks) for group in groups))
    _, found, activated, *marks = ops.while_loop(missing, search, start)

    # If layer i found fewer positions than it needs, only found[i] of its crossed weights are dropped: those at the
    # lowest positions.
    def drop_as_many_as_found():
        # `ordered` has the crossed positions, sorted. Those of layer i begin at begins[i], since `live` and `first` go
        # layer by layer. A crossed position is dropped if it is less than limits[i], number found[i] of its layer,
        # counted from 0.
        ordered = ops.pad(ops.sort(ops.where(crossed, live, most)), (0, 1), constant_values=most)
        limits = ops.where(found < needed, ops.take(ordered, begins + found), most)
        # Earlier layers that found too few positions leave entries of `activated` unused. Later places shift by these.
        unused = ops.cumsum(needed - found) - (needed - found)
        layer = ops.searchsorted(firsts, live, side="right") - 1
        dropped = ops.logical_and(crossed, live < ops.take(limits, layer))
        return dropped, exclusive_sum(dropped) + ops.take(unused, layer)

    dropped, place = ops.cond(ops.any(found < needed), drop_as_many_as_found, lambda: (crossed, rank[:-1]))
    # Unmark the dropped weights. In `live`, the activated positions replace the dropped ones.
    masks = list(masks)
    for mark, group in zip(marks, groups, strict=True):
        stays = ops.concatenate([ops.logical_not(dropped[parts[i]]) for i in group.layers])
        for i, mask in zip(group.layers, group.split(with_elements(mark, group.positions(live), stays)), strict=True):
            masks[i] = ops.reshape(mask, masks[i].shape)
    return masks, ops.where(dropped, ops.take(activated, place), live), dropped


class _Group:
    """Layers whose masks form one array during the search: several flat masks concatenated, or one mask as it is.

    Args:
        specs: tuple of the specs of all layers.
        layers: list of ints, the indices of the layers of this group.
    """

    def __init__(self, specs, layers):
        self.specs, self.layers = specs, layers
        self._parts = parts_of(specs)
        self._ends = list(itertools.accumulate(specs[i].size for i in layers))
        self._offsets = [0, *self._ends[:-1]]

    def join(self, masks):
        """Returns the array of this group, from the list of the masks of all layers."""
        if len(self.layers) == 1:  # not flattened, since XLA copies an array that is flattened and then written to
            return masks[self.layers[0]]
        return ops.concatenate([ops.reshape(masks[i], (-1,)) for i in self.layers])

    def split(self, mark):
        """Returns the masks of this group, from its array. They may be flat."""
        if len(self.layers) == 1:
            return [mark]
        return [mark[offset:end] for offset, end in zip(self._offsets, self._ends, strict=True)]

    def rows(self, drawn):
        """Returns positions in the array of this group, from positions within the layers, one row a layer."""
        return self._chosen(drawn) + ops.convert_to_tensor(np.array(self._offsets, "int32")[:, None])

    def positions(self, live):
        """Returns the positions of the live weights in the array of this group."""
        shifts = [offset - self.specs[i].first for offset, i in zip(self._offsets, self.layers, strict=True)]
        return ops.concatenate([live[self._parts[i]] + by for i, by in zip(self.layers, shifts, strict=True)])

    def marked(self, mark, drawn, activates, live):
        """Returns the array of this group with the activated positions marked."""
        living = [(i, offset) for i, offset in zip(self.layers, self._offsets, strict=True) if self.specs[i].live]
        if not living:  # no live weights, so nothing is dropped, and nothing is activated
            return mark
        # All drawn positions are written, since arrays have fixed lengths. Those that are not activated write True to a
        # position that is True already: that of a live weight.
        layer, offset = living[0]
        harmless = live[self._parts[layer].start] - self.specs[layer].first + offset
        positions = ops.reshape(ops.where(self._chosen(activates), self.rows(drawn), harmless), (-1,))
        return with_elements(mark, positions, ops.ones(positions.shape, "bool"))

    def _chosen(self, rows):
        return rows if len(self.layers) == len(self.specs) else ops.take(rows, np.array(self.layers, "int32"), axis=0)


def _groups(specs):
    """Returns one group of all small layers, since XLA compiles many scatters slowly, and one for each large layer."""
    small = [i for i, spec in enumerate(specs) if spec.size <= SMALL]
    large = [[i] for i, spec in enumerate(specs) if spec.size > SMALL]
    return [_Group(specs, layers) for layers in ([small] if small else []) + large]


def _rows_by_layer(rows, groups):
    """Returns the rows of all groups as one array, in the order of the layers."""
    order = np.argsort([i for group in groups for i in group.layers])
    return rows[0] if len(groups) == 1 else ops.take(ops.concatenate(rows), order.astype("int32"), axis=0)


def exclusive_sum(flags, levels=2):
    """Returns, for each entry of a 1-D boolean array, the number of True entries before it: int32 array.

    This exclusive cumulative sum would be the slowest part of a step. So the array is split into rows of 32, in each of
    which a product with a triangular matrix of ones computes the sums; the sums of the rows are added in the same way,
    `levels` times. All factors are at most 32, exact in any precision in which devices multiply matrices.
    """
    if levels == 0:
        counts = ops.cast(flags, "int32")
        return ops.cumsum(counts) - counts
    rows = -(-flags.shape[0] // 32)
    table = ops.reshape(ops.pad(ops.cast(flags, "float32"), (0, 32 * rows - flags.shape[0])), (rows, 32))
    within = ops.cast(ops.matmul(table, np.tri(32, k=-1, dtype="float32").T), "int32")
    return ops.reshape(within + exclusive_sum(ops.sum(table, axis=1), levels - 1)[:, None], (-1,))[: flags.shape[0]]


def parts_of(specs):
    """Returns, for each layer, the slice of its entries in an array of the live weights of all layers."""
    return [slice(*x) for x in itertools.pairwise([0, *itertools.accumulate(spec.live for spec in specs)])]


def elements_at(array, positions):
    """Returns the elements of an array at flat positions."""
    return ops.take(ops.reshape(array, (-1,)), positions)


def with_elements(array, positions, values):
    """Returns the array with `values` at the given flat positions."""
    # XLA writes in place to an array that nothing else reads later. Flattening it first would make XLA copy it, so the
    # positions are converted instead.
    places = ops.unravel_index(positions, array.shape) if len(array.shape) > 1 else (positions,)
    return ops.scatter_update(array, ops.stack(places, axis=1), ops.cast(values, array.dtype))
