"""Measures sparse training with other libraries, each in its own process, for `tools/benchmark.py peers`."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags

import benchmark_page

FLAGS = flags.FLAGS
_PEERS = Path(__file__).parent / "peers"
# Name -> (script in `peers` with its arguments, KERAS_BACKEND, packages that must be installed).
PEERS = {
    "dense, TensorFlow": ("keras3.py dense", "tensorflow", ["tensorflow"]),
    "keras_sparse, TensorFlow": ("keras3.py dynamic_sparse", "tensorflow", ["tensorflow"]),
    "TF-MOT": ("tf_mot.py prune", "tensorflow", ["tensorflow_model_optimization", "tf_keras"]),
    "dense, tf_keras": ("tf_mot.py dense", "tensorflow", ["tf_keras"]),
    "dense, JAX": ("keras3.py dense", "jax", ["jax"]),
    "keras_sparse, JAX": ("keras3.py dynamic_sparse", "jax", ["jax"]),
    "dense, optax": ("jax_pruner.py dense", "jax", ["jaxpruner"]),
    "JaxPruner": ("jax_pruner.py set", "jax", ["jaxpruner"]),
    "dense, Keras on PyTorch": ("keras3.py dense", "torch", ["torch"]),
    "keras_sparse, PyTorch": ("keras3.py dynamic_sparse", "torch", ["torch"]),
    "dense, PyTorch alone": ("pytorch.py dense", "torch", ["torch"]),
    "torch.nn.utils.prune": ("pytorch.py prune", "torch", ["torch"]),
    "SparseLab": ("pytorch.py sparselab", "torch", ["torch", "sparselab"]),
}
flags.DEFINE_list("networks", ["lenet", "wrn"], "For `peers`: networks to train.")
flags.DEFINE_list("peers", list(PEERS), "For `peers`: libraries to measure.")
flags.DEFINE_integer(
    "cores", 0, "For `peers`: number of cores of each process; 0 for all. One core is less noisy on a busy machine.", 0
)
flags.DEFINE_float("peer_sparsity", 0.98, "For `peers`: sparsity of the masked layers.")
flags.DEFINE_multi_string(
    "interpreter",
    [],
    "For `peers`: LIBRARY=PYTHON, the Python interpreter of a library that needs other versions of its packages than "
    "this environment has. May be repeated.",
)
_HEADER = ["network", "library", "versions", "step", "step / dense", "update", "peak memory"]


class Peer:
    """A process that trains with one library; see `peers/worker.py` for its protocol.

    Args:
        name: str, a key of `PEERS`.
        network: "lenet" or "wrn".
        batch_size: int of at least 1.

    Attributes:
        steps: list of floats, the seconds of a step in each measurement.
        updates: list of floats, the seconds of each update of the masks.
        versions: str, names and versions of the packages.
    """

    def __init__(self, name, network, batch_size):
        program, backend, _ = PEERS[name]
        script, *arguments = program.split()
        self.name, self.steps, self.updates = name, [], []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        interpreter = _interpreters().get(name, sys.executable)
        self._process = subprocess.Popen(
            [interpreter, _PEERS / script, *arguments, network, str(batch_size), str(FLAGS.peer_sparsity)],
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            preexec_fn=_limit_cores if FLAGS.cores else None,
        )
        self.versions = self._answer()["versions"]

    def measure(self, steps):
        """Trains for some steps, and records the times."""
        answer = self._ask(f"{steps}")
        self.steps.append(answer["step"])
        self.updates += answer["updates"]

    def _ask(self, words):
        """Sends a line to the process, and returns its answer, a dict."""
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self):
        """Ends the process, and returns its peak memory in bytes."""
        peak = self._ask("end")["peak"]
        self._process.communicate()
        return peak

    def _answer(self):
        for line in self._process.stdout:
            if line.startswith("peer: "):
                return json.loads(line.removeprefix("peer: "))
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        raise RuntimeError(lines[-1].removesuffix(".") if lines else "its process ended without an error message")


def _interpreters():
    """Returns a dict from names of libraries to the paths of their interpreters."""
    return dict(x.split("=", 1) for x in FLAGS.interpreter)


def _limit_cores():
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: FLAGS.cores])


def peers(rounds, steps, batch_size):
    """Prints a table of all libraries and networks, and writes it to the page if `--write` is set.

    Args:
        rounds: int, the number of measurements of each library.
        steps: int, training steps of LeNet in each measurement, an epoch. WRN-28-2, whose step takes 150 to 1,000
            times as long, has a 300th of them.
        batch_size: int of at least 1.
    """
    rows, missing_peers = [], []
    for network in FLAGS.networks:
        count = steps if network == "lenet" else max(1, steps // 300)
        started = []
        for name in FLAGS.peers:
            missing = [x for x in PEERS[name][2] if importlib.util.find_spec(x) is None]
            if missing and name not in _interpreters():
                missing_peers.append(f"{name} ({network}): {', '.join(missing)} not installed")
                continue
            try:
                started.append(Peer(name, network, batch_size))
                started[-1].measure(2)  # compiles
            except RuntimeError as error:
                missing_peers.append(f"{name} ({network}): {error}")
                started = [p for p in started if p.name != name]
        for peer in started:
            peer.steps, peer.updates = [], []
        for i in range(rounds):
            for peer in started[:: 1 if i % 2 else -1]:
                peer.measure(count)
        rows += _rows(network, started)
        text = _text(rows, missing_peers, rounds, steps, batch_size)
        if FLAGS.write:
            benchmark_page.write_section("peers", text)
    print(text)


def _text(rows, missing_peers, rounds, steps, batch_size):
    cores = f"{FLAGS.cores} core{'s' * (FLAGS.cores > 1)}" if FLAGS.cores else "all cores"
    return "\n".join(
        [
            "## Sparse training by other libraries",
            "",
            f"{benchmark_page.machine_description()}. Batch size {batch_size}, sparsity {FLAGS.peer_sparsity}, SGD "
            f"with momentum, default settings of each library. Each library has its own process, on {cores}. The "
            f"processes take turns in {rounds} rounds of {steps} steps (LeNet) or {max(1, steps // 300)} steps "
            "(WRN-28-2). Times are medians, and ratios medians over pairs. The time of a step excludes updates of the "
            "masks, which are measured separately, but for those of JaxPruner, which are part of its steps.",
            "",
            benchmark_page.markdown_table(_HEADER, rows),
            *(f"\nNot measured: {x}." for x in missing_peers),
        ]
    )


# The dense training with which each library is compared.
_DENSE_BASELINES = {
    "keras_sparse, TensorFlow": "dense, TensorFlow",
    "TF-MOT": "dense, tf_keras",
    "keras_sparse, JAX": "dense, JAX",
    "JaxPruner": "dense, optax",
    "keras_sparse, PyTorch": "dense, Keras on PyTorch",
    "torch.nn.utils.prune": "dense, PyTorch alone",
    "SparseLab": "dense, PyTorch alone",
}


def _rows(network, started):
    """Returns the rows of the table for a network, and ends the processes."""
    steps = {peer.name: peer.steps for peer in started}
    rows = []
    for peer in started:
        dense = steps.get(_DENSE_BASELINES.get(peer.name))
        ratio = dense and statistics.median(a / b for a, b in zip(peer.steps, dense, strict=True))
        update = f"{1e3 * statistics.median(peer.updates):.2f} ms" if peer.updates else ""
        rows.append(
            [
                *(network, peer.name, peer.versions, f"{1e3 * statistics.median(peer.steps):.2f} ms"),
                *(f"{ratio:.2f}" if ratio else "", update, f"{peer.close() / 2**20:,.0f} MiB"),
            ]
        )
    return rows
