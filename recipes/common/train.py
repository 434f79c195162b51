"""Runs an experiment: trains and evaluates a network as the flags say, and writes the results."""

import contextlib
import dataclasses
import functools
import time
from pathlib import Path

import keras
from absl import app, flags

import keras_sparse as ks
from common import data, devices, folder, interruptions, methods
from common.options import given, settings
from common.progress import Progress
from keras_sparse.callbacks import event_file


def run(experiment, build, load=data.load, options=flags.FLAGS):
    """Trains and evaluates one network, and writes the run into its folder.

    The folder has `config.json` (the recipe and all flags), `history.csv` (one line per epoch), `tensorboard/` (if that
    package is installed), `model.keras` and `result.json`, which is written last. Until then, `backup/` has the state
    after the last epoch, from which `--resume` continues; on the same machine with the same bits.

    Args:
        experiment: `common.experiment.Experiment`.
        build: function that makes the dense network, such as those of `common.models`.
        load: function `(dataset, splits, data_dir) -> (train set, test set)`, such as `common.data.load`.
        options: parsed `flags.FlagValues` of `common.options.define_flags`.

    Returns:
        Dict with the content of `result.json`; None in all processes but the first.

    Raises:
        app.UsageError: if the flags, the data or the folder are not valid for a run.
    """
    path = _output_path(experiment, options)
    runs = folder.RunFolder(path)
    dense = options.dense_model and Path(options.dense_model).resolve()
    if dense and dense.is_relative_to(path.resolve()):
        raise app.UsageError(
            f"--dense_model={options.dense_model} lies in the folder {path} that this run is written to, and would be "
            "replaced. Give another --output_dir."
        )
    config = {**given(options), "recipe": experiment.name}
    runs.check(config, options.resume, options.overwrite)
    if options.resume and runs.result():
        print(f"The run in {path} is finished already: test accuracy {runs.result()['test_accuracy']:.2%}.")
        return runs.result()
    with contextlib.closing(runs), interruptions.explained(options, runs), interruptions.CtrlC() as ctrl_c:
        return _run(experiment, build, load, options, runs, config, ctrl_c)


def _run(experiment, build, load, options, runs, config, ctrl_c):
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
    if len(sets[1]) < machine.replicas:
        raise app.UsageError(
            f"--test_split={options.test_split} has {len(sets[1])} images, and each of {machine.replicas} devices "
            "needs one. Take a larger split."
        )
    if machine.leads:
        runs.begin(config, options.overwrite)
        if error := event_file.import_error():
            print(f"Note: no TensorBoard logs are written ({error}). To have them: pip install tensorboard")
    with machine.scope():
        build = _with_flags(build, experiment, options, sets[0], machine)
        trainer = Trainer(experiment.training, options, sets, machine, ctrl_c)
        dense = _trained_dense(build, trainer, options, runs.path) if options.method == "compressed" else None
        plan = methods.plan(experiment, build, options, steps, dense)
    seconds = trainer.fit(plan, runs.path, settings(options))
    machine.save(plan.model, runs.path / "model.keras")
    if not machine.leads:
        return None
    report = ks.report(plan.model)
    result = {
        **_best(folder.history(runs.path / "history.csv")),
        **{name: getattr(report, name) for name in ("live_weights", "sparse_weights", "parameters")},
        "seconds": round(seconds, 1),
        "epochs": plan.epochs,
        "steps_per_epoch": steps,
        "backend": keras.backend.backend(),
        "versions": {"keras": keras.__version__, "keras_sparse": ks.__version__},
        "machine": machine.describe(),
    }
    runs.finish(result)
    print(report)
    print(
        f"Test accuracy: {result['test_accuracy']:.2%} after epoch {plan.epochs} "
        f"(best {result['best_test_accuracy']:.2%}, epoch {result['best_epoch']}), {seconds:.0f} s. "
        f"Written to {runs.path}. To see the curves, masks and settings:\n    python tools/page.py {runs.path}"
    )
    if not event_file.import_error():
        print(f"    tensorboard --logdir {runs.path}")
    return result


def _with_flags(build, experiment, options, images, machine):
    """Binds the arguments of `build` to the flags and the data; `widen_factor` can still be changed."""
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
    """Compiles and trains models with the settings of an experiment.

    Attributes:
        training: `common.experiment.Training`.
        options: parsed flags.
        sets: tuple of the training and the test data.
        machine: `common.devices.Devices`.
        ctrl_c: `common.interruptions.CtrlC`.
    """

    training: object
    options: flags.FlagValues
    sets: tuple
    machine: devices.Devices
    ctrl_c: interruptions.CtrlC

    def fit(self, plan, path, hparams=None):
        """Trains by a `common.methods.Plan`, from the last backup in a folder if there is one.

        Args:
            plan: `common.methods.Plan`.
            path: `Path` of the folder.
            hparams: dict of hyperparameters for TensorBoard, or None.

        Returns:
            float, the time of training in seconds, without that of earlier processes.
        """
        model, rates, options = plan.model, plan.learning_rates, self.options
        train_set, test_set = self.sets
        steps = len(train_set) // options.batch_size
        with self.machine.scope():
            model.compile(
                optimizer=_optimizer(self.training, rates[0]),
                loss=_loss(self.training.label_smoothing),
                metrics=["accuracy", *([_top_5()] if self.training.top_5 else [])],
                jit_compile=self._compiles if options.jit_compile is None else options.jit_compile,
                steps_per_execution=options.steps_per_execution or self._steps_per_execution(steps, plan.most_steps),
            )
        backup = ks.BackupAndRestore(path / "backup", delete_checkpoint=False)
        begin = backup.epoch
        if begin and self.machine.leads:
            print(f"Resuming after epoch {begin}.")
        callbacks = [self.ctrl_c, *plan.callbacks, keras.callbacks.LearningRateScheduler(ks.schedules.ByEpoch(rates))]
        if self.machine.leads:
            path.mkdir(parents=True, exist_ok=True)
            folder.forget_epochs(path / "history.csv", begin)
            callbacks.append(keras.callbacks.CSVLogger(path / "history.csv", append=True))
            if not event_file.import_error():
                callbacks.append(ks.SparsityTensorBoard(path / "tensorboard", hparams=hparams))
            if options.verbose != "0":
                every = 10 if plan.epochs <= 50 else 20
                callbacks.append(Progress(1 if options.verbose == "2" else every))
        images = len(test_set) // self.machine.replicas * self.machine.replicas
        at_once = evaluation_batch(images, self.machine.replicas)
        tests = test_set.evaluation(images, at_once, self.machine.part)
        started = time.perf_counter()
        model.fit(
            train_set.batches(options.batch_size, options.seed, begin * steps, part=self.machine.part),
            initial_epoch=begin,
            epochs=plan.epochs,
            steps_per_epoch=steps,
            validation_data=tests,
            validation_batch_size=at_once // self.machine.part[1] if isinstance(tests, tuple) else None,
            callbacks=[*callbacks, backup],  # last, so that it includes what the others do
            shuffle=False,  # `batches` shuffles
            verbose=0,  # `Progress` shows it
        )
        return time.perf_counter() - started

    # Under a tf.distribute strategy Keras supports neither XLA nor several steps per execution, since replicas exchange
    # gradients within the step.

    @property
    def _compiles(self):
        return self.machine.strategy is None and keras.backend.backend() != "torch"

    def _steps_per_execution(self, steps, most):
        return steps_per_execution(steps, most) if self.machine.strategy is None else 1


def _optimizer(training, rate):
    if training.optimizer == "adam":
        return keras.optimizers.Adam(rate)
    return keras.optimizers.SGD(rate, momentum=training.momentum, nesterov=True)


def _loss(label_smoothing):
    if not label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)


def _top_5():
    return keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5_accuracy")


def _trained_dense(build, trainer, options, path):
    """Loads the dense model from which pruning starts, or trains it in the folder of the run."""
    trained = path / "dense" / "model.keras"
    if options.dense_model:
        trained = Path(options.dense_model)
        if not trained.exists():
            raise app.UsageError(
                f"--dense_model={trained} does not exist. Give a model.keras written by --method dense, or leave the "
                "flag out to train one first."
            )
    if trained.exists():
        try:
            return keras.models.load_model(trained)
        except (OSError, ValueError, TypeError) as error:
            raise app.UsageError(
                f"{trained} is not a whole Keras model: {error} Give a model.keras written by --method dense as "
                "--dense_model, or leave the flag out to train one first."
            ) from error
    rates = methods.learning_rates(trainer.training, options)
    plan = methods.Plan(build(), rates, options.epochs)
    trainer.fit(plan, path / "dense")
    trainer.machine.save(plan.model, trained)
    return plan.model


def _best(history):
    """Returns the accuracies of the last epoch and of the best epoch with the final sparsity."""
    accuracies, sparsities = history["val_accuracy"], history.get("sparsity")
    final = [i for i in range(len(accuracies)) if not sparsities or sparsities[i] >= sparsities[-1] - 1e-6]
    best = max(final, key=lambda i: accuracies[i])
    top_5 = {"test_top_5_accuracy": history["val_top_5_accuracy"][-1]} if "val_top_5_accuracy" in history else {}
    return {"test_accuracy": accuracies[-1], **top_5, "best_test_accuracy": accuracies[best], "best_epoch": best + 1}


def evaluation_batch(images, replicas, most=1000):
    """Returns the largest batch size for evaluation that can be divided among all devices and divides the test set.

    Args:
        images: int, number of test images, a multiple of `replicas`.
        replicas: int, number of devices.
        most: int, maximum batch size.
    """
    if replicas == 1:
        return min(images, most)  # On one device the last batch may be smaller.
    return max(n for n in range(replicas, max(most, replicas) + 1, replicas) if images % n == 0)


def steps_per_execution(steps, most):
    """Returns the largest number of steps per execution, up to 100, that divides an epoch.

    With 100 steps the overhead of a call is negligible, and the progress bar still moves; no period of Table 4 is
    shorter. Only TensorFlow loops over the steps in a compiled function: the other backends would unroll them.

    Args:
        steps: int, number of steps of an epoch.
        most: int, maximum number of steps, in addition to 100.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    return largest_divisor(steps, min(most, 100))


def largest_divisor(number, most):
    """Returns the largest divisor of a number that is at most `most`."""
    return max(n for n in range(1, min(number, most) + 1) if number % n == 0)


def _output_path(experiment, options):
    sparsity = "" if options.method == "dense" else f"_{options.sparsity:g}"
    name = f"{options.dataset}_{options.method}{sparsity}_seed{options.seed}"
    return Path(options.output_dir or Path("runs") / experiment.name / name)
