"""The protocol of a benchmark process: it reads commands from the standard input and prints times.

The process first prints the versions of its packages. For each line with a number of steps, it trains for that many
steps and prints the times. For the line "end", it prints its peak memory and stops. Its answers are lines that begin
with "peer: ", followed by a JSON object.
"""

import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

CLASSES = 10
SHAPES = {"lenet": (28, 28, 1), "wrn": (32, 32, 3)}


def parse_arguments():
    """Returns `(variant, network, batch size, sparsity)` from the command line; variant is None if it is missing."""
    *variant, network, batch_size, sparsity = sys.argv[1:]
    return variant[0] if variant else None, network, int(batch_size), float(sparsity)


def random_batches(network, batch_size, count):
    """Returns random images and classes for `count` batches, two arrays."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count * batch_size, *SHAPES[network])).astype("float32")
    return x, rng.integers(0, CLASSES, len(x)).astype("int32")


def run_worker(measure, *packages):
    """Processes commands until the line "end".

    Args:
        measure: function that trains for a number of steps, and returns `(seconds of a step without updates, list of
            the seconds of each update)`.
        *packages: str, names of the packages whose versions are printed.
    """
    _print(versions=", ".join(f"{p} {metadata.version(p)}" for p in packages))
    for line in sys.stdin:
        if line.strip() == "end":
            _print(peak=_peak_memory())
            return
        step, updates = measure(int(line))
        _print(step=step, updates=updates)


def _peak_memory():
    """Returns the peak memory of this process in bytes. `resource.getrusage` would include its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _print(**values):
    print(f"peer: {json.dumps(values)}", flush=True)
