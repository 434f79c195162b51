"""Tests the base of all methods: when an update is due, and which state a method keeps."""

import contextlib
import dataclasses
import threading

import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.layers import MaskedDense
from keras_sparse.training.layer_state import LayerState, by_element_size
from keras_sparse.training.optimizer_state import slots
from keras_sparse.training.saved_state import LastWritten, read_state
from nets import (
    Interrupts,
    assert_dead_is_zero,
    compiled,
    live_weights,
    mlp,
    needs_steps_per_execution,
    numpy,
    ready,
    state,
)


class Recorder(ks.DynamicSparse):
    """Records the optimizer steps of its updates."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps = []

    def update(self, model, step, epoch=0):
        assert step == int(numpy(model.optimizer.iterations))
        self.steps.append(step)
        super().update(model, step, epoch)


def fit(blobs, recorder, optimizer=None, epochs=3, batch_size=8, model=None, callbacks=(), fit_kwargs=None, **kwargs):
    """Trains with 12 batches per epoch, and returns the steps of the updates."""
    model = compiled(model or mlp(), optimizer, **kwargs) if model or optimizer else ready(mlp, **kwargs)
    model.fit(
        *blobs, batch_size=batch_size, epochs=epochs, callbacks=[recorder, *callbacks], verbose=0, **(fit_kwargs or {})
    )
    return recorder.steps


def test_an_update_is_made_every_period(blobs):
    assert fit(blobs, Recorder(5, 5)) == [5, 10, 15, 20, 25, 30, 35]


@needs_steps_per_execution
@pytest.mark.parametrize("per_execution", [2, 3, 4, 5])
def test_steps_per_execution_loses_no_update(blobs, per_execution):
    """A callback that counts its calls would update too rarely."""
    steps = fit(blobs, Recorder(5, 5), steps_per_execution=per_execution)
    assert len(steps) == 7
    # An update is made at the end of the execution in which it is due. The last execution ends with the epoch.
    assert all(0 <= s - due < per_execution for s, due in zip(steps, range(5, 36, 5), strict=True))


def test_gradient_accumulation_counts_optimizer_steps(blobs):
    """With accumulation over k batches, the optimizer makes a step every k-th batch."""
    sgd = keras.optimizers.SGD(0.05, momentum=0.9, gradient_accumulation_steps=4)
    assert fit(blobs, Recorder(5, 2), sgd) == [2, 4, 6, 8]


@needs_steps_per_execution
def test_accumulation_and_steps_per_execution_together(blobs):
    sgd = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
    assert fit(blobs, Recorder(5, 3), sgd, steps_per_execution=6) == [3, 6, 9, 12, 15, 18]


def test_period_by_epoch(blobs):
    assert fit(blobs, Recorder(5, {0: 4, 1: 6, 2: 12})) == [4, 8, 12, 18, 24, 36]
    assert fit(blobs, Recorder(5, lambda epoch: 6 * (epoch + 1))) == [6, 12, 24, 36]


def test_prune_count_by_epoch_reaches_the_threshold(blobs):
    recorder = Recorder({0: 1, 1: 60}, 12, threshold=1e-6)
    model = ready(mlp)
    history = model.fit(*blobs, batch_size=8, epochs=3, callbacks=[recorder], verbose=0).history
    assert history["threshold"] == pytest.approx([2e-6, 4e-6, 8e-6])


def test_no_update_after_until(blobs):
    assert fit(blobs, Recorder(5, 5, until=2)) == [5, 10, 15, 20]


def test_a_second_fit_continues_the_count_of_steps(blobs):
    model, recorder = ready(mlp), Recorder(5, 5)
    for _ in range(2):
        model.fit(*blobs, batch_size=8, epochs=1, callbacks=[recorder], verbose=0)
    assert recorder.steps == [5, 10, 15, 20]


def test_training_continues_after_saving_and_loading(blobs, tmp_path):
    """Two epochs equal one epoch, saving, loading and one more epoch."""
    model = ready(mlp)
    model.fit(*blobs, batch_size=8, epochs=2, callbacks=[ks.DynamicSparse(15, 5)], shuffle=False, verbose=0)
    whole = state(model)
    half = ready(mlp)
    half.fit(*blobs, batch_size=8, epochs=1, callbacks=[ks.DynamicSparse(15, 5)], shuffle=False, verbose=0)
    half.save(tmp_path / "half.keras")
    half = keras.models.load_model(tmp_path / "half.keras")
    half.fit(
        *blobs, batch_size=8, epochs=2, initial_epoch=1, callbacks=[ks.DynamicSparse(15, 5)], shuffle=False, verbose=0
    )
    for (a, m), (b, n) in zip(whole, state(half), strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_array_equal(a, b)


def test_an_update_that_a_checkpoint_lacks_is_made_on_resume(blobs, tmp_path):
    """The model is saved after the step at which an update was due, and before that update."""
    model, recorder = ready(mlp), Recorder(5, 12)
    model.fit(*blobs, batch_size=8, epochs=1, callbacks=[recorder], verbose=0)
    LastWritten().write(model, dataclasses.replace(read_state(model), last_update=11))
    model.save_weights(tmp_path / "m.weights.h5")
    model.load_weights(tmp_path / "m.weights.h5")
    fit_kwargs = {"initial_epoch": 1, "epochs": 2, "steps_per_epoch": 2}
    model.fit(*blobs, batch_size=8, callbacks=[recorder], verbose=0, **fit_kwargs)
    assert recorder.steps == [12, 12]


def test_updates_of_epochs_without_the_method_are_not_made_later(blobs):
    model, recorder = ready(mlp), Recorder(5, 5)
    for callbacks in ([recorder], [], [recorder]):
        model.fit(*blobs, batch_size=8, epochs=1, callbacks=callbacks, verbose=0)
    assert recorder.steps == [5, 10, 25, 30, 35]


@pytest.mark.parametrize("backup_first", [True, False])
def test_an_interrupted_run_resumes_with_any_order_of_callbacks(blobs, tmp_path, backup_first):
    class Die(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(folder, *callbacks):
        model, recorder = ready(mlp, 0.8), Recorder(10, 5, threshold=0.05)
        both = [keras.callbacks.BackupAndRestore(tmp_path / folder), recorder][:: 1 if backup_first else -1]
        fit_kwargs = {"shuffle": False, "batch_size": 8, "epochs": 4, "verbose": 0}
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(*blobs, callbacks=[*both, *callbacks], **fit_kwargs)
        return state(model), recorder.steps

    whole, steps = run("whole")
    assert steps == list(range(5, 49, 5))
    assert run("half", Die())[1] == [5, 10, 15, 20]
    resumed, rest = run("half")
    assert rest == [25, 30, 35, 40, 45]
    for (w, m), (v, n) in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(m, n)
        np.testing.assert_array_equal(w, v)


@needs_steps_per_execution
def test_two_updates_in_one_execution_are_refused_with_the_numbers(blobs):
    with pytest.raises(ValueError, match="period is 3 batches, and steps_per_execution makes 4 at once.*at most 3"):
        fit(blobs, Recorder(5, {0: 6, 9: 3}), steps_per_execution=4)
    sgd = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
    assert fit(blobs, Recorder(5, 2), sgd, steps_per_execution=4, epochs=1) == [2, 4, 6]


@needs_steps_per_execution
def test_a_period_function_that_gets_too_short_is_refused_when_it_does(blobs):
    with pytest.raises(ValueError, match="two of its updates fall into one execution"):
        fit(blobs, Recorder(5, lambda epoch: 6 - 4 * epoch), steps_per_execution=6)


def test_a_model_without_masked_layers_is_refused(blobs):
    dense = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="no trainable masked layer.*keras_sparse.sparsify"):
        fit(blobs, Recorder(5, 5), model=dense)


def test_the_error_for_an_unbuilt_model_says_how_to_build_it(blobs):
    model = keras.Sequential([MaskedDense(6, sparsity=0.5, name="a"), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"is not built: \['a'\] have no weights yet. Call it once"):
        ks.DynamicSparse(5, 5).update(model, 0)
    # On other backends, `fit` builds the model before it calls the callbacks.
    if keras.backend.backend() == "tensorflow":
        with pytest.raises(ValueError, match="is not built"):
            fit(blobs, Recorder(5, 5), model=model)
        model(blobs[0][:1])
    assert fit(blobs, Recorder(5, 5), model=model, epochs=1) == [5, 10]


def test_freezing_a_layer_changes_no_draw_and_no_memory(blobs):
    """The second layer grows at the same positions whether the first, which holds the state, is frozen or not."""
    grown = []
    for frozen in (False, True):
        model = compiled(mlp(0.8))
        ks.masked_layers(model)[0].trainable = not frozen
        before = state(model)
        method = ks.SET(fraction=0.3)
        method.update(model, 7)
        grown.append(state(model)[1][1] & ~before[1][1])
        assert read_state(model).last_update == 7
    np.testing.assert_array_equal(*grown)
    assert grown[0].any()


def test_frozen_layers_are_not_updated(blobs):
    model = mlp()
    frozen = ks.masked_layers(model)[1]
    frozen.trainable = False
    before = state(model)
    fit(blobs, Recorder(15, 5, threshold=0.05), model=model)
    after = state(model)
    np.testing.assert_array_equal(before[1][0], after[1][0])
    np.testing.assert_array_equal(before[1][1], after[1][1])
    assert (before[0][1] != after[0][1]).any()
    assert sum(m.sum() for _, m in before) == sum(m.sum() for _, m in after)


def test_validation_and_partial_batches_do_not_move_the_clock(blobs):
    x, y = blobs
    steps = fit((x[:92], y[:92]), Recorder(5, 5), fit_kwargs={"validation_data": (x, y)})  # 11.5 batches
    assert steps == [5, 10, 15, 20, 25, 30, 35]


def test_layers_are_reached_through_the_model_only_when_due(blobs, monkeypatch):
    """On JAX every access to `callback.model` synchronizes the training state, which is slow."""
    accesses = []
    inherited = keras.callbacks.Callback.model.fget
    monkeypatch.setattr(Recorder, "model", property(lambda self: accesses.append(1) or inherited(self)))
    recorder = Recorder(5, 12)
    model = ready(mlp)
    in_batches = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.before = len(accesses)

        def on_train_batch_end(self, batch, logs=None):
            in_batches.append(len(accesses) - self.before)

    model.fit(*blobs, batch_size=8, epochs=2, callbacks=[recorder, Count()], verbose=0)
    assert in_batches == ([0] * 11 + [1]) * 2


def test_the_updated_masks_are_what_training_goes_on_with(blobs):
    """On JAX the variables of a layer are stale during `fit`, and what is written to them is lost."""
    model = ready(mlp, 0.5)
    masks = []

    class Masks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks.append([m for _, m in state(self.model)])

    model.fit(*blobs, batch_size=8, epochs=1, callbacks=[ks.DynamicSparse(30, 4, threshold=0.1), Masks()], verbose=0)
    assert (masks[3][0] != masks[2][0]).any()
    for i in (4, 5, 6):
        np.testing.assert_array_equal(masks[3][0], masks[i][0])
    moved = numpy(ks.masked_layers(model)[0].kernel_variable)
    np.testing.assert_array_equal(moved != 0, masks[-1][0])


def test_a_method_that_breaks_the_budget_is_stopped_and_nothing_is_written(blobs):
    class Greedy(ks.DynamicSparse):
        def redistribute(self, tensors, dropped):
            return [n + 1 for n in super().redistribute(tensors, dropped)]

    class Resurrecting(ks.DynamicSparse):
        def grow(self, tensor, count, rng):
            return tensor.live[:count]

    for method in (Greedy(15, 5, threshold=0.1), Resurrecting(15, 5, threshold=0.1)):
        model = ready(mlp)
        before, threshold = state(model), method.logs()
        with pytest.raises(RuntimeError, match=f"{type(method).__name__} broke an invariant"):
            method.update(model, 1)
        assert method.logs() == threshold
        for (a, m), (b, n) in zip(before, state(model), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(m, n)


def test_a_state_that_cannot_be_saved_is_refused_before_anything_is_written():
    class Stateful(ks.DynamicSparse):
        def get_state(self):
            return {**super().get_state(), "model": object()}

    model, method = ready(mlp), Stateful(15, 5, threshold=0.1)
    before, threshold = state(model), method.logs()
    with pytest.raises((TypeError, ValueError)):
        method.update(model, 1)
    assert method.logs() == threshold
    for (a, m), (b, n) in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(m, n)


def test_a_custom_training_loop(blobs):
    model = ready(mlp)
    method = ks.DynamicSparse(15, 5, threshold=0.05)
    budget, before = live_weights(model), state(model)
    for step in range(1, 21):
        model.train_on_batch(*blobs)
        if step % 5 == 0:
            method.update(model, step)
    assert live_weights(model) == budget
    assert any((a != b).any() for (_, a), (_, b) in zip(before, state(model), strict=True))


def test_after_an_update_in_a_custom_loop_dead_weights_and_their_slots_are_zero(blobs):
    """Also if a model was trained before it was masked in place, or a user has assigned to dead weights."""
    model = ks.densify(mlp())
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*blobs, epochs=2, verbose=0)
    ks.sparsify(model, 0.5, in_place=True)
    for step in range(20, 23):
        model.train_on_batch(*blobs)
        for w in ks.masked_weights(model):
            w.variable.assign(numpy(w.variable) + 1)
        ks.SET(fraction=0.1).update(model, step)
        for w in ks.masked_weights(model):
            assert not numpy(w.variable)[~w.mask.numpy()].any()
            for slot, fresh in slots(model.optimizer, w.variable):
                assert (numpy(slot)[~w.mask.numpy()] == fresh).all()


def test_a_custom_loop_with_an_optimizer_that_the_model_is_not_compiled_with(blobs):
    model = mlp()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    for m, w in zip(optimizer.momentums, model.trainable_variables, strict=True):
        m.assign(numpy(w) != 0)
    ks.DynamicSparse(30, 5, threshold=0.2).update(model, 1, optimizer=optimizer)
    for layer in ks.masked_layers(model):
        for slot, _ in slots(optimizer, layer.kernel_variable):
            assert not numpy(slot)[~layer.kernel_mask.numpy()].any()


@pytest.mark.parametrize("keeper", ["constraint", "regularizer"])
def test_dead_weights_stay_zero_with_optimizers_that_change_whole_kernels(blobs, keeper):
    class Away(keras.constraints.Constraint):
        def __call__(self, w):
            return w + 0.1

    class Pull(keras.regularizers.Regularizer):
        def __call__(self, w):
            return keras.ops.sum((w - 1.0) ** 2)

    given = {"kernel_constraint": Away()} if keeper == "constraint" else {"kernel_regularizer": Pull()}
    model = keras.Sequential([keras.Input((8,)), MaskedDense(6, sparsity=0.5, **given), MaskedDense(3, sparsity=0.5)])
    model = compiled(model)
    model.fit(*blobs, batch_size=8, epochs=2, callbacks=[ks.DynamicSparse(8, 6, threshold=0.1)], verbose=0)
    assert_dead_is_zero(model)


def test_an_uncompiled_model_can_be_updated():
    model = mlp()
    budget = live_weights(model)
    method = ks.DynamicSparse(15, 5, threshold=0.1)
    with pytest.warns(UserWarning, match="DynamicSparse.update got no optimizer.*Pass optimizer="):
        method.update(model, 1)
    method.update(model, 2, optimizer=keras.optimizers.SGD())
    assert live_weights(model) == budget


def test_csv_and_history_show_the_sparsity(blobs, tmp_path):
    path = tmp_path / "history.csv"
    fit(blobs, Recorder(15, 5), callbacks=[keras.callbacks.CSVLogger(path)])
    header, *lines = path.read_text().splitlines()
    assert set(header.split(",")) >= {"epoch", "loss", "sparsity", "threshold", "dropped", "grown"}
    assert len(lines) == 3


@pytest.mark.tensorflow
def test_tensorboard_shows_the_sparsity(blobs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(blobs, Recorder(15, 5), callbacks=[keras.callbacks.TensorBoard(tmp_path, write_graph=False)])
    events = EventAccumulator(str(tmp_path / "train"), size_guidance={"tensors": 0}).Reload()
    assert {"epoch_sparsity", "epoch_threshold", "epoch_dropped", "epoch_grown"} <= set(events.Tags()["tensors"])
    assert len(events.Tensors("epoch_dropped")) == 3


def test_by_element_size_groups_layers_between_which_weights_may_move():
    tensors = [
        LayerState.of(np.ones(s), np.ones(m, bool)) for s, m in [((3, 3, 2, 2), (1, 1, 2, 2)), ((4, 4), (4, 4))] * 2
    ]
    assert by_element_size(tensors) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("make", [lambda: ks.DynamicSparse(5, None), lambda: ks.RigL(period=None)])
def test_a_missing_period_is_refused(make):
    with pytest.raises(ValueError, match=r"Received: period=None. Give a number.*keras_sparse.Static\(\)"):
        make()


@pytest.mark.parametrize("method", [ks.DynamicSparse(5, 100, until=1), ks.Static()], ids=["DynamicSparse", "Static"])
@pytest.mark.filterwarnings("ignore:.*made no update:UserWarning")
def test_values_that_another_callback_writes_to_dead_weights_are_cleared(blobs, method):
    class Ones(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for layer in ks.masked_layers(self.model):
                layer.kernel_variable.assign(np.ones(layer.kernel_variable.shape))

    model = ready(mlp)
    model.fit(*blobs, batch_size=8, epochs=2, callbacks=[method, Ones()], verbose=0)
    assert_dead_is_zero(model)


def test_static_continues_the_training_of_another_method(blobs, tmp_path):
    model = ready(mlp)
    model.fit(*blobs, batch_size=8, callbacks=[ks.DynamicSparse(5, 4, threshold=0.05)], verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.fit(*blobs, batch_size=8, callbacks=[ks.Static()], verbose=0)
    for (_, before), (_, after) in zip(state(model), state(loaded), strict=True):
        np.testing.assert_array_equal(before, after)


class BatchEnds(keras.callbacks.Callback):
    """A callback because of which Keras calls `on_train_batch_end` of all callbacks in the thread of `fit`."""

    def on_train_batch_end(self, batch, logs=None):
        pass


@pytest.mark.parametrize(
    "make", [lambda: ks.DynamicSparse(30, 4), lambda: ks.SET(0.3, period=6), lambda: ks.RigL(0.3, 4)]
)
@pytest.mark.parametrize("validated", [False, True])
def test_updates_are_the_same_where_keras_calls_batch_hooks_in_another_thread(make, validated, blobs):
    """With 12 steps an epoch, an update is due after the last step, before the validation."""
    states, histories, threads = [], [], []
    for others in ([], [BatchEnds()]):
        model, method = ready(mlp), make()
        update = method.update
        method.update = lambda *args, update=update: threads.append(threading.current_thread()) or update(*args)
        history = model.fit(
            *blobs,
            batch_size=8,
            epochs=3,
            shuffle=False,
            verbose=0,
            validation_data=blobs if validated else None,
            callbacks=[*others, method],
        )
        states.append([x for pair in state(model) for x in pair])
        histories.append(history.history)
        assert method.updates_in_fit > 2
    assert set(threads) == {threading.current_thread()}
    assert histories[0] == histories[1]
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_callback_before_the_method_catches_up_with_it(blobs):
    """SparsityTensorBoard does so. Otherwise it would see the masks of before an update, if Keras uses threads."""
    method, model, seen = ks.SET(0.3, period=4), ready(mlp), []

    class Masks(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            method.catch_up(batch)
            seen.append((batch, method.updates_in_fit))

        def on_epoch_end(self, epoch, logs=None):
            method.catch_up()
            seen.append(("end", method.updates_in_fit))

    model.fit(*blobs, batch_size=8, epochs=1, verbose=0, callbacks=[Masks(), method])
    assert seen == [*((i, i // 4) for i in range(12)), ("end", 3)]
    method.catch_up()  # does nothing outside of an epoch
    assert method.updates_in_fit == 3


def test_stateless_update_refuses_lists_that_do_not_fit_and_writes_nothing(blobs):
    model = compiled(mlp())
    model.optimizer.build(model.trainable_variables)
    lists = [[numpy(v) for v in x] for x in (model.trainable_variables, model.non_trainable_variables)]
    lists.append([numpy(v) for v in model.optimizer.variables])
    before = [numpy(v).copy() for v in model.variables]
    swapped = [lists[0][::-1], *lists[1:]]
    for wrong, message in (
        (swapped, "Each array must have the shape of its variable"),
        (lists[::-1], "Lists of as many"),
    ):
        with pytest.raises(ValueError, match=message):
            ks.SET(count=1, period=1).stateless_update(model, 1, *wrong)
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, numpy(b))
    ks.SET(count=1, period=1).stateless_update(model, 1, *lists)


def test_stateless_update_returns_the_variables_of_a_model_that_was_not_made_by_sparsify(blobs):
    """The first update adds a variable for the state of the method."""
    layers = MaskedDense(8, sparsity=0.5), MaskedDense(2, sparsity=0.5)
    model = compiled(keras.Sequential([keras.Input((blobs[0].shape[1],)), *layers]))
    model.optimizer.build(model.trainable_variables)
    method = ks.SET(count=1, period=1)
    lists = [model.trainable_variables, model.non_trainable_variables, model.optimizer.variables]
    for step in (1, 2):
        lists = method.stateless_update(model, step, *([numpy(v) for v in x] for x in lists))
        assert len(lists[1]) == len(model.non_trainable_variables)
    assert method.updates_in_fit == 2


@pytest.mark.tensorflow
def test_a_layer_that_the_optimizer_of_the_model_does_not_train_is_an_error(blobs):
    """As in a GAN whose `train_step` trains the discriminator by another optimizer."""
    import tensorflow as tf

    class Part(keras.Sequential):
        def train_step(self, data):
            x, y = data
            trained = self.layers[0].trainable_variables
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            self.optimizer.apply(tape.gradient(loss, trained), trained)
            return {"loss": loss}

    layers = keras.layers.Dense(8, name="first"), keras.layers.Dense(3, name="second")
    model = compiled(ks.sparsify(Part([keras.Input((blobs[0].shape[1],)), *layers]), 0.5))
    with pytest.raises(ValueError, match=r"does not train \['second'\].*another optimizer trains them"):
        model.fit(*blobs, verbose=0, callbacks=[ks.SET(0.3, period=2)])


class Penalized(keras.Sequential):
    """Has a penalty of the variables, whose derivative at dead weights is 1, as that of |w| at 0 is on JAX."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        penalty = sum(keras.ops.sum(keras.ops.convert_to_tensor(v)) for v in self.trainable_variables)
        return super().compute_loss(x, y, y_pred, sample_weight, training) + 1e-2 * penalty


@pytest.mark.parametrize("make", [lambda: ks.DynamicSparse(15, 4), lambda: ks.DeepR(1e-3, 1e-3), ks.Static])
def test_a_penalty_of_ones_own_leaves_dead_weights_at_zero_after_each_step(make, blobs):
    layers = keras.layers.Dense(8, name="first"), keras.layers.Dense(3, name="second")
    model = ks.sparsify(Penalized([keras.Input((blobs[0].shape[1],)), *layers]), 0.5)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*blobs, batch_size=8, epochs=1, verbose=0, callbacks=[make(), DeadAtEachStep()])


class DeadAtEachStep(keras.callbacks.Callback):
    """Checks after each step that dead weights are 0."""

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        assert_dead_is_zero(self.model)


def test_an_update_after_an_interrupted_fit_clears_dead_weights(blobs):
    model, method = compiled(mlp()), ks.Static()
    with pytest.raises(KeyboardInterrupt):
        model.fit(*blobs, batch_size=16, callbacks=[method, Interrupts()], verbose=0)
    for layer in ks.masked_layers(model):
        layer.kernel_variable.assign(numpy(layer.kernel_variable) + 1)
    method.update(model, 3)
    assert_dead_is_zero(model)


def test_a_method_does_not_take_over_the_state_of_another_one_in_a_loop():
    class Other(ks.DynamicSparse):
        pass

    model = compiled(mlp())
    ks.DynamicSparse(15, 5, threshold=0.5).update(model, 1)
    other = Other(15, 5, threshold=1e-6)
    other.update(model, 2)
    assert other.get_state()["threshold"] == 2e-6
    same = Other(15, 5, threshold=1e-3)
    same.update(model, 3)
    assert same.get_state()["threshold"] == 4e-6


@pytest.mark.tensorflow
def test_the_optimizer_is_built_before_the_first_step_is_traced(blobs):
    """Otherwise TensorFlow traces it twice."""
    model, built = compiled(mlp()), []
    usual = model.compute_loss
    model.compute_loss = lambda *args, **kwargs: built.append(model.optimizer.built) or usual(*args, **kwargs)
    model.fit(*blobs, batch_size=48, callbacks=[ks.Static()], verbose=0)
    assert built
    assert all(built)
