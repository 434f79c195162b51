"""Runs a recipe for combinations of methods, sparsities, seeds and other flags, several runs in parallel.

    python tools/sweep.py --recipe recipes/lenet_mnist.py --output_dir runs/lenet \
        --grid "dynamic_sparse:0.98,0.99 static:0.98 dense" --seeds 0,1,2,3,4 -- --verbose 0
    python tools/sweep.py --recipe mine.py --output_dir runs/mine --grid "" --seeds "" --fresh "" \
        --vary "rate=0.1,0.01 width=1,2"

Arguments after `--` are passed to the recipe, with `{seed}` replaced by the seed of the run. A recipe is any script
that takes `--output_dir` and the flags that are varied, and writes `result.json` to that folder at the end. Unless
`--seeds`, `--fresh` or `--go_on` are empty, it also takes `--seed`, `--overwrite`, or `--resume` for runs with a
backup.

Finished runs are skipped if they had the same flags, which `sweep.json` records, and an interrupted run is resumed if
its folder has a `backup/`. A run that fails does not stop the others. Ctrl-C stops all runs; the same command resumes
them. The output of a run is written to a file beside its folder. `tools/compare.py` prints a table of the results.

`--jobs` runs are processed in parallel, each on its share of the cores, while there is enough free memory for another
one. Fewer cores may change the order of sums, and so their rounding.
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
flags.DEFINE_string("grid", "dynamic_sparse:0.98", 'METHOD[:SPARSITY,...] entries separated by spaces; "" for none.')
flags.DEFINE_string("vary", "", "FLAG=VALUE,... entries separated by spaces; all combinations are run.")
flags.DEFINE_list("seeds", ["0"], 'Seeds, separated by commas; "" if the recipe has no flag --seed.')
flags.DEFINE_integer("jobs", 1, "Number of parallel runs; 0 for one on each core.", 0)
flags.DEFINE_float(
    "memory",
    2.0,
    "Free memory in GiB for starting another run in parallel, or the peak memory of a run if that is more.",
)
flags.DEFINE_string("metric", "test_accuracy", "Entry of result.json to print.")
flags.DEFINE_string("fresh", "--overwrite", "Flag of the recipe that restarts an interrupted run.")
flags.DEFINE_string("go_on", "--resume", "Flag of the recipe that resumes an interrupted run from its backup.")


def commands(recipe, grid, seeds, extra, output_dir, vary=""):
    """Returns the runs of a sweep, ordered by seed.

    Args:
        recipe: path of the recipe's script.
        grid: str, "METHOD[:SPARSITY,...] ...".
        seeds: list of str.
        extra: list of str, further arguments of all runs.
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


_DEFAULT = "the default"


class Record:
    """The flags of all runs of a folder, in its file `sweep.json`.

    Args:
        output_dir: `Path` of the folder.
    """

    def __init__(self, output_dir):
        self._path = output_dir / "sweep.json"

    def _flags_by_run(self):
        return _read(self._path) if self._path.exists() else {}

    def add(self, folder, command):
        """Writes the flags of a run that starts."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags_by_run = {**self._flags_by_run(), folder.name: _flags(command)}
        new = self._path.with_name("sweep.json.new")  # A killed write must not leave an incomplete file.
        new.write_text(json.dumps(flags_by_run, indent=2, sort_keys=True) + "\n")
        new.replace(self._path)

    def check(self, folder, command):
        """Exits if a finished run had other flags than those of the sweep.

        Both its entry in the record, if there is one, and its config.json are compared: another command may have run in
        the folder since.
        """
        given, path = _flags(command), folder / "config.json"
        config = _read(path) if path.exists() else {}
        pairs = [(name, given[name], config[name]) for name in given.keys() & config.keys() - {"recipe"}]
        if (before := self._flags_by_run().get(folder.name)) is not None:
            # An argument with its default may be given in one of them only.
            names, used = given.keys() | before.keys(), {**config, **before}
            pairs += [(name, given.get(name, _DEFAULT), used.get(name, _DEFAULT)) for name in names]
        for name, now, then in sorted(pairs, key=str):
            if name not in ("output_dir", "verbose") and not _is_same(now, then):
                sys.exit(f"{folder} holds a run with {name}={then}, not {now}. Name another --output_dir.")


def _flags(command):
    """Returns the flags of a command, given as "--flag=value" or "--flag value": dict from names to values.

    A flag without a value stands for true. The entry "recipe" is the name of the script.
    """
    given = " ".join(map(str, command[2:])).replace("=", " ").split(" --")
    pairs = (flag.removeprefix("--").partition(" ") for flag in given)
    return {"recipe": Path(command[1]).stem, **{name: value or "true" for name, _, value in pairs}}


def _is_same(value, used):
    """Returns whether the text of a flag is a value of JSON."""
    if value.lower() in (str(used).lower(), json.dumps(used).lower()):
        return True
    try:
        return float(value) == float(used)
    except (TypeError, ValueError):
        return False


def _read(path):
    """Returns the content of a JSON file; exits if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        sys.exit(f"{path} is damaged: {error}. Delete it, and the folders of the runs that are to be repeated.")


def _has_backup(folder):
    """Returns whether a run has a backup, or has one of the dense network that it trains first."""
    return any(x.exists() and any(x.iterdir()) for x in (folder / "backup", folder / "dense" / "backup"))


def _result(folder):
    """Returns the result of a run, a dict; None if it has none that can be read."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


class Sweep:
    """Processes a list of runs in parallel.

    Args:
        runs: list of `(folder, command)`.
        jobs: int, the number of parallel runs.
        memory: int, the free bytes that are required to start another run in parallel.
        options: parsed flags.
        record: `Record` of the folder of the runs.

    Attributes:
        failed: list of the folders of failed runs.
    """

    def __init__(self, runs, jobs, memory, options, record):
        self._waiting, self._running, self.failed = list(runs), [], []
        self._jobs, self._memory, self._options, self._record = jobs, memory, options, record
        self._total, self._done, self._seconds = len(runs), 0, []

    def run(self):
        """Processes all runs. After Ctrl-C, stops the running ones and raises KeyboardInterrupt."""
        try:
            while self._waiting or self._running:
                while self._waiting and self._can_start():
                    self._start()
                time.sleep(0.05)
                for job in [job for job in self._running if not job.is_running()]:
                    self._end(job)
        except BaseException:  # Ctrl-C, or an error: no run goes on without the sweep.
            self._stop()
            raise

    def _can_start(self):
        """Returns whether there are a free slot and enough memory for another run."""
        if len(self._running) == self._jobs:
            return False
        return not self._running or jobs_.free_memory() > max(self._memory, *(job.memory for job in self._running))

    def _start(self):
        """Starts the next run, or skips it if it is finished."""
        folder, command = self._waiting.pop(0)
        if _result(folder) is not None:
            self._done += 1
            self._print_result(folder, "finished before")
            return
        slot = min(set(range(self._jobs)) - {job.slot for job in self._running})
        self._record.add(folder, command)
        flag = self._options.go_on if _has_backup(folder) else self._options.fresh
        self._running.append(jobs_.start(slot, self._jobs, folder, [*command, flag] if flag else command))

    def _end(self, job):
        """Prints the result of a run whose process has ended."""
        self._running.remove(job)
        self._done += 1
        seconds = time.perf_counter() - job.started
        self._memory = max(self._memory, job.memory)
        if job.process.returncode == 0 and _result(job.folder) is not None:
            self._seconds.append(seconds)
            self._print_result(job.folder, f"{seconds:.0f} s")
            return
        self.failed.append(job.folder)
        last = "\n    ".join(job.log.read_text(errors="replace").strip().splitlines()[-5:])
        print(f"[{self._done}/{self._total}] {job.folder}: FAILED, see {job.log}\n    {last}", flush=True)

    def _print_result(self, folder, words):
        value = (_result(folder) or {}).get(self._options.metric)
        metric = f"{self._options.metric} {value:.4f}, " if isinstance(value, float) else ""
        left = self._time_left()
        print(f"[{self._done}/{self._total}] {folder}: {metric}{words}{left}", flush=True)

    def _time_left(self):
        """Returns the estimated time for the other runs as text, "" if there is no estimate or no other run."""
        if not self._seconds or self._done == self._total:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        todo = [mean] * sum(not (folder / "result.json").exists() for folder, _ in self._waiting)
        todo += [max(0.0, mean - (time.perf_counter() - job.started)) for job in self._running]
        minutes = sum(todo) / self._jobs / 60
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"

    def _stop(self):
        """Sends Ctrl-C to all processes and waits for them. A second Ctrl-C kills them."""
        print(f"\nStopping {len(self._running)} runs. To stop them at once, press Ctrl-C again.", flush=True)
        for job in self._running:
            job.process.send_signal(signal.SIGINT)
        try:
            for job in self._running:
                job.process.wait()
        except KeyboardInterrupt:
            for job in self._running:
                job.process.kill()
                job.process.wait()


def main(argv):
    """Runs the sweep, and exits with an error if a run failed."""
    output_dir = Path(FLAGS.output_dir)
    runs, record = commands(FLAGS.recipe, FLAGS.grid, FLAGS.seeds, argv[1:], output_dir, FLAGS.vary), Record(output_dir)
    for folder, command in runs:
        if (folder / "result.json").exists():
            record.check(folder, command)
    jobs = FLAGS.jobs or len(jobs_.cores_for_slot(0, 1))
    sweep = Sweep(runs, jobs, int(FLAGS.memory * 2**30), FLAGS, record)
    try:
        sweep.run()
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command resumes the sweep.")
    if sweep.failed:
        names = ", ".join(map(str, sweep.failed))
        sys.exit(f"{len(sweep.failed)} of {len(runs)} runs failed: {names}. The same command runs them again.")


if __name__ == "__main__":
    app.run(main)
