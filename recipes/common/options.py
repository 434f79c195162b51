"""The flags of every recipe."""

import functools
import math

import keras
from absl import app, flags

from common import devices, methods
from keras_sparse.distributions import DISTRIBUTIONS


def define_flags(experiment, into=flags.FLAGS):
    """Defines the flags of a recipe, with the defaults of its experiment.

    Args:
        experiment: `common.experiment.Experiment`.
        into: `flags.FlagValues` in which the flags are defined.
    """
    training = experiment.training
    enum, real, integer, string, boolean = (
        functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=into)
        for kind in ("enum", "float", "integer", "string", "bool")
    )
    enum("method", "dynamic_sparse", methods.METHODS, "Training method.")
    real("sparsity", experiment.sparsity, "Removed fraction of the sparse kernels.")
    flags.register_validator(
        "sparsity", lambda s: 0 <= s < 1, "must be in [0, 1), the removed fraction: 0.9 keeps a tenth", into
    )
    if experiment.ours:
        enum("settings", "paper", ("paper", "ours"), "Settings of Table 4, or ours, tuned for accuracy.")
    enum("granularity", "weight", ("weight", "kernel_slice"), "Mask elements: single weights, or k x k slices.")
    integer("seed", 0, "Seed of initial weights, masks, shuffling, augmentation and growth.", lower_bound=0)
    integer("epochs", training.epochs, "Number of epochs; schedules are stretched with it.", lower_bound=1)
    integer("batch_size", training.batch_size, "Images per step, over all devices.", lower_bound=1)
    enum(
        "learning_rates",
        "code",
        ("code", "as_printed"),
        "Learning rates of the authors' code, or as printed in the paper.",
    )
    real("l1", training.l1, "Coefficient of sum |w| over the kernels in the loss.", 0.0)
    real("l2", training.l2, "Coefficient of w in the gradient of every parameter.", 0.0)
    real("widen_factor", experiment.widen_factor, "Factor of the width of the network.")
    flags.register_validator(
        "widen_factor", lambda w: 0 < w < math.inf, "must be above 0: 1 is the LeNet of the paper", into
    )
    if experiment.depth:
        integer("depth", experiment.depth, "Depth of the network.")
    enum("distribution", None, tuple(DISTRIBUTIONS), "Default: uniform; for rigl erdos_renyi_kernel.")
    string("dense_model", None, "For --method compressed: a trained model.keras; default: train one first.")
    enum("scope", "layer", ("layer", "network"), "For --method compressed: scope of a threshold.")
    integer("prune_count", None, "K of dynamic_sparse and set; default: Table 4, scaled to the size of the network.", 1)
    integer("period", None, "P, steps between updates; default: the schedule of Table 4.", 1)
    real("regrow_scale", 1e-4, "Standard deviation of grown weights; 0 in the paper.", 0.0)
    for name in ("l1", "l2", "regrow_scale"):
        flags.register_validator(name, math.isfinite, "must be a finite number", into)
    string("dataset", experiment.dataset, "TFDS name of an image data set, or mnist_5k.")
    string("data_dir", None, "data_dir of TFDS, or folder of tools/export_arrays.py; default: as TFDS.")
    if experiment.image_size:
        integer("image_size", experiment.image_size, "Height and width of resized images, in pixels.", 1)
    string("train_split", "train", "TFDS split string to train on.")
    string("test_split", experiment.test_split, "TFDS split string to test on.")
    string("output_dir", None, "Folder of the run; default: runs/RECIPE/DATASET_METHOD_SPARSITY_SEED.")
    boolean("overwrite", False, "Replace an earlier run in output_dir.")
    boolean("resume", False, "Resume the run in output_dir from its last finished epoch, or start it.")
    enum("strategy", "none", devices.STRATEGIES, "mirrored: all GPUs, TensorFlow; data_parallel: all devices, JAX.")
    integer("devices", None, "Number of devices; without a GPU, of logical CPUs. Default: all.", 1)
    string("coordinator", None, "HOST:PORT of process 0, for data_parallel over several processes.")
    integer("processes", 1, "Number of processes of data_parallel.", 1)
    integer("process", 0, "Index of this process, from 0.", 0)
    boolean("check_replicas", False, "Compare masks and weights of all devices after each update.")
    enum("precision", "float32", devices.PRECISIONS, "Dtype policy of Keras.")
    boolean("jit_compile", None, "Compile the training step with XLA; default: yes, if backend and strategy can.")
    integer("steps_per_execution", None, "Steps per call of the train function; default: automatic.", 1)
    enum(
        "verbose",
        "1",
        ("0", "1", "2"),
        "0 silent, 1 a line every ten epochs and on a terminal a bar, 2 a line an epoch.",
    )


def refuse(arguments):
    """Raises `app.UsageError` if the command line has arguments that are not flags."""
    if arguments:
        raise app.UsageError(f"Only flags are accepted, --NAME=VALUE (--helpfull lists them). Received: {arguments}.")


# Flags that say where and how fast a run is computed, and not what.
_EXECUTION = (
    *("output_dir", "overwrite", "resume", "data_dir", "verbose", "strategy", "devices", "coordinator", "processes"),
    *("process", "check_replicas", "jit_compile", "steps_per_execution"),
)


def settings(options):
    """What runs are compared by, a dict: the flags that change what is computed, and Keras's backend."""
    return {name: value for name, value in given(options).items() if name not in _EXECUTION}


def given(options):
    """Returns a dict with the values of all flags of a recipe, and the backend of Keras."""
    flags_given = {flag.name: flag.value for flag in options.get_flags_for_module(__name__)}
    return {**flags_given, "backend": keras.backend.backend()}
