"""Rewiring inside of the compiled step where a mask has an N:M pattern: a dropped weight is replaced in its group."""

from keras import ops

from keras_sparse import counter_rng as draws
from keras_sparse.training.rewiring import elements_at, parts_of, with_elements


def wake_in_groups(key, step, specs, masks, live, crossed):
    """Drops the weights that crossed zero, and activates as many dead ones of the same groups.

    All sets of dead positions of a group are equally likely. A weight of a group that has no dead one left stays.

    Args:
        key: of `counter_rng.key_of`.
        step: int32 scalar.
        specs: for each layer a `keras_sparse.training.layer_state.LayerSpec` with a pattern.
        masks: list of arrays of booleans or bytes, the masks of the layers before, in the shapes of their weights.
        live: int32 array, the live positions, layer by layer, counted as in `LayerSpec.first`.
        crossed: boolean array like it, which of them crossed zero.

    Returns:
        `(masks, live, gone)`, as `keras_sparse.training.rewiring.wake`.
    """
    made, lives, gones = [], [], []
    for spec, mask, part in zip(specs, masks, parts_of(specs), strict=True):
        local = live[part] - spec.first
        new, gone = _replacements(key, step, spec, mask, local, crossed[part])
        mask = with_elements(mask, local, ops.logical_not(gone))
        made.append(with_elements(mask, new, ops.ones(new.shape, "bool")))
        lives.append(new + spec.first)
        gones.append(gone)
    return made, ops.concatenate(lives), ops.concatenate(gones)


def _replacements(key, step, spec, mask, local, crossed):
    """The positions of a layer's live weights after, and which of those before are gone."""
    shape, axis, size = spec.pattern.shape, spec.pattern.axis, spec.pattern.size
    moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])  # The groups lie along the last axis.

    def grouped(array):
        return ops.reshape(ops.moveaxis(ops.reshape(array, shape), axis, -1), (-1, size))

    def flat(array):
        return ops.reshape(ops.moveaxis(ops.reshape(array, moved), -1, axis), (-1,))

    positions = ops.arange(spec.size, dtype="int32")
    by_group, dead = grouped(positions), ops.logical_not(ops.cast(grouped(mask), "bool"))
    crosses = grouped(with_elements(ops.zeros((spec.size,), "bool"), local, crossed))
    # Dead ones come first, in random order. The walk draws numbers of live positions only, so these are unused.
    scores = ops.where(dead, grouped(draws.normal(key, positions + spec.first, step)), -float("inf"))
    order = ops.cast(ops.argsort(-scores, axis=-1), "int32")
    # The k-th weight of a group that crossed zero is replaced by its k-th dead one.
    rank = ops.cumsum(ops.cast(crosses, "int32"), axis=-1) - 1
    leaves = ops.logical_and(crosses, rank < ops.sum(ops.cast(dead, "int32"), axis=-1, keepdims=True))
    member = ops.take_along_axis(order, ops.maximum(rank, 0), axis=-1)
    new = ops.where(leaves, ops.take_along_axis(by_group, member, axis=-1), by_group)
    return elements_at(flat(new), local), elements_at(flat(leaves), local)
