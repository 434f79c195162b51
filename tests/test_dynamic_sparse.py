"""Tests dynamic sparse reparameterization: by hand, against plain Python in a real fit, and its arguments."""

import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.layers import MaskedConv2D, MaskedDense
from keras_sparse.training.saved_state import read_state
from nets import assert_dead_is_zero, compiled, live_weights, mlp, ready, state
from reference import algorithm_1
from replay import Replay


def two_layers(first, second):
    """Makes a net 2 - 2 - 2 with given weights, four in each layer; 0 means dead."""
    model = keras.Sequential([keras.Input((2,)), *(MaskedDense(2, use_bias=False) for _ in "ab")])
    for layer, weights in zip(model.layers, (first, second), strict=True):
        weights = np.reshape(weights, (2, 2))
        layer.kernel_variable.assign(weights)
        layer.kernel_mask.value.assign(weights != 0)
    return compiled(model)


def flat(model):
    return [(w.ravel().tolist(), m.ravel().astype(int).tolist()) for w, m in state(model)]


class TestEightWeightsByHand:
    """H = 0.5 in all cases; 0 means dead."""

    def test_dropped_weights_move_to_the_layer_with_more_survivors(self):
        model = two_layers([0.9, 0.1, 0, 0], [0.7, -0.6, 0, 0.2])
        method = ks.DynamicSparse(2, 1, threshold=0.5, regrow_scale=0.0)
        method.update(model, step=1)
        # Dropped 0.1 and 0.2: K = 2, survivors 1 and 2, so 2/3 and 4/3 to grow: 1 each. The second layer's only free
        # position is its third; the first one's are its last two.
        (w1, m1), (w2, m2) = flat(model)
        assert w1 == [pytest.approx(0.9), 0, 0, 0]
        assert w2 == pytest.approx([0.7, -0.6, 0, 0])
        assert m1[:2] == [1, 0]
        assert sum(m1) == 2
        assert m2 == [1, 1, 1, 0]
        assert method.logs() == {"threshold": 0.5}  # 2 dropped, K = 2: within the tolerance

    def test_the_last_weight_of_a_layer_is_kept(self):
        model = two_layers([0.2, -0.4, 0, 0], [0.9, 0.9, 0, 0])
        ks.DynamicSparse(1, 1, threshold=0.5).update(model, step=1)
        (w1, _), (_, m2) = flat(model)
        assert w1[1] == pytest.approx(-0.4)
        assert w1[0] == 0
        assert live_weights(model) == 4
        assert m2[:2] == [1, 1]

    def test_too_few_dropped_doubles_the_threshold_too_many_halves_it(self):
        model = two_layers([0.9, 0.1, 0, 0], [0.7, -0.6, 0, 0.2])
        few, many = ks.DynamicSparse(4, 1, threshold=0.5), ks.DynamicSparse(1, 1, threshold=0.5)
        few.update(model, step=1)
        assert few.logs() == {"threshold": 1.0}
        many.update(two_layers([0.9, 0.1, 0, 0], [0.7, -0.6, 0, 0.2]), step=1)
        assert many.logs() == {"threshold": 0.25}

    def test_no_more_is_dropped_than_can_be_grown(self):
        model = two_layers([0.9, 0.1, 0.3, 0.2], [0.9, 0.8, 0.4, 0])  # four below, one free
        ks.DynamicSparse(4, 1, threshold=0.5, regrow_scale=0.0).update(model, step=1)
        (w1, m1), (w2, m2) = flat(model)
        assert w1 == pytest.approx([0.9, 0, 0.3, 0.2])
        assert (m1, m2) == ([1, 0, 1, 1], [1, 1, 1, 1])
        assert w2 == pytest.approx([0.9, 0.8, 0.4, 0])

    def test_a_dense_network_does_not_change(self):
        model = two_layers([0.1] * 4, [0.1] * 4)
        before = flat(model)
        ks.DynamicSparse(4, 1, threshold=0.5).update(model, step=1)
        assert flat(model) == before


class TestFractionOfTheLiveWeights:
    """Five of eight weights are live, two of them below H = 0.5."""

    @pytest.mark.parametrize(
        ("fraction", "epoch", "threshold"),
        [
            (0.4, 0, 0.5),  # K = 2, as many as were dropped
            (0.7, 0, 1.0),  # K = round(3.5) = 4
            (0.2, 0, 0.25),  # K = 1
            (0.01, 0, 0.25),  # K = 1, not 0
            (1, 0, 1.0),  # K = 5
            ({0: 0.4, 3: 0.2}, 2, 0.5),
            ({0: 0.4, 3: 0.2}, 3, 0.25),
            (lambda epoch: 0.8 / (epoch + 1), 0, 1.0),
            (lambda epoch: 0.8 / (epoch + 1), 1, 0.5),
            (np.float32(0.4), 0, 0.5),
        ],
    )
    def test_k_by_hand(self, fraction, epoch, threshold):
        model = two_layers([0.9, 0.1, 0, 0], [0.7, -0.6, 0, 0.2])
        method = ks.DynamicSparse(fraction=fraction, period=1, threshold=0.5)
        method.update(model, step=1, epoch=epoch)
        assert method.logs() == {"threshold": threshold}
        assert live_weights(model) == 5

    def test_the_fraction_counts_slices_not_weights(self):
        conv = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(5, 3, use_bias=False)])
        model = compiled(ks.sparsify(conv, 0.5, granularity="kernel_slice"))  # 5 of 10 slices, 45 of 90 weights
        (layer,) = ks.masked_layers(model)
        layer.kernel_variable.assign(np.where(layer.kernel_mask.numpy(), 1, 0) * np.ones((3, 3, 2, 5)))
        method = ks.DynamicSparse(fraction=0.4, period=1, threshold=2.0)
        method.update(model, step=1)  # 4 below, K = 2
        assert method.logs() == {"threshold": 1.0}

    def test_the_fraction_counts_trainable_layers_only(self):
        model = two_layers([0.9, 0.1, 0, 0], [0.7, -0.6, 0.2, 0])
        model.layers[1].trainable = False
        method = ks.DynamicSparse(fraction=0.5, period=1, threshold=0.5)
        method.update(compiled(model), step=1)
        assert method.logs() == {"threshold": 0.5}  # K = 1, of 2

    def test_a_fraction_trains_like_the_count_to_which_it_rounds(self, blobs):
        runs = []
        for amount in ({"fraction": 0.1}, {"prune_count": 14}):  # of 142 live
            model = ready(mlp)
            method = ks.DynamicSparse(**amount, period=4, threshold=0.02)
            model.fit(*blobs, batch_size=8, epochs=3, callbacks=[method], shuffle=False, verbose=0)
            runs.append([m.tolist() for _, m in state(model)])
        assert live_weights(model) == 142
        assert runs[0] == runs[1]

    @pytest.mark.parametrize("fraction", [1.0, {0: 0.1, 1: 1.0}, lambda epoch: 0.5 + epoch / 2])
    def test_more_than_can_be_dropped_is_refused(self, blobs, fraction):
        message = r"`fraction` must not be more than what can be dropped, 33 of 36 live.*fraction=1.0, 36 of them"
        with pytest.raises(ValueError, match=message):
            ready(mlp, 0.9).fit(
                *blobs, epochs=2, callbacks=[ks.DynamicSparse(fraction=fraction, tolerance=0.0)], verbose=0
            )


def test_positional_arguments():
    method = ks.DynamicSparse(600, 50, 0.2, 0.01)
    assert (method.prune_count(0), method.period(0), method.tolerance, method.threshold) == (600, 50, 0.2, 0.01)
    assert method.fraction is None
    method = ks.DynamicSparse(fraction=0.1)
    assert (method.prune_count, method.fraction(0), method.period(0)) == (None, 0.1, 100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either `prune_count`.*or `fraction`.*Received: prune_count=None, fraction=None"),
        ({"prune_count": 5, "fraction": 0.1}, "either `prune_count`.*Received: prune_count=5, fraction=0.1"),
        ({"fraction": 0}, r"`fraction` must be a number in \(0, 1\]. Received: fraction=0"),
        ({"fraction": 1.01}, "`fraction` must be a number"),
        ({"fraction": True}, "`fraction` must be a number"),
        ({"fraction": "0.1"}, "`fraction` must be a number"),
        ({"fraction": float("nan")}, "`fraction` must be a number"),
        ({"fraction": {0: 0.1, 5: 2}}, "`fraction` must be a number.*Received: fraction=2"),
        ({"fraction": {5: 0.1}}, "include 0"),
    ],
)
def test_exactly_one_of_count_and_fraction_is_required(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.DynamicSparse(**arguments, period=4)


@pytest.mark.parametrize(("sparsity", "period", "seed"), [(0.9, 3, 0), (0.5, 5, 1), (0.1, 2, 2)])
def test_a_real_fit_replayed_in_plain_python(blobs, sparsity, period, seed):
    threshold = 0.03

    def reference(weights, masks, choose):
        nonlocal threshold
        dropped, grown, threshold = algorithm_1(weights, masks, np.float32(threshold).item(), 15, 0.1, choose)
        assert sum(map(len, dropped)) == sum(map(len, grown))
        return dropped, grown

    model = ready(mlp, sparsity, seed)
    replay = Replay(reference, period, seed, scale=1e-2)
    method = ks.DynamicSparse(15, period, threshold=0.03, regrow_scale=1e-2, seed=seed)
    model.fit(*blobs, batch_size=8, epochs=4, callbacks=replay.around(method), verbose=0)
    assert replay.updates == 48 // period
    assert np.float32(method.logs()["threshold"]) == np.float32(threshold)


def test_the_net_learns_and_weights_move_between_layers(blobs):
    model = compiled(mlp(0.8), metrics=["accuracy"])
    before = [int(m.sum()) for _, m in state(model)]
    history = model.fit(
        *blobs, batch_size=8, epochs=20, callbacks=[ks.DynamicSparse(10, 10, threshold=0.02)], verbose=0
    ).history
    after = [int(m.sum()) for _, m in state(model)]
    assert history["accuracy"][-1] > 0.9
    assert sum(before) == sum(after)
    assert before != after
    assert history["sparsity"] == pytest.approx([1 - sum(before) / 356] * 20)
    assert history["dropped"] == history["grown"]
    assert sum(history["dropped"]) > 50
    assert len(set(history["threshold"])) > 1


def test_kernel_slices_move_whole_and_keep_the_number_of_weights():
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Conv2D(8, 1, activation="relu"),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    model = compiled(
        ks.sparsify(model, 0.5, granularity="kernel_slice", keep_dense=lambda x: x.name.startswith("dense"))
    )
    budget = live_weights(model)
    before = [m for _, m in state(model)]
    images, labels = rng.normal(size=(32, 8, 8, 3)).astype("float32"), np.arange(32) % 3
    history = model.fit(
        images, labels, batch_size=8, epochs=3, callbacks=[ks.DynamicSparse(20, 2, threshold=0.2)], verbose=0
    )
    after = [m for _, m in state(model)]
    assert sum(history.history["dropped"]) > 0
    assert live_weights(model) == budget
    assert [m.shape for m in after] == [(1, 1, 3, 8), (1, 1, 8, 8), (1, 1, 8, 8)]
    # 1x1 slices have one weight, 3x3 slices nine: weights move only between layers of the same kind.
    assert after[1].sum() == before[1].sum()
    assert after[0].sum() + after[2].sum() == before[0].sum() + before[2].sum()
    assert_dead_is_zero(model)
    assert all(type(x) is MaskedConv2D for x in ks.masked_layers(model))


def test_regrown_weights_start_small_and_random(blobs):
    model = ready(mlp, 0.5)
    mask = [m for _, m in state(model)]
    ks.DynamicSparse(40, 1, threshold=0.15, regrow_scale=1e-3).update(model, step=1)
    grown = np.concatenate([w[n & ~m] for (w, n), m in zip(state(model), mask, strict=True)])
    assert len(grown) > 20
    assert (grown != 0).all()
    assert 3e-4 < grown.std() < 3e-3


def test_threshold_and_step_are_kept_in_the_model(blobs, tmp_path):
    """A resumed run must continue with the threshold that it had reached."""
    model = ready(mlp)
    method = ks.DynamicSparse(5, 4, threshold=1e-3)
    model.fit(*blobs, batch_size=8, epochs=2, callbacks=[method], verbose=0)
    model.save(tmp_path / "m.keras")
    reached = method.logs()["threshold"]
    assert reached != 1e-3
    loaded = keras.models.load_model(tmp_path / "m.keras")
    saved = read_state(loaded)
    assert (saved.state["threshold"], saved.last_update, saved.method) == (np.float32(reached), 24, "DynamicSparse")
    again = ks.DynamicSparse(5, 4, threshold=1e-3)
    again.update(loaded, step=28)
    assert again.logs()["threshold"] in (reached / 2, reached, reached * 2)


def test_a_new_optimizer_starts_a_new_run(blobs):
    model = compiled(mlp())
    model.fit(*blobs, batch_size=8, epochs=2, callbacks=[ks.DynamicSparse(5, 4)], verbose=0)
    compiled(model)
    method = ks.DynamicSparse(5, 4, threshold=0.25)
    with pytest.warns(UserWarning, match="DynamicSparse made no update: none was due in the 3 optimizer steps"):
        history = model.fit(*blobs, batch_size=8, epochs=1, steps_per_epoch=3, callbacks=[method], verbose=0).history
    assert (history["threshold"], history["dropped"]) == ([0.25], [0])
    assert read_state(model).last_update == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prune_count": 0}, "`prune_count` must be an int of at least 1. Received: prune_count=0"),
        ({"prune_count": 2.5}, "`prune_count` must be an int"),
        ({"prune_count": {0: 5, 3: -1}}, "`prune_count` must be an int"),
        ({"period": 0}, "`period` must be an int of at least 1"),
        ({"period": {1: 100}}, "include 0. Received"),
        ({"tolerance": 1.0}, r"`tolerance` must be a number in \[0, 1\). Received: tolerance=1.0"),
        ({"threshold": 0}, "`threshold` must be a number above 0"),
        ({"threshold": float("nan")}, "`threshold` must be a number above 0"),
        ({"regrow_scale": -1e-4}, "`regrow_scale` must be a number of at least 0"),
        ({"growth": "local"}, "`growth` must be one of .*'anywhere', 'live_units'.*Received: growth='local'"),
        ({"until": 0}, "`until` must be an int of at least 1"),
        ({"seed": -1}, "`seed` must be an int of at least 0"),
        ({"seed": True}, "`seed` must be an int of at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.DynamicSparse(**{"prune_count": 5, "period": 4, **arguments})


def test_another_model_starts_with_the_threshold_given():
    method = ks.DynamicSparse(1000, 1, threshold=0.25)
    method.update(ready(mlp), 1)
    assert method.logs()["threshold"] == 0.5
    fresh = compiled(mlp(seed=1))
    method.update(fresh, 1)
    assert read_state(fresh).state["threshold"] == 0.5


def test_k_above_the_number_of_live_weights_is_refused(blobs):
    model = ready(mlp, 0.9)
    with pytest.raises(ValueError, match="not be more than what can be dropped, 33 of 36 live mask elements.*=37"):
        model.fit(*blobs, callbacks=[ks.DynamicSparse(37, 4)], verbose=0)


def test_growth_between_live_units_only(blobs):
    model = ready(mlp, 0.9)
    masks = [m for _, m in state(model)]
    dead_in, dead_out = ([~m.any(axis=axis) for m in masks] for axis in (1, 0))
    assert any(d.any() for d in dead_in + dead_out)
    budget = live_weights(model)
    method = ks.DynamicSparse(10, 3, threshold=0.1, growth="live_units")
    history = model.fit(*blobs, batch_size=8, epochs=3, callbacks=[method], verbose=0).history
    assert sum(history["dropped"]) > 20
    assert live_weights(model) == budget
    assert_dead_is_zero(model)
    for (_, m), rows, columns in zip(state(model), dead_in, dead_out, strict=True):
        assert not m[rows].any()
        assert not m[:, columns].any()


def test_no_more_is_dropped_than_fits_between_live_units():
    model = two_layers(
        [0.9, 0.1, 0, 0], [0.7, 0.2, 0, 0]
    )  # the live weights of each layer have one input: no free pair
    before = flat(model)
    ks.DynamicSparse(2, 1, threshold=0.5, growth="live_units").update(model, step=1)
    assert flat(model) == before


def test_a_threshold_that_stays_below_all_weights_gives_a_warning(blobs):
    """No warning after a few updates, since the threshold still doubles at each."""
    training = {"batch_size": 8, "epochs": 2, "verbose": 0}
    ready(mlp).fit(*blobs, callbacks=[ks.DynamicSparse(15, 3, threshold=1e-15)], **training)
    with pytest.warns(UserWarning, match="made 24 updates, and none of them dropped anything"):
        ready(mlp).fit(*blobs, callbacks=[ks.DynamicSparse(15, 1, threshold=1e-15)], **training)
