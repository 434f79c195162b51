"""DeepR, deep rewiring.

Bellec et al., "Deep Rewiring: Training very sparse deep networks", ICLR 2018.
"""

import numpy as np
from keras import ops

from keras_sparse import elements
from keras_sparse.conversion import trainable_masked_layers
from keras_sparse.methods import draws
from keras_sparse.methods.arguments import check_choice, check_not_negative, check_number
from keras_sparse.methods.in_step import InStep
from keras_sparse.methods.tensor import places
from keras_sparse.schedules import by_epoch

READINGS = ("bellec", "table_4")
CANDIDATES = 128  # positions drawn at once


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
        _check_single_weights(trainable_masked_layers(model))
        if self.reading == "bellec":
            for place, layer in places(model):
                live, signs, _ = self.begin(place, layer)
                weights = elements.view(layer.kernel_variable).ravel()[live]
                against = weights * signs < 0
                elements.write(live[against], (layer.kernel_variable, -weights[against]))

    def begin(self, place, layer):
        """Live positions, their signs (for life, or of their first move, 0 before that), how many died."""
        live = np.flatnonzero(elements.view(layer.kernel_mask.value)).astype("int32")
        if self.reading == "bellec":
            signs = ops.convert_to_numpy(draws.signs(self._key(place), ops.convert_to_tensor(live)))
        else:
            signs = np.sign(elements.view(layer.kernel_variable).ravel()[live]).astype("float32")
        return [live, signs, np.zeros((), "int32")]

    def settings(self):
        """Alpha and temperature."""
        return np.array([self.alpha(self._epoch), self.temperature(self._epoch)], "float32")

    def act(self, site, step, rate, settings, weights, mask, slots, own):
        """Walks, drops what crossed zero, and wakes as many."""
        live, signs, died = own
        (alpha, temperature), key = (settings[0], settings[1]), self._key(site.place)
        eta = rate if self.eta is None else self.eta
        noise = ops.sqrt(2 * eta * temperature) * draws.normal(key, live, step)
        before = ops.cast(ops.take(weights, live), "float32")
        held = [ops.take(slot, live) for slot in slots]
        if self.reading == "bellec":
            moved = before - eta * alpha * signs + noise
        else:
            move = -rate * (alpha * ops.sign(before) + noise)
            moved = before + move
            if site.momentum is not None:
                # SGD is linear in the gradient, so that a part can be added after the fact: to the momentum, too.
                held[site.momentum] += ops.cast(move, held[site.momentum].dtype)
                moved = before + move * (1 + site.factor) if site.nesterov else moved
        crossed = moved * signs < 0
        mask, woken, staying = wake(key, step, site.size, mask, live, crossed)
        gone = ops.logical_and(crossed, ops.logical_not(staying))
        if self.reading == "bellec":  # On the wrong side it cannot stay.
            moved = ops.where(staying, 0.0, moved)
            signs = ops.where(gone, draws.signs(key, woken), signs)
        else:
            signs = ops.where(gone, 0.0, ops.sign(moved))
        weights = _put(weights, live, ops.cast(ops.where(gone, 0.0, moved), weights.dtype))
        held = [ops.where(gone, ops.full_like(x, fresh), x) for x, fresh in zip(held, site.fresh, strict=True)]
        slots = [_put(slot, live, x) for slot, x in zip(slots, held, strict=True)]
        return weights, mask, slots, [woken, signs, died + ops.sum(ops.cast(gone, "int32"))]

    def _key(self, place):
        return draws.key_of(self.seed, place)


def wake(key, step, size, mask, live, crossed):
    """Drops the weights that crossed zero, and wakes as many that were dead.

    Positions are drawn until as many dead ones have come as crossed zero, so all sets of dead positions are equally
    likely. If they run out, the crossed ones of the highest positions stay.

    Args:
        key: of `draws.key_of`.
        step: int32 scalar.
        size: int, number of positions.
        mask: boolean array, the mask before.
        live: int32 array, the live positions, in any order.
        crossed: boolean array like it.

    Returns:
        `(mask, live, staying)`: the mask and the live positions after, each woken one in the place of one that died,
        and a boolean array, True for what crossed but stays.
    """
    needed = ops.sum(ops.cast(crossed, "int32"))
    one = ops.cast(1, "int32")
    earlier = ops.convert_to_tensor(np.tri(CANDIDATES, k=-1, dtype=bool))

    def missing(draw, found, woken, busy):
        return ops.logical_and(draw < draws.ROUNDS, found < needed)

    def search(draw, found, woken, busy):
        drawn, counts = draws.integers(key, ops.arange(CANDIDATES, dtype="int32"), step, draw, size)
        was_busy = ops.take(busy, drawn)
        same = ops.equal(drawn[:, None], drawn)
        again = ops.any(same & counts & earlier, axis=1)
        dead = counts & ops.logical_not(was_busy) & ops.logical_not(again)
        place = found + before(dead)
        wakes = dead & (place < needed)
        # What does not wake goes behind the end.
        woken = _put(woken, ops.where(wakes, place, live.shape[0]), drawn)
        busy = _put(busy, drawn, was_busy | ops.any(same & wakes, axis=1))
        return draw + one, found + ops.sum(ops.cast(wakes, "int32")), woken, busy

    none = ops.zeros((live.shape[0] + 1,), "int32")
    _, found, woken, busy = ops.while_loop(missing, search, (one, one * 0, none, mask))

    def highest():
        positions = ops.sort(ops.where(crossed, live, -1))
        return crossed & (live >= ops.take(positions, found - needed + live.shape[0]))

    staying = ops.cond(found < needed, highest, lambda: ops.zeros_like(crossed))
    gone = crossed & ops.logical_not(staying)
    return _put(busy, live, ops.logical_not(gone)), ops.where(gone, ops.take(woken, before(gone)), live), staying


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


def _put(array, positions, values):
    return ops.scatter_update(array, positions[:, None], values)


def _check_single_weights(layers):
    if any(x.kernel_mask.value.shape != x.kernel_variable.shape for x in layers):
        raise ValueError(
            "DeepR rewires single weights, and the model has masks over whole slices. Make them with "
            'granularity="weight".'
        )
