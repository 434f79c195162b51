"""DeepR, deep rewiring.

Bellec et al., "Deep Rewiring: Training very sparse deep networks", ICLR 2018.
"""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_sparse import criteria, elements
from keras_sparse.conversion import masked_layers, trainable_masked_layers
from keras_sparse.methods.arguments import check_choice, check_not_negative, check_number
from keras_sparse.methods.random_growth import RandomGrowth
from keras_sparse.methods.tensor import tensors_of
from keras_sparse.schedules import by_epoch
from keras_sparse.slots import keras_name, slots

READINGS = ("bellec", "table_4")


class DeepR(RandomGrowth):
    """Trains masked layers by deep rewiring: a noisy walk in which a weight that crosses zero dies.

    After every optimizer step each live weight is pulled towards 0 and pushed at random. Those that crossed 0 die,
    and as many random dead ones of the same layer wake, at 0. So each layer has the number of live weights it starts
    with, at every step. What just died does not wake at once.

    Two readings are offered. "bellec", as first published: each weight, live or dead, has a sign for life, and starts
    on its side (a weight that does not is reflected); the walk is w <- w - eta * alpha * sign + sqrt(2 * eta *
    temperature) * noise with noise ~ N(0, 1). "table_4", as run by Mostafa & Wang: alpha * sign(w) + N(0, 2 * eta *
    temperature) is added to the gradient (for Keras's SGD its momentum included; for other optimizers as a plain step
    of the learning rate), and a woken weight takes the sign of its first move.

    It acts after every step, so compile with steps_per_execution=1, Keras's default.

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
            whose mask elements are not single weights, or if `steps_per_execution` is more than 1.

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
        super().__init__(growth="anywhere", regrow_scale=0.0, period=1, until=until, seed=seed)
        self.alpha = by_epoch(alpha, "alpha", check_not_negative)
        self.temperature = by_epoch(temperature, "temperature", check_not_negative)
        if eta is not None:
            check_number(eta, "eta", "above 0", lambda x: 0 < x < np.inf)
        check_choice(reading, "reading", READINGS)
        self.eta = eta
        self.reading = reading

    _signs = None  # For each layer the sign of each weight: for life, or of its first move, 0 before that.

    def on_train_begin(self, logs=None):
        """Checks that masks are over single weights."""
        super().on_train_begin(logs)
        _check_single_weights(tensors_of(trainable_masked_layers(self.model)))

    def start(self, model):
        """Notes the signs that the weights start with."""
        self._signs = self._first_signs(trainable_masked_layers(model))
        self._recalled = masked_layers(model)[0].kernel_mask

    def recall(self, memory):
        """Forgets another model's signs; those of this one are in its weights."""
        self._signs = None

    def observe(self, model, layers):
        """The tensors after the walk of their live weights."""
        self._signs = self._signs or self._first_signs(layers)
        alpha, temperature = self.alpha(self._epoch), self.temperature(self._epoch)
        tensors = tensors_of(layers)
        if not alpha and not temperature and self.reading == "table_4":
            return tensors
        rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
        eta = self.eta or (rate if self.reading == "bellec" else 0.01)
        moved = []
        for i, (layer, tensor) in enumerate(zip(layers, tensors, strict=True)):
            weights, live = tensor.values[0], tensor.live
            noise = np.random.default_rng([self.seed, i, self._step, 1]).standard_normal(len(live), "float32")
            noise *= math.sqrt(2 * eta * temperature)
            if self.reading == "bellec":
                weights = weights - eta * alpha * self._signs[i][live] + noise
            else:
                weights = weights + _through(model.optimizer, layer, live, -rate * (alpha * np.sign(weights) + noise))
            moved.append(dataclasses.replace(tensor, moved=weights[None]))
        return moved

    def drop(self, tensors):
        """What crossed zero, but no more than can wake instead, and never all of a layer."""
        dropped = []
        for signs, tensor in zip(self._signs, tensors, strict=True):
            weights, live = tensor.values[0], tensor.live
            crossed = weights * signs[live] < 0
            limit = max(0, min(tensor.free, len(live) - 1))
            (gone,) = criteria.keep_strongest([crossed], [tensor.scores], limit)
            # So that the signs can be read off the weights, which is what a resumed run does:
            if self.reading == "table_4":
                signs[live] = np.where(gone, 0, np.sign(weights))
            else:
                weights[crossed & ~gone] = 0
            dropped.append(gone)
        return dropped

    def _first_signs(self, layers):
        tensors = tensors_of(layers)
        _check_single_weights(tensors)
        if self.reading == "table_4":
            return [np.sign(t.kernel).astype("int8").ravel() for t in tensors]
        signs = []
        for i, (layer, tensor) in enumerate(zip(layers, tensors, strict=True)):
            rng = np.random.default_rng([self.seed, i])
            signs.append(rng.choice(np.array([-1, 1], "int8"), tensor.size))
            # A fresh weight whose sign is the other one is reflected; one that was trained so has its sign already.
            against = tensor.live[tensor.values[0] * signs[i][tensor.live] < 0]
            elements.write(against, (layer.kernel_variable, -tensor.kernel.ravel()[against]))
        return signs


def _check_single_weights(tensors):
    if any(t.unit > 1 for t in tensors):
        raise ValueError(
            "DeepR rewires single weights, and the model has masks over whole slices. Make them with "
            'granularity="weight".'
        )


def _through(optimizer, layer, positions, step):
    """What `step`, the learning rate times a part of the gradient, makes of weights in the end.

    SGD is linear in the gradient, so that part can be added after the fact: to the momentum as well.
    """
    sgd = getattr(optimizer, "inner_optimizer", optimizer)
    if keras_name(sgd) != "SGD" or not sgd.momentum:
        return step
    momenta = {id(m) for m in sgd.momentums}
    (slot,) = (slot for slot, _ in slots(sgd, layer.kernel_variable) if id(slot) in momenta)
    elements.write(positions, (slot, elements.view(slot).ravel()[positions] + step))
    return step * (1 + sgd.momentum) if sgd.nesterov else step
