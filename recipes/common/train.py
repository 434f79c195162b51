"""From flags to a finished run: what every recipe does with its experiment and its network."""

import dataclasses
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
from common import data, devices, methods
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
    real("widen_factor", experiment.widen_factor, "Width of the network.", 0.0)
    if experiment.depth:
        integer("depth", experiment.depth, "Depth of the network.")
    enum("distribution", None, tuple(DISTRIBUTIONS), "Sparsity of each layer; default: uniform, for rigl by kernel.")
    string("dense_model", None, "For --method compressed: a trained model.keras; default: train it first.")
    enum("scope", "layer", ("layer", "network"), "For --method compressed: what a threshold is for.")
    integer("prune_count", None, "The paper's K, of dynamic_sparse and set; default: Table 4's.", 1)
    integer("period", None, "The paper's P, steps between updates; default: Table 4's schedule by epoch.", 1)
    real("regrow_scale", 1e-4, "Standard deviation of regrown weights; 0 is the paper's word.", 0.0)
    string("dataset", experiment.dataset, "TFDS name of an image set, or mnist_5k.")
    string("data_dir", None, "TFDS data_dir, or of tools/export_arrays.py; default: TFDS_DATA_DIR, or TFDS's own.")
    if experiment.image_size:
        integer("image_size", experiment.image_size, "Pixels of a side that images are brought to.", 1)
    string("train_split", "train", "TFDS split string to train on.")
    string("test_split", experiment.test_split, "TFDS split string to test on.")
    string("output_dir", None, "Where the run is written; default: runs/RECIPE/DATASET_METHOD_SPARSITY_SEED.")
    boolean("overwrite", False, "Replace an earlier run in output_dir.")
    enum("strategy", "none", devices.STRATEGIES, "mirrored: all GPUs, TensorFlow; data_parallel: all devices, JAX.")
    integer("devices", None, "How many devices; without a GPU so many logical CPUs. Default: all.", 1)
    string("coordinator", None, "HOST:PORT of process 0, for data_parallel over several processes.")
    integer("processes", 1, "Number of processes of data_parallel.", 1)
    integer("process", 0, "Number of this process, from 0.", 0)
    boolean("check_replicas", False, "After each update compare masks and weights of all devices.")
    enum("precision", "float32", devices.PRECISIONS, "Keras's dtype policy.")
    boolean("jit_compile", None, "Compile the training step with XLA; default: yes, if backend and strategy can.")
    integer("steps_per_execution", None, "Steps a call of the training function; default: as suits.")
    enum("verbose", "1", ("0", "1", "2"), "As in fit: 0 silent, 1 a progress bar, 2 a line an epoch.")


def refuse(arguments):
    """Raises `app.UsageError` if a command line has words that are no flags."""
    if arguments:
        raise app.UsageError(f"Flags only are taken, --NAME=VALUE (--helpfull lists them). Received: {arguments}.")


def run(experiment, build, load=data.load, options=flags.FLAGS):
    """Trains and evaluates one network, and writes the run into its folder.

    The folder holds `config.json` (every flag), `history.csv` (an epoch a line), `tensorboard/`, `model.keras` and
    `result.json`, which is written last: a folder that has it holds a finished run.

    Args:
        experiment: `common.experiment.Experiment`.
        build: function that makes the dense network, as those of `common.models`.
        load: function `(dataset, splits, data_dir) -> (train set, test set)`, such as `common.data.load`.
        options: the parsed `flags.FlagValues` of `define_flags`.

    Returns:
        dict, the content of `result.json`.
    """
    folder = _output_folder(experiment, options)
    if experiment.ours and options.settings == "ours":
        experiment = experiment.ours
    keras.utils.set_random_seed(options.seed)
    machine = devices.prepare(options)
    devices.check_batch_size(machine, options.batch_size)
    size = {"size": options.image_size} if experiment.image_size else {}
    sets = load(options.dataset, (options.train_split, options.test_split), options.data_dir, **size)
    if experiment.training.label_smoothing:
        sets = [dataclasses.replace(s, one_hot=True) for s in sets]
    steps = len(sets[0]) // options.batch_size
    if not steps:
        raise app.UsageError(
            f"--train_split={options.train_split} has {len(sets[0])} images, less than a batch of "
            f"{options.batch_size}. Take a larger split."
        )
    with machine.scope():
        build = _with_flags(build, experiment, options, sets[0], machine)
        trainer = Trainer(experiment.training, options, sets, machine)
        dense = _trained_dense(build, trainer, options, folder) if options.method == "compressed" else None
        plan = methods.plan(experiment, build, options, steps, dense)
    if machine.leads:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "config.json", {f.name: f.value for f in options.get_flags_for_module(__name__)})
    history, seconds = trainer.fit(plan, folder)
    result = {
        **_best(history),
        **_counts(ks.report(plan.model)),
        "seconds": round(seconds, 1),
        "epochs": plan.epochs,
        "steps_per_epoch": steps,
        "backend": keras.backend.backend(),
        "versions": {"keras": keras.__version__, "keras_sparse": ks.__version__},
        "machine": _machine(machine),
    }
    machine.save(plan.model, folder / "model.keras")
    if not machine.leads:
        return result
    _write_json(folder / "result.json", result)
    print(ks.report(plan.model))
    print(
        f"Test accuracy: {result['test_accuracy']:.2%} after epoch {plan.epochs} "
        f"(best {result['best_test_accuracy']:.2%}, epoch {result['best_epoch']}), {seconds:.0f} s. "
        f"Written to {folder}; look at it with: tensorboard --logdir {folder}"
    )
    return result


def _with_flags(build, experiment, options, images, machine):
    """The function that makes the network, with what flags and data say; `widen_factor` is left to thin networks."""
    given = {"depth": options.depth} if experiment.depth else {}
    return functools.partial(
        build,
        widen_factor=options.widen_factor,
        input_shape=tuple(images.shape),
        classes=images.classes,
        l1=options.l1,
        l2=options.l2,
        synchronized=machine.strategy is not None,
        **given,
    )


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Compiles and fits as an experiment says.

    Attributes:
        training: `common.experiment.Training`.
        options: parsed flags.
        sets: the data to train and to test on.
        machine: `common.devices.Devices`.
    """

    training: object
    options: flags.FlagValues
    sets: tuple
    machine: devices.Devices

    def fit(self, plan, folder):
        """Trains by a `common.methods.Plan`; returns the history and the seconds it took."""
        model, rates, options = plan.model, plan.learning_rates, self.options
        train_set, test_set = self.sets
        steps = len(train_set) // options.batch_size
        with self.machine.scope():
            model.compile(
                optimizer=keras.optimizers.SGD(rates[0], momentum=self.training.momentum, nesterov=True),
                loss=_loss(self.training.label_smoothing),
                metrics=["accuracy", *([_top_5()] if self.training.top_5 else [])],
                jit_compile=self._compiles if options.jit_compile is None else options.jit_compile,
                steps_per_execution=options.steps_per_execution or self._steps_per_execution(steps, plan.most_steps),
            )
        callbacks = [*plan.callbacks, keras.callbacks.LearningRateScheduler(ks.schedules.ByEpoch(rates))]
        if self.machine.leads:
            folder.mkdir(parents=True, exist_ok=True)
            callbacks += [
                keras.callbacks.CSVLogger(folder / "history.csv"),
                keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
            ]
        images = len(test_set) // self.machine.replicas * self.machine.replicas
        at_once = evaluation_batch(images, self.machine.replicas)
        tests = test_set.evaluation(images, at_once, self.machine.part)
        started = time.perf_counter()
        history = model.fit(
            train_set.batches(options.batch_size, options.seed, part=self.machine.part),
            epochs=plan.epochs,
            steps_per_epoch=steps,
            validation_data=tests,
            validation_batch_size=at_once // self.machine.part[1] if isinstance(tests, tuple) else None,
            callbacks=callbacks,
            shuffle=False,  # `batches` does
            verbose=int(options.verbose) if self.machine.leads else 0,
        ).history
        return history, time.perf_counter() - started

    # Under a tf.distribute strategy Keras can do neither: replicas add up their gradients within the step.

    @property
    def _compiles(self):
        return self.machine.strategy is None and keras.backend.backend() != "torch"

    def _steps_per_execution(self, steps, most):
        return steps_per_execution(steps, most) if self.machine.strategy is None else 1


def _loss(label_smoothing):
    if not label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)


def _top_5():
    return keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5_accuracy")


def _trained_dense(build, trainer, options, folder):
    """The dense model that pruning starts from: loaded, or trained first, into the run's folder."""
    if options.dense_model:
        path = Path(options.dense_model)
        if not path.exists():
            raise app.UsageError(
                f"--dense_model={path} does not exist. Name a model.keras that --method dense has left, or leave the "
                "flag out to train it first."
            )
        return keras.models.load_model(path)
    rates = methods.learning_rates(trainer.training, options)
    plan = methods.Plan(build(), rates, options.epochs)
    trainer.fit(plan, folder / "dense")
    trainer.machine.save(plan.model, folder / "dense" / "model.keras")
    return plan.model


def _best(history):
    """Accuracies of the last epoch and of the best one, among those at the sparsity of the last."""
    accuracies, sparsities = history["val_accuracy"], history.get("sparsity")
    final = [i for i in range(len(accuracies)) if not sparsities or sparsities[i] >= sparsities[-1] - 1e-6]
    best = max(final, key=lambda i: accuracies[i])
    top_5 = {"test_top_5_accuracy": history["val_top_5_accuracy"][-1]} if "val_top_5_accuracy" in history else {}
    return {"test_accuracy": accuracies[-1], **top_5, "best_test_accuracy": accuracies[best], "best_epoch": best + 1}


def _counts(report):
    return {name: getattr(report, name) for name in ("live_weights", "sparse_weights", "parameters")}


def evaluation_batch(images, replicas, most=1000):
    """Images of a test batch: the most that all devices share equally and that leave none over.

    Args:
        images: int, how many there are, a multiple of `replicas`.
        replicas: int, devices.
        most: int, not more than this.
    """
    if replicas == 1:
        return min(images, most)  # The last one may be smaller.
    return max(n for n in range(replicas, max(most, replicas) + 1, replicas) if images % n == 0)


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


def _machine(machine):
    """What a run was made on, for the record."""
    backend = keras.backend.backend()
    names = {_processor(): f"{os.cpu_count()} cores"}
    if backend == "jax":
        import jax

        kinds = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
        names.update({kind: f"{kinds.count(kind)} used" for kind in kinds})
    elif backend == "tensorflow":
        import tensorflow as tf

        gpus = [
            tf.config.experimental.get_device_details(d)["device_name"] for d in tf.config.list_physical_devices("GPU")
        ]
        names.update({gpu: f"{gpus.count(gpu)} used" for gpu in gpus})
    return ", ".join(f"{name}, {count}" for name, count in names.items())


def _processor():
    """The processor's name, for the record."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(": ")[1] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
