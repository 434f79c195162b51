"""Invalid input gives one message that says what was wrong, expected and received, and what to do.

Each row has a call, the error it raises, and words of the message. No error may be raised inside Keras or NumPy.
"""

import traceback
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import app, flags
from keras import layers

import keras_sparse as ks
from common import train
from common.experiment import LENET_MNIST
from common.models import lenet_300_100
from common.options import define_flags
from keras_sparse.layers import MASKED, MaskedConv2D, MaskedDense
from nets import compiled, mlp

ROOT = Path(__file__).parents[1]
X = np.random.default_rng(0).normal(size=(24, 8)).astype("float32")
Y = np.arange(24, dtype="int32") % 3
SMALLEST = {
    "Dense": [3],
    "EinsumDense": ["ab,bc->ac", 3],
    "DepthwiseConv2D": [3],
}  # arguments; for other classes (3, 3)


@keras.saving.register_keras_serializable()
class Subclassed(keras.Model):
    """Has a layer that could be masked, but no get_config for its argument."""

    def __init__(self, inner):
        super().__init__(name="sub")
        self.inner = inner

    def call(self, x):
        return self.inner(x)


class Closed(layers.Layer):
    """A layer that cannot be copied."""

    def __init__(self, factor):
        super().__init__(name="closed")
        self.factor = factor

    def call(self, x):
        return x * self.factor


def dense():
    return keras.Sequential([keras.Input((8,)), layers.Dense(6, name="a"), layers.Dense(3, name="b")], name="net")


def conv():
    parts = [layers.Conv2D(4, 3, name="c"), layers.GlobalAveragePooling2D(), layers.Dense(3, name="d")]
    return keras.Sequential([keras.Input((8, 8, 2)), *parts], name="images")


def around(layer):
    """Makes a functional model with a Dense layer on top of another layer or model."""
    x = keras.Input((8,))
    return keras.Model(x, layers.Dense(3, name="out")(layer(x)), name="outer")


def unbuilt():
    return keras.Sequential([MaskedDense(4, sparsity=0.5, name="u"), MaskedDense(3, sparsity=0.5)], name="unbuilt")


def whole_units():
    return keras.Sequential([keras.Input((8,)), MaskedDense(4, sparsity=0.5, granularity=(1, 4)), layers.Dense(3)])


def frozen():
    model = mlp()
    for layer in model.layers:
        layer.trainable = False
    return model


def changed(change):
    model = dense()
    change(model.layers[0])
    return model


def dynamic(**kwargs):
    return ks.DynamicSparse(**{"prune_count": 5, "period": 2, **kwargs})


def pruning(schedule, **kwargs):
    return ks.GradualPruning(schedule, **kwargs)


def fit(model, *callbacks, **kwargs):
    kwargs.setdefault("run_eagerly", True)  # Compiling would take longer than these short runs.
    compiled(model, **kwargs)
    model.fit(X, Y, batch_size=8, callbacks=list(callbacks), verbose=0)


def goes_on(folder, first, then):
    """Trains with one method, saves, loads, and continues with another method."""
    model = mlp()
    fit(model, first)
    model.save(folder / "m.keras")
    keras.models.load_model(folder / "m.keras").fit(X, Y, batch_size=8, callbacks=[then], verbose=0)


def backup(folder, content=None, of=None):
    """Trains with a backup file of given content, or of another model."""
    if content:
        (folder / "1.epochs.weights.h5").write_bytes(content)
    else:
        of.save_weights(folder / "1.epochs.weights.h5")
    fit(mlp(), ks.BackupAndRestore(folder))


def file(folder):
    path = folder / "file"
    path.write_text("no folder")
    return path


PATH = ("`path` must be a str or a pathlib.Path", "Received: path=7")
S = ("`sparsity` is the removed fraction", "[0, 1): 0.9 keeps a tenth", "Received: sparsity=")
SEED = ("`seed` must be an int of at least 0", "Received: seed=")
GRANULARITY = (
    "must be one of ('weight', 'kernel_slice'), a pattern such as",
    "or a tuple",
    "(3, 3, 2, 4)",
    "Received: granularity=",
)
MODEL = ("A keras.Model is expected", "Received: ")
UNBUILT = ("'unbuilt' is not built: ['u'", "Call it once on a batch", "keras.Input(shape)")
NOTHING = ("no trainable masked layer", "keras_sparse.sparsify(model, sparsity=0.9)", "MaskedDense")
SHARES = ("`distribution` must return a list with a sparsity in [0, 1] for each of the 2 kernels", "Received: ")
SHAPES = ("`shapes` must be a list of kernel shapes", "(784, 300)", "Received: ")
EPOCHS = ("dict of first epoch to value", "include 0", "Received: ", "{0: 100, 25: 200}")
COSINE = ("a finite `start` and number of `epochs` above 0", "Received: start=")
POLYNOMIAL = ("0 <= initial_sparsity <= final_sparsity < 1, 0 <= begin_step < end_step", "Received: initial_sparsity=")
SCHEDULE = ("`schedule` must be a function `step -> (due, sparsity)`", "Received: schedule(")
BACKUP = ("The backup ", "1.epochs.weights.h5 cannot be restored", "damaged, or of another model", "`backup_dir`")

# name: (call, error that it raises, words of the message)
CALLS = {
    "sparsify: sparsity 1": (lambda t: ks.sparsify(dense(), 1.0), ValueError, S),
    "sparsify: sparsity below 0": (lambda t: ks.sparsify(dense(), -0.1), ValueError, S),
    "sparsify: sparsity a word": (lambda t: ks.sparsify(dense(), "0.9"), ValueError, S),
    "sparsify: sparsity NaN": (lambda t: ks.sparsify(dense(), float("nan")), ValueError, S),
    "sparsify: sparsity an array": (lambda t: ks.sparsify(dense(), np.array([0.5, 0.5])), ValueError, S),
    "sparsify: sparsity a bool": (lambda t: ks.sparsify(dense(), True), ValueError, S),
    "sparsify: sparsity that leaves layers without a weight": (
        lambda t: ks.sparsify(dense(), 0.999),
        ValueError,
        ("`sparsity` leaves 0 live mask elements for 2 layers", "each needs one: ['a', 'b']", "Lower it", "keep_dense"),
    ),
    "sparsify: None of a layer of zeros": (
        lambda t: ks.sparsify(changed(lambda x: x.kernel.assign(x.kernel * 0)), None),
        ValueError,
        ("All weights of 'a' are 0", "Train the model first", "`sparsity`", "keep_dense"),
    ),
    "sparsify: keep_dense a layer": (
        lambda t: ks.sparsify(dense(), 0.5, keep_dense=layers.Dense(3, name="a")),
        ValueError,
        ("`keep_dense` must be a list of layer names", "Received: keep_dense=<Dense name=a"),
    ),
    "sparsify: keep_dense a function without an argument": (
        lambda t: ks.sparsify(dense(), 0.5, keep_dense=lambda: True),
        ValueError,
        ("`keep_dense` must be a function `layer -> bool`", "too many positional arguments"),
    ),
    "sparsify: include a function of two arguments": (
        lambda t: ks.sparsify(dense(), 0.5, include=lambda variable, layer: True),
        ValueError,
        ("`include` must be a function `variable -> bool`", "missing a required argument: 'layer'"),
    ),
    "sparsify: distribution a function of one argument": (
        lambda t: ks.sparsify(dense(), 0.5, distribution=lambda shapes: [0.5, 0.5]),
        ValueError,
        ("`distribution` must be a function `(shapes, sparsity) -> list of sparsities`", "too many positional"),
    ),
    "DynamicSparse: period a function without an argument": (
        lambda t: ks.DynamicSparse(fraction=0.1, period=lambda: 3),
        ValueError,
        ("`period` must be a function `epoch -> number`", "too many positional arguments"),
    ),
    "RigL: gradients a function of one argument": (
        lambda t: ks.RigL(gradients=lambda model: []),
        ValueError,
        ("`gradients` must be a function `(model, x, y, sample_weight) -> list of arrays`", "too many positional"),
    ),
    "GradualPruning: schedule a function without an argument": (
        lambda t: ks.GradualPruning(lambda: (True, 0.5)),
        ValueError,
        ("`schedule` must be a function `step -> (due, sparsity)`", "too many positional arguments"),
    ),
    "sparsify: a layer": (
        lambda t: ks.sparsify(layers.Dense(3), 0.5),
        ValueError,
        ("`sparsify` takes a keras.Model", "of type Dense"),
    ),
    "sparsify: a path": (
        lambda t: ks.sparsify("m.keras", 0.5),
        ValueError,
        ("`sparsify` takes a keras.Model", "'m.keras' of type str"),
    ),
    "sparsify: not built": (
        lambda t: ks.sparsify(keras.Sequential([layers.Dense(3)], name="net"), 0.5),
        ValueError,
        ("`sparsify` needs a built model", "Received: 'net', not built", "keras.Input(shape)"),
    ),
    "sparsify: subclassed, not called": (
        lambda t: ks.sparsify(Subclassed(layers.Dense(3, name="hidden")), 0.5),
        ValueError,
        ("needs a built model", "'sub', not built", "call it on a batch", "['hidden']"),
    ),
    "sparsify: nothing to mask": (
        lambda t: ks.sparsify(keras.Sequential([keras.Input((4,)), layers.ReLU()], name="net"), 0.5),
        ValueError,
        (
            "found no layer to mask in 'net'",
            "EinsumDense and recurrent layers",
            "The model's layers: ['InputLayer', 'ReLU']",
        ),
    ),
    "sparsify: all kept dense": (
        lambda t: ks.sparsify(dense(), 0.5, keep_dense=["a", "b"]),
        ValueError,
        ("found no layer to mask", "that `keep_dense` does not keep"),
    ),
    "sparsify: masked already": (
        lambda t: ks.sparsify(mlp(), 0.5),
        ValueError,
        ("masked already, in ['first', 'second', 'last']", "keras_sparse.densify"),
    ),
    "sparsify: LoRA": (
        lambda t: ks.sparsify(changed(lambda x: x.enable_lora(2)), 0.5),
        ValueError,
        ("LoRA-enabled and quantized layers cannot be masked: ['a']", "as it was before", "keep_dense"),
    ),
    "sparsify: quantized": (
        lambda t: ks.sparsify(changed(lambda x: x.quantize("int8")), 0.5),
        ValueError,
        ("LoRA-enabled and quantized layers cannot be masked: ['a']", "as it was before", "keep_dense"),
    ),
    "sparsify: keep_dense of unknown names": (
        lambda t: ks.sparsify(dense(), 0.5, keep_dense=["z"]),
        ValueError,
        ("`keep_dense` names layers that the model does not have: ['z']", "Its layers: ['a', 'b']"),
    ),
    "sparsify: keep_dense None": (
        lambda t: ks.sparsify(dense(), 0.5, keep_dense=None),
        ValueError,
        ("`keep_dense` must be a list of layer names, or a function `layer -> bool`", "Received: keep_dense=None"),
    ),
    "sparsify: keep_dense of layers": (
        lambda t: ks.sparsify(dense(), 0.5, keep_dense=[layers.Dense(3, name="a")]),
        ValueError,
        ("`keep_dense` must be a list of layer names", "Received: keep_dense=[<Dense name=a"),
    ),
    "sparsify: unknown distribution": (
        lambda t: ks.sparsify(dense(), 0.5, distribution="ball"),
        ValueError,
        ("Unknown distribution: 'ball'", "'erdos_renyi_kernel', 'uniform'", "a function (shapes, sparsity)"),
    ),
    "sparsify: distribution a list": (
        lambda t: ks.sparsify(dense(), 0.5, distribution=["uniform"]),
        ValueError,
        ("Unknown distribution: ['uniform']", "Expected one of"),
    ),
    "sparsify: a distribution of too few": (
        lambda t: ks.sparsify(dense(), 0.5, distribution=lambda shapes, s: [s]),
        ValueError,
        (*SHARES, "[0.5]"),
    ),
    "sparsify: a distribution of nothing": (
        lambda t: ks.sparsify(dense(), 0.5, distribution=lambda shapes, s: None),
        ValueError,
        (*SHARES, "None"),
    ),
    "sparsify: a distribution above 1": (
        lambda t: ks.sparsify(dense(), 0.5, distribution=lambda shapes, s: [0.5, 1.5]),
        ValueError,
        (*SHARES, "[0.5, 1.5]"),
    ),
    "sparsify: a distribution of NaN": (
        lambda t: ks.sparsify(dense(), 0.5, distribution=lambda shapes, s: [float("nan")] * 2),
        ValueError,
        (*SHARES, "[nan, nan]"),
    ),
    "sparsify: a distribution of words": (
        lambda t: ks.sparsify(dense(), 0.5, distribution=lambda shapes, s: "ab"),
        ValueError,
        (*SHARES, "'ab'"),
    ),
    "sparsify: unknown granularity": (
        lambda t: ks.sparsify(conv(), 0.5, granularity="channel"),
        ValueError,
        GRANULARITY,
    ),
    "sparsify: granularity None": (lambda t: ks.sparsify(conv(), 0.5, granularity=None), ValueError, GRANULARITY),
    "sparsify: granularity of a shape that does not fit": (
        lambda t: ks.sparsify(conv(), 0.5, granularity=(2, 1, 1, 4)),
        ValueError,
        GRANULARITY,
    ),
    "sparsify: seed below 0": (lambda t: ks.sparsify(dense(), 0.5, seed=-1), ValueError, SEED),
    "sparsify: seed None": (lambda t: ks.sparsify(dense(), 0.5, seed=None), ValueError, SEED),
    "densify: no model": (
        lambda t: ks.densify(None),
        ValueError,
        ("`densify` takes a keras.Model", "None of type None"),
    ),
    "densify: a class derived from a masked layer": (
        lambda t: ks.densify(around(type("Mine", (MaskedDense,), {})(3, sparsity=0.5, name="mine"))),
        ValueError,
        ("cannot know which layer a class derived from them is to become", "['mine']", "keras_sparse.sparsify"),
    ),
    "densify: not built": (lambda t: ks.densify(unbuilt()), ValueError, ("needs a built model", "keras.Input(shape)")),
    "masked_layers: no model": (lambda t: ks.masked_layers(None), ValueError, (*MODEL, "None of type NoneType")),
    "masked_layers: a class": (lambda t: ks.masked_layers(keras.Model), ValueError, (*MODEL, "of type type")),
    "report: a path": (lambda t: ks.report("m.keras"), ValueError, (*MODEL, "'m.keras' of type str")),
    "report: not built": (lambda t: ks.report(unbuilt()), ValueError, UNBUILT),
    "check_replicas: no model": (lambda t: ks.check_replicas([mlp()]), ValueError, (*MODEL, "of type list")),
    "check_replicas: not built": (lambda t: ks.check_replicas(unbuilt()), ValueError, UNBUILT),
    "layer: LoRA when made": (
        lambda t: MaskedDense(3, sparsity=0.5, lora_rank=2),
        ValueError,
        ("MaskedDense supports neither LoRA nor quantization", "Remove `lora_rank`", "Received: lora_rank=2"),
    ),
    "layer: quantized when made": (
        lambda t: MaskedDense(3, sparsity=0.5, dtype="int8_from_float32"),
        ValueError,
        ("neither LoRA nor quantization", "float dtype policy", "dtype='int8_from_float32'"),
    ),
    "layer: LoRA later": (
        lambda t: mlp().layers[0].enable_lora(2),
        NotImplementedError,
        ("LoRA would fill the dead weights of the masked layer 'first'", "densify"),
    ),
    "layer: quantized later": (
        lambda t: mlp().layers[0].quantize("int8"),
        NotImplementedError,
        ("'first' cannot be quantized in place", "densify"),
    ),
    "layer: granularity None": (
        lambda t: MaskedConv2D(4, 3, granularity=None).build((None, 8, 8, 2)),
        ValueError,
        GRANULARITY,
    ),
    "layer: granularity of another rank": (
        lambda t: MaskedConv2D(4, 3, granularity=(1, 4)).build((None, 8, 8, 2)),
        ValueError,
        GRANULARITY,
    ),
    "layer: seed a fraction": (lambda t: MaskedDense(3, seed=0.5), ValueError, SEED),
    "layer: seeds below 0": (lambda t: MaskedDense(3, seed=(1, -2)), ValueError, SEED),
    "layer: the mask before it is built": (
        lambda t: MaskedDense(3).kernel_mask.numpy(),
        AttributeError,
        ("before reading its mask", "call it on an input"),
    ),
    "uniform: sparsity above 1": (lambda t: ks.distributions.uniform([(3, 4)], 1.5), ValueError, S),
    "erdos_renyi: sparsity below 0": (lambda t: ks.distributions.erdos_renyi([(3, 4)], -1), ValueError, S),
    "erdos_renyi_kernel: sparsity None": (lambda t: ks.distributions.erdos_renyi_kernel([(3, 4)], None), ValueError, S),
    "uniform: shapes a number": (lambda t: ks.distributions.uniform(3, 0.5), ValueError, SHAPES),
    "erdos_renyi: shapes that are none": (lambda t: ks.distributions.erdos_renyi([3], 0.5), ValueError, SHAPES),
    "distributions.get: None": (
        lambda t: ks.distributions.get(None),
        ValueError,
        ("Unknown distribution: None", "one of"),
    ),
    "ByEpoch: a number": (lambda t: ks.schedules.ByEpoch(5), ValueError, EPOCHS),
    "ByEpoch: None": (lambda t: ks.schedules.ByEpoch(None), ValueError, EPOCHS),
    "ByEpoch: no epoch 0": (lambda t: ks.schedules.ByEpoch({1: 5}), ValueError, EPOCHS),
    "cosine_decay: no epochs": (lambda t: ks.schedules.cosine_decay(600, 0), ValueError, (*COSINE, "epochs=0")),
    "cosine_decay: start a word": (lambda t: ks.schedules.cosine_decay("many", 9), ValueError, (*COSINE, "'many'")),
    "polynomial_decay: sparsity 1": (lambda t: ks.schedules.polynomial_decay(0.0, 1.0, 0, 9), ValueError, POLYNOMIAL),
    "polynomial_decay: falling": (lambda t: ks.schedules.polynomial_decay(0.9, 0.5, 0, 9), ValueError, POLYNOMIAL),
    "polynomial_decay: end first": (lambda t: ks.schedules.polynomial_decay(0.0, 0.9, 10, 5), ValueError, POLYNOMIAL),
    "polynomial_decay: never": (
        lambda t: ks.schedules.polynomial_decay(0.0, 0.9, 0, 9, frequency=0),
        ValueError,
        (*POLYNOMIAL, "frequency=0"),
    ),
    "DynamicSparse: prune_count 0": (
        lambda t: dynamic(prune_count=0),
        ValueError,
        ("`prune_count` must be an int of at least 1", "Received: prune_count=0"),
    ),
    "DynamicSparse: neither prune_count nor fraction": (
        lambda t: ks.DynamicSparse(period=2),
        ValueError,
        ("either `prune_count`", "or `fraction`", "Received: prune_count=None, fraction=None"),
    ),
    "DynamicSparse: fraction 1.5": (
        lambda t: ks.DynamicSparse(fraction=1.5),
        ValueError,
        ("`fraction` must be a number in (0, 1]", "Received: fraction=1.5"),
    ),
    "DynamicSparse: an empty schedule": (lambda t: dynamic(prune_count={}), ValueError, EPOCHS),
    "DynamicSparse: period a list": (
        lambda t: dynamic(period=[100]),
        ValueError,
        ("`period` must be an int of at least 1", "Received: period=[100]"),
    ),
    "DynamicSparse: threshold infinite": (
        lambda t: dynamic(threshold=float("inf")),
        ValueError,
        ("`threshold` must be a number above 0", "Received: threshold=inf"),
    ),
    "DynamicSparse: regrow_scale NaN": (
        lambda t: dynamic(regrow_scale=float("nan")),
        ValueError,
        ("`regrow_scale` must be a number of at least 0", "Received: regrow_scale=nan"),
    ),
    "DynamicSparse: growth None": (
        lambda t: dynamic(growth=None),
        ValueError,
        ("`growth` must be one of ['anywhere', 'live_units']", "Received: growth=None"),
    ),
    "DynamicSparse: until a fraction": (
        lambda t: dynamic(until=0.5),
        ValueError,
        ("`until` must be an int of at least 1", "Received: until=0.5"),
    ),
    "SET: neither fraction nor count": (
        lambda t: ks.SET(),
        ValueError,
        ("either `fraction`", "or `count`", "Received: fraction=None, count=None"),
    ),
    "SET: criterion a list": (
        lambda t: ks.SET(0.3, criterion=["sign"]),
        ValueError,
        ("`criterion` must be one of ['magnitude', 'sign']", "Received: criterion=['sign']"),
    ),
    "RigL: fraction by epoch": (
        lambda t: ks.RigL(fraction={0: 0.3}),
        ValueError,
        ("`fraction` must be a number in (0, 1]", "Received: fraction={0: 0.3}"),
    ),
    "RigL: probe of one part": (
        lambda t: ks.RigL(probe=(X,)),
        ValueError,
        ("`probe` must be a batch, (x, y) or (x, y, sample_weight)", "Received: tuple"),
    ),
    "RigL: probe of another width": (
        lambda t: ks.RigL(until=2, probe=(X[:, :3], Y)).update(compiled(mlp()), 1),
        ValueError,
        ("`probe` must be a batch (x, y)", "inputs have the shape (None, 8)", "Received arrays of the shapes ((24, 3)"),
    ),
    "RigL: a model that is not compiled": (
        lambda t: ks.RigL(until=2, probe=(X, Y)).update(mlp(), 1, optimizer=keras.optimizers.SGD()),
        ValueError,
        ("gradients of the loss that the model is compiled with", "is not", "model.compile(optimizer, loss)"),
    ),
    "RigL: no batch outside of fit": (
        lambda t: ks.RigL(until=2).update(compiled(mlp()), 1),
        ValueError,
        ("RigL saw no batch", "those of `fit` only", "probe=(x, y)"),
    ),
    "DeepR: temperature a word": (
        lambda t: ks.DeepR(1e-5, {0: "hot"}),
        ValueError,
        ("`temperature` must be a number of at least 0", "Received: temperature='hot'"),
    ),
    "DeepR: masks over slices": (
        lambda t: fit(whole_units(), ks.DeepR(1e-5, 1e-5)),
        ValueError,
        ("DeepR rewires single weights", "masks over whole slices", 'granularity="weight"'),
    ),
    "save_model: path a number": (lambda t: ks.save_model(mlp(), 7), TypeError, PATH),
    "export: path a number": (lambda t: ks.export(mlp(), 7), TypeError, PATH),
    "load_litert: path a number": (lambda t: ks.load_litert(7), TypeError, PATH),
    "SparsityTensorBoard: no log_dir": (
        lambda t: ks.SparsityTensorBoard(None),
        TypeError,
        ("`log_dir` must be a str",),
    ),
    "GradualPruning: schedule a number": (
        lambda t: pruning(0.9),
        ValueError,
        ("`schedule` must be a function `step -> (due, sparsity)`", "polynomial_decay", "Received: schedule=0.9"),
    ),
    "GradualPruning: scope": (
        lambda t: pruning(lambda s: (True, 0.5), scope="global"),
        ValueError,
        ("`scope` must be one of ['layer', 'network']", "Received: scope='global'"),
    ),
    "GradualPruning: a schedule that says yes": (
        lambda t: fit(mlp(0.0), pruning(lambda step: True)),
        ValueError,
        (*SCHEDULE, "=True"),
    ),
    "GradualPruning: a schedule of words": (
        lambda t: fit(mlp(0.0), pruning(lambda step: (True, "half"))),
        ValueError,
        (*SCHEDULE, "(True, 'half')"),
    ),
    "GradualPruning: a schedule to 1.5": (
        lambda t: fit(mlp(0.0), pruning(lambda step: (True, 1.5))),
        ValueError,
        ("schedule(1)` is the removed fraction", "[0, 1)", "=1.5"),
    ),
    "GradualPruning: a schedule to NaN": (
        lambda t: fit(mlp(0.0), pruning(lambda step: (True, float("nan")))),
        ValueError,
        ("is the removed fraction", "[0, 1)", "=nan"),
    ),
    "a method without drop": (
        lambda t: ks.SparseMethod().update(compiled(mlp()), 1),
        NotImplementedError,
        ("SparseMethod does not say what to drop", "`drop`"),
    ),
    "update: no model": (lambda t: dynamic().update(None, 1), ValueError, MODEL),
    "update: a dense model": (lambda t: dynamic().update(compiled(dense()), 1), ValueError, NOTHING),
    "update: not built": (lambda t: dynamic().update(unbuilt(), 1), ValueError, UNBUILT),
    "update: step below 0": (
        lambda t: dynamic().update(compiled(mlp()), -1),
        ValueError,
        ("`step` must be an int of at least 0", "Received: step=-1"),
    ),
    "update: step a variable": (
        lambda t: dynamic().update(compiled(mlp()), compiled(mlp()).optimizer.iterations),
        ValueError,
        ("`step` must be an int of at least 0", "Received: step=<Variable"),
    ),
    "update: epoch None": (
        lambda t: dynamic().update(compiled(mlp()), 1, None),
        ValueError,
        ("`epoch` must be an int of at least 0", "Received: epoch=None"),
    ),
    "update: optimizer a word": (
        lambda t: dynamic().update(compiled(mlp()), 1, optimizer="sgd"),
        ValueError,
        ("`optimizer` must be a keras.optimizers.Optimizer", "Received: optimizer='sgd'"),
    ),
    "fit: a dense model": (lambda t: fit(dense(), dynamic()), ValueError, NOTHING),
    "fit: all frozen": (lambda t: fit(frozen(), dynamic()), ValueError, NOTHING),
    "fit: two methods": (
        lambda t: fit(mlp(), dynamic(), ks.SET(0.3)),
        ValueError,
        ("One sparse training method at a time", "DynamicSparse and SET", "Leave one out"),
    ),
    "fit: one method twice": (
        lambda t: fit(mlp(), *[dynamic()] * 2),
        ValueError,
        ("One sparse training method at a time", "DynamicSparse and DynamicSparse"),
    ),
    "fit: more to prune than there is": (
        lambda t: fit(mlp(), dynamic(prune_count=1000)),
        ValueError,
        (
            "`prune_count` must not be more than what can be dropped, 139 of 142",
            "Received: prune_count=1000",
            "A tenth",
        ),
    ),
    "fit: a period that becomes 0": (
        lambda t: fit(mlp(), dynamic(period=lambda epoch: 0)),
        ValueError,
        ("`period (at epoch 0)` must be an int of at least 1", "=0"),
    ),
    "fit: another method than the file's": (
        lambda t: goes_on(t, dynamic(), ks.SET(0.3)),
        ValueError,
        (
            "in the middle of its training by DynamicSparse",
            "SET cannot go on",
            "compile the model with a new optimizer",
        ),
    ),
    "EarlyStopping: from_sparsity 1": (
        lambda t: ks.EarlyStopping("loss", from_sparsity=1.0),
        ValueError,
        ("`from_sparsity` is the removed fraction", "[0, 1)", "Received: from_sparsity=1.0"),
    ),
    "EarlyStopping: a dense model": (
        lambda t: fit(dense(), ks.EarlyStopping("loss", from_sparsity=0.5)),
        ValueError,
        ("'net' has no masked layer", "from_sparsity=0.5", "sparsify", "keras.callbacks.EarlyStopping"),
    ),
    "ModelCheckpoint: from_sparsity a word": (
        lambda t: ks.ModelCheckpoint("m.keras", from_sparsity="high"),
        ValueError,
        ("`from_sparsity` is the removed fraction", "Received: from_sparsity='high'"),
    ),
    "ModelCheckpoint: a dense model": (
        lambda t: fit(dense(), ks.ModelCheckpoint(t / "m.keras", from_sparsity=0.5)),
        ValueError,
        ("'net' has no masked layer", "keras.callbacks.ModelCheckpoint"),
    ),
    "BackupAndRestore: None": (
        lambda t: ks.BackupAndRestore(None),
        ValueError,
        ("`backup_dir` must be the path of a folder", "Received: None"),
    ),
    "BackupAndRestore: a file": (
        lambda t: ks.BackupAndRestore(file(t)),
        ValueError,
        ("`backup_dir` must be the path of a folder", "file"),
    ),
    "BackupAndRestore: a damaged backup": (lambda t: backup(t, b"nonsense"), ValueError, BACKUP),
    "BackupAndRestore: a dense model's": (lambda t: backup(t, of=dense()), ValueError, (*BACKUP, "sparsify")),
    "BackupAndRestore: a wider model's": (lambda t: backup(t, of=ks.sparsify(dense(), 0.5)), ValueError, BACKUP),
}
for cls, masked in MASKED.items():
    arguments = SMALLEST.get(cls.__name__, [3, 3])
    CALLS[f"{masked.__name__}: sparsity"] = (lambda t, m=masked, a=arguments: m(*a, sparsity=1.0), ValueError, S)


def assert_says(error, words, folders):
    message = str(error)
    assert not [w for w in words if w not in message], message
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    assert any(file.is_relative_to(ROOT / f) for f in folders), f"{file} raises: {message}"


@pytest.mark.parametrize("name", CALLS)
def test_invalid_calls_raise_one_clear_error(name, tmp_path):
    call, kind, words = CALLS[name]
    with pytest.raises(kind) as caught:
        call(tmp_path)
    assert_says(caught.value, words, ["keras_sparse"])


FILES = {
    "written by a dense model": (
        dense,
        lambda: ks.sparsify(dense(), 0.5),
        ("The file has no masked layer for 'net/a'", "written by a dense model", "give that to keras_sparse.sparsify"),
    ),
    "with masks of another shape": (
        lambda: ks.sparsify(conv(), 0.5),
        lambda: ks.sparsify(conv(), 0.5, granularity="kernel_slice"),
        (
            "mask for 'images/c/kernel_mask' has the shape (3, 3, 2, 4), and that of the layer has (1, 1, 2, 4)",
            "`granularity`",
        ),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_invalid_files_raise_one_clear_error(name, tmp_path):
    """Keras collects the errors of layers and raises its own, which must include our messages."""
    written_by, read_by, words = FILES[name]
    written_by().save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ValueError, match="could not be loaded") as caught:
        read_by().load_weights(tmp_path / "w.weights.h5")
    assert not [w for w in words if w not in str(caught.value)], caught.value


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras runs steps_per_execution=1 only on PyTorch")
@pytest.mark.parametrize(("method", "period"), [(lambda: dynamic(period=4), 4), (lambda: ks.RigL(period=1), 1)])
def test_executions_longer_than_the_period_are_refused(method, period):
    with pytest.raises(ValueError, match="has to act between training steps") as caught:
        fit(mlp(), method(), steps_per_execution=6, run_eagerly=False)
    words = (f"the period is {period} batches", "makes 6 at once", f"steps_per_execution of at most {period}")
    assert_says(caught.value, words, ["keras_sparse"])


def test_quantizing_a_masked_model_warns_and_changes_nothing():
    """Keras calls each layer, and turns its error into a warning."""
    model = mlp()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model.quantize("int8")
    said = [str(w.message) for w in warned if "masked layer" in str(w.message)]
    assert len(said) == 3
    assert all("cannot be quantized in place, and was left as it is" in w and "densify" in w for w in said)
    assert not any(layer.quantization_mode for layer in model.layers)


USAGE = app.UsageError
ILLEGAL = flags.IllegalFlagValueError  # raised by absl, which prints it with the usage
FLAGS = {
    "sparsity 1": (["--sparsity=1.0"], ILLEGAL, ("--sparsity=1.0", "[0, 1)", "0.9 keeps a tenth")),
    "sparsity NaN": (["--sparsity=nan"], ILLEGAL, ("--sparsity=nan", "[0, 1)")),
    "sparsity for which K is too much": (["--sparsity=0.9999"], USAGE, ("`prune_count`", "24 of 27", "=600")),
    "sparsity that empties layers": (["--method=static", "--sparsity=0.999995"], USAGE, ("leaves 1 live", "['fc1'")),
    "no epochs": (["--epochs=0"], ILLEGAL, ("--epochs=0", "positive integer")),
    "a batch of none": (["--batch_size=0"], ILLEGAL, ("--batch_size=0", "positive integer")),
    "a batch over the split": (["--batch_size=1000"], USAGE, ("has 200 images, less than a batch of 1000", "larger")),
    "a seed below 0": (["--seed=-1"], ILLEGAL, ("--seed=-1", "non-negative integer")),
    "l1 NaN": (["--l1=nan"], ILLEGAL, ("--l1=nan", "finite number")),
    "l2 infinite": (["--l2=inf"], ILLEGAL, ("--l2=inf", "finite number")),
    "regrow_scale infinite": (["--regrow_scale=inf"], ILLEGAL, ("--regrow_scale=inf", "finite number")),
    "no width": (["--widen_factor=0"], ILLEGAL, ("--widen_factor=0", "above 0")),
    "unknown method": (["--method=magic"], ILLEGAL, ("--method=magic", "dynamic_sparse|set|deepr")),
    "unknown distribution": (["--distribution=ball"], ILLEGAL, ("--distribution=ball", "uniform|erdos_renyi")),
    "unknown granularity": (["--granularity=channel"], ILLEGAL, ("--granularity=channel", "weight|kernel_slice")),
    "unknown precision": (["--precision=float64"], ILLEGAL, ("--precision=float64", "mixed_bfloat16")),
    "prune_count 0": (["--prune_count=0"], ILLEGAL, ("--prune_count=0", "positive integer")),
    "prune_count over the network": (["--prune_count=9999"], USAGE, ("`prune_count`", "5321 of 5324", "=9999")),
    "period 0": (["--period=0"], ILLEGAL, ("--period=0", "positive integer")),
    "no steps an execution": (["--steps_per_execution=0"], ILLEGAL, ("--steps_per_execution=0", "positive integer")),
    "executions over the period": (
        ["--period=1", "--steps_per_execution=2"],
        USAGE,
        ("the period is 1 batches", "makes 2 at once", "at most 1"),
    ),
    "no such split": (["--train_split=valid"], USAGE, ("one of ['train', 'test']", "'train[:1000]'", "'valid'")),
    "no test images": (["--test_split=test[:0]"], USAGE, ("--test_split=test[:0] has 0 images", "larger split")),
    "no such dense model": (
        ["--method=compressed", "--dense_model=nowhere.keras"],
        USAGE,
        ("--dense_model=nowhere.keras does not exist", "--method dense", "leave the flag out"),
    ),
    "a dense model that is none": (
        ["--method=compressed", f"--dense_model={__file__}"],
        USAGE,
        ("test_bad_input.py is not a whole Keras model", "--method dense", "leave the flag out"),
    ),
    "a file for a folder": ([f"--output_dir={__file__}"], USAGE, ("cannot be written to", "another --output_dir")),
    "resume and overwrite": (["--resume", "--overwrite"], USAGE, ("--resume", "--overwrite", "give one of them")),
    "devices without a strategy": (["--devices=2"], USAGE, ("--devices=2 has no meaning", "--strategy=mirrored")),
    "processes without a strategy": (
        ["--processes=2", "--process=1"],
        USAGE,
        ("--processes=2, --process=1", "no meaning without --strategy=data_parallel"),
    ),
    "multiworker": (["--strategy=multiworker"], USAGE, ("--strategy=multiworker is refused", "KERAS_BACKEND=jax")),
    "unknown flag": (["--sparsety=0.9"], flags.UnrecognizedFlagError, ("'sparsety'", "sparsity")),
}


def run_recipe(*arguments):
    options = flags.FlagValues()
    define_flags(LENET_MNIST, options)
    small = ["--dataset=mnist_5k", "--train_split=train[:200]", "--test_split=test[:100]", "--epochs=1", "--verbose=0"]
    options(["recipe", *small, *arguments])
    train.run(LENET_MNIST, lenet_300_100, options=options)


@pytest.mark.parametrize("name", FLAGS)
def test_invalid_recipe_flags_raise_one_clear_error(name, tmp_path):
    arguments, kind, words = FLAGS[name]
    if "steps_per_execution=2" in arguments[-1] and keras.backend.backend() == "torch":
        pytest.skip("Keras runs steps_per_execution=1 only on PyTorch")
    with pytest.raises(kind) as caught:
        run_recipe(f"--output_dir={tmp_path / 'run'}", *arguments)
    if kind is USAGE:
        assert_says(caught.value, words, ["keras_sparse", "recipes"])
    else:
        assert not [w for w in words if w not in str(caught.value)], caught.value
