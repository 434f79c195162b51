"""DeepR, deep rewiring.

Bellec et al., "Deep Rewiring: Training very sparse deep networks", ICLR 2018.
"""

import itertools

import numpy as np
from keras import ops

from keras_sparse import counter_rng as draws
from keras_sparse.backend import elements
from keras_sparse.layers.traversal import trainable_masked_layers
from keras_sparse.schedules import by_epoch
from keras_sparse.training.per_step_method import InStep
from keras_sparse.training.site import placed
from keras_sparse.validation import check_choice, check_not_negative, check_number

READINGS = ("bellec", "table_4")


class DeepR(InStep):
    """Trains masked layers by deep rewiring: a noisy walk in which a weight that crosses zero dies.

    After every optimizer step each live weight is pulled towards 0 and pushed at random. Those that crossed 0 die,
    and as many random dead ones of the same layer wake, at 0. So each layer has the number of live weights it starts
    with, at every step. What just died does not wake at once. In a layer that is nearly dense a weight stays for which
    no dead one to wake is found.

    Two readings are offered. "bellec", as first published: each weight, live or dead, has a sign for life, and starts
    on its side (a weight that does not is reflected); the walk is w <- w - eta * alpha * sign + sqrt(2 * eta *
    temperature) * noise with noise ~ N(0, 1). "table_4", as run by Mostafa & Wang: alpha * sign(w) + N(0, 2 * eta *
    temperature) is added to the gradient (for Keras's SGD its momentum included; for other optimizers as a plain step
    of the learning rate), and a woken weight takes the sign of its first move.

    The walk is part of the compiled training step, and works on the live weights only.

    Args:
        alpha: multiplier of |w| in the loss, a float of at least 0: number, dict `{first epoch: number}` or function
            `epoch -> number`, epochs from 0.
        temperature: of the noise, as `alpha`.
        eta: positive float; None for the optimizer's learning rate in reading "bellec", and the 0.01 of the authors'
            code in "table_4".
        reading: "bellec" or "table_4".
        until: int, number of epochs after which the masks stay as they are; None for no end.
        seed: int of at least 0, of the signs, the noise and the random positions.

    Raises:
        ValueError: if an argument is out of its range; in `fit`, if the model has no trainable masked layer or one
            whose mask elements are not single weights.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.9)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=5, callbacks=[keras_sparse.DeepR(alpha=1e-5, temperature={0: 1e-5, 3: 1e-8})])
    ```

    Reference:
        Bellec et al., "Deep Rewiring: Training very sparse deep networks", ICLR 2018.
    """

    def __init__(self, alpha, temperature, eta=None, reading="bellec", until=None, seed=0):
        super().__init__(until=until, seed=seed)
        self.alpha = by_epoch(alpha, "alpha", check_not_negative)
        self.temperature = by_epoch(temperature, "temperature", check_not_negative)
        if eta is not None:
            check_number(eta, "eta", "above 0", lambda x: 0 < x < np.inf)
        check_choice(reading, "reading", READINGS)
        self.eta = 0.01 if eta is None and reading == "table_4" else eta
        self.reading = reading

    def on_train_begin(self, logs=None):
        """Checks that masks are over single weights."""
        super().on_train_begin(logs)
        _check_single_weights(trainable_masked_layers(self.model))

    def start(self, model):
        """Reflects fresh weights whose sign is not the one they have for life; those trained so have it already."""
        layers = trainable_masked_layers(model)
        _check_single_weights(layers)
        if self.reading == "bellec":
            for first, layer in placed(model):
                live = _live(layer)
                weights = elements.view(layer.kernel_variable).ravel()[live]
                against = weights * self._signs(live + first) < 0
                elements.write(live[against], (layer.kernel_variable, -weights[against]))

    def begin(self, sites, layers):
        """Live positions, their signs (for life, or of their first move, 0 before that), the masks, how many died.

        The masks lie one after another, with True wherever nothing can wake: where a layer is frozen, and once behind
        the end, which is where a position points that stands for none.
        """
        lives = [_live(layer) for layer in layers]
        live = np.concatenate([x + site.first for x, site in zip(lives, sites, strict=True)])
        if self.reading == "bellec":
            signs = self._signs(live)
        else:
            weights = [elements.view(layer.kernel_variable).ravel()[x] for x, layer in zip(lives, layers, strict=True)]
            signs = np.sign(np.concatenate(weights)).astype("float32")
        mask = np.ones(sites[-1].first + sites[-1].size + 1, bool)
        for site, layer in zip(sites, layers, strict=True):
            mask[site.weights] = elements.view(layer.kernel_mask.value).ravel()
        return [live, signs, mask, np.zeros((), "int32")]

    def settings(self):
        """Alpha and temperature."""
        return np.array([self.alpha(self._epoch), self.temperature(self._epoch)], "float32")

    def act(self, sites, step, rate, settings, weights, slots, own):
        """Walks, drops what crossed zero, and wakes as many, in all layers at once: few long arrays are fast."""
        live, signs, mask, died = own
        key, (alpha, temperature) = self._key(), (settings[0], settings[1])
        ends = [0, *itertools.accumulate(site.live for site in sites)]
        parts = [slice(*x) for x in itertools.pairwise(ends)]
        lives = [live[part] - site.first for part, site in zip(parts, sites, strict=True)]
        before = ops.concatenate([ops.cast(_at(w, x), "float32") for w, x in zip(weights, lives, strict=True)])
        eta = rate if self.eta is None else self.eta
        noise = ops.sqrt(2 * eta * temperature) * draws.normal(key, live, step)
        bellec = self.reading == "bellec"
        move = noise - eta * alpha * signs if bellec else -rate * (alpha * ops.sign(before) + noise)
        # SGD is linear in the gradient, so that a part can be added after the fact: to the momentum, too.
        linear = not bellec and sites[0].momentum is not None
        moved = before + (move * (1 + sites[0].factor) if linear and sites[0].nesterov else move)

        crossed = moved * signs < 0
        mask, woken, gone = wake(key, step, sites, mask, live, crossed)
        if bellec:  # On the wrong side it cannot stay.
            moved = ops.where(crossed, ops.zeros_like(moved), moved)
            signs = ops.where(gone, draws.signs(key, woken), signs)
        else:
            moved = ops.where(gone, ops.zeros_like(moved), moved)
            signs = ops.where(gone, ops.zeros_like(moved), ops.sign(moved))

        weights, slots = list(weights), list(slots)
        for i, (site, part, live) in enumerate(zip(sites, parts, lives, strict=True)):
            weights[i] = _put(weights[i], live, ops.cast(moved[part], weights[i].dtype))
            held = [_at(slot, live) for slot in slots[i]]
            if linear:
                held[site.momentum] += ops.cast(move[part], held[site.momentum].dtype)
            held = [ops.where(gone[part], ops.full_like(x, f), x) for x, f in zip(held, site.fresh, strict=True)]
            slots[i] = [_put(slot, live, x) for slot, x in zip(slots[i], held, strict=True)]
        died = died + ops.sum(ops.cast(gone, "int32"))
        masks = [ops.reshape(mask[site.weights], w.shape) for site, w in zip(sites, weights, strict=True)]
        return weights, masks, slots, [woken, signs, mask, died]

    def _signs(self, positions):
        return ops.convert_to_numpy(draws.signs(self._key(), ops.convert_to_tensor(positions)))

    def _key(self):
        return draws.key_of(self.seed)


def wake(key, step, sites, mask, live, crossed):
    """Drops the weights that crossed zero, and wakes as many of the same layer that were dead.

    Positions are drawn until as many dead ones have come as crossed zero, so all sets of dead positions are equally
    likely. If they run out, the crossed ones of the highest positions stay.

    Args:
        key: of `draws.key_of`.
        step: int32 scalar.
        sites: for each layer an object with `first`, `size` and `live`, ints.
        mask: boolean array, the masks before, as `DeepR.begin` makes it.
        live: int32 array, the live positions in it, layer by layer, those of one in any order.
        crossed: boolean array like it.

    Returns:
        `(mask, live, gone)`: the mask and the live positions after, each woken one in the place of one that died, and
        a boolean array, True for what died.
    """
    end, count = mask.shape[0] - 1, live.shape[0]
    firsts = ops.convert_to_tensor(np.array([site.first for site in sites], "int32"))
    one = ops.cast(1, "int32")
    # Each layer has a part of `woken`, as long as it needs.
    rank = before(ops.pad(crossed, (0, 1)))
    begins = ops.take(rank, np.cumsum([0, *(site.live for site in sites)]))
    begins, needed = begins[:-1], begins[1:] - begins[:-1]

    def missing(draw, found, woken, busy):
        return ops.logical_and(draw < draws.ROUNDS, ops.any(found < needed))

    def search(draw, found, woken, busy):
        drawn, counts = draws.distinct(key, step, draw, [site.size for site in sites])
        drawn = drawn + firsts[:, None]
        dead = ops.logical_and(counts, ops.logical_not(ops.take(busy, drawn)))
        place = ops.reshape(before(ops.reshape(dead, (-1,))), drawn.shape)
        place = place - place[:, :1] + found[:, None]
        wakes = ops.logical_and(dead, place < needed[:, None])
        found = found + ops.sum(ops.cast(wakes, "int32"), axis=1)
        # What does not wake goes behind the end.
        place, drawn = ops.where(wakes, place + begins[:, None], count), ops.where(wakes, drawn, end)
        place, drawn = ops.reshape(place, (-1,)), ops.reshape(drawn, (-1,))
        return draw + one, found, _put(woken, place, drawn), _put(busy, drawn, ops.ones(drawn.shape, "bool"))

    none = ops.zeros((count + 1,), "int32")
    _, found, woken, busy = ops.while_loop(missing, search, (one, needed * 0, none, mask))

    def some_stay():
        lowest = ops.pad(ops.sort(ops.where(crossed, live, end)), (0, 1), constant_values=end)
        limits = ops.where(found < needed, ops.take(lowest, begins + found), end)
        unused = ops.cumsum(needed - found) - (needed - found)
        layer = ops.searchsorted(firsts, live, side="right") - 1
        gone = ops.logical_and(crossed, live < ops.take(limits, layer))
        return gone, before(gone) + ops.take(unused, layer)

    gone, place = ops.cond(ops.any(found < needed), some_stay, lambda: (crossed, rank[:-1]))
    return _put(busy, live, ops.logical_not(gone)), ops.where(gone, ops.take(woken, place), live), gone


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


def _live(layer):
    return np.flatnonzero(elements.view(layer.kernel_mask.value)).astype("int32")


def _at(array, positions):
    return ops.take(ops.reshape(array, (-1,)), positions)


def _put(array, positions, values):
    # An array that is made flat for this XLA copies.
    places = ops.unravel_index(positions, array.shape) if len(array.shape) > 1 else (positions,)
    return ops.scatter_update(array, ops.stack(places, axis=1), values)


def _check_single_weights(layers):
    if any(x.kernel_mask.value.shape != x.kernel_variable.shape for x in layers):
        raise ValueError(
            "DeepR rewires single weights, and the model has masks over whole slices. Make them with "
            'granularity="weight".'
        )
