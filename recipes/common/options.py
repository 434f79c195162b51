"""The flags of every recipe."""

import functools
import math

import keras
from absl import app, flags

from common import devices, methods
from keras_sparse.distributions import DISTRIBUTIONS


def define_flags(experiment, into=flags.FLAGS):
    """Defines the flags of a recipe, with the defaults of its experiment, in a `flags.FlagValues`."""
    training = experiment.training
    enum, real, integer, string, boolean = (
        functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=into)
        for kind in ("enum", "float", "integer", "string", "bool")
    )
    enum("method", "dynamic_sparse", methods.METHODS, "How the network is trained.")
    real("sparsity", experiment.sparsity, "Removed fraction of the sparse kernels.")
    flags.register_validator(
        "sparsity", lambda s: 0 <= s < 1, "must be in [0, 1), the removed fraction: 0.9 keeps a tenth", into
    )
    if experiment.ours:
        enum("settings", "paper", ("paper", "ours"), "Table 4's, or ours: more accurate in as many epochs.")
    enum("granularity", "weight", ("weight", "kernel_slice"), "What lives and dies: weights, or k x k slices.")
    integer("seed", 0, "Of initial weights, masks, shuffling, augmentation and regrowth.", lower_bound=0)
    integer("epochs", training.epochs, "Number of epochs; all schedules by epoch stretch with it.", lower_bound=1)
    integer("batch_size", training.batch_size, "Images a step, over all devices.", lower_bound=1)
    enum(
        "learning_rates",
        "code",
        ("code", "as_printed"),
        "The schedule of the authors' code, or as the paper prints it.",
    )
    real("l1", training.l1, "Multiplier of sum |w| over the kernels in the loss.", 0.0)
    real("l2", training.l2, "Multiplier of w in the gradient, on every parameter.", 0.0)
    real("widen_factor", experiment.widen_factor, "Width of the network.")
    flags.register_validator(
        "widen_factor", lambda w: 0 < w < math.inf, "must be above 0: 1 is the paper's LeNet", into
    )
    if experiment.depth:
        integer("depth", experiment.depth, "Depth of the network.")
    enum("distribution", None, tuple(DISTRIBUTIONS), "Sparsity of each layer; default: uniform, for rigl by kernel.")
    string("dense_model", None, "For --method compressed: a trained model.keras; default: train it first.")
    enum("scope", "layer", ("layer", "network"), "For --method compressed: what a threshold is for.")
    integer(
        "prune_count", None, "The paper's K, of dynamic_sparse and set; default: Table 4's, by the network's size.", 1
    )
    integer("period", None, "The paper's P, steps between updates; default: Table 4's schedule by epoch.", 1)
    real("regrow_scale", 1e-4, "Standard deviation of regrown weights; 0 is the paper's word.", 0.0)
    for name in ("l1", "l2", "regrow_scale"):
        flags.register_validator(name, math.isfinite, "must be a finite number", into)
    string("dataset", experiment.dataset, "TFDS name of an image set, or mnist_5k.")
    string("data_dir", None, "TFDS data_dir, or of tools/export_arrays.py; default: TFDS_DATA_DIR, or TFDS's own.")
    if experiment.image_size:
        integer("image_size", experiment.image_size, "Pixels of a side that images are brought to.", 1)
    string("train_split", "train", "TFDS split string to train on.")
    string("test_split", experiment.test_split, "TFDS split string to test on.")
    string("output_dir", None, "Where the run is written; default: runs/RECIPE/DATASET_METHOD_SPARSITY_SEED.")
    boolean("overwrite", False, "Replace an earlier run in output_dir.")
    boolean("resume", False, "Go on with the run in output_dir from the last epoch it finished, or start it.")
    enum("strategy", "none", devices.STRATEGIES, "mirrored: all GPUs, TensorFlow; data_parallel: all devices, JAX.")
    integer("devices", None, "How many devices; without a GPU so many logical CPUs. Default: all.", 1)
    string("coordinator", None, "HOST:PORT of process 0, for data_parallel over several processes.")
    integer("processes", 1, "Number of processes of data_parallel.", 1)
    integer("process", 0, "Number of this process, from 0.", 0)
    boolean("check_replicas", False, "After each update compare masks and weights of all devices.")
    enum("precision", "float32", devices.PRECISIONS, "Keras's dtype policy.")
    boolean("jit_compile", None, "Compile the training step with XLA; default: yes, if backend and strategy can.")
    integer("steps_per_execution", None, "Steps a call of the training function; default: as suits.", 1)
    enum("verbose", "1", ("0", "1", "2"), "As in fit: 0 silent, 1 a progress bar, 2 a line an epoch.")


def refuse(arguments):
    """Raises `app.UsageError` if a command line has words that are no flags."""
    if arguments:
        raise app.UsageError(f"Flags only are taken, --NAME=VALUE (--helpfull lists them). Received: {arguments}.")


def given(options):
    """What a run is started with, a dict: every flag of the recipe, and Keras's backend."""
    flags_given = {flag.name: flag.value for flag in options.get_flags_for_module(__name__)}
    return {**flags_given, "backend": keras.backend.backend()}
