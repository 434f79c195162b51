"""The methods of the paper as recipes run them: from flags to a model, its callbacks and its schedule."""

import dataclasses
import math

import keras

import keras_sparse as ks

METHODS = ("dynamic_sparse", "set", "deepr", "rigl", "compressed", "static", "thin_dense", "dense")
DENSE = ("thin_dense", "dense")


@dataclasses.dataclass
class Plan:
    """What to train and how.

    Attributes:
        model: `keras.Model`.
        learning_rates: dict of first epoch to learning rate.
        epochs: number of epochs.
        callbacks: list of callbacks of the method.
        most_steps: how many steps may be executed at once.
    """

    model: keras.Model
    learning_rates: dict
    epochs: int
    callbacks: list = dataclasses.field(default_factory=list)
    most_steps: int = 100


def plan(experiment, build, options, steps, dense=None):
    """The `Plan` of what the flags say.

    Args:
        experiment: `common.experiment.Experiment`.
        build: function that makes the dense network, with `widen_factor`, `l1` and `l2`.
        options: parsed flags.
        steps: int, steps of an epoch.
        dense: the trained dense model, for method "compressed".
    """
    method, training = options.method, experiment.training
    rates = training.learning_rates if options.learning_rates == "code" else training.learning_rates_as_printed
    if method == "compressed":
        return _compressed(experiment.compressed, options, steps, dense)
    model = build(l1=options.l1, l2=options.l2)
    if method == "thin_dense":
        model = thin(build, ks.report(ks.sparsify(model, options.sparsity)).parameters, l1=options.l1, l2=options.l2)
    if method in DENSE:
        return Plan(model, rates, options.epochs)
    distribution = options.distribution or ("erdos_renyi_kernel" if method == "rigl" else "uniform")
    model = ks.sparsify(model, options.sparsity, distribution=distribution, seed=options.seed)
    method = callback(method, experiment, options)
    shortest = min(getattr(method.period, "values", {0: 100}).values())
    return Plan(model, rates, options.epochs, [method], shortest)


def thin(build, parameters, **kwargs):
    """The dense network whose width brings it nearest to a number of parameters.

    Args:
        build: function that makes the network, with `widen_factor`.
        parameters: int, how many trainable parameters it should have.
        **kwargs: for `build`.
    """
    low, high = 0.0, 1.0
    tried = {}
    for _ in range(20):
        factor = (low + high) / 2
        model = build(widen_factor=factor, **kwargs)
        count = sum(math.prod(v.shape) for v in model.trainable_variables)
        tried[abs(count - parameters)] = factor
        low, high = (factor, high) if count < parameters else (low, factor)
    return build(widen_factor=tried[min(tried)], **kwargs)


def _dynamic_sparse(experiment, options):
    settings = experiment.dynamic_sparse
    return ks.DynamicSparse(
        prune_count=options.prune_count or settings.prune_count,
        period=options.period or settings.period,
        tolerance=settings.tolerance,
        threshold=settings.threshold,
        regrow_scale=options.regrow_scale,
        until=settings.until,
        seed=options.seed,
    )


def _set(experiment, options):
    settings = experiment.set
    return ks.SET(
        count=options.prune_count or settings.count,
        period=options.period or settings.period,
        regrow_scale=options.regrow_scale,
        until=settings.until,
        seed=options.seed,
    )


def _deepr(experiment, options):
    settings = experiment.deepr
    return ks.DeepR(settings.alpha, settings.temperature, settings.eta, reading="table_4", seed=options.seed)


def _rigl(experiment, options):
    settings = experiment.rigl
    return ks.RigL(settings.fraction, options.period or settings.period, math.ceil(settings.until * options.epochs))


def callback(method, experiment, options):
    """The callback of one of the methods that train sparse from the first step, with its settings of the experiment."""
    return _CALLBACKS[method](experiment, options)


def _static(experiment, options):
    return ks.Static()


_CALLBACKS = {"dynamic_sparse": _dynamic_sparse, "set": _set, "deepr": _deepr, "rigl": _rigl, "static": _static}


def _compressed(settings, options, steps, dense):
    between = settings.epochs_between * steps
    # Step 1 comes before the first epoch: each pruning falls between two epochs.
    schedule = ks.schedules.polynomial_decay(
        0.0, options.sparsity, begin_step=1, end_step=1 + settings.prunings * between, frequency=between
    )
    model = ks.sparsify(dense, 0.0, seed=options.seed)
    return Plan(model, settings.learning_rates, settings.epochs, [ks.GradualPruning(schedule, options.scope)])
