"""Prints a table of runs: mean and standard deviation over seeds, and published accuracies.

    python tools/compare.py runs/lenet

Runs that differ only in their seed and folder make one row.
"""

import json
import statistics
import sys
from collections import defaultdict

from published import published_accuracy
from runs import find_runs, recipe_of, shared_flags

COLUMNS = ("recipe", "method", "sparsity", "live weights", "last epoch", "best epoch", "published", "runs", "time")


def rows(runs):
    """Returns the rows of the table, one for each group of runs that differ only in their seed and folder.

    Args:
        runs: list of `runs.Run`.

    Returns:
        Sorted list of tuples of str, in the order of `COLUMNS`.
    """
    groups = defaultdict(list)
    for run, flags in zip(runs, shared_flags(runs), strict=True):
        groups[recipe_of(run), json.dumps(flags, sort_keys=True)].append(run.result)
    table = []
    for (recipe, key), results in groups.items():
        config = json.loads(key)
        sparsity = config.get("sparsity")
        table.append(
            (
                recipe,
                config["method"],
                "" if sparsity is None else max(f"{sparsity:.2f}", f"{sparsity:g}", key=len),
                f"{results[0].get('live_weights') or results[0]['parameters']:,}",
                _mean_and_deviation([100 * r["test_accuracy"] for r in results]),
                _mean_and_deviation([100 * r["best_test_accuracy"] for r in results if "best_test_accuracy" in r]),
                published_accuracy(config),
                str(len(results)),
                _mean_time([r["seconds"] for r in results if "seconds" in r]),
            )
        )
    return sorted(table)


def markdown(table):
    """Returns the rows as a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (COLUMNS, ["---"] * len(COLUMNS), *table))


def _mean_and_deviation(values):
    """Returns the mean of numbers and, if there are several, their standard deviation, as text; "" for no numbers."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _mean_time(seconds):
    """Returns the mean of times in seconds as text; "" if there are none, as in runs of other recipes than ours."""
    return f"{statistics.mean(seconds):.0f} s" if seconds else ""


if __name__ == "__main__":
    found = find_runs(sys.argv[1:])
    if not found:
        sys.exit(f"No result.json under {sys.argv[1:]}. Name a folder of runs, such as runs/lenet.")
    print(markdown(rows(found)))
    print("\nMachines:", ", ".join(sorted({run.result.get("machine", "unknown") for run in found})))
