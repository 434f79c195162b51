"""Makes a table of runs: mean and standard deviation over seeds, and the published numbers.

    python tools/compare.py runs/lenet

Runs that differ only in their seed and folder make one row.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

# Test accuracy in per cent on MNIST, mean and standard deviation of five runs, from the data of Mostafa & Wang.
PUBLISHED = {
    ("mnist", "dynamic_sparse", 0.90): "98.44 ± .10",
    ("mnist", "dynamic_sparse", 0.95): "98.32 ± .08",
    ("mnist", "dynamic_sparse", 0.96): "98.23 ± .05",
    ("mnist", "dynamic_sparse", 0.97): "98.20 ± .05",
    ("mnist", "dynamic_sparse", 0.98): "98.14 ± .14",
    ("mnist", "dynamic_sparse", 0.99): "97.75 ± .04",
    ("mnist", "compressed", 0.90): "98.55 ± .03",
    ("mnist", "compressed", 0.95): "98.47 ± .06",
    ("mnist", "compressed", 0.96): "98.42 ± .04",
    ("mnist", "compressed", 0.97): "98.34 ± .10",
    ("mnist", "compressed", 0.98): "98.12 ± .10",
    ("mnist", "compressed", 0.99): "97.47 ± .21",
    ("mnist", "static", 0.90): "97.94 ± .09",
    ("mnist", "static", 0.95): "96.68 ± .03",
    ("mnist", "static", 0.96): "94.13 ± 4.3",
    ("mnist", "static", 0.97): "94.35 ± .30",
    ("mnist", "static", 0.98): "82.8 ± 6.5",
    ("mnist", "static", 0.99): "49.5 ± 5.9",
}
SAME = (
    "seed",
    "output_dir",
    "overwrite",
    "data_dir",
    "dense_model",
    "verbose",
)  # flags that runs of one row may differ in
HEAD = ("method", "sparsity", "live weights", "last epoch", "best epoch", "published", "runs", "time")


def read(folder):
    """Reads all finished runs in a folder and its subfolders.

    Args:
        folder: `Path`.

    Returns:
        List of tuples `(config, result)` of dicts.
    """
    results = sorted(Path(folder).rglob("result.json"))
    return [(json.loads((r.parent / "config.json").read_text()), json.loads(r.read_text())) for r in results]


def rows(runs):
    """Makes the rows of the table.

    Args:
        runs: list of `(config, result)`, as returned by `read`.

    Returns:
        Sorted list of tuples of str, in the order of `HEAD`.
    """
    groups = defaultdict(list)
    flags = defaultdict(list)
    for config, _ in runs:
        flags[config["dataset"]].append(set(config) - set(SAME))
    # Runs of older versions of a recipe may lack a flag: only flags that all runs have distinguish rows.
    common = {dataset: set.intersection(*sets) for dataset, sets in flags.items()}
    for config, result in runs:
        key = {k: config[k] for k in common[config["dataset"]] if not (k == "sparsity" and config["method"] == "dense")}
        groups[json.dumps(key, sort_keys=True)].append(result)
    table = []
    for key, results in groups.items():
        config = json.loads(key)
        method, sparsity = config["method"], config.get("sparsity")
        table.append(
            (
                method,
                "" if sparsity is None else f"{sparsity:.2f}",
                f"{results[0]['live_weights'] or results[0]['parameters']:,}",
                _spread([100 * r["test_accuracy"] for r in results]),
                _spread([100 * r["best_test_accuracy"] for r in results]),
                PUBLISHED.get((config["dataset"], method, sparsity), "") if _is_whole(config) else "",
                str(len(results)),
                f"{statistics.mean(r['seconds'] for r in results):.0f} s",
            )
        )
    return sorted(table)


def markdown(table):
    """Formats the rows as a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (HEAD, ["---"] * len(HEAD), *table))


def _is_whole(config):
    """Whether a run has the settings of the published runs, so that the numbers are comparable."""
    whole = {"epochs": 100, "train_split": "train", "test_split": "test", "settings": "paper", "scope": "layer"}
    return all(config.get(k, v) == v for k, v in whole.items())


def _spread(values):
    sd = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{sd}"


if __name__ == "__main__":
    found = [run for folder in sys.argv[1:] for run in read(folder)]
    if not found:
        sys.exit(f"No result.json under {sys.argv[1:]}. Name a folder of runs, such as runs/lenet.")
    print(markdown(rows(found)))
    print("\nMachines:", ", ".join(sorted({r["machine"] for _, r in found})))
