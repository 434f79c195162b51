"""Tests `EarlyStopping` and `ModelCheckpoint`, which ignore epochs before the network is sparse enough."""

import keras
import pytest

import keras_sparse as ks
from keras_sparse.callbacks.from_sparsity import is_as_sparse
from nets import assert_dead_is_zero, live_weights, mlp, numpy, ready


def prune(step):
    """Schedule that prunes to 0.5 after the first epoch of twelve steps, to 0.9 after the second."""
    return step in (13, 25), 0.5 if step < 25 else 0.9


class Score(keras.callbacks.Callback):
    """Adds a score of an evaluation to the logs, which gets worse in every epoch."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_score"] = float(epoch)


@pytest.fixture
def model():
    return ready(mlp, 0.0)


def fit(model, blobs, *callbacks, epochs=8):
    method = ks.GradualPruning(prune)
    return model.fit(*blobs, batch_size=8, epochs=epochs, callbacks=[method, Score(), *callbacks], verbose=0).history


def test_the_checkpoint_ignores_epochs_that_are_not_sparse_enough(model, blobs, tmp_path):
    """The checkpoint of Keras saves the first epoch as the best, in which the network is not sparse yet."""
    arguments = {"monitor": "val_score", "mode": "min", "save_best_only": True}
    early = keras.callbacks.ModelCheckpoint(tmp_path / "early.keras", **arguments)
    late = ks.ModelCheckpoint(tmp_path / "late.keras", **arguments, from_sparsity=0.9)
    fit(model, blobs, early, late)
    dense, sparse = (keras.models.load_model(tmp_path / f"{name}.keras") for name in ("early", "late"))
    assert live_weights(dense) == 178  # Keras saves the first epoch, before the target sparsity
    assert live_weights(sparse) == 36
    assert (early.best, late.best) == (0.0, 1.0)


def test_early_stopping_ignores_epochs_that_are_not_sparse_enough(model, blobs):
    stop = ks.EarlyStopping("val_score", mode="min", patience=2, restore_best_weights=True, from_sparsity=0.9)
    history = fit(model, blobs, stop)
    assert len(history["val_score"]) == 4  # the target is reached in the second epoch; patience is 2
    assert stop.best == 1.0
    assert live_weights(model) == 36


def test_a_metric_of_training_counts_from_the_first_epoch_that_begins_sparse_enough(model, blobs, tmp_path):
    """Epoch 1, from 0, ends with the last pruning. Its loss is that of the denser network before."""
    best = ks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True, from_sparsity=0.9)
    each = ks.ModelCheckpoint(tmp_path / "{epoch}.keras", monitor="loss", from_sparsity=0.9)
    stop = ks.EarlyStopping("loss", patience=99, from_sparsity=0.9)
    losses = fit(model, blobs, best, each, stop, epochs=5)["loss"]
    assert losses[1] < min(losses[2:])
    assert best.best == stop.best == pytest.approx(min(losses[2:]))
    assert sorted(x.name for x in tmp_path.iterdir()) == ["2.keras", "3.keras", "4.keras", "5.keras", "best.keras"]
    with pytest.warns(UserWarning, match="EarlyStopping has done nothing: no epoch began with a network as sparse"):
        fit(ready(mlp, 0.0), blobs, stop, epochs=2)


def test_a_network_that_a_later_callback_restores_is_sparse_enough(model, blobs, tmp_path):
    fit(model, blobs, epochs=3)
    weights = [numpy(v).copy() for v in model.weights]
    restores = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: model.set_weights(weights))
    saves = ks.ModelCheckpoint(tmp_path / "{epoch}_{batch}.keras", save_freq=6, from_sparsity=0.9)
    ready(mlp, 0.0).fit(*blobs, batch_size=8, callbacks=[ks.Static(), saves, restores], verbose=0)
    assert len(list(tmp_path.iterdir())) == 2


class FirstWeights(keras.callbacks.Callback):
    """Restores the weights and masks of the first epoch, as a custom callback may."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.weights = [numpy(v) for v in self.model.weights]
        if epoch == 2:
            self.model.set_weights(self.weights)


class Look(keras.callbacks.Callback):
    """Checks dead weights before each step."""

    def on_train_batch_begin(self, batch, logs=None):
        assert_dead_is_zero(self.model)


def moving():
    return ks.DynamicSparse(prune_count=30, period=4, threshold=0.02)


def test_restoring_masks_clears_the_momentum_of_dead_weights(blobs):
    model = ready(mlp)
    score = {"monitor": "val_score", "mode": "min", "restore_best_weights": True}
    stop = ks.EarlyStopping(**score, patience=3, from_sparsity=0.5)
    model.fit(*blobs, batch_size=8, epochs=6, callbacks=[moving(), Score(), stop], verbose=0)
    assert stop.stopped_epoch == 3
    assert_dead_is_zero(model)
    # EarlyStopping of Keras does not clear momentum; the next `fit` does.
    stop = keras.callbacks.EarlyStopping(**score, patience=3)
    model.fit(*blobs, batch_size=8, epochs=6, callbacks=[moving(), Score(), stop], verbose=0)
    with pytest.raises(AssertionError):
        assert_dead_is_zero(model)
    model.fit(*blobs, batch_size=8, epochs=1, callbacks=[moving(), Look()], verbose=0)


def test_setting_weights_between_epochs_clears_the_momentum_of_dead_weights(blobs):
    model = ready(mlp)
    model.fit(*blobs, batch_size=8, epochs=5, callbacks=[moving(), FirstWeights(), Look()], verbose=0)
    assert_dead_is_zero(model)


def test_saving_by_batch_ignores_batches_before_the_sparsity_is_reached(model, blobs, tmp_path):
    fit(model, blobs, ks.ModelCheckpoint(tmp_path / "{batch}.keras", save_freq=6, from_sparsity=0.9), epochs=3)
    saved = [keras.models.load_model(p) for p in tmp_path.iterdir()]
    assert saved
    assert {live_weights(m) for m in saved} == {36}


def test_the_target_sparsity_is_reached_up_to_rounding():
    assert is_as_sparse(mlp(0.6), 0.6)
    assert not is_as_sparse(mlp(0.6), 0.62)
    assert is_as_sparse(mlp(0.6), 0.0)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, "high"])
def test_an_invalid_sparsity_is_refused(sparsity):
    with pytest.raises(ValueError, match="`from_sparsity` is the removed fraction"):
        ks.EarlyStopping("loss", from_sparsity=sparsity)


def test_early_stopping_does_not_make_keras_wait_for_each_step():
    """Keras waits for callbacks that have a hook after batches."""
    assert ks.EarlyStopping.on_train_batch_end is keras.callbacks.EarlyStopping.on_train_batch_end
