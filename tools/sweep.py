"""Runs a recipe for several methods, sparsities and seeds, one after the other. Finished runs are skipped.

    python tools/sweep.py --recipe recipes/lenet_mnist.py --output_dir runs/lenet \
        --grid "dynamic_sparse:0.98,0.99 static:0.98 dense" --seeds 0,1,2,3,4 -- --verbose 0

Everything after `--` is passed to the recipe, with `{seed}` replaced by the seed of the run. A run is finished if its
folder has a `result.json`; an interrupted run starts again. `tools/compare.py` makes a table of the results.
"""

import json
import subprocess
import sys
from pathlib import Path

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("recipe", "recipes/lenet_mnist.py", "Script of the recipe.")
flags.DEFINE_string("output_dir", None, "Folder of the runs.", required=True)
flags.DEFINE_string("grid", "dynamic_sparse:0.98", "METHOD[:SPARSITY,...] separated by spaces.")
flags.DEFINE_list("seeds", ["0"], "Seeds, separated by commas.")


def commands(recipe, grid, seeds, extra, output_dir):
    """Returns the commands of a sweep, ordered by seed.

    Args:
        recipe: str, path of the script of the recipe.
        grid: str, "METHOD[:SPARSITY,...] ...".
        seeds: list of str.
        extra: list of str, flags for every run.
        output_dir: `Path` of the folder of all runs.

    Returns:
        List of tuples `(folder, command)`.
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
    """Exits with a message if a finished run was made with other flags than those of the sweep."""
    config = json.loads((folder / "config.json").read_text())
    given = " ".join(command[2:]).replace("=", " ").split(" --")  # handles "--flag=value" and "--flag value"
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
    """Runs all runs that are not finished, and stops at the first failure."""
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
