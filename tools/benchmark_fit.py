"""Compares plain calls of `fit`: no XLA asked for, one step a call, as most code has it.

    python tools/benchmark.py fit --rounds 15 --steps 600

Dense, masked and dynamic sparse networks train an epoch in turn, in one process. It prints the median time of a step,
and the medians of the ratios to the dense network in the same turn.
"""

import statistics
import time

import keras
import numpy as np

import keras_sparse as ks


def measure(build, sparsity, keep_dense, rounds, steps, batch_size):
    """Prints the times of a step of the dense, masked and dynamic sparse networks.

    Args:
        build: function that makes the dense network.
        sparsity: float in [0, 1).
        keep_dense: as for `keras_sparse.sparsify`.
        rounds: int, how often each network trains.
        steps: int, steps of an epoch.
        batch_size: int, images per step.
    """
    dense = build()
    rng = np.random.default_rng(0)
    images = rng.random((steps * batch_size, *dense.input_shape[1:]), dtype=np.float32)
    labels = rng.integers(0, dense.output_shape[-1], len(images))
    masked, dynamic = (ks.sparsify(dense, sparsity, keep_dense=keep_dense) for _ in range(2))
    callbacks = {
        "dense": (dense, lambda: []),
        "masked": (masked, lambda: []),
        "dynamic sparse": (dynamic, lambda: [ks.DynamicSparse(fraction=0.1, period=100)]),
    }
    for model, _ in callbacks.values():
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    times = {name: [] for name in callbacks}
    for turn in range(rounds + 1):
        order = list(callbacks)[:: 1 if turn % 2 else -1]
        for name in order:
            model, made = callbacks[name]
            started = time.perf_counter()
            model.fit(images, labels, batch_size=batch_size, epochs=1, callbacks=made(), verbose=0)
            if turn:  # The first turn compiles.
                times[name].append((time.perf_counter() - started) / steps)
    for name, taken in times.items():
        ratios = [t / d for t, d in zip(taken, times["dense"], strict=True)]
        print(f"{name}: {1e3 * statistics.median(taken):.2f} ms a step, {statistics.median(ratios):.3f} of dense")
