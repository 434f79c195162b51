"""The same sparse training by several libraries, each in a process of its own; for `tools/benchmark.py peers`."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from absl import flags

import benchmark_page

FLAGS = flags.FLAGS
_PEERS = Path(__file__).parent / "peers"
# Name -> (program, KERAS_BACKEND, what must be installed).
PEERS = {
    "dense, TensorFlow": ("keras3.py dense", "tensorflow", ["tensorflow"]),
    "keras_sparse, TensorFlow": ("keras3.py dynamic_sparse", "tensorflow", ["tensorflow"]),
    "TF-MOT": ("tf_mot.py prune", "tensorflow", ["tensorflow_model_optimization", "tf_keras"]),
    "dense, tf_keras": ("tf_mot.py dense", "tensorflow", ["tf_keras"]),
    "dense, JAX": ("keras3.py dense", "jax", ["jax"]),
    "keras_sparse, JAX": ("keras3.py dynamic_sparse", "jax", ["jax"]),
    "JaxPruner": ("jax_pruner.py", "jax", ["jaxpruner"]),
    "dense, Keras on PyTorch": ("keras3.py dense", "torch", ["torch"]),
    "keras_sparse, PyTorch": ("keras3.py dynamic_sparse", "torch", ["torch"]),
    "dense, PyTorch alone": ("pytorch.py dense", "torch", ["torch"]),
    "torch.nn.utils.prune": ("pytorch.py prune", "torch", ["torch"]),
    "SparseLab": ("pytorch.py sparselab", "torch", ["torch", "sparselab"]),
}
flags.DEFINE_list("networks", ["lenet", "wrn"], "For `peers`: which.")
flags.DEFINE_list("peers", list(PEERS), "For `peers`: which libraries.")
flags.DEFINE_integer(
    "cores", 0, "For `peers`: how many cores each may use; 0 for all. Busy machines slow threads down.", 0
)
flags.DEFINE_float("peer_sparsity", 0.98, "For `peers`: of the masked layers.")
_HEADER = ["network", "library", "versions", "step", "over its dense", "update", "peak memory"]


class Peer:
    """A process that trains when it is told to.

    Args:
        name: a key of `PEERS`.
        network: "lenet" or "wrn".
        batch_size: int.
    """

    def __init__(self, name, network, batch_size):
        program, backend, _ = PEERS[name]
        script, *arguments = program.split()
        self.name, self.steps, self.updates = name, [], []
        self._process = subprocess.Popen(
            [sys.executable, _PEERS / script, *arguments, network, str(batch_size), str(FLAGS.peer_sparsity)],
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=_few_cores if FLAGS.cores else None,
        )
        self.versions = self._answer()["versions"]

    def turn(self, steps):
        """Trains some steps and notes what they took."""
        answer = self.ask(f"{steps}")
        self.steps.append(answer["step"])
        self.updates += answer["updates"]

    def ask(self, words):
        """Sends a line and returns the answer to it."""
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self):
        """Ends the process; returns the most bytes of memory that it took."""
        peak = self.ask("end")["peak"]
        self._process.communicate()
        return peak

    def _answer(self):
        for line in self._process.stdout:
            if line.startswith("peer: "):
                return json.loads(line.removeprefix("peer: "))
        raise RuntimeError(
            f"The process of {self.name!r} ended: run it by hand, {' '.join(map(str, self._process.args))}."
        )


def _few_cores():
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: FLAGS.cores])


def peers(rounds, steps, batch_size):
    """Prints a table of all libraries and networks, and writes it if asked.

    Args:
        rounds: int, how often they take turns.
        steps: int, of a turn of LeNet; the WRN, whose step takes 500 times as long, makes a fiftieth of them.
        batch_size: int.
    """
    rows, absent = [], []
    for network in FLAGS.networks:
        count = steps if network == "lenet" else max(1, steps // 50)
        started = []
        for name in FLAGS.peers:
            missing = [x for x in PEERS[name][2] if importlib.util.find_spec(x) is None]
            if missing:
                absent.append(f"{name} ({network}): {', '.join(missing)} not installed")
                continue
            try:
                started.append(Peer(name, network, batch_size))
                started[-1].turn(2)  # compiles
            except RuntimeError as error:
                absent.append(f"{name} ({network}): {error}" if network == "lenet" else f"{name}: no {network}")
                started = [p for p in started if p.name != name]
        for peer in started:
            peer.steps, peer.updates = [], []
        for i in range(rounds):
            for peer in started[:: 1 if i % 2 else -1]:
                peer.turn(count)
        rows += _rows(network, started)
        text = _text(rows, absent, rounds, steps, batch_size)
        if FLAGS.write:
            benchmark_page.write("peers", text)
    print(text)


def _text(rows, absent, rounds, steps, batch_size):
    cores = f"{FLAGS.cores} core{'s' * (FLAGS.cores > 1)}" if FLAGS.cores else "all cores"
    return "\n".join(
        [
            "## Sparse training by other libraries",
            "",
            f"{benchmark_page.machine()}. Batches of {batch_size}, sparsity {FLAGS.peer_sparsity}, SGD with momentum, "
            "as each library's `fit` or loop is without any setting; each in a process of its own, on "
            f"{cores}, {rounds} turns of {steps} steps of LeNet, a fiftieth of WRN-28-2, one after the other; medians. "
            "A step is without updates of masks, which are timed by themselves.",
            "",
            benchmark_page.table(_HEADER, rows),
            *(f"\nNot measured: {x}." for x in absent),
        ]
    )


_DENSE_OF = {
    "keras_sparse, TensorFlow": "dense, TensorFlow",
    "TF-MOT": "dense, tf_keras",
    "keras_sparse, JAX": "dense, JAX",
    "JaxPruner": "dense, JAX",
    "keras_sparse, PyTorch": "dense, Keras on PyTorch",
    "torch.nn.utils.prune": "dense, PyTorch alone",
    "SparseLab": "dense, PyTorch alone",
}


def _rows(network, started):
    steps = {peer.name: peer.steps for peer in started}
    rows = []
    for peer in started:
        dense = steps.get(_DENSE_OF.get(peer.name))
        over = dense and statistics.median(a / b for a, b in zip(peer.steps, dense, strict=True))
        update = f"{1e3 * statistics.median(peer.updates):.2f} ms" if peer.updates else ""
        rows.append(
            [
                *(network, peer.name, peer.versions, f"{1e3 * statistics.median(peer.steps):.2f} ms"),
                *(f"{over:.2f}" if over else "", update, f"{peer.close() / 2**20:,.0f} MiB"),
            ]
        )
    return rows
