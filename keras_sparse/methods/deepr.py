"""DeepR, deep rewiring.

Bellec et al., "Deep Rewiring: Training very sparse deep networks", ICLR 2018.
"""

import math

import numpy as np
from keras import ops

from keras_sparse import backend
from keras_sparse import counter_rng as draws
from keras_sparse.layers.traversal import trainable_masked_layers
from keras_sparse.schedules import by_epoch
from keras_sparse.training import rewiring
from keras_sparse.training.layer_state import placed
from keras_sparse.training.per_step_method import PerStepMethod
from keras_sparse.training.rewiring import elements_at, parts_of, wake, with_elements
from keras_sparse.validation import check_choice, check_not_negative, check_number

READINGS = ("bellec", "table_4")


class DeepR(PerStepMethod):
    """Trains masked layers by deep rewiring: a noisy walk in which a weight that crosses zero dies.

    After every optimizer step each live weight is pulled towards 0 and pushed at random. Those that crossed 0 die,
    and as many random dead ones of the same layer wake, at 0. So each layer has the number of live weights it starts
    with, at every step. What just died does not wake at once. A weight for which no dead one to wake is found stays:
    in a layer that is nearly dense, or where more than about 30,000 of a layer cross zero at one step.

    Two readings are offered. "bellec", as first published: each weight, live or dead, has a sign for life, and starts
    on its side (a weight that does not is reflected); the walk is w <- w - eta * alpha * sign + sqrt(2 * eta *
    temperature) * noise with noise ~ N(0, 1). "table_4", as run by Mostafa & Wang: alpha * sign(w) + N(0, 2 * eta *
    temperature) is added to the gradient (for Keras's SGD its momentum included; for other optimizers as a plain step
    of the learning rate), and a woken weight takes the sign of its first move.

    The walk is part of the compiled training step. Its time goes by the number of live weights, not by the size of the
    layers, where XLA compiles the step; else TensorFlow and PyTorch copy what is written to.

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
            whose mask elements are not single weights, or 2**31 weights or more in masked layers.

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

    def check(self, model, layers):
        """Checks that masks are over single weights, and not too many, and that there is one learning rate."""
        _check_layers(model)
        if not hasattr(model.optimizer, "learning_rate"):
            raise ValueError(
                f"DeepR goes by the learning rate, and {type(model.optimizer).__name__} has none of its own. "
                "Compile the model with a single optimizer."
            )

    def start(self, model):
        """Reflects fresh weights whose sign is not the one they have for life; those trained so have it already."""
        _check_layers(model)
        if self.reading == "bellec":
            for first, layer in placed(model):
                live = _live(layer)
                weights = backend.read(layer.kernel_variable).ravel()[live]
                against = weights * self._signs(live + first) < 0
                backend.write_elements(live[against], (layer.kernel_variable, -weights[against]))

    def begin(self, sites, layers):
        """Live positions, their signs (for life, or of their first move, 0 before that), and how many died: none."""
        lives = [_live(layer) for layer in layers]
        live = np.concatenate([x + np.int32(site.first) for x, site in zip(lives, sites, strict=True)])
        if self.reading == "bellec":
            signs = self._signs(live)
        else:
            weights = [backend.read(layer.kernel_variable).ravel()[x] for x, layer in zip(lives, layers, strict=True)]
            signs = np.sign(np.concatenate(weights)).astype("float32")
        return [live, signs, np.zeros((), "int32")]

    def settings(self):
        """Alpha and temperature."""
        return np.array([self.alpha(self._epoch), self.temperature(self._epoch)], "float32")

    def act(self, sites, step, rate, settings, weights, masks, slots, own):
        """Walks, drops what crossed zero, and wakes as many.

        What is computed for each live weight is computed for all layers at once, since few long arrays are faster than
        many short ones. Kernels, masks and slots are only read and written at single positions.
        """
        live, signs, died = own
        key, (alpha, temperature) = self._key(), (settings[0], settings[1])
        parts = parts_of(sites)
        local = [live[part] - site.first for part, site in zip(parts, sites, strict=True)]
        before = ops.concatenate([ops.cast(elements_at(w, x), "float32") for w, x in zip(weights, local, strict=True)])
        eta = rate if self.eta is None else self.eta
        noise = ops.sqrt(2 * eta * temperature) * draws.normal(key, live, step)
        bellec = self.reading == "bellec"
        move = noise - eta * alpha * signs if bellec else -rate * (alpha * ops.sign(before) + noise)
        # SGD is linear in the gradient, so that a part can be added after the fact: to the momentum, too.
        linear = not bellec and sites[0].momentum is not None
        moved = before + (move * (1 + sites[0].factor) if linear and sites[0].nesterov else move)

        crossed = moved * signs < 0
        masks, now_live, gone = wake(key, step, sites, masks, live, crossed)
        if bellec:  # A weight on the wrong side that could not die stays at 0.
            moved = ops.where(crossed, ops.zeros_like(moved), moved)
            signs = ops.where(gone, draws.signs(key, now_live), signs)
        else:
            moved = ops.where(gone, ops.zeros_like(moved), moved)
            signs = ops.where(gone, ops.zeros_like(moved), ops.sign(moved))

        weights, slots = list(weights), list(slots)
        for i, (site, part, positions) in enumerate(zip(sites, parts, local, strict=True)):
            weights[i] = with_elements(weights[i], positions, ops.cast(moved[part], weights[i].dtype))
            held = [elements_at(slot, positions) for slot in slots[i]]
            if linear:
                held[site.momentum] += ops.cast(move[part], held[site.momentum].dtype)
            held = [ops.where(gone[part], ops.full_like(x, f), x) for x, f in zip(held, site.fresh, strict=True)]
            slots[i] = [with_elements(slot, positions, x) for slot, x in zip(slots[i], held, strict=True)]
        died = died + ops.sum(ops.cast(gone, "int32"))
        return weights, masks, slots, [now_live, signs, died]

    def _signs(self, positions):
        return ops.convert_to_numpy(draws.signs(self._key(), ops.convert_to_tensor(positions)))

    def _key(self):
        return draws.key_of(self.seed)


def _live(layer):
    return np.flatnonzero(backend.read(layer.kernel_mask.value)).astype("int32")


def _check_layers(model):
    layers = trainable_masked_layers(model)
    if any(x.kernel_mask.value.shape != x.kernel_variable.shape for x in layers):
        raise ValueError(
            "DeepR rewires single weights, and the model has masks over whole slices. Make them with "
            'granularity="weight".'
        )
    count = max(first + math.prod(layer.kernel_variable.shape) for first, layer in placed(model))
    if count > rewiring.MOST_POSITIONS:
        raise ValueError(
            "DeepR numbers the weights of all masked layers by ints of 32 bits, so there can be at most "
            f"{rewiring.MOST_POSITIONS:,}. Received: {count:,} weights up to the last trainable masked layer of "
            f"{model.name!r}. Keep layers dense by `keep_dense` of keras_sparse.sparsify, or use another method."
        )
