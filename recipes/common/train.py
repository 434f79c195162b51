"""From flags to a finished run: what every recipe does with its experiment and its network."""

import functools
import json
import os
import platform
import shutil
import time
from pathlib import Path

import keras
from absl import app, flags

import keras_sparse as ks
from common import data, methods
from keras_sparse.distributions import DISTRIBUTIONS


def define_flags(experiment, into=flags.FLAGS):
    """Defines the flags of a recipe, with the defaults of its experiment, in a `flags.FlagValues`."""
    training = experiment.training
    enum, real, integer, string, boolean = (
        functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=into)
        for kind in ("enum", "float", "integer", "string", "bool")
    )
    enum("method", "dynamic_sparse", methods.METHODS, "How the network is trained.")
    real("sparsity", 0.98, "Removed fraction of the sparse kernels.")
    flags.register_validator(
        "sparsity", lambda s: 0 <= s < 1, "must be in [0, 1), the removed fraction: 0.9 keeps a tenth", into
    )
    integer("seed", 0, "Of initial weights, masks, shuffling and regrowth.", lower_bound=0)
    integer("epochs", training.epochs, "Number of epochs.", lower_bound=1)
    enum(
        "learning_rates",
        "code",
        ("code", "as_printed"),
        "The schedule of the authors' code, or as the paper prints it.",
    )
    real("l1", training.l1, "Multiplier of sum |w| over the kernels in the loss.", 0.0)
    real("l2", training.l2, "Multiplier of w in the gradient, on every parameter.", 0.0)
    enum("distribution", None, tuple(DISTRIBUTIONS), "Sparsity of each layer; default: uniform, for rigl by kernel.")
    string("dense_model", None, "For --method compressed: a trained model.keras; default: train it first.")
    enum("scope", "layer", ("layer", "network"), "For --method compressed: what a threshold is for.")
    integer("prune_count", None, "The paper's K, of dynamic_sparse and set; default: Table 4's.", 1)
    integer("period", None, "The paper's P, steps between updates; default: Table 4's schedule by epoch.", 1)
    real("regrow_scale", 1e-4, "Standard deviation of regrown weights; 0 is the paper's word.", 0.0)
    enum("dataset", experiment.datasets[0], experiment.datasets, "Which images.")
    string("data_dir", None, "TFDS data_dir; default: TFDS_DATA_DIR, or TFDS's own.")
    string("train_split", "train", "TFDS split string to train on.")
    string("test_split", "test", "TFDS split string to test on.")
    string("output_dir", None, "Where the run is written; default: runs/RECIPE/METHOD_SPARSITY_SEED.")
    boolean("overwrite", False, "Replace an earlier run in output_dir.")
    boolean("jit_compile", True, "Compile the training step with XLA (torch: no).")
    integer("steps_per_execution", None, "Steps a call of the training function; default: as suits.")
    enum("verbose", "1", ("0", "1", "2"), "As in fit: 0 silent, 1 a progress bar, 2 a line an epoch.")


def run(experiment, build, options=flags.FLAGS):
    """Trains and evaluates one network, and writes the run into its folder.

    The folder holds `config.json` (every flag), `history.csv` (an epoch a line), `tensorboard/`, `model.keras` and
    `result.json`, which is written last: a folder that has it holds a finished run.

    Args:
        experiment: `common.experiment.Experiment`.
        build: function `(widen_factor=, l1=, l2=) -> keras.Model`, dense.
        options: the parsed `flags.FlagValues` of `define_flags`.

    Returns:
        dict, the content of `result.json`.
    """
    folder = _output_folder(experiment, options)
    keras.utils.set_random_seed(options.seed)
    sets = [data.load(options.dataset, s, options.data_dir) for s in (options.train_split, options.test_split)]
    batch_size = experiment.training.batch_size
    if len(sets[0][0]) < batch_size:
        raise app.UsageError(
            f"--train_split={options.train_split} has {len(sets[0][0])} images, less than a batch of {batch_size}. "
            "Take a larger split."
        )
    steps = len(sets[0][0]) // batch_size
    dense = _trained_dense(experiment, build, options, sets, folder) if options.method == "compressed" else None
    plan = methods.plan(experiment, build, options, steps, dense)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", {f.name: f.value for f in options.get_flags_for_module(__name__)})
    history, seconds = _fit(experiment.training, plan, options, sets, folder)
    result = {
        **_best(history),
        **_counts(ks.report(plan.model)),
        "seconds": round(seconds, 1),
        "epochs": plan.epochs,
        "steps_per_epoch": steps,
        "backend": keras.backend.backend(),
        "versions": {"keras": keras.__version__, "keras_sparse": ks.__version__},
        "machine": f"{_processor()}, {os.cpu_count()} cores",
    }
    plan.model.save(folder / "model.keras")
    _write_json(folder / "result.json", result)
    print(ks.report(plan.model))
    print(
        f"Test accuracy: {result['test_accuracy']:.2%} after epoch {plan.epochs} "
        f"(best {result['best_test_accuracy']:.2%}, epoch {result['best_epoch']}), {seconds:.0f} s. "
        f"Written to {folder}; look at it with: tensorboard --logdir {folder}"
    )
    return result


def _fit(training, plan, options, sets, folder):
    """Trains by a plan; returns the history and the seconds it took."""
    model, rates = plan.model, plan.learning_rates
    train_set, test_set = sets
    steps = len(train_set[0]) // training.batch_size
    model.compile(
        optimizer=keras.optimizers.SGD(rates[0], momentum=training.momentum, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=options.jit_compile and keras.backend.backend() != "torch",
        steps_per_execution=options.steps_per_execution or steps_per_execution(steps, plan.most_steps),
    )
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    history = model.fit(
        data.batches(*train_set, training.batch_size, options.seed),
        epochs=plan.epochs,
        steps_per_epoch=steps,
        validation_data=test_set,
        validation_batch_size=1000,
        callbacks=[
            *plan.callbacks,
            keras.callbacks.LearningRateScheduler(ks.schedules.ByEpoch(rates)),
            keras.callbacks.CSVLogger(folder / "history.csv"),
            keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
        ],
        shuffle=False,  # `batches` does
        verbose=int(options.verbose),
    ).history
    return history, time.perf_counter() - started


def _trained_dense(experiment, build, options, sets, folder):
    """The dense model that pruning starts from: loaded, or trained first, into the run's folder."""
    if options.dense_model:
        path = Path(options.dense_model)
        if not path.exists():
            raise app.UsageError(
                f"--dense_model={path} does not exist. Name a model.keras that --method dense has left, or leave the "
                "flag out to train it first."
            )
        return keras.models.load_model(path)
    rates = experiment.training.learning_rates
    if options.learning_rates == "as_printed":
        rates = experiment.training.learning_rates_as_printed
    plan = methods.Plan(build(l1=options.l1, l2=options.l2), rates, options.epochs)
    _fit(experiment.training, plan, options, sets, folder / "dense")
    plan.model.save(folder / "dense" / "model.keras")
    return plan.model


def _best(history):
    """Accuracies of the last epoch and of the best one, among those at the sparsity of the last."""
    accuracies, sparsities = history["val_accuracy"], history.get("sparsity")
    final = [i for i in range(len(accuracies)) if not sparsities or sparsities[i] >= sparsities[-1] - 1e-6]
    best = max(final, key=lambda i: accuracies[i])
    return {"test_accuracy": accuracies[-1], "best_test_accuracy": accuracies[best], "best_epoch": best + 1}


def _counts(report):
    return {name: getattr(report, name) for name in ("live_weights", "sparse_weights", "parameters")}


def steps_per_execution(steps, most):
    """The most steps of one call, of those that divide an epoch.

    A hundred make the cost of a call vanish and keep the bar moving; no period of Table 4 is shorter. Only TensorFlow
    loops over them inside the call: the other backends would trace each.

    Args:
        steps: int, steps of an epoch.
        most: int, not more than this, nor than 100.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    return max(n for n in range(1, min(most, 100) + 1) if steps % n == 0)


def _output_folder(experiment, options):
    sparsity = "" if options.method == "dense" else f"_{options.sparsity:g}"
    name = f"{options.dataset}_{options.method}{sparsity}_seed{options.seed}"
    folder = Path(options.output_dir or Path("runs") / experiment.name / name)
    if (folder / "config.json").exists() and not options.overwrite:
        raise app.UsageError(
            f"{folder} holds an earlier run. Keep it and give another --output_dir, or replace it with --overwrite."
        )
    if folder.exists() and options.overwrite:
        for name in ("config.json", "result.json", "history.csv", "model.keras"):
            (folder / name).unlink(missing_ok=True)
        for name in ("tensorboard", "dense"):
            shutil.rmtree(folder / name, ignore_errors=True)
    return folder


def _write_json(path, content):
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _processor():
    """The processor's name, for the record."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(": ")[1] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
