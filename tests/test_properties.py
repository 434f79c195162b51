"""Tests the invariants after every step for random nets, sparsities, methods, optimizers and orders of callbacks.

Hypothesis draws random runs, `--examples` in total (pytest tests/test_properties.py --examples 5000). Three of
four call `update` on weights and optimizer state that are drawn again before each call, as if steps had been made in
between: these are cheap, and reach states that no training reaches. The fourth is a real `fit`, checked after each
step. On JAX, where steps that are not compiled take ten times longer, only every twentieth run is a `fit`.
"""

import dataclasses
import math

import keras
import numpy as np
import pytest
from hypothesis import Phase, assume, given, reject, settings
from hypothesis import strategies as st
from keras import layers

import keras_sparse as ks
from keras_sparse import backend, counter_rng
from keras_sparse.training.growth import LargestGradient
from keras_sparse.training.layer_state import layer_states
from keras_sparse.training.optimizer_state import keeps_zeros, slots
from nets import assert_dead_is_zero, compiled, state

pytestmark = pytest.mark.long

PHASES = (Phase.generate, Phase.shrink)  # Without Phase.explain, which takes minutes.


def dense_chain(widths):
    x = inputs = keras.Input((6,))
    for n in widths:
        x = layers.Dense(n, activation="relu")(x)
    return inputs, x


def branches(widths):
    inputs = keras.Input((6,))
    parts = [layers.Dense(n)(inputs) for n in widths]
    return inputs, layers.concatenate([inputs, *parts])


def shared(widths):
    inputs = keras.Input((6,))
    layer = layers.Dense(6, activation="relu")
    return inputs, layer(layer(layers.Dense(6)(inputs)))


def nested(widths):
    inner_inputs, inner = dense_chain([widths[0], 6])
    model = keras.Model(inner_inputs, inner)
    inputs = keras.Input((6,))
    return inputs, model(inputs + model(inputs))


def convolutions(widths):
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(widths[0], 3, padding="same", use_bias=False)(inputs)
    y = layers.Conv2D(widths[0], 1)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3)(layers.add([x, y]))
    return inputs, layers.GlobalAveragePooling2D()(x)


BODIES = [dense_chain, branches, shared, nested, convolutions]
# Only a few sizes, since JAX compiles each operation for each shape.
NETS = st.fixed_dictionaries(
    {
        "body": st.sampled_from(BODIES),
        "widths": st.lists(st.sampled_from([3, 8]), min_size=1, max_size=3),
        "sparsity": st.floats(0.0, 0.95),
        "distribution": st.sampled_from(["uniform", "erdos_renyi", "erdos_renyi_kernel"]),
        "granularity": st.sampled_from(["weight", "kernel_slice"]),
        "seed": st.integers(0, 9),
    }
)


def build(net, frozen=False):
    """Makes the masked model described by a random dict."""
    arguments = dict(net)
    inputs, x = arguments.pop("body")(arguments.pop("widths"))
    model = keras.Model(inputs, layers.Dense(3)(x))
    try:
        model = ks.sparsify(model, **arguments)
    except ValueError as error:
        if "each needs one" not in str(error):
            raise
        reject()  # The net is so sparse that a layer would be empty.
    if frozen:
        ks.masked_layers(model)[0].trainable = False
    return model


COUNTS = st.one_of(st.integers(1, 40), st.fixed_dictionaries({0: st.integers(1, 40), 1: st.integers(1, 40)}))
PERIODS = st.one_of(st.integers(1, 5), st.fixed_dictionaries({0: st.integers(1, 5), 1: st.integers(1, 5)}))
GROWTH = {
    "growth": st.sampled_from(["anywhere", "live_units"]),
    "regrow_scale": st.sampled_from([0.0, 1e-4, 0.5]),
    "seed": st.integers(0, 9),
    "until": st.sampled_from([None, 1, 2]),
}


@dataclasses.dataclass(frozen=True)
class Rising:
    """Schedule of gradual pruning with rising sparsity."""

    period: int
    to: float

    def __call__(self, step):
        return step % self.period == 0, min(self.to, 0.1 * step)


METHODS = {
    "DynamicSparse": st.builds(
        ks.DynamicSparse, COUNTS, PERIODS, st.sampled_from([0.0, 0.1]), st.sampled_from([1e-3, 0.3, 2.0]), **GROWTH
    ),
    "SET": st.one_of(
        st.builds(ks.SET, fraction=st.floats(0.01, 1.0), period=st.one_of(PERIODS, st.just("epoch")), **GROWTH),
        st.builds(ks.SET, count=COUNTS, period=PERIODS, criterion=st.sampled_from(["magnitude", "sign"]), **GROWTH),
    ),
    "DeepR": st.builds(
        ks.DeepR,
        alpha=st.sampled_from([0.0, 1e-3, 0.5]),
        temperature=st.sampled_from([0.0, 1e-3, 0.5]),
        eta=st.sampled_from([None, 0.1]),
        reading=st.sampled_from(["bellec", "table_4"]),
        seed=st.integers(0, 9),
    ),
    "RigL": st.builds(ks.RigL, st.floats(0.01, 1.0), PERIODS, until=st.sampled_from([1, 2])),
    "GradualPruning": st.builds(
        ks.GradualPruning,
        st.builds(Rising, st.integers(1, 4), st.floats(0.0, 0.98)),
        scope=st.sampled_from(["layer", "network"]),
    ),
    "Static": st.builds(ks.Static),
}
MOVES_BETWEEN_LAYERS = {"DynamicSparse"}
OPTIMIZERS = {
    name: getattr(keras.optimizers, name)
    for name in ("SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "Ftrl", "Lamb", "Lion", "Muon", "Nadam")
}
OPTIMIZERS |= {
    "RMSprop": keras.optimizers.RMSprop,
    "momentum": lambda rate, **k: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **k),
    "Adafactor": lambda rate, **k: keras.optimizers.Adafactor(
        rate, epsilon_1=1e-16, **k
    ),  # With the default of 1e-30 it makes NaN.
    "loss scale": lambda rate, **k: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(rate, **k)),
}
EXTRAS = st.sampled_from([{}, {"use_ema": True}, {"gradient_accumulation_steps": 2}, {"clipnorm": 1.0}])
TRAINING = {
    "net": NETS,
    "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
    "extras": EXTRAS,
    "frozen": st.booleans(),
}


def make(name, extras):
    if extras.get("use_ema") and name == "loss scale":
        extras = {}
    return OPTIMIZERS[name](0.05, **extras)


def refused(name, net):
    """Whether a method rejects a net, with an error that says why."""
    return name == "DeepR" and net["granularity"] != "weight"


class AnyGradient(LargestGradient):
    """Random gradients, since to compile the gradient of a net takes longer than a hundred updates."""

    def __init__(self):
        super().__init__("RigL", probe=(0, 0))
        self.drawn = 0

    def observe(self, model, masked):
        self.drawn += 1
        rng = np.random.default_rng(self.drawn)
        found = layer_states(masked)
        return [dataclasses.replace(t, gradient=rng.integers(-3, 4, t.kernel.shape).astype("float32")) for t in found]


def elements(model):
    """Returns for each masked layer the number of live elements, of all elements, and of weights per element."""
    return [(int(m.sum()), m.size, w.size // m.size) for w, m in state(model)]


def assert_budget(name, method, model, before, step):
    """Asserts the number of live elements after an update, given those before."""
    after = elements(model)
    trained = [x.trainable for x in ks.masked_layers(model)]
    if isinstance(method, ks.GradualPruning):
        density = 1 - float(method.schedule(step + 1)[1])
        for unit in {u for _, _, u in before}:
            group = [i for i, (_, _, u) in enumerate(before) if u == unit and trained[i]]
            for part in [group] if method.scope == "network" else [[i] for i in group]:
                live, size = (sum(before[i][k] for i in part) for k in (0, 1))
                kept = min(live, max(round(size * density), len(part)))
                assert sum(after[i][0] for i in part) == kept
    elif name in MOVES_BETWEEN_LAYERS:
        assert sum(n * unit for n, _, unit in after) == sum(n * unit for n, _, unit in before)
    else:
        assert after == before
    for (n, _, _), (then, _, _), moves in zip(after, before, trained, strict=True):
        assert n >= 1
        assert moves or n == then


def as_after_some_steps(model, rng, scale):
    """Sets random weights and optimizer state, as after training: those of dead weights only if the optimizer does."""
    everywhere = not keeps_zeros(model.optimizer)
    for layer in ks.masked_layers(model):
        live = np.broadcast_to(layer.kernel_mask.numpy(), layer.kernel_variable.shape)
        for variable, fresh in [(layer.kernel_variable, 0.0), *slots(model.optimizer, layer.kernel_variable)]:
            drawn = rng.normal(0, scale, live.shape)
            if rng.random() < 0.3:
                drawn = np.round(drawn, 1)  # to get ties, and live weights of 0
            variable.assign(np.where(live | (everywhere and layer.trainable), drawn, fresh))


def in_all(request):
    """Returns how many examples call `update`, and how many `fit`, for each method."""
    examples = request.config.getoption("--examples")
    fits = examples // (20 if keras.backend.backend() == "jax" else 4)
    return math.ceil((examples - fits) / len(METHODS)), math.ceil(fits / len(METHODS))


@pytest.fixture
def _fewer_rounds(monkeypatch):
    """Limits the draws of DeepR: in nearly dense layers it would use all of them, which is slow in eager mode."""
    monkeypatch.setattr(counter_rng, "ROUNDS", 8)


@pytest.mark.usefixtures("_fewer_rounds")
@pytest.mark.parametrize("name", METHODS)
def test_updates(name, request, monkeypatch):
    if keras.backend.backend() == "tensorflow":  # Compiling the walk for each net takes longer than eager steps.
        monkeypatch.setattr(backend, "compiled", lambda act: act)
    ran = 0
    count, _ = in_all(request)

    @settings(max_examples=count, phases=PHASES)
    @given(
        method=METHODS[name],
        drawn=st.integers(0, 2**32 - 1),
        steps=st.lists(st.integers(1, 7), min_size=1, max_size=5),
        scale=st.sampled_from([1e-3, 0.3, 1.0]),
        **TRAINING,
    )
    def run(method, drawn, steps, scale, net, optimizer, extras, frozen):
        nonlocal ran
        if refused(name, net):
            net = {**net, "granularity": "weight"}
        if name == "RigL":
            method = ks.RigL(method.fraction, 1, method.until)
            method.growth_strategy = AnyGradient()
        model = compiled(build(net, frozen), make(optimizer, extras))
        model.optimizer.build(model.trainable_variables)
        rng = np.random.default_rng(drawn)
        still = [s for x, s in zip(ks.masked_layers(model), state(model), strict=True) if not x.trainable]
        step = 0
        for more in steps:
            step += more
            trainable = [x for x in ks.masked_layers(model) if x.trainable]
            as_after_some_steps(model, rng, scale)
            before, masks = elements(model), [x.kernel_mask.numpy() for x in trainable]
            method.update(model, step, epoch=step // 8)
            assert_budget(name, method, model, before, step)
            assert_dead_is_zero(model)
            for layer, mask in zip(trainable, masks, strict=True):
                grown = layer.kernel_mask.numpy() & ~mask
                lost = mask & ~layer.kernel_mask.numpy()
                assert not (name == "Static" and (grown.any() or lost.any()))
                assert not (name == "GradualPruning" and grown.any())
        for layer, (_, mask) in zip([x for x in ks.masked_layers(model) if not x.trainable], still, strict=True):
            np.testing.assert_array_equal(layer.kernel_mask.numpy(), mask)
        ran += 1

    run()
    assert ran >= count


class EachStep(keras.callbacks.Callback):
    """Checks the model after each execution. It is the last callback, after all others have acted."""

    def __init__(self, name, method):
        super().__init__()
        self.name, self.method = name, method
        self.looked = 0

    def on_train_begin(self, logs=None):
        self.before = elements(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self.check()

    def on_epoch_end(self, epoch, logs=None):
        self.check()

    def check(self):
        self.looked += 1
        assert_dead_is_zero(self.model)
        now = elements(self.model)
        if self.name == "GradualPruning":
            assert all(1 <= n <= then for (n, _, _), (then, _, _) in zip(now, self.before, strict=True))
            self.before = now
        elif self.name in MOVES_BETWEEN_LAYERS:
            assert sum(n * unit for n, _, unit in now) == sum(n * unit for n, _, unit in self.before)
        else:
            assert now == self.before


def companions(folder):
    """Draws callbacks that read or write the variables of a method."""
    return {
        "backup": lambda: ks.BackupAndRestore(folder / "backup", delete_checkpoint=False),
        "keras's backup": lambda: keras.callbacks.BackupAndRestore(folder / "keras"),
        "checkpoint": lambda: keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
        "weights": lambda: keras.callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
        "logger": lambda: keras.callbacks.CSVLogger(folder / "log.csv"),
        "stopping": lambda: ks.EarlyStopping("loss", patience=1, restore_best_weights=True, from_sparsity=0.0),
        "rate": lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 / (epoch + 1)),
    }


@pytest.mark.usefixtures("_fewer_rounds")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore:.*(made no update|can move nothing|has done nothing|none of them dropped)")
def test_fits(name, request, tmp_path):
    """Trains tiny nets in eager mode, since compiling takes longer."""
    ran = 0
    _, count = in_all(request)

    @settings(max_examples=count, phases=PHASES)
    @given(
        method=METHODS[name],
        names=st.lists(st.sampled_from(sorted(companions(tmp_path))), max_size=3, unique=True),
        place=st.integers(0, 3),
        batches=st.integers(1, 5),
        epochs=st.integers(1, 3),
        **TRAINING,
    )
    def run(method, names, place, batches, epochs, net, optimizer, extras, frozen):
        nonlocal ran
        if refused(name, net):
            net = {**net, "granularity": "weight"}
        model = compiled(build(net, frozen), make(optimizer, extras), run_eagerly=True)
        k = getattr(method, "prune_count", getattr(method, "count", None))
        if k is not None:  # K must not exceed the size of the net
            can = sum(
                n - 1 for (n, _, _), x in zip(elements(model), ks.masked_layers(model), strict=True) if x.trainable
            )
            assume(max(k.values.values()) <= can)
        folder = tmp_path / str(ran)
        folder.mkdir(exist_ok=True)
        callbacks = [companions(folder)[x]() for x in names]
        callbacks.insert(place, method)
        watch = EachStep(name, method)
        rng = np.random.default_rng(batches)
        x = rng.normal(size=(8 * batches, *model.input_shape[1:])).astype("float32")
        y = rng.integers(0, 3, 8 * batches)
        model.fit(x, y, batch_size=8, epochs=epochs, callbacks=[*callbacks, watch], verbose=0)
        assert watch.looked
        assert_dead_is_zero(model)  # also after EarlyStopping has restored weights
        ran += 1

    run()
    assert ran >= count
