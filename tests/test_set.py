"""Tests sparse evolutionary training: by hand, and against plain Python in a real fit."""

import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.criteria import apportion
from keras_sparse.training.layer_state import LayerState
from nets import compiled, live_weights, mlp, ready, state
from replay import Replay


def tensor(weights):
    weights = np.array(weights, "float32")
    return LayerState.of(weights, weights != 0)


def dropped(method, *weights):
    """Returns the positions that a method drops from layers with given weights; 0 means dead."""
    tensors = [tensor(w) for w in weights]
    return [t.live[d].tolist() for t, d in zip(tensors, method.drop(tensors), strict=True)]


class TestByHand:
    def test_the_fraction_of_smallest_magnitude_in_each_layer(self):
        method = ks.SET(fraction=0.5)
        assert dropped(method, [0.1, -0.2, 0.9, -0.8, 0, 0], [0.5, 0, 0, -0.4, 0, 0]) == [[0, 1], [3]]

    def test_smallest_positive_and_largest_negative(self):
        method = ks.SET(fraction=0.5, criterion="sign")
        # The smaller of the positive weights 0.9 and 0.8, and the larger of the negative weights -0.1 and -0.2.
        assert dropped(method, [0.9, 0.8, -0.1, -0.2, 0, 0, 0]) == [[1, 2]]

    def test_a_count_is_shared_in_proportion_to_live_weights(self):
        method = ks.SET(count=3)
        assert dropped(method, [0.1, 0.2, 0.3, 0.4, 0, 0], [0.2, 0.1, 0, 0, 0, 0]) == [[0, 1], [1]]

    def test_a_layer_is_not_emptied_and_drops_no_more_than_it_can_grow(self):
        assert dropped(ks.SET(fraction=1.0), [0.1, 0.2, 0, 0, 0], [0.3, 0.2, 0.1, 0]) == [[0], [2]]


def reference(criterion, fraction):
    """SET in plain Python, written from the paper, in the form that `Replay` takes."""

    def step(weights, masks, choose):
        gone, grown = [], []
        for layer, (w, m) in enumerate(zip(weights, masks, strict=True)):
            live = [i for i in range(len(w)) if m[i]]
            free = [i for i in range(len(w)) if not m[i]]
            count = min(round(fraction * len(live)), len(free), len(live) - 1)
            if criterion == "magnitude":
                lost = sorted(live, key=lambda i: abs(w[i]))[:count]
            else:
                positive = sorted((i for i in live if w[i] >= 0), key=lambda i: w[i])
                negative = sorted((i for i in live if w[i] < 0), key=lambda i: -w[i])
                sizes = [len(positive), len(negative)]
                first, second = apportion(count, sizes, sizes)
                lost = positive[:first] + negative[:second]
            gone.append(set(lost))
            grown.append(set(choose(layer, free, count)))
        return gone, grown

    return step


@pytest.mark.parametrize("criterion", ["magnitude", "sign"])
@pytest.mark.parametrize(("sparsity", "fraction", "seed"), [(0.9, 0.3, 0), (0.4, 0.2, 1)])
def test_a_real_fit_replayed_in_plain_python(blobs, criterion, sparsity, fraction, seed):
    model = ready(mlp, sparsity, seed)
    replay = Replay(reference(criterion, fraction), period=4, seed=seed, scale=1e-2)
    method = ks.SET(fraction=fraction, period=4, criterion=criterion, regrow_scale=1e-2, seed=seed)
    model.fit(*blobs, batch_size=8, epochs=3, callbacks=replay.around(method), verbose=0)
    assert replay.updates == 9


def test_the_published_variant_updates_after_each_epoch(blobs):
    model = compiled(mlp(0.8, distribution="erdos_renyi"))
    before = [int(m.sum()) for _, m in state(model)]
    assert len({n / m.size for n, (_, m) in zip(before, state(model), strict=True)}) > 1
    history = model.fit(
        *blobs, batch_size=8, epochs=4, callbacks=[ks.SET(fraction=0.3, criterion="sign")], verbose=0
    ).history
    assert [int(m.sum()) for _, m in state(model)] == before
    # No update after the last epoch, since grown weights would not be trained.
    assert history["dropped"] == history["grown"] == [0] + [sum(round(0.3 * n) for n in before)] * 3


def test_fraction_and_count_by_epoch(blobs):
    model = ready(mlp, 0.6)
    history = model.fit(*blobs, batch_size=8, epochs=4, callbacks=[ks.SET(count={0: 20, 2: 5})], verbose=0).history
    assert history["dropped"] == [0, 20, 20, 5]
    assert live_weights(model) == live_weights(mlp(0.6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either `fraction`.*or `count`.*Received: fraction=None, count=None"),
        ({"fraction": 0.3, "count": 5}, "either `fraction`.*Received: fraction=0.3, count=5"),
        ({"fraction": 0.0}, r"`fraction` must be a number in \(0, 1\]. Received: fraction=0.0"),
        ({"fraction": {0: 0.3, 5: 2.0}}, "`fraction` must be a number"),
        ({"count": 0.5}, "`count` must be an int of at least 1. Received: count=0.5"),
        ({"count": 5, "criterion": "size"}, "`criterion` must be one of .*'magnitude', 'sign'.*Received"),
        ({"count": 5, "period": "epochs"}, "`period` must be an int of at least 1. Received: period='epochs'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.SET(**arguments)


@pytest.mark.parametrize("count", [200, {0: 5, 1: 200}, lambda epoch: 5 + 100 * epoch])
def test_more_than_can_be_dropped_is_refused(blobs, count):
    with pytest.raises(ValueError, match=r"`count` must not be more than what can be dropped, 13\d of 14\d live"):
        ready(mlp).fit(*blobs, epochs=3, callbacks=[ks.SET(count=count, period=2)], verbose=0)


def test_a_fraction_that_rounds_to_0_gives_a_warning(blobs):
    with pytest.warns(UserWarning, match="SET made 2 updates, and none of them dropped anything"):
        ready(mlp).fit(*blobs, epochs=3, callbacks=[ks.SET(fraction=0.001)], verbose=0)
