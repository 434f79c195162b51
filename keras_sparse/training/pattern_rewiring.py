"""Rewiring inside the compiled step for masks with an N:M pattern: a dropped weight is replaced in its group of M."""

from keras import ops

from keras_sparse import counter_rng
from keras_sparse.training.rewiring import elements_at, parts_of, with_elements


def activate_in_groups(key, step, specs, masks, live, crossed):
    """Drops the weights that crossed zero, and activates as many dead weights of the same groups.

    In each group, all sets of dead positions are equally likely. If a group has fewer dead weights than crossed ones,
    the last of the crossed ones stay live.

    Args:
        key: key of `counter_rng.key_of`.
        step: int32 scalar, the optimizer step.
        specs: tuple of `keras_sparse.training.layer_state.LayerSpec`, each with a pattern.
        masks: list of arrays of booleans or bytes, the masks, in the shapes of the weights.
        live: int32 array, the live positions, layer by layer, numbered as in `LayerSpec.first`.
        crossed: boolean array of the shape of `live`, True for the weights that crossed zero.

    Returns:
        `(masks, live, dropped)`, as returned by `keras_sparse.training.rewiring.activate`.
    """
    made, lives, dropped_by_layer = [], [], []
    for spec, mask, part in zip(specs, masks, parts_of(specs), strict=True):
        local = live[part] - spec.first
        new, dropped = _replacements(key, step, spec, mask, local, crossed[part])
        mask = with_elements(mask, local, ops.logical_not(dropped))
        made.append(with_elements(mask, new, ops.ones(new.shape, "bool")))
        lives.append(new + spec.first)
        dropped_by_layer.append(dropped)
    return made, ops.concatenate(lives), ops.concatenate(dropped_by_layer)


def _replacements(key, step, spec, mask, local, crossed):
    """Returns the new live positions of a layer, and a boolean array that marks which of the old ones are dropped."""
    shape, axis, size = spec.pattern.shape, spec.pattern.axis, spec.pattern.size
    moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])  # with the input axis last, so that groups are contiguous

    def grouped(array):
        return ops.reshape(ops.moveaxis(ops.reshape(array, shape), axis, -1), (-1, size))

    def flat(array):
        return ops.reshape(ops.moveaxis(ops.reshape(array, moved), -1, axis), (-1,))

    positions = ops.arange(spec.size, dtype="int32")
    by_group, dead = grouped(positions), ops.logical_not(ops.cast(grouped(mask), "bool"))
    crosses = grouped(with_elements(ops.zeros((spec.size,), "bool"), local, crossed))
    # Order each group: dead weights first, in random order. The scores are the normal draws at the dead positions; the
    # noise of DeepR uses those at live positions, so no draw is used twice.
    scores = ops.where(dead, grouped(counter_rng.normal(key, positions + spec.first, step)), -float("inf"))
    order = ops.cast(ops.argsort(-scores, axis=-1), "int32")
    # The k-th crossed weight of a group is replaced by the k-th dead weight in this order.
    rank = ops.cumsum(ops.cast(crosses, "int32"), axis=-1) - 1
    leaves = ops.logical_and(crosses, rank < ops.sum(ops.cast(dead, "int32"), axis=-1, keepdims=True))
    member = ops.take_along_axis(order, ops.maximum(rank, 0), axis=-1)
    new = ops.where(leaves, ops.take_along_axis(by_group, member, axis=-1), by_group)
    return elements_at(flat(new), local), elements_at(flat(leaves), local)
