"""Runs a recipe over methods, sparsities and seeds, one run after the other; what is finished is not run again.

    python tools/sweep.py --recipe recipes/lenet_mnist.py --output_dir runs/lenet \
        --grid "dynamic_sparse:0.98,0.99 static:0.98 dense" --seeds 0,1,2,3,4 -- --verbose 0

Everything after `--` goes to the recipe, with the run's seed for `{seed}`. A run is finished when its folder holds
`result.json`; one that was cut off starts again. `tools/compare.py` makes a table of the folder.
"""

import json
import subprocess
import sys
from pathlib import Path

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("recipe", "recipes/lenet_mnist.py", "The recipe's script.")
flags.DEFINE_string("output_dir", None, "Folder of the runs.", required=True)
flags.DEFINE_string("grid", "dynamic_sparse:0.98", "METHOD[:SPARSITY,...] separated by spaces.")
flags.DEFINE_list("seeds", ["0"], "Seeds, separated by commas.")


def commands(recipe, grid, seeds, extra, output_dir):
    """The runs of a sweep, seed by seed.

    Args:
        recipe: path of the recipe's script.
        grid: str, "METHOD[:SPARSITY,...] ...".
        seeds: list of str.
        extra: list of str, flags for every run.
        output_dir: `Path` of the runs.

    Returns:
        List of `(folder, command)`.
    """
    points = []
    for entry in grid.split():
        method, _, sparsities = entry.partition(":")
        points += [(method, s) for s in sparsities.split(",")]
    runs = []
    for seed in seeds:
        for method, sparsity in points:
            folder = output_dir / "_".join(filter(None, (method, sparsity, f"seed{seed}")))
            arguments = [f"--method={method}", f"--seed={seed}", f"--output_dir={folder}"]
            arguments += [argument.replace("{seed}", seed) for argument in extra]
            if sparsity:
                arguments.append(f"--sparsity={sparsity}")
            runs.append((folder, [sys.executable, recipe, *arguments]))
    return runs


def _check_same(folder, command):
    """Stops if a finished run was made with other flags than the sweep gives."""
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


def main(argv):
    """Runs what is not finished; stops at the first failure."""
    runs = commands(FLAGS.recipe, FLAGS.grid, FLAGS.seeds, argv[1:], Path(FLAGS.output_dir))
    for i, (folder, command) in enumerate(runs, start=1):
        result = folder / "result.json"
        if result.exists():
            _check_same(folder, command)
        else:
            subprocess.run([*command, "--overwrite"], check=True)
        print(f"[{i}/{len(runs)}] {folder}: {json.loads(result.read_text())['test_accuracy']:.4f}", flush=True)


if __name__ == "__main__":
    app.run(main)
