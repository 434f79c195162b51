"""Tests dead weights and their optimizer state for every optimizer of Keras."""

import keras
import numpy as np
import pytest

import keras_sparse as ks
from keras_sparse.training.fit_checks import advice_for_nan
from keras_sparse.training.optimizer_state import batches_and_steps, keeps_zeros, slots
from nets import assert_dead_is_zero, compiled, live_weights, mlp, numpy, state

OPTIMIZERS = sorted(
    name
    for name, cls in vars(keras.optimizers).items()
    if isinstance(cls, type)
    and issubclass(cls, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
)
SLOTS = {
    "Adadelta": 2,
    "Adafactor": 1,
    "Adagrad": 1,
    "Adam": 2,
    "AdamW": 2,
    "Adamax": 2,
    "Ftrl": 2,
    "Lamb": 2,
    "Lion": 1,
    "Muon": 1,
    "Nadam": 2,
    "RMSprop": 1,
    "SGD": 1,
    "ScheduleFreeAdamW": 2,
}


def make(name, **kwargs):
    if name == "SGD":
        kwargs["momentum"] = 0.9
    if name == "Adafactor":
        # With the default of 1e-30, a row and a column without gradient make NaN of a kernel, even of a dense one.
        kwargs["epsilon_1"] = 1e-16
    return getattr(keras.optimizers, name)(0.01, **kwargs)


class AfterEveryStep(keras.callbacks.Callback):
    """Checks the invariants after every step, and counts how often the masks changed."""

    def __init__(self, budget):
        super().__init__()
        self.budget = budget
        self.moves = 0
        self.masks = None

    def on_train_batch_end(self, batch, logs=None):
        masks = [m for _, m in state(self.model)]
        self.moves += bool(self.masks) and any((a != b).any() for a, b in zip(masks, self.masks, strict=True))
        self.masks = masks
        self.check()

    def on_epoch_end(self, epoch, logs=None):
        self.check()

    def check(self):
        assert_dead_is_zero(self.model)
        assert live_weights(self.model) == self.budget


@pytest.fixture(autouse=True, params=["masked weights", "masked gradients"])
def _steps(request, monkeypatch):
    """Keras waits for the callback above, so that weights would be masked in any case: the second tests the others."""
    if request.param == "masked gradients":
        monkeypatch.setattr("keras_sparse.training.step_conditions._is_written_between_steps", lambda: False)


def train(optimizer, blobs, steps_per_update=2, **kwargs):
    # The fastest way to make a few steps with many optimizers on each backend.
    kwargs["run_eagerly"] = keras.backend.backend() != "jax"
    model = compiled(mlp(), optimizer, **kwargs)
    before, after = (AfterEveryStep(live_weights(model)) for _ in range(2))
    method = ks.DynamicSparse(prune_count=20, period=steps_per_update, threshold=0.05)
    model.fit(*blobs, batch_size=16, epochs=2, callbacks=[before, method, after], verbose=0)
    assert after.moves >= 2
    return model


def test_every_optimizer_of_keras_is_listed():
    assert set(SLOTS) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name, blobs):
    """The momentum of a dropped weight must neither change it while it is dead, nor when it is grown again."""
    model = train(make(name), blobs)
    layer = ks.masked_layers(model)[0]
    found = slots(model.optimizer, layer.kernel_variable)
    assert len(found) == SLOTS[name]
    mask = layer.kernel_mask.numpy()
    assert all(numpy(slot)[mask].any() for slot, _ in found)  # slots of live weights are kept


@pytest.mark.parametrize("name", ["SGD", "Adam", "Muon"])
def test_ema(name, blobs):
    model = train(make(name, use_ema=True, ema_momentum=0.5), blobs)
    assert len(slots(model.optimizer, ks.masked_layers(model)[0].kernel_variable)) == SLOTS[name] + 1


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_gradient_accumulation(name, blobs):
    model = train(make(name, gradient_accumulation_steps=3), blobs)
    assert len(slots(model.optimizer, ks.masked_layers(model)[0].kernel_variable)) == SLOTS[name] + 1
    assert batches_and_steps(model.optimizer) == (12, 3)


def test_weight_decay_and_clipping(blobs):
    train(make("AdamW", weight_decay=0.1, clipnorm=1.0), blobs)


def test_loss_scale_optimizer(blobs):
    model = train(keras.optimizers.LossScaleOptimizer(make("Adam"), initial_scale=2.0), blobs)
    assert len(slots(model.optimizer, ks.masked_layers(model)[0].kernel_variable)) == 2
    assert batches_and_steps(model.optimizer) == (12, 1)


def test_mixed_float16_wraps_by_itself(blobs):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = train(make("SGD"), blobs)
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"


def test_the_slots_of_a_custom_optimizer_are_found(blobs):
    class Memory(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.sums = self.add_optimizer_variables(variables, "sum")

        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient, variable, learning_rate)
            self.assign_add(self.sums[self._get_variable_index(variable)], gradient)

    model = train(Memory(0.05, momentum=0.5), blobs)
    assert len(slots(model.optimizer, ks.masked_layers(model)[0].kernel_variable)) == 2


def test_nothing_for_an_unbuilt_optimizer_or_a_frozen_variable():
    model = mlp()
    variable = ks.masked_layers(model)[0].kernel_variable
    assert slots(None, variable) == []
    assert slots(keras.optimizers.Adam(), variable) == []
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables[1:])
    assert slots(optimizer, variable) == []


def test_accumulators_start_where_the_optimizer_starts_them(blobs):
    model = train(keras.optimizers.Adagrad(0.01, initial_accumulator_value=0.3), blobs)
    (slot, fresh), *_ = slots(model.optimizer, ks.masked_layers(model)[0].kernel_variable)
    assert fresh == 0.3
    dead = numpy(slot)[~ks.masked_layers(model)[0].kernel_mask.numpy()]
    np.testing.assert_array_equal(dead, np.float32(0.3))


def test_leaves_zeros_knows_which_optimizers_change_dead_weights():
    class Own(keras.optimizers.SGD):
        pass

    assert {name for name in OPTIMIZERS if not keeps_zeros(make(name))} == {"Adafactor", "Muon"}
    assert keeps_zeros(None)
    assert not keeps_zeros(Own())
    assert keeps_zeros(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))
    assert not keeps_zeros(keras.optimizers.LossScaleOptimizer(keras.optimizers.Muon(0.01)))


def test_a_custom_optimizer_that_changes_every_weight(blobs):
    class Drift(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient, variable, learning_rate)
            self.assign_add(variable, keras.ops.full(variable.shape, 0.01))

    train(Drift(0.01, momentum=0.9), blobs)


def wrapped(optimizer):
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)


@pytest.mark.parametrize(
    ("method", "wrap"), [(ks.DynamicSparse(20, period=1, threshold=0.05), wrapped), (ks.DeepR(1e-5, 0.0), lambda x: x)]
)
def test_the_warning_for_nan_of_adafactor_says_how_to_avoid_it(blobs, method, wrap):
    """There is a row and a column without gradient: one input is always 0, and one unit is inactive."""
    x, y = blobs[0].copy(), blobs[1]
    x[:, 0] = 0
    model = compiled(mlp(), wrap(keras.optimizers.Adafactor(0.05)))
    model.layers[0].bias.assign(np.where(np.arange(16) == 3, -1e3, 0.0))
    with pytest.warns(UserWarning, match=r"skipped its update.*give it .*Adafactor\(epsilon_1=1e-16\).*TerminateOnNaN"):
        model.fit(x, y, batch_size=16, epochs=1, callbacks=[method], verbose=0)


def test_the_warning_for_nan_depends_on_the_optimizer():
    class Own(keras.optimizers.Adafactor):
        pass

    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(), {"kernel": keras.optimizers.Adafactor()})
    )
    for optimizer in (keras.optimizers.Adafactor(), Own(), wrapped(keras.optimizers.Adafactor()), several):
        assert "epsilon_1=1e-16" in advice_for_nan(optimizer)
    for optimizer in (None, make("SGD"), make("Adafactor"), wrapped(make("Adam"))):
        assert advice_for_nan(optimizer) == "Lower the learning rate or clip gradients"


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda: keras.optimizers.Adam(), True),
        (lambda: keras.optimizers.Adam(epsilon=0.0), False),
        (lambda: keras.optimizers.Adagrad(initial_accumulator_value=0.0), False),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop(epsilon=0.0)), False),
    ],
)
def test_zero_divided_by_zero_does_not_stay_zero(make, kept):
    assert keeps_zeros(make()) == kept


def test_dead_weights_that_an_optimizer_makes_nan_have_no_effect(blobs):
    # All live weights of a linear network have a gradient, so that none of them becomes NaN.
    model = ks.sparsify(keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]), 0.5)
    compiled(model, keras.optimizers.Adam(0.01, epsilon=0.0))
    model.fit(*blobs, batch_size=16, callbacks=[ks.DynamicSparse(fraction=0.2, period=2)], verbose=0)
    assert_dead_is_zero(model)
    assert np.isfinite(model.evaluate(*blobs, verbose=0))
