"""What a process of a library does: it trains when a line tells it to, and prints what that took."""

import json
import resource
import sys
from importlib import metadata

import numpy as np

CLASSES = 10
SHAPES = {"lenet": (28, 28, 1), "wrn": (32, 32, 3)}


def arguments():
    """`(what, network, batch size, sparsity)` of the command line; what is None where there is no choice."""
    *what, network, batch_size, sparsity = sys.argv[1:]
    return what[0] if what else None, network, int(batch_size), float(sparsity)


def batches(network, batch_size, count):
    """Random images and classes of some batches."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count * batch_size, *SHAPES[network])).astype("float32")
    return x, rng.integers(0, CLASSES, len(x)).astype("int32")


def serve(turn, *packages):
    """Answers until it is told to end.

    Args:
        turn: function of a number of steps that returns `(seconds a step without updates, seconds of each update)`.
        packages: names of what is measured.
    """
    _print(versions=", ".join(f"{p} {metadata.version(p)}" for p in packages))
    for line in sys.stdin:
        if line.strip() == "end":
            _print(peak=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            return
        step, updates = turn(int(line))
        _print(step=step, updates=updates)


def _print(**values):
    print(f"peer: {json.dumps(values)}", flush=True)
