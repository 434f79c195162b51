"""The methods of the recipes: makes the model, the callbacks and the learning rates from the flags."""

import dataclasses
import math

import keras

import keras_sparse as ks

METHODS = ("dynamic_sparse", "set", "deepr", "rigl", "compressed", "static", "thin_dense", "dense")
DENSE = ("thin_dense", "dense")
USERS = {  # flags without a default -> methods that use them
    "prune_count": ("dynamic_sparse", "set"),
    "period": ("dynamic_sparse", "set", "rigl"),
    "distribution": ("dynamic_sparse", "set", "deepr", "rigl", "static"),
    "dense_model": ("compressed",),
}


@dataclasses.dataclass
class Plan:
    """The model to train, and how to train it.

    Attributes:
        model: `keras.Model`.
        learning_rates: dict of first epoch to learning rate.
        epochs: int, number of epochs.
        callbacks: list of callbacks of the method.
        most_steps: int, the maximum of `steps_per_execution`.
    """

    model: keras.Model
    learning_rates: dict
    epochs: int
    callbacks: list = dataclasses.field(default_factory=list)
    most_steps: int = 100


def plan(experiment, build, options, steps, dense=None):
    """Makes the `Plan` of a run.

    Args:
        experiment: `common.experiment.Experiment`.
        build: function that makes the dense network, with an argument `widen_factor`.
        options: parsed flags.
        steps: int, the number of steps of an epoch.
        dense: trained dense model, for the method "compressed".
    """
    method = options.method
    unused = [name for name, users in USERS.items() if getattr(options, name) is not None and method not in users]
    if unused:
        print(f"Note: --method {method} makes no use of {', '.join(f'--{name}' for name in unused)}.")
    if method == "compressed":
        return _compressed(experiment, options, steps, dense)
    model, rates = build(), learning_rates(experiment.training, options)
    if method == "thin_dense":
        sparse = ks.sparsify(model, options.sparsity, keep_dense=experiment.keep_dense)
        model = thin(build, ks.report(sparse).parameters)
    if method in DENSE:
        return Plan(model, rates, options.epochs)
    default = {"rigl": "erdos_renyi_kernel", "dynamic_sparse": experiment.dynamic_sparse.distribution}
    model = ks.sparsify(
        model,
        options.sparsity,
        distribution=options.distribution or default.get(method, "uniform"),
        keep_dense=experiment.keep_dense,
        granularity=options.granularity,
        seed=options.seed,
    )
    method = callback(method, experiment, options, model)
    method.check_replicas = options.check_replicas
    shortest = min(getattr(method.period, "values", {0: 100}).values())
    return Plan(model, rates, options.epochs, [method], shortest)


def learning_rates(training, options):
    """Returns the learning rates that the flags ask for, a dict of first epoch to learning rate."""
    rates = training.learning_rates if options.learning_rates == "code" else training.learning_rates_as_printed
    return stretched(rates, options.epochs / training.epochs)


def stretched(schedule, factor):
    """Stretches a schedule by epoch to another number of epochs.

    If several values begin at the same epoch then, the last one remains.

    >>> stretched({0: 0.1, 25: 0.02, 50: 0.004}, 0.02)
    {0: 0.02, 1: 0.004}
    """
    return {math.ceil(epoch * factor - 0.5): value for epoch, value in schedule.items()}


def thin(build, parameters):
    """Makes a dense network with about a given number of parameters, by bisection over its width.

    Args:
        build: function that makes the network, with an argument `widen_factor`.
        parameters: int, the number of trainable parameters.
    """
    low, high = 0.0, build.keywords.get("widen_factor", 1.0) if hasattr(build, "keywords") else 1.0
    tried = {}
    for _ in range(12):
        factor = (low + high) / 2
        count = sum(math.prod(v.shape) for v in build(widen_factor=factor).trainable_variables)
        tried[abs(count - parameters)] = factor
        low, high = (factor, high) if count < parameters else (low, factor)
    return build(widen_factor=tried[min(tried)])


def prune_count(settings, experiment, options, model):
    """Returns K: the flag, or the value of Table 4 scaled to the size of the network.

    K is scaled by the number of mask elements, live and dead, since the paper has one K for all sparsities of its
    network. If the network is not that of the paper, the scaled K is printed.

    Args:
        settings: `DynamicSparseSettings` or `SETSettings` of the experiment.
        experiment: `common.experiment.Experiment`.
        options: parsed flags.
        model: the masked `keras.Model`.

    Returns:
        int of at least 1.
    """
    if options.prune_count:
        return options.prune_count
    in_slices = options.granularity != "weight"
    paper = experiment.kernel_slices if in_slices else experiment.sparse_weights
    count = (settings.slice_prune_count if in_slices else None) or settings.prune_count
    here = sum(w.mask.size for w in ks.masked_weights(model))
    if here == paper:
        return count
    scaled = max(1, round(count * here / paper))
    what = "kernel slices" if in_slices else "sparse weights"
    print(f"Note: K is {scaled:,}, in proportion to the {here:,} {what} here: Table 4's {count:,} is for {paper:,}.")
    return scaled


def _dynamic_sparse(experiment, options, model):
    settings = experiment.dynamic_sparse
    factor = options.epochs / experiment.training.epochs
    if settings.prune_fraction and not options.prune_count:
        most = settings.prune_fraction * sum(int(w.mask.numpy().sum()) for w in ks.masked_weights(model))
        count = ks.schedules.cosine_decay(most, settings.until * factor)
    else:
        count = prune_count(settings, experiment, options, model)
    return ks.DynamicSparse(
        prune_count=count,
        period=options.period or stretched(settings.period, factor),
        tolerance=settings.tolerance,
        threshold=settings.threshold,
        growth=settings.growth,
        regrow_scale=options.regrow_scale,
        until=math.ceil(settings.until * factor),
        seed=options.seed,
    )


def _set(experiment, options, model):
    settings = experiment.set
    factor = options.epochs / experiment.training.epochs
    return ks.SET(
        count=prune_count(settings, experiment, options, model),
        period=options.period or stretched(settings.period, factor),
        regrow_scale=options.regrow_scale,
        until=math.ceil(settings.until * factor),
        seed=options.seed,
    )


def _deepr(experiment, options, model):
    settings = experiment.deepr
    temperature = stretched(settings.temperature, options.epochs / experiment.training.epochs)
    return ks.DeepR(settings.alpha, temperature, settings.eta, reading="table_4", seed=options.seed)


def _rigl(experiment, options, model):
    settings = experiment.rigl
    period = options.period or stretched(settings.period, options.epochs / experiment.training.epochs)
    return ks.RigL(settings.fraction, period, math.ceil(settings.until * options.epochs))


def callback(method, experiment, options, model):
    """Makes the callback of a method that trains sparse from the first step, with the settings of the experiment."""
    return _CALLBACKS[method](experiment, options, model)


def _static(experiment, options, model):
    return ks.Static()


_CALLBACKS = {"dynamic_sparse": _dynamic_sparse, "set": _set, "deepr": _deepr, "rigl": _rigl, "static": _static}


def _compressed(experiment, options, steps, dense):
    settings, factor = experiment.compressed, options.epochs / experiment.training.epochs
    between = max(1, round(settings.epochs_between * steps * factor))
    # The schedule begins before step 1: so, at the paper's number of epochs, each pruning is between two epochs.
    schedule = ks.schedules.polynomial_decay(
        0.0, options.sparsity, begin_step=1, end_step=1 + settings.prunings * between, frequency=between
    )
    model = ks.sparsify(
        dense, 0.0, keep_dense=experiment.keep_dense, granularity=options.granularity, seed=options.seed
    )
    pruning = ks.GradualPruning(schedule, options.scope)
    pruning.check_replicas = options.check_replicas
    epochs = max(math.ceil(settings.epochs * factor), settings.prunings * between // steps + 1)
    return Plan(model, stretched(settings.learning_rates, factor), epochs, [pruning], min(between, 100))
