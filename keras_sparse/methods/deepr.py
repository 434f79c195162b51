"""DeepR: deep rewiring.

Reference:
    Bellec et al., "Deep Rewiring: Training very sparse deep networks", ICLR 2018.
"""

import keras
import numpy as np
from keras import ops

from keras_sparse import backend, counter_rng
from keras_sparse.layers.traversal import trainable_masked_weights
from keras_sparse.schedules import ScheduleLike, by_epoch
from keras_sparse.training import rewiring
from keras_sparse.training.layer_state import LayerSpec, placed
from keras_sparse.training.optimizer_state import slots
from keras_sparse.training.pattern_rewiring import activate_in_groups
from keras_sparse.training.per_step_method import PerStepMethod
from keras_sparse.training.rewiring import activate, elements_at, parts_of, with_elements
from keras_sparse.validation import check_choice, check_not_negative, check_number

READINGS = ("bellec", "table_4")


class DeepR(PerStepMethod):
    """Trains masked layers by deep rewiring: a random walk in which weights that cross zero are replaced.

    After every optimizer step, in each layer:

    1. Move each live weight: w <- w - eta * alpha * sign + sqrt(2 * eta * temperature) * noise, noise ~ N(0, 1).
    2. Drop the weights that crossed zero, w * sign < 0.
    3. Activate as many dead weights at random, with value 0; those just dropped are not among them.

    So every layer keeps its number of live weights at every step. If a layer has too few dead weights, or more than
    about 30,000 of its weights cross zero in one step, some of the crossed weights are not replaced and stay live.

    There are two variants. With `reading="bellec"`, as in the paper, every weight, live or dead, has a fixed random
    sign. Initial weights with the opposite sign are negated. With `reading="table_4"`, as in the experiments of Mostafa
    & Wang, `alpha * sign(w)` and noise of the variance `2 * eta * temperature` are added to the gradient, and a new
    weight gets the sign of its first move. For Keras's SGD this term enters the momentum, too; for other optimizers,
    the weights move by `-learning_rate` times the term.

    The walk is part of the compiled training step. If XLA compiles the step, the time depends on the number of live
    weights and not on the size of the layers; otherwise TensorFlow and PyTorch copy the arrays that are written.

    Args:
        alpha: coefficient of the L1 penalty, a number of at least 0, a dict `{first epoch: number}` or a function
            `epoch -> number`. Epochs count from 0.
        temperature: temperature of the noise, a number of at least 0 or a schedule like `alpha`.
        eta: positive float, the step size of the walk. None for the learning rate of the optimizer if `reading` is
            "bellec", and for 0.01, as in the code of Mostafa & Wang, if it is "table_4".
        reading: "bellec" or "table_4".
        until: int, the number of epochs after which the masks stay fixed; None for no end.
        seed: int of at least 0, the seed of the signs, the noise and the random positions. Give the same seed when
            training is resumed.

    Raises:
        ValueError: if an argument is out of its range; in `fit`, if the model has no trainable masked weight, if mask
            elements are not single weights, if some masked weights have an N:M pattern and others do not, if masked
            weights have 2**31 entries or more in total, or if the optimizer has no single learning rate.

    Example:

    ```python
    model = keras_sparse.sparsify(model, sparsity=0.9)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=5, callbacks=[keras_sparse.DeepR(alpha=1e-5, temperature={0: 1e-5, 3: 1e-8})])
    ```

    Reference:
        Bellec et al., "Deep Rewiring: Training very sparse deep networks", ICLR 2018.
    """

    def __init__(
        self,
        alpha: ScheduleLike,
        temperature: ScheduleLike,
        eta: float | None = None,
        reading: str = "bellec",
        until: int | None = None,
        seed: int = 0,
    ):
        super().__init__(until=until, seed=seed)
        self.alpha = by_epoch(alpha, "alpha", check_not_negative)
        self.temperature = by_epoch(temperature, "temperature", check_not_negative)
        if eta is not None:
            check_number(eta, "eta", "above 0", lambda x: 0 < x < np.inf)
        check_choice(reading, "reading", READINGS)
        self.eta = 0.01 if eta is None and reading == "table_4" else eta
        self.reading = reading

    def check(self, model: keras.Model, layers: list) -> None:
        """Raises ValueError if DeepR cannot rewire the masks, or the optimizer has no single learning rate."""
        _check_layers(model)
        if not hasattr(model.optimizer, "learning_rate"):
            raise ValueError(
                f"DeepR needs the learning rate of the optimizer, and {type(model.optimizer).__name__} has no single "
                "learning rate. Compile the model with a single optimizer."
            )

    def start(self, model: keras.Model, optimizer: keras.Optimizer) -> None:
        """Negates the weights whose sign is not their fixed sign.

        If DeepR has trained the model with the same seed and `reading="bellec"`, all signs agree, and nothing changes.
        """
        _check_layers(model)
        if self.reading == "bellec":
            for first, layer in placed(model):
                live = _live(layer)
                weights = backend.read(layer.variable).ravel()[live]
                against = weights * self._signs(live + first) < 0
                positions, negated = live[against], -weights[against]
                # ScheduleFreeAdamW starts a slot as a copy of the weights, and computes the weights from it.
                copies = [
                    (slot, negated)
                    for slot, _ in slots(optimizer, layer.variable)
                    if np.array_equal(backend.read(slot).ravel()[positions], weights[against])
                ]
                backend.write_elements(positions, (layer.variable, negated), *copies)

    def begin(self, specs: tuple[LayerSpec, ...], layers: list) -> list[np.ndarray]:
        """Returns what `act` carries from step to step.

        These are the positions of the live weights; their signs, which with `reading="table_4"` are 0 for a new weight
        before its first move; and the number of weights dropped so far, 0.
        """
        lives = [_live(layer) for layer in layers]
        live = np.concatenate([x + np.int32(spec.first) for x, spec in zip(lives, specs, strict=True)])
        if self.reading == "bellec":
            signs = self._signs(live)
        else:
            weights = [backend.read(layer.variable).ravel()[x] for x, layer in zip(lives, layers, strict=True)]
            signs = np.sign(np.concatenate(weights)).astype("float32")
        return [live, signs, np.zeros((), "int32")]

    def settings(self) -> np.ndarray:
        """Returns alpha and temperature of this epoch, a float32 array of two entries."""
        return np.array([self.alpha(self._epoch), self.temperature(self._epoch)], "float32")

    def act(self, specs: tuple[LayerSpec, ...], step, rate, settings, weights, masks, slots, carried) -> tuple:
        """Moves the live weights, drops those that crossed zero, and activates as many dead ones.

        The live weights of all layers are concatenated into one array, since a few operations on a long array are
        faster than many on short ones. Kernels, masks and optimizer slots are read and written at the live positions
        only.
        """
        # Read the live weights w, concatenated over the layers.
        live, signs, drop_count = carried
        key, (alpha, temperature) = self._key(), (settings[0], settings[1])
        parts = parts_of(specs)
        local = [live[part] - spec.first for part, spec in zip(parts, specs, strict=True)]
        before = ops.concatenate([ops.cast(elements_at(w, x), "float32") for w, x in zip(weights, local, strict=True)])
        eta = rate if self.eta is None else self.eta
        # noise ~ sqrt(2 * eta * T) * N(0, 1)
        noise = ops.sqrt(2 * eta * temperature) * counter_rng.normal(key, live, step)
        bellec = self.reading == "bellec"
        # bellec:   w <- w - eta * alpha * sign + noise
        # table_4:  w <- w - rate * (alpha * sign(w) + noise), as if the bracket were part of the gradient
        move = noise - eta * alpha * signs if bellec else -rate * (alpha * ops.sign(before) + noise)
        # The step of SGD is linear in the gradient. So the contribution of the bracket to the weights and to the
        # momentum m can be added after the optimizer's step: w <- w + move, m <- m + move. With Nesterov momentum, w
        # also moves by what enters m, times the momentum factor: w <- w + (1 + factor) * move.
        linear = not bellec and specs[0].momentum is not None
        moved = before + (move * (1 + specs[0].factor) if linear and specs[0].nesterov else move)

        # Drop what crossed zero. Each new weight takes the entry of a dropped one in the arrays of live weights.
        crossed = moved * signs < 0
        replace = activate if specs[0].pattern is None else activate_in_groups
        masks, now_live, dropped = replace(key, step, specs, masks, live, crossed)
        if bellec:  # New weights start at 0, and so do crossed weights for which `activate` found no replacement.
            moved = ops.where(crossed, ops.zeros_like(moved), moved)
            signs = ops.where(dropped, counter_rng.signs(key, now_live), signs)
        else:
            moved = ops.where(dropped, ops.zeros_like(moved), moved)
            signs = ops.where(dropped, ops.zeros_like(moved), ops.sign(moved))

        # Write the weights and the optimizer state at the positions that were live before. There, dropped weights get 0
        # and fresh slots. Dead positions have these values already, so that new weights need no write.
        weights, slots = list(weights), list(slots)
        for i, (spec, part, positions) in enumerate(zip(specs, parts, local, strict=True)):
            weights[i] = with_elements(weights[i], positions, ops.cast(moved[part], weights[i].dtype))
            held = [elements_at(slot, positions) for slot in slots[i]]
            if linear:
                held[spec.momentum] += ops.cast(move[part], held[spec.momentum].dtype)
            held = [ops.where(dropped[part], ops.full_like(x, f), x) for x, f in zip(held, spec.fresh, strict=True)]
            slots[i] = [with_elements(slot, positions, x) for slot, x in zip(slots[i], held, strict=True)]
        drop_count = drop_count + ops.sum(ops.cast(dropped, "int32"))
        return weights, masks, slots, [now_live, signs, drop_count]

    def _signs(self, positions):
        """Returns the fixed signs of the weights at some positions."""
        return ops.convert_to_numpy(counter_rng.signs(self._key(), ops.convert_to_tensor(positions)))

    def _key(self):
        return counter_rng.key_of(self.seed)


def _live(layer):
    return np.flatnonzero(layer.mask.numpy()).astype("int32")


def _check_layers(model):
    layers = trainable_masked_weights(model)
    if any(x.mask.value.shape != x.variable.shape for x in layers):
        raise ValueError(
            "DeepR rewires single weights, and the model has masks over whole slices or blocks. Make "
            'them with granularity="weight".'
        )
    if len({x.pattern is None for x in layers}) > 1:
        raise ValueError(
            "DeepR rewires layers with an N:M pattern or layers without one, and the model has both: "
            f"{[x.name for x in layers if x.pattern is not None]} have one. Give all layers the same `granularity`."
        )
    count = max(first + layer.size for first, layer in placed(model))
    if count > rewiring.MOST_POSITIONS:
        raise ValueError(
            "DeepR numbers the weights of all masked layers by 32-bit integers, so there can be at most "
            f"{rewiring.MOST_POSITIONS:,}. Received: {count:,} weights up to the last trainable masked layer of "
            f"{model.name!r}. Keep layers dense by `keep_dense` of keras_sparse.sparsify, or use another method."
        )
