"""Compares whole calls of `fit`, made alternately in one process.

    python tools/benchmark.py fit --rounds 15 --steps 600       # as most code calls it: no XLA asked for, no options
    python tools/benchmark.py logging --rounds 15 --steps 600   # as the recipes do, with and without TensorBoard

Both print the median time of a step, evaluation included, and the median of its ratio to the first network, over
adjacent calls.
"""

import statistics
import tempfile
import time

import keras
import numpy as np

import keras_sparse as ks

PERIOD = 100  # steps between updates


def compare_fits(build, experiment, rounds, steps, batch_size):
    """Prints the times of a dense, a masked and a dynamic sparse network in a plain `fit`.

    Args:
        build: function that makes the dense network.
        experiment: `common.experiment.Experiment` of the network.
        rounds: int, how often each network trains.
        steps: int, steps of an epoch; each call of `fit` is an epoch.
        batch_size: int, images per step.
    """
    dense = build()
    masked, dynamic = (_masked(dense, experiment) for _ in range(2))
    fits = {"dense": (dense, list), "masked": (masked, list), "dynamic sparse": (dynamic, lambda: [_method()])}
    for model, _ in fits.values():
        _compile(model)
    _print_times(fits, rounds, steps, batch_size, epochs=1, validation=0)


def compare_logging(build, experiment, rounds, steps, batch_size):
    """Prints the times of dynamic sparse training without and with `SparsityTensorBoard`; arguments as above.

    Steps are compiled by XLA where it is supported. Each call of `fit` trains five epochs, with an evaluation after
    each on a sixth as many images.
    """
    plain, logged = (_masked(build(), experiment) for _ in range(2))
    several = {"steps_per_execution": PERIOD} if keras.backend.backend() == "tensorflow" and steps % PERIOD == 0 else {}
    for model in (plain, logged):
        _compile(model, jit_compile=keras.backend.backend() != "torch", **several)
    with tempfile.TemporaryDirectory() as folder:
        logging = lambda: [_method(), ks.SparsityTensorBoard(tempfile.mkdtemp(dir=folder))]  # noqa: E731
        fits = {"without": (plain, lambda: [_method()]), "with SparsityTensorBoard": (logged, logging)}
        _print_times(fits, rounds, steps, batch_size, epochs=5, validation=steps * batch_size // 6)


def _masked(dense, experiment):
    return ks.sparsify(dense, experiment.sparsity, keep_dense=experiment.keep_dense)


def _method():
    return ks.DynamicSparse(fraction=0.1, period=PERIOD)


def _compile(model, **settings):
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **settings,
    )


def _print_times(fits, rounds, steps, batch_size, epochs, validation):
    """Prints the times of `fits`, a dict from names to `(model, function that makes the callbacks)`."""
    model, _ = next(iter(fits.values()))
    rng = np.random.default_rng(0)
    images = rng.random((steps * batch_size, *model.input_shape[1:]), dtype=np.float32)
    labels = rng.integers(0, model.output_shape[-1], len(images))
    tests = (images[:validation], labels[:validation]) if validation else None
    times = {name: [] for name in fits}
    for turn in range(rounds + 1):
        for name in list(fits)[:: 1 if turn % 2 else -1]:
            model, callbacks = fits[name]
            started = time.perf_counter()
            model.fit(
                images,
                labels,
                batch_size=batch_size,
                epochs=epochs,
                validation_data=tests,
                validation_batch_size=1000,
                callbacks=callbacks(),
                verbose=0,
            )
            if turn:  # The first turn compiles.
                times[name].append((time.perf_counter() - started) / (epochs * steps))
    first, *_ = times
    for name, taken in times.items():
        ratio = statistics.median(t / one for t, one in zip(taken, times[first], strict=True))
        print(f"{name}: {1e3 * statistics.median(taken):.2f} ms a step, {ratio:.3f} of {first!r}")
