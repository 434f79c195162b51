"""Runs a plain-Python version of a method beside the callback through a real fit, and compares after every batch."""

import keras
import numpy as np
from nets import state


class _Before(keras.callbacks.Callback):
    """The state that the method finds."""

    def on_train_batch_end(self, batch, logs=None):
        self.state = state(self.model)


class Replay(keras.callbacks.Callback):
    """Compares; put around the method by `around`.

    Args:
        reference: function `(weights, masks, choose) -> (dropped, grown)`: flat lists for each layer, sets of positions
            for each layer; `choose(layer, free positions, count) -> positions` is the random draw. It may move weights,
            in place.
        period: batches between updates.
        seed: of the method.
        scale: standard deviation of grown weights.
        until: batches after which nothing is due.
        tolerance: of weights, for references that compute with them in Python's precision.
    """

    def __init__(self, reference, period, seed=0, scale=0.0, until=np.inf, tolerance=0.0):
        super().__init__()
        self.reference, self.period, self.seed, self.scale, self.until = reference, period, seed, scale, until
        self.tolerance = tolerance
        self.before = _Before()
        self.updates = self.step = 0

    def around(self, method):
        """The callbacks to fit with."""
        return [self.before, method, self]

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        before, after = self.before.state, state(self.model)
        if self.step % self.period or self.step > self.until:
            for (w, m), (v, n) in zip(before, after, strict=True):
                np.testing.assert_array_equal(w, v)
                np.testing.assert_array_equal(m, n)
            return
        self.updates += 1
        rngs = [np.random.default_rng([self.seed, i, self.step]) for i in range(len(before))]

        def choose(layer, free, count):
            return [free[i] for i in rngs[layer].choice(len(free), count, replace=False, shuffle=False)]

        weights = [w.ravel().tolist() for w, _ in before]
        masks = [m.ravel().tolist() for _, m in before]
        dropped, grown = self.reference(weights, masks, choose)
        for i, (v, n) in enumerate(after):
            w, m = np.array(weights[i], "float32"), np.array(masks[i])
            w[list(dropped[i])], m[list(dropped[i])] = 0, False
            w[sorted(grown[i])] = rngs[i].normal(0, self.scale, len(grown[i]))
            m[list(grown[i])] = True
            np.testing.assert_array_equal(m, n.ravel())
            np.testing.assert_allclose(v.ravel(), w, rtol=self.tolerance, atol=self.tolerance)
