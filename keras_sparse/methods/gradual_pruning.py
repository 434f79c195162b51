"""Gradual pruning: the paper's "compressed sparse".

Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017.
"""

import warnings

import numpy as np

from keras_sparse import criteria
from keras_sparse.layers.traversal import trainable_masked_layers
from keras_sparse.schedules import multiples
from keras_sparse.training.layer_state import by_unit, sparsity
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.update_schedule import UpdateSchedule
from keras_sparse.validation import check_choice, check_sparsity


class PruningSchedule(UpdateSchedule):
    """Updates before the steps that a function names.

    Args:
        schedule: function `step -> (due, sparsity)`, as for `GradualPruning`.
        until: as for `GradualPruning`.
    """

    def __init__(self, schedule, until):
        super().__init__("GradualPruning", None, until)
        self._schedule = schedule

    def due(self, before, now):
        """The steps that the schedule names, each the one before which to prune."""
        before, now = before + 1, now + 1
        steps = range(before + 1, now + 1)
        begin, frequency = (getattr(self._schedule, name, None) for name in ("begin_step", "frequency"))
        if frequency:  # TF-MOT's take too long to be asked at every step.
            steps = (begin + s for s in multiples(frequency, before - begin, now - begin))
        return [s for s in steps if self.ask(s)[0]]

    def first(self, step):
        """Before the first step, too, an update may be due."""
        return step - 1

    def is_never(self):
        """No: the schedule says."""
        return False

    def describe(self):
        """The schedule and its numbers, for messages."""
        schedule, numbers = self._schedule, ("begin_step", "end_step", "frequency")
        given = ", ".join(f"{n}={getattr(schedule, n)}" for n in numbers if hasattr(schedule, n))
        return f"schedule={getattr(schedule, '__name__', type(schedule).__name__)}({given})"

    def ask(self, step):
        """Whether to prune before a step, and the sparsity to reach: `(bool, float)`."""
        answer = self._schedule(step)
        try:
            due, target = answer
            return bool(due), float(target)
        except (TypeError, ValueError):
            raise ValueError(
                "`schedule` must be a function step -> (due, sparsity), whether to prune before that step and the "
                f"sparsity to reach. Received: schedule({step})={answer!r}."
            ) from None


class GradualPruning(SparseMethod):
    """Prunes a trained network to a sparsity that rises by schedule.

    Give it a model that is masked but dense, `keras_sparse.sparsify(trained, sparsity=0.0)`. Whenever the schedule is
    due, the smallest |w| are dropped until the sparsity it names is reached; nothing grows. A layer is never emptied.

    Args:
        schedule: function `step -> (due, sparsity)`: whether to prune before that training step, and the sparsity to
            reach then. Steps count from 1, as TF-MOT counts them. `keras_sparse.schedules.polynomial_decay` makes
            the paper's, and those of TF-MOT are such functions: `tfmot.sparsity.keras.PolynomialDecay(...)`.
        scope: "layer" brings each layer to the sparsity; "network" all together, by one threshold (layers whose mask
            elements hold different numbers of weights each by their kind).
        until: int, number of epochs after which the masks stay as they are; None for no end.

    Raises:
        ValueError: if an argument is out of its range; in `fit`, if the model has no trainable masked layer, or if
            two due steps fall into one execution of `steps_per_execution`.

    Example:

    ```python
    model = keras_sparse.sparsify(trained, sparsity=0.0)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    schedule = keras_sparse.schedules.polynomial_decay(0.0, 0.9, begin_step=0, end_step=30, frequency=10)
    model.fit(x, y, epochs=5, callbacks=[keras_sparse.GradualPruning(schedule)])
    ```

    Reference:
        Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017.
    """

    moves = False

    def __init__(self, schedule, scope="layer", until=None):
        if not callable(schedule):
            raise ValueError(
                "`schedule` must be a function step -> (due, sparsity), such as "
                f"keras_sparse.schedules.polynomial_decay(0.0, 0.9, 0, 1000). Received: schedule={schedule!r}."
            )
        check_choice(scope, "scope", ("layer", "network"))
        super().__init__(update_schedule=PruningSchedule(schedule, until))
        self.schedule = schedule
        self.scope = scope

    def budget(self, layers):
        """What the schedule leaves."""
        return sum(keep * layers[group[0]].unit for group, keep in self._keep(layers))

    def drop(self, layers):
        """The weakest of each layer, or of the network, but the strongest of each layer."""
        dropped = [None] * len(layers)
        for group, keep in self._keep(layers):
            scores = [_shielded(layers[i].scores) for i in group]
            together = np.concatenate(scores)
            gone = criteria.weakest(together, len(together) - keep)
            for i, d in zip(group, np.split(gone, np.cumsum([len(s) for s in scores])[:-1]), strict=True):
                dropped[i] = d
        return dropped

    def redistribute(self, layers, dropped):
        """Nothing grows."""
        return [0] * len(layers)

    def may_be_idle(self):
        """Whether the network is as sparse as the schedule says, to a hundredth."""
        return abs(sparsity(trainable_masked_layers(self.model)) - self._sparsity()) < 0.01

    def logs(self):
        """The sparsity that the schedule has named last."""
        return {"target_sparsity": self._sparsity()}

    def check(self, model, layers):
        """Warns if the schedule's last pruning comes before its end."""
        begin, end, frequency = (getattr(self.schedule, n, None) for n in ("begin_step", "end_step", "frequency"))
        if frequency and end > begin and (over := (end - begin) % frequency):
            warnings.warn(
                f"GradualPruning will not reach its final sparsity, {self._ask(end)[1]:.4g}, but "
                f"{self._ask(end - over)[1]:.4g}: a frequency of {frequency} does not divide the {end - begin} steps "
                f"from {begin} to {end}, so that the last pruning is at step {end - over}. Choose one that does.",
                stacklevel=3,
            )

    def warn(self):
        """Warns if the schedule did not come to its end."""
        last = getattr(self.schedule, "end_step", -1)
        if not 0 <= last <= self.update_schedule.started:  # else it was over before
            super().warn()
        if self.update_schedule.examined + 1 < last:
            warnings.warn(
                f"GradualPruning did not reach its final sparsity: the schedule ends at step {last}, the training at "
                f"step {self.update_schedule.examined}. Train longer, or end the schedule earlier.",
                stacklevel=3,
            )

    def _ask(self, step):
        return self.update_schedule.ask(step)

    def _sparsity(self):
        return self._ask(self._step + 1)[1]

    def _keep(self, layers):
        """(indices, how many of their mask elements live on) for each group of layers pruned together."""
        target = self._sparsity()
        check_sparsity(target, f"schedule({self._step + 1})")
        density = 1 - target
        groups = [[i] for i in range(len(layers))] if self.scope == "layer" else by_unit(layers)
        for group in groups:
            size, live = (sum(f(layers[i]) for i in group) for f in (lambda t: t.size, lambda t: len(t.live)))
            yield group, min(live, max(round(size * density), len(group)))


def _shielded(scores):
    """Scores whose largest nothing can pass, so that no layer is emptied."""
    scores = scores.astype("float32")
    if len(scores):
        scores[scores.argmax()] = np.inf
    return scores
