"""Replays a `fit` with a plain-Python version of the method, and compares masks and weights after every batch."""

import keras
import numpy as np

import keras_sparse as ks
from nets import state


class _Before(keras.callbacks.Callback):
    """Records the state before the method acts."""

    def on_train_batch_end(self, batch, logs=None):
        self.state = state(self.model)


class _Between(keras.callbacks.Callback):
    """Records the state after the optimizer and before a method that acts inside the step. Needs run_eagerly."""

    def on_train_begin(self, logs=None):
        model, usual = self.model, self.model.train_step

        def train_step(*arguments):
            results = usual(*arguments)
            if keras.backend.backend() == "jax":
                _, (trained, others, *_) = results
                variables = [*model.trainable_variables, *model.non_trainable_variables]
                values = {id(v): np.asarray(x) for v, x in zip(variables, [*trained, *others], strict=True)}
                pairs = [(x.kernel_variable, x.kernel_mask.value) for x in ks.masked_layers(model)]
                self.state = [(values[id(w)], values[id(m)]) for w, m in pairs]
            else:
                self.state = state(model)
            return results

        model.train_step = train_step
        model.make_train_function(force=True)


class Replay(keras.callbacks.Callback):
    """Compares a method with a reference; `around` returns the callbacks to train with.

    Args:
        reference: function `(weights, masks, choose) -> (dropped, grown)`: flat lists for each layer, sets of positions
            for each layer; `choose(layer, free positions, count) -> positions` is the random draw. It may move weights,
            in place.
        period: batches between updates.
        seed: of the method.
        scale: standard deviation of grown weights.
        until: int, the number of batches after which no update is due.
        tolerance: absolute tolerance of weights, for references that compute in double precision.
        inside: bool, whether the method acts inside the training step.
    """

    def __init__(self, reference, period, seed=0, scale=0.0, until=np.inf, tolerance=0.0, inside=False):
        super().__init__()
        self.reference, self.period, self.seed, self.scale, self.until = reference, period, seed, scale, until
        self.tolerance = tolerance
        self.before = _Between() if inside else _Before()
        self.updates = self.step = 0

    def around(self, method):
        """Returns the callbacks to train with: this one before and after the method."""
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
