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
from common import data

METHODS = ("dynamic_sparse", "static", "dense")


def define_flags(experiment, into=flags.FLAGS):
    """Defines the flags of a recipe, with the defaults of its experiment, in a `flags.FlagValues`."""
    training = experiment.training
    enum, real, integer, string, boolean = (
        functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=into)
        for kind in ("enum", "float", "integer", "string", "bool")
    )
    enum("method", "dynamic_sparse", METHODS, "How the network is trained.")
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
    integer("prune_count", experiment.dynamic_sparse.prune_count, "The paper's K.", 1)
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
        build: function `(l1=, l2=) -> keras.Model`, dense.
        options: the parsed `flags.FlagValues` of `define_flags`.

    Returns:
        dict, the content of `result.json`.
    """
    training = experiment.training
    folder = _output_folder(experiment, options)
    keras.utils.set_random_seed(options.seed)
    train_set = data.load(options.dataset, options.train_split, options.data_dir)
    test_set = data.load(options.dataset, options.test_split, options.data_dir)
    steps = len(train_set[0]) // training.batch_size
    if not steps:
        raise app.UsageError(
            f"--train_split={options.train_split} has {len(train_set[0])} images, less than a batch of "
            f"{training.batch_size}. Take a larger split."
        )
    model, method = _sparse(experiment, build(l1=options.l1, l2=options.l2), options)
    rates = training.learning_rates if options.learning_rates == "code" else training.learning_rates_as_printed
    model.compile(
        optimizer=keras.optimizers.SGD(rates[0], momentum=training.momentum, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=options.jit_compile and keras.backend.backend() != "torch",
        steps_per_execution=options.steps_per_execution or steps_per_execution(steps, options.period or 100),
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", {f.name: f.value for f in options.get_flags_for_module(__name__)})
    started = time.perf_counter()
    history = model.fit(
        data.batches(*train_set, training.batch_size, options.seed),
        epochs=options.epochs,
        steps_per_epoch=steps,
        validation_data=test_set,
        validation_batch_size=1000,
        callbacks=[
            *method,
            keras.callbacks.LearningRateScheduler(ks.schedules.ByEpoch(rates)),
            keras.callbacks.CSVLogger(folder / "history.csv"),
            keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
        ],
        shuffle=False,  # `batches` does
        verbose=int(options.verbose),
    ).history
    seconds = time.perf_counter() - started
    accuracies = history["val_accuracy"]
    report = ks.report(model)
    result = {
        "test_accuracy": accuracies[-1],
        "best_test_accuracy": max(accuracies),
        "best_epoch": 1 + accuracies.index(max(accuracies)),
        "live_weights": report.live_weights,
        "sparse_weights": report.sparse_weights,
        "parameters": report.parameters,
        "seconds": round(seconds, 1),
        "epochs": options.epochs,
        "steps_per_epoch": steps,
        "backend": keras.backend.backend(),
        "versions": {"keras": keras.__version__, "keras_sparse": ks.__version__},
        "machine": f"{_processor()}, {os.cpu_count()} cores",
    }
    model.save(folder / "model.keras")
    _write_json(folder / "result.json", result)
    print(report)
    print(
        f"Test accuracy: {result['test_accuracy']:.2%} after epoch {options.epochs} "
        f"(best {result['best_test_accuracy']:.2%}, epoch {result['best_epoch']}), {seconds:.0f} s. "
        f"Written to {folder}; look at it with: tensorboard --logdir {folder}"
    )
    return result


def _sparse(experiment, model, options):
    """The model as the method wants it, and the method's callbacks."""
    if options.method == "dense":
        return model, []
    model = ks.sparsify(model, options.sparsity, seed=options.seed)
    if options.method == "static":
        return model, [ks.Static()]
    settings = experiment.dynamic_sparse
    method = ks.DynamicSparse(
        prune_count=options.prune_count,
        period=options.period or settings.period,
        tolerance=settings.tolerance,
        threshold=settings.threshold,
        regrow_scale=options.regrow_scale,
        until=settings.until,
        seed=options.seed,
    )
    return model, [method]


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
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
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
