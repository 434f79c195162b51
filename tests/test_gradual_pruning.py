"""Tests gradual pruning: by hand, its schedule, and against the masks of TF-MOT."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.training.layer_state import LayerState
from nets import assert_dead_is_zero, compiled, live_weights, mlp, ready, state


def curve(step, begin=0, end=24, frequency=6, final=0.9):
    """Computes equation 1 of Zhu & Gupta in plain Python."""
    progress = min(1, max(0, (step - begin) / (end - begin)))
    due = begin <= step <= end and (step - begin) % frequency == 0
    return due, final * (1 - (1 - progress) ** 3)


def dropped(sparsity, scope, *weights):
    tensors = [LayerState.of(np.array(w, "float32"), np.array(w) != 0) for w in weights]
    method = ks.GradualPruning(lambda step: (True, sparsity), scope=scope)
    return [t.live[d].tolist() for t, d in zip(tensors, method.drop(tensors), strict=True)]


class TestByHand:
    def test_scope_layer_prunes_each_layer_to_the_sparsity(self):
        assert dropped(0.5, "layer", [4, -3, 2, 1], [0.4, 0.1, -0.2, 0.3]) == [[2, 3], [1, 2]]

    def test_scope_network_prunes_by_one_threshold(self):
        # Eight weights, of which four remain: 4, 3, 2 and 1.
        assert dropped(0.5, "network", [4, -3, 2, 0.5], [0.4, 1, -0.2, 0.3]) == [[3], [0, 2, 3]]

    def test_the_strongest_of_each_layer_is_kept(self):
        assert dropped(0.75, "network", [4, -3, 2, 5], [0.4, 0.1, -0.2, 0.3]) == [[0, 1, 2], [1, 2, 3]]
        assert dropped(0.99, "layer", [4, -3, 2, 5]) == [[0, 1, 2]]

    def test_a_network_that_is_sparse_enough_does_not_change(self):
        assert dropped(0.5, "layer", [4, 0, 0, 1], [1, 0, 0, 0]) == [[], []]


def test_sparsity_follows_the_schedule(blobs):
    model = ready(mlp, 0.0)
    actual = {}

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            actual[int(self.model.optimizer.iterations)] = [float(m.mean()) for _, m in state(self.model)]

    history = model.fit(
        *blobs, batch_size=8, epochs=3, callbacks=[ks.GradualPruning(curve), Watch()], verbose=0
    ).history
    sizes = [w.size for w, _ in state(model)]
    for step, densities in actual.items():
        last = max(s for s in range(0, 25, 6) if s <= step + 1)
        assert densities == [round(n * (1 - curve(last)[1])) / n for n in sizes]
    assert history["target_sparsity"] == pytest.approx([0.9 * (1 - 0.5**3), 0.9, 0.9])
    assert history["sparsity"][-1] == pytest.approx(0.9, abs=0.01)
    assert sum(history["grown"]) == 0
    assert_dead_is_zero(model)


def test_a_schedule_that_is_due_before_the_first_step(blobs):
    model = ready(mlp, 0.0)
    seen = []

    class First(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(live_weights(self.model))

    method = ks.GradualPruning(lambda step: (step == 1, 0.5))
    model.fit(*blobs, batch_size=8, epochs=1, callbacks=[method, First()], verbose=0)
    assert seen[0] == 178


def test_tfmot_schedules_are_called_only_when_they_can_be_due(blobs):
    schedule = ks.schedules.polynomial_decay(0.0, 0.9, begin_step=0, end_step=24, frequency=6)
    asked = []

    class Asked:
        begin_step, frequency, end_step = 0, 6, 24

        def __call__(self, step):
            asked.append(step)
            return schedule(step)

    runs = []
    for s in (Asked(), curve):
        model = ready(mlp, 0.0)
        model.fit(*blobs, batch_size=8, epochs=3, callbacks=[ks.GradualPruning(s)], shuffle=False, verbose=0)
        runs.append(state(model))
    assert set(asked) == {6, 12, 18, 24, 30, 36}
    for (_, m), (_, n) in zip(*runs, strict=True):
        np.testing.assert_array_equal(m, n)


@pytest.mark.parametrize(("frequency", "end"), [(12, 20), (7, 20)])
def test_a_last_pruning_before_the_end_of_the_schedule_gives_a_warning(blobs, frequency, end):
    schedule = ks.schedules.polynomial_decay(0.0, 0.9, begin_step=0, end_step=end, frequency=frequency)
    last = end // frequency * frequency
    model, pruning = ready(mlp, 0.0), ks.GradualPruning(schedule)
    with pytest.warns(UserWarning, match=rf"not reach its final sparsity, 0.9, but.*last pruning is at step {last}\."):
        model.fit(*blobs, batch_size=8, epochs=2, callbacks=[pruning], verbose=0)
    assert pruning.logs()["target_sparsity"] == pytest.approx(float(schedule(last)[1])) != 0.9


def test_a_target_below_the_current_sparsity_gives_a_warning(blobs):
    pruning = ks.GradualPruning(lambda step: (step % 3 == 0, 0.3))
    with pytest.warns(UserWarning, match="none of them dropped anything"):
        ready(mlp, 0.6).fit(*blobs, batch_size=8, epochs=2, callbacks=[pruning], verbose=0)


def test_a_schedule_that_had_ended_before_leaves_no_hook(blobs):
    """Muon changes dead weights, which are reset inside the step as long as a method is active."""
    model = ready(mlp, 0.0, optimizer=keras.optimizers.Muon)
    schedule = ks.schedules.polynomial_decay(0.0, 0.9, begin_step=0, end_step=12, frequency=6)
    for epoch in range(2):
        pruning = ks.GradualPruning(schedule)
        model.fit(*blobs, batch_size=8, initial_epoch=epoch, epochs=epoch + 1, callbacks=[pruning], verbose=0)
        assert "train_step" not in vars(model)
    assert_dead_is_zero(model)


def test_a_schedule_of_tfmot_prunes_alike(blobs, tfmot):
    arguments = (0.1, 0.9, 1, 25, 3, 6)
    runs = []
    for schedule in (tfmot.PolynomialDecay(*arguments), ks.schedules.polynomial_decay(*arguments)):
        model = ready(mlp, 0.0)
        pruning = ks.GradualPruning(schedule)
        history = model.fit(*blobs, batch_size=8, epochs=3, callbacks=[pruning], shuffle=False, verbose=0).history
        runs.append((history["target_sparsity"], [m.tolist() for _, m in state(model)]))
    assert runs[0] == runs[1]
    assert history["sparsity"][-1] == pytest.approx(0.9, abs=0.01)


def test_making_a_schedule_imports_nothing():
    code = (
        "import sys, keras; before = set(sys.modules); import keras_sparse as ks;"
        "s = ks.schedules.polynomial_decay(0.0, 0.5, 0, 10, frequency=5); print(*s(5));"
        "print({m.split('.')[0] for m in set(sys.modules) - before} & {'tensorflow_model_optimization', 'tf_keras'})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == ["True 0.4375", "set()"], run.stderr[-2000:]


@pytest.mark.tensorflow
def test_masks_equal_those_of_tfmot_at_every_pruning(tmp_path):
    """Runs in a process of its own, since TF-MOT needs Keras 2."""
    for package in ("tensorflow_model_optimization", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, here / "tfmot_twin.py", tmp_path / "twin.npz"],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    twin = np.load(tmp_path / "twin.npz")
    settings = json.loads(str(twin["settings"]))
    model = keras.Sequential(
        [keras.Input((8,)), *(keras.layers.Dense(n, a) for n, a in ((16, "relu"), (12, "relu"), (3, None)))]
    )
    model = ks.sparsify(model, 0.0)
    for i, layer in enumerate(ks.masked_layers(model)):
        layer.kernel_variable.assign(twin[f"kernel{i}"])
    model.compile(
        keras.optimizers.SGD(settings["learning_rate"]), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    masks = {}

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            step = int(self.model.optimizer.iterations) + 1  # the step of the batch that begins
            masks[step] = [m for _, m in state(self.model)]

    schedule = ks.schedules.polynomial_decay(**settings["schedule"])
    model.fit(
        twin["x"],
        twin["y"],
        batch_size=8,
        epochs=settings["epochs"],
        shuffle=False,
        verbose=0,
        callbacks=[ks.GradualPruning(schedule), Watch()],
    )
    prunings = [int(name.split("_")[1]) for name in twin.files if name.startswith("masks0_")]
    assert len(prunings) == 6
    for step in prunings:
        for i, mask in enumerate(masks[step]):
            np.testing.assert_array_equal(
                mask, twin[f"masks{i}_{step}"].astype(bool), err_msg=f"layer {i}, step {step}"
            )
    assert 1 - masks[max(prunings)][0].mean() == pytest.approx(0.8, abs=0.01)


def test_two_prunings_in_one_execution_are_refused(blobs):
    if keras.backend.backend() == "torch":
        pytest.skip("Keras runs steps_per_execution=1 only on PyTorch")
    model = ready(mlp, 0.0, steps_per_execution=12)
    with pytest.raises(ValueError, match="GradualPruning has to act.*the period is 6 batches"):
        model.fit(*blobs, batch_size=8, callbacks=[ks.GradualPruning(curve)], verbose=0)


def test_a_schedule_that_is_never_due_or_not_finished_gives_a_warning(blobs):
    model = ready(mlp, 0.0)
    with pytest.warns(UserWarning, match="GradualPruning made no update: none was due in the 12 optimizer steps"):
        model.fit(*blobs, batch_size=8, callbacks=[ks.GradualPruning(lambda s: (s == 100, 0.5))], verbose=0)

    class Long:
        begin_step, frequency, end_step = 0, 6, 60

        def __call__(self, step):
            return curve(step, end=60)

    model = ready(mlp, 0.0)
    with pytest.warns(
        UserWarning, match="did not reach its final sparsity: the schedule ends at step 60, .* at step 12"
    ):
        model.fit(*blobs, batch_size=8, callbacks=[ks.GradualPruning(Long())], verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": 0.9}, "`schedule` must be a function `step -> .*polynomial_decay.*Received: schedule=0.9"),
        (
            {"schedule": curve, "scope": "global"},
            "`scope` must be one of .*'layer', 'network'.*Received: scope='global'",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.GradualPruning(**arguments)


def test_a_schedule_without_an_end(blobs):
    class Endless:
        begin_step, frequency, end_step = 0, 2, None

        def __call__(self, step):
            return True, 0.7

    model = compiled(mlp(0.5))
    model.fit(*blobs, batch_size=16, callbacks=[ks.GradualPruning(Endless())], verbose=0)
    assert live_weights(model) == sum(round(w.size * 0.3) for w in ks.masked_weights(model))


def test_a_schedule_that_the_optimizer_has_passed_gives_a_warning(blobs):
    model = ready(mlp, 0.0)
    model.fit(*blobs, batch_size=8, epochs=2, verbose=0)
    schedule = ks.schedules.polynomial_decay(0.0, 0.9, begin_step=0, end_step=24, frequency=12)
    with pytest.warns(
        UserWarning, match=r"will prune nothing: its schedule ends at step 24 .* has made 24 steps\. Add"
    ):
        model.fit(*blobs, batch_size=8, epochs=2, callbacks=[ks.GradualPruning(schedule)], verbose=0)
    assert not ks.report(model).sparsity


@pytest.mark.filterwarnings("ignore:GradualPruning (did not reach its final sparsity|made no update):UserWarning")
def test_the_logged_target_is_that_of_the_last_pruning_also_after_a_resume(blobs):
    schedule = ks.schedules.polynomial_decay(0.3, 0.9, begin_step=1, end_step=37, frequency=18)
    targets, settings = [], {"batch_size": 8, "shuffle": False, "verbose": 0}
    for epochs in ((0, 4), (0, 1), (1, 2), (2, 3), (3, 4)):
        model = ready(mlp, 0.0) if epochs[0] == 0 else model  # noqa: F821
        pruning = ks.GradualPruning(schedule)
        history = model.fit(*blobs, initial_epoch=epochs[0], epochs=epochs[1], callbacks=[pruning], **settings).history
        targets += history["target_sparsity"]
    assert targets[:4] == targets[4:] == pytest.approx([float(schedule(step)[1]) for step in (1, 19, 37, 37)])
