"""Runs a recipe over methods, sparsities, seeds and other flags, several runs at once.

    python tools/sweep.py --recipe recipes/lenet_mnist.py --output_dir runs/lenet \
        --grid "dynamic_sparse:0.98,0.99 static:0.98 dense" --seeds 0,1,2,3,4 -- --verbose 0
    python tools/sweep.py --recipe mine.py --output_dir runs/mine --grid "" --vary "rate=0.1,0.01 width=1,2"

Everything after `--` goes to the recipe, with the run's seed for `{seed}`. A recipe is any script that takes
`--output_dir` and what is varied, and writes `result.json` there when it is done. What is finished is not run again,
one that was cut off goes on if it has left a `backup/`, and one that fails stops no other. Ctrl-C lets the runs at work
stop, and the same command goes on. What a run prints is in a file beside its folder; `tools/compare.py` makes a table.

As many runs work at once as `--jobs` says, each on its part of the cores, and as long as memory is free for another.
Their sums may be rounded otherwise than those of a run on all cores.
"""

import itertools
import json
import signal
import sys
import time
from pathlib import Path

from absl import app, flags

import jobs as jobs_

FLAGS = flags.FLAGS
flags.DEFINE_string("recipe", "recipes/lenet_mnist.py", "The recipe's script.")
flags.DEFINE_string("output_dir", None, "Folder of the runs.", required=True)
flags.DEFINE_string("grid", "dynamic_sparse:0.98", 'METHOD[:SPARSITY,...] separated by spaces; "" for none.')
flags.DEFINE_string("vary", "", "FLAG=VALUE,... separated by spaces: every combination.")
flags.DEFINE_list("seeds", ["0"], 'Seeds, separated by commas; "" where the recipe takes none.')
flags.DEFINE_integer("jobs", 1, "Runs at once; 0 for one a core.", 0)
flags.DEFINE_float("memory", 2.0, "GiB that must be free to start a run beside another, or as much as one has taken.")
flags.DEFINE_string("metric", "test_accuracy", "What is told of a result.")
flags.DEFINE_string("fresh", "--overwrite", "Flag of the recipe to start a run anew that was cut off.")
flags.DEFINE_string("go_on", "--resume", "Flag of the recipe to go on with a run that has left a backup.")


def commands(recipe, grid, seeds, extra, output_dir, vary=""):
    """The runs of a sweep, seed by seed.

    Args:
        recipe: path of the recipe's script.
        grid: str, "METHOD[:SPARSITY,...] ...".
        seeds: list of str.
        extra: list of str, flags for every run.
        output_dir: `Path` of the runs.
        vary: str, "FLAG=VALUE,... ...".

    Returns:
        List of `(folder, command)`.
    """
    points = [{}] if not grid else []
    for entry in grid.split():
        method, _, sparsities = entry.partition(":")
        points += [{"method": method, **({"sparsity": s} if s else {})} for s in sparsities.split(",")]
    axes = [(name, values.split(",")) for name, _, values in (axis.partition("=") for axis in vary.split())]
    names = [name for name, _ in axes]
    varied = [dict(zip(names, values, strict=True)) for values in itertools.product(*(v for _, v in axes))]
    runs = []
    for seed, point, others in itertools.product(seeds or [""], points, varied):
        parts = [
            *point.values(),
            *(f"{name}{value}" for name, value in others.items()),
            *([f"seed{seed}"] * bool(seed)),
        ]
        folder = output_dir / ("_".join(parts).replace("/", "-") or "run")
        given = {**point, **({"seed": seed} if seed else {}), "output_dir": folder, **others}
        arguments = [f"--{name}={value}" for name, value in given.items()]
        arguments += [argument.replace("{seed}", seed) for argument in extra]
        runs.append((folder, [sys.executable, recipe, *arguments]))
    return runs


def _check_same(folder, command):
    """Stops if a finished run was made with other flags than the sweep gives."""
    if not (folder / "config.json").exists():
        return
    config = json.loads((folder / "config.json").read_text())
    given = " ".join(command[2:]).replace("=", " ").split(" --")  # "--flag=value" and "--flag value" alike
    for name, _, value in (flag.removeprefix("--").partition(" ") for flag in given):
        made = config.get(name)
        same = value in (str(made), json.dumps(made)) or _number(value) == made
        if value and made is not None and name not in ("output_dir", "verbose") and not same:
            sys.exit(f"{folder} holds a run with {name}={made}, not {value}. Name another --output_dir.")


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def _has_backup(folder):
    return any(x.exists() and any(x.iterdir()) for x in (folder / "backup", folder / "dense" / "backup"))


class Sweep:
    """Runs at work, waiting and done.

    Args:
        runs: list of `(folder, command)`.
        jobs: int, how many at once.
        memory: int, bytes that must be free to start another beside one.
        options: parsed flags.
    """

    def __init__(self, runs, jobs, memory, options):
        self._waiting, self._working, self.failed = list(runs), [], []
        self._jobs, self._memory, self._options = jobs, memory, options
        self._total, self._done, self._times = len(runs), 0, []

    def run(self):
        """Works until nothing is left; KeyboardInterrupt when all at work have stopped after Ctrl-C."""
        try:
            while self._waiting or self._working:
                while self._waiting and self._may_start():
                    self._start()
                time.sleep(0.05)
                for job in [job for job in self._working if not job.working()]:
                    self._end(job)
        except KeyboardInterrupt:
            self._stop()
            raise

    def _may_start(self):
        if len(self._working) == self._jobs:
            return False
        return not self._working or jobs_.free_memory() > max(self._memory, *(job.memory for job in self._working))

    def _start(self):
        folder, command = self._waiting.pop(0)
        if (folder / "result.json").exists():
            self._done += 1
            self._tell(folder, "finished before")
            return
        place = min(set(range(self._jobs)) - {job.place for job in self._working})
        more = self._options.go_on if _has_backup(folder) else self._options.fresh
        self._working.append(jobs_.start(place, self._jobs, folder, [*command, more] if more else command))

    def _end(self, job):
        self._working.remove(job)
        self._done += 1
        seconds = time.perf_counter() - job.started
        self._memory = max(self._memory, job.memory)
        if job.process.returncode == 0 and (job.folder / "result.json").exists():
            self._times.append(seconds)
            self._tell(job.folder, f"{seconds:.0f} s")
            return
        self.failed.append(job.folder)
        last = "\n    ".join(job.log.read_text(errors="replace").strip().splitlines()[-5:])
        print(f"[{self._done}/{self._total}] {job.folder}: FAILED, see {job.log}\n    {last}", flush=True)

    def _tell(self, folder, how):
        value = json.loads((folder / "result.json").read_text()).get(self._options.metric)
        told = f"{self._options.metric} {value:.4f}, " if isinstance(value, float) else ""
        left = self._left()
        print(f"[{self._done}/{self._total}] {folder}: {told}{how}{left}", flush=True)

    def _left(self):
        """The time that the others take, by what those took that are done."""
        if not self._times or self._done == self._total:
            return ""
        each = sum(self._times) / len(self._times)
        todo = [each] * sum(not (folder / "result.json").exists() for folder, _ in self._waiting)
        todo += [max(0.0, each - (time.perf_counter() - job.started)) for job in self._working]
        minutes = sum(todo) / self._jobs / 60
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"

    def _stop(self):
        """Has the runs at work stop, as by Ctrl-C; at another Ctrl-C at once."""
        print(f"\nStopping {len(self._working)} runs. To stop them at once, press Ctrl-C again.", flush=True)
        for job in self._working:
            job.process.send_signal(signal.SIGINT)
        try:
            for job in self._working:
                job.process.wait()
        except KeyboardInterrupt:
            for job in self._working:
                job.process.kill()
                job.process.wait()


def main(argv):
    """Runs what is not finished; fails at the end if a run has."""
    runs = commands(FLAGS.recipe, FLAGS.grid, FLAGS.seeds, argv[1:], Path(FLAGS.output_dir), FLAGS.vary)
    for folder, command in runs:
        if (folder / "result.json").exists():
            _check_same(folder, command)
    jobs = FLAGS.jobs or len(jobs_.cores_of(0, 1))
    sweep = Sweep(runs, jobs, int(FLAGS.memory * 2**30), FLAGS)
    try:
        sweep.run()
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on.")
    if sweep.failed:
        names = ", ".join(map(str, sweep.failed))
        sys.exit(f"{len(sweep.failed)} of {len(runs)} runs failed: {names}. The same command runs them again.")


if __name__ == "__main__":
    app.run(main)
