"""Gradual pruning, called "compressed sparse" by Mostafa & Wang.

Reference:
    Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017.
"""

import numbers
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_sparse import criteria
from keras_sparse.layers.traversal import trainable_masked_weights
from keras_sparse.schedules import multiples
from keras_sparse.training.layer_state import LayerState, by_element_size, sparsity
from keras_sparse.training.pattern_update import strongest_of_groups
from keras_sparse.training.saved_state import read_state
from keras_sparse.training.sparse_method import SparseMethod
from keras_sparse.training.update_schedule import UpdateSchedule
from keras_sparse.validation import check_callable, check_choice, check_sparsity


class PruningSchedule(UpdateSchedule):
    """Update schedule given by a function that says before which steps to prune.

    Args:
        schedule: function `step -> (due, sparsity)`; see `GradualPruning`.
        until: int, the number of epochs after which no update is due; None for no end.
    """

    def __init__(self, schedule: Callable[[int], tuple[bool, float]], until: int | None):
        super().__init__("GradualPruning", None, until)
        self._schedule = schedule

    def due(self, before: int, now: int) -> Sequence[int]:
        """Returns the steps in (before + 1, now + 1] before which to prune.

        After optimizer step `now`, the schedule is asked about the step that follows.
        """
        before, now = before + 1, now + 1
        steps = range(before + 1, now + 1)
        begin, frequency = (getattr(self._schedule, name, None) for name in ("begin_step", "frequency"))
        # Schedules of TF-MOT are too slow to be called at every step.
        if isinstance(begin, numbers.Integral) and isinstance(frequency, numbers.Integral):
            steps = (begin + s for s in multiples(frequency, before - begin, now - begin))
        return [s for s in steps if self.ask(s)[0]]

    def first(self, step: int) -> int:
        """Returns the step before the start, since an update may be due before the first step."""
        return step - 1

    def is_never(self) -> bool:
        """Returns False, since a schedule function cannot be inspected."""
        return False

    def describe(self) -> str:
        """Formats the schedule and its parameters for messages."""
        schedule, numbers = self._schedule, ("begin_step", "end_step", "frequency")
        given = ", ".join(f"{n}={getattr(schedule, n)}" for n in numbers if hasattr(schedule, n))
        return f"schedule={getattr(schedule, '__name__', type(schedule).__name__)}({given})"

    def ask(self, step: int) -> tuple[bool, float]:
        """Calls the function and checks its result.

        Args:
            step: int, the training step, counted from 1.

        Returns:
            Tuple `(due, sparsity)` of bool and float: whether to prune before that step, and the sparsity to prune to.

        Raises:
            ValueError: if the function returns anything else.
        """
        answer = self._schedule(step)
        try:
            due, target = answer
            return bool(due), float(target)
        except (TypeError, ValueError):
            raise ValueError(
                "`schedule` must be a function `step -> (due, sparsity)`, whether to prune before that step and the "
                f"sparsity to reach. Received: schedule({step})={answer!r}."
            ) from None


class GradualPruning(SparseMethod):
    """Prunes a trained network to a sparsity that rises according to a schedule.

    Before every training step at which the schedule is due:

    1. Read the sparsity s from the schedule.
    2. Drop the live weights with the smallest |w| until the sparsity is s. Nothing grows.

    The model starts dense but masked: `keras_sparse.sparsify(trained, sparsity=0.0)`. A layer is never emptied: its
    largest weight is always kept.

    Args:
        schedule: function `step -> (due, sparsity)`: whether to prune before that training step, and the sparsity to
            prune to. Steps are those of the optimizer, which a second `fit` continues, and count from 1 as in TF-MOT.
            `keras_sparse.schedules.polynomial_decay` returns the paper's schedule. Schedules of TF-MOT, such as
            `tfmot.sparsity.keras.PolynomialDecay(...)`, are accepted, too: one with int attributes `begin_step` and
            `frequency` is only asked at the steps that are so given.
        scope: "layer" prunes each layer to the sparsity. "network" prunes all layers together, by one threshold, to
            that sparsity; layers whose mask elements hold different numbers of weights are pruned separately.
        until: int, the number of epochs after which the masks stay fixed; None for no end.

    Raises:
        ValueError: if an argument is out of its range; in `fit`, if the model has no trainable masked layer, or if two
            prunings are due within one execution of `steps_per_execution` steps.

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

    grows = False

    def __init__(self, schedule: Callable[[int], tuple[bool, float]], scope: str = "layer", until: int | None = None):
        example = "keras_sparse.schedules.polynomial_decay(0.0, 0.9, 0, 1000)"
        check_callable(schedule, "schedule", "step -> (due, sparsity)", example)
        check_choice(scope, "scope", ("layer", "network"))
        super().__init__(update_schedule=PruningSchedule(schedule, until))
        self.schedule = schedule
        self.scope = scope

    def budget(self, layers: list[LayerState]) -> int:
        """Returns the number of weights that are live after pruning to the scheduled sparsity."""
        return sum(keep * layers[group[0]].element_size for group, keep in self._keep(layers))

    def drop(self, layers: list[LayerState]) -> list[np.ndarray]:
        """Drops the weakest elements of each layer, or of all layers together."""
        dropped = [None] * len(layers)
        for group, keep in self._keep(layers):
            scores = [_shielded(layers[i]) for i in group]
            together = np.concatenate(scores)
            gone = criteria.weakest(together, len(together) - keep)
            for i, d in zip(group, np.split(gone, np.cumsum([len(s) for s in scores])[:-1]), strict=True):
                dropped[i] = d
        return dropped

    def redistribute(self, layers: list[LayerState], dropped: list[np.ndarray]) -> list[int]:
        """Returns zeros, since nothing grows."""
        return [0] * len(layers)

    def may_be_idle(self) -> bool:
        """Whether the sparsity is within 0.01 of the scheduled one, so that nothing had to be dropped."""
        return abs(sparsity(trainable_masked_weights(self.model)) - self._sparsity()) < 0.01

    def logs(self) -> dict:
        """Returns the scheduled sparsity of the last pruning, for the logs of the epoch."""
        # Read from the model, so that a resumed `fit` knows the step of a pruning before it.
        last = read_state(self.model).last_update
        return {"target_sparsity": self._ask(max(last, 0) + 1)[1]}

    def check(self, model: keras.Model, layers: list) -> None:
        """Warns if the last pruning of the schedule comes before its end."""
        begin, end, frequency = (getattr(self.schedule, n, None) for n in ("begin_step", "end_step", "frequency"))
        known = all(isinstance(n, numbers.Integral) for n in (begin, end, frequency))
        if known and end > begin and (over := (end - begin) % frequency):
            warnings.warn(
                f"GradualPruning will not reach its final sparsity, {self._ask(end)[1]:.4g}, but "
                f"{self._ask(end - over)[1]:.4g}: a frequency of {frequency} does not divide the {end - begin} steps "
                f"from {begin} to {end}, so that the last pruning is at step {end - over}. Choose one that does.",
                stacklevel=3,
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Warns in the first epoch of `fit` if the schedule has ended, and the model is not as sparse as it says."""
        is_first = self.update_schedule.started is None
        before = read_state(self.model).method if is_first else None
        super().on_epoch_begin(epoch, logs)
        last, started = self._end_step(), self.update_schedule.started
        # A schedule that has been followed may not have reached its sparsity: layers keep at least one element.
        if not is_first or before == type(self).__name__ or not 0 <= last <= started:
            return
        now, final = sparsity(trainable_masked_weights(self.model)), self._ask(last)[1]
        if now < final - 0.01:
            warnings.warn(
                f"GradualPruning will prune nothing: its schedule ends at step {last} with a sparsity of {final:.4g}. "
                f"Received: a model of sparsity {now:.4g}, whose optimizer has made {started} steps. Add these to the "
                "steps of the schedule, or compile the model again, so that its optimizer starts from 0.",
                stacklevel=2,
            )

    def _end_step(self):
        """Returns the last step of the schedule; -1 if it is unknown, or there is none."""
        last = getattr(self.schedule, "end_step", None)
        return last if isinstance(last, numbers.Integral) else -1

    def warn(self) -> None:
        """Warns if training ended before the schedule."""
        last = self._end_step()
        if not 0 <= last <= self.update_schedule.started:  # Otherwise the schedule had ended before this `fit`.
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
        """Yields `(indices, number of elements to keep)` for each group of layers that are pruned together."""
        target = self._sparsity()
        check_sparsity(target, f"schedule({self._step + 1})")
        density = 1 - target
        groups = [[i] for i in range(len(layers))] if self.scope == "layer" else by_element_size(layers)
        for group in groups:
            size, live = (sum(f(layers[i]) for i in group) for f in (lambda t: t.size, lambda t: len(t.live)))
            least = sum(np.count_nonzero(_protected(layers[i])) for i in group)
            yield group, min(live, max(round(size * density), least))


def _shielded(layer):
    """Returns the scores of the live elements, with infinity for protected ones."""
    return np.where(_protected(layer), np.inf, layer.scores.astype("float32"))


def _protected(layer):
    """Returns which live elements are never dropped: the strongest of a layer, or those that its pattern needs."""
    if layer.pattern is not None:
        return strongest_of_groups(layer)
    protected = np.zeros(len(layer.scores), bool)
    if len(protected):
        protected[layer.scores.argmax()] = True
    return protected
