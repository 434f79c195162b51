"""Tests that a `fit` that is interrupted and resumed ends with the same bits as an uninterrupted one."""

import shutil

import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.atomic_write import atomic_write
from nets import compiled, mlp, needs_steps_per_execution, numpy, ready
from test_contract import METHODS

pytestmark = pytest.mark.long

EPOCHS = 4
PROBE = (np.random.default_rng(3).normal(size=(8, 8)).astype("float32"), np.arange(8) % 3)
METHODS = {
    **METHODS,
    "SET by epoch": lambda: ks.SET(fraction=0.3),
    "RigL by epoch": lambda: ks.RigL(0.4, period="epoch", until=4, probe=PROBE),
    "DynamicSparse by schedule": lambda: ks.DynamicSparse({0: 30, 2: 10}, {0: 4, 2: 3}, threshold=0.02),
    "DeepR as of Table 4": lambda: ks.DeepR(1e-2, {0: 0.5, 2: 0.05}, reading="table_4"),
    "dense DeepR": lambda: ks.DeepR(0.05, 0.5, seed=1),  # More weights cross zero than there are dead ones.
}
BACKUPS = {"keras's": keras.callbacks.BackupAndRestore, "ours": ks.BackupAndRestore}


MOMENTS = [("on_epoch_end", 1, None), ("on_train_batch_end", 2, 5), ("on_train_batch_begin", 1, 0)]


class CutError(Exception):
    pass


class Cut(keras.callbacks.Callback):
    """Raises an error at the end of an epoch, or at a batch."""

    def __init__(self, hook, epoch, batch):
        super().__init__()
        self.hook, self.at = hook, (epoch, batch)
        setattr(self, hook, self._raise)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def _raise(self, number, logs=None):
        if self.at == ((number, None) if self.hook.startswith("on_epoch") else (self.epoch, number)):
            raise CutError


def prepared(blobs, sparsity, name, first=True, backup=None, cut=None, per_execution=1):
    """Returns a model, and a function that trains it with a backup before or after the method."""
    model = ready(mlp, sparsity, steps_per_execution=per_execution)
    parts = [backup, cut, METHODS[name]()]
    callbacks = [x for x in (parts if first else reversed(parts)) if x]
    settings = {"batch_size": 8, "epochs": EPOCHS, "callbacks": callbacks, "shuffle": False, "verbose": 0}
    return model, lambda: model.fit(*blobs, **settings).history


def bits(model):
    """Returns weights, masks and optimizer state."""
    return [(v.path, numpy(v).copy()) for v in [*model.weights, *model.optimizer.variables]]


_undisturbed = {}


def undisturbed(blobs, *run):
    """Returns the history and the final state of an uninterrupted run, cached."""
    if run not in _undisturbed:
        sparsity, name, per_execution = run
        model, fit = prepared(blobs, sparsity, name, per_execution=per_execution)
        _undisturbed[run] = fit(), bits(model)
    return _undisturbed[run]


def assert_same_end(blobs, sparsity, name, first, backup, moment, per_execution=1):
    history, expected = undisturbed(blobs, sparsity, name, per_execution)
    model, run = prepared(blobs, sparsity, name, first, backup(), Cut(*moment), per_execution)
    with pytest.raises(CutError):
        run()
    model, run = prepared(blobs, sparsity, name, first, backup(), per_execution=per_execution)
    rest = run()
    begun = moment[1] + (moment[0] == "on_epoch_end" and first)
    assert rest == {key: values[begun:] for key, values in history.items()}
    for (path, one), (_, other) in zip(bits(model), expected, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=path)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("first", [True, False], ids=["backup first", "backup last"])
@pytest.mark.parametrize("kind", BACKUPS)
def test_an_interrupted_fit_ends_with_the_same_bits(name, first, kind, blobs, tmp_path):
    sparsity = {"dense DeepR": 0.2, "GradualPruning": 0.0}.get(name, 0.6)
    for i, moment in enumerate(MOMENTS):
        assert_same_end(blobs, sparsity, name, first, lambda i=i: BACKUPS[kind](tmp_path / str(i)), moment)


@pytest.mark.parametrize("name", ["DeepR", "DynamicSparse"])
def test_with_an_optimizer_that_moves_dead_weights(name, blobs, tmp_path):
    """New weights must start from 0, not from the value that Muon has written to the dead weight."""
    ends = []
    for cut in (None, Cut("on_train_batch_end", 2, 5)):
        keras.utils.set_random_seed(1)
        model = compiled(mlp(), keras.optimizers.Muon(0.02))
        fit = {"batch_size": 8, "epochs": 4, "shuffle": False, "verbose": 0}
        callbacks = [METHODS[name](), ks.BackupAndRestore(tmp_path / str(bool(cut)))]
        if cut:
            with pytest.raises(CutError):
                model.fit(*blobs, callbacks=[*callbacks, cut], **fit)
            model = compiled(mlp(seed=3), keras.optimizers.Muon(0.02))
            callbacks = [METHODS[name](), ks.BackupAndRestore(tmp_path / str(bool(cut)))]
        model.fit(*blobs, callbacks=callbacks, **fit)
        ends.append(bits(model))
    for (path, one), (_, other) in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=path)


@needs_steps_per_execution
@pytest.mark.parametrize("name", METHODS)
def test_with_steps_per_execution(name, blobs, tmp_path):
    def backup():
        return ks.BackupAndRestore(tmp_path / "b")

    assert_same_end(blobs, 0.6, name, True, backup, ("on_epoch_end", 1, None), per_execution=3)


def test_a_finished_fit_leaves_no_backup_and_the_next_starts_from_scratch(blobs, tmp_path):
    model = compiled(mlp())
    for _ in range(2):
        backup = ks.BackupAndRestore(tmp_path / "b")
        history = model.fit(*blobs, epochs=3, callbacks=[ks.Static(), backup], verbose=0).history
        assert len(history["loss"]) == 3
        assert list((tmp_path / "b").iterdir()) == []


def test_an_interrupted_backup_keeps_the_previous_one(blobs, tmp_path, monkeypatch):
    model = compiled(mlp())
    backup = ks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)
    model.fit(*blobs, epochs=2, callbacks=[backup], verbose=0)
    before = (tmp_path / "b/2.epochs.weights.h5").read_bytes()

    def half(path, **kwargs):
        path.write_bytes(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_weights", half)
    with pytest.raises(OSError, match="No space left"):
        model.fit(*blobs, epochs=5, callbacks=[backup], verbose=0)
    assert {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()} == {"2.epochs.weights.h5": before}
    # Incomplete files after SIGKILL are deleted at the next start, and never read.
    with atomic_write(tmp_path / "b/3.epochs.weights.h5") as new:
        new.write_bytes(before[:99])
        shutil.copytree(new.parent, f"{new.parent}x")
    (tmp_path / "b/3.epochs.weights.h5").unlink()
    other = compiled(mlp(seed=3))
    other.fit(*blobs, epochs=2, callbacks=[backup], verbose=0)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["2.epochs.weights.h5"]
    assert backup.epoch == 2


def test_an_unbuilt_model_is_refused(blobs, tmp_path):
    model = compiled(keras.Sequential([ks.layers.MaskedDense(3, sparsity=0.5)]))
    model.built = False
    backup = ks.BackupAndRestore(tmp_path / "b")
    backup.set_model(model)
    with pytest.raises(ValueError, match="is not built, so that no backup can be restored. Call it once on a batch"):
        backup.on_train_begin()


@pytest.mark.parametrize("method", [lambda: ks.Static(), lambda: ks.SET(fraction=0.3, period="epoch")])
@pytest.mark.parametrize("accumulation", [None, 4])
def test_with_dropout_and_steps_that_cross_epochs(blobs, tmp_path, method, accumulation):
    """Weight files of Keras do not hold the state of seed generators. An epoch has 6 batches."""

    def run(*callbacks):
        dense = keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(12), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(3)]
        )
        model = compiled(
            ks.sparsify(dense, 0.5), keras.optimizers.SGD(0.1, 0.9, gradient_accumulation_steps=accumulation)
        )
        for i, w in enumerate(model.trainable_weights):
            w.assign(np.random.default_rng(i).normal(size=w.shape))
        callbacks = [method(), *callbacks]
        return model, lambda: model.fit(*blobs, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)

    expected, fit = run()
    fit()
    _, fit = run(ks.BackupAndRestore(tmp_path), Cut("on_epoch_begin", 2, None))
    with pytest.raises(CutError):
        fit()
    resumed, fit = run(ks.BackupAndRestore(tmp_path))
    fit()
    for (path, a), (_, b) in zip(bits(expected), bits(resumed), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)


def test_after_an_interrupted_resume_the_next_fit_starts_at_its_first_epoch(blobs, tmp_path):
    class Interrupts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = compiled(mlp())
    model.fit(*blobs, epochs=2, callbacks=[ks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)], verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*blobs, epochs=5, callbacks=[Interrupts(), ks.BackupAndRestore(tmp_path / "b")], verbose=0)
    assert len(model.fit(*blobs, epochs=3, verbose=0).history["loss"]) == 3


def test_seed_generators_in_a_list_are_restored(blobs, tmp_path):
    class Noise(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.generators = [keras.random.SeedGenerator(1), keras.random.SeedGenerator(2)]

        def call(self, x, training=False):
            return x + sum(keras.random.normal(x.shape[1:], seed=g) for g in self.generators) if training else x

    def make():
        keras.utils.set_random_seed(1)
        layers = [keras.Input((8,)), keras.layers.Dense(4), Noise(), keras.layers.Dense(3)]
        return compiled(ks.sparsify(keras.Sequential(layers), 0.5))

    whole = make()
    whole.fit(*blobs, epochs=4, shuffle=False, verbose=0)
    for epochs in (2, 4):
        model, backup = make(), ks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)
        model.fit(*blobs, epochs=epochs, shuffle=False, callbacks=[backup], verbose=0)
    for one, other in zip(whole.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
