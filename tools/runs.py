"""Reads the folders of finished runs."""

import csv
import dataclasses
import functools
import json
import re
import struct
import sys
from collections import defaultdict
from pathlib import Path

# Flags in which the runs of one experiment may differ.
IGNORED_FLAGS = ("seed", "output_dir", "overwrite", "resume", "data_dir", "dense_model", "verbose")
LAYER_TAGS = ("density", "live", "dropped", "grown", "explored", "dead_inputs", "dead_outputs")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: `Path` of its folder.
        config: dict, the recipe's name and the flags, from config.json.
        result: dict, the final numbers, from result.json.
    """

    path: Path
    config: dict
    result: dict

    @functools.cached_property
    def history(self) -> dict:
        """The logs of the epochs: dict from name to list of floats; "epoch" counts from 1. Empty if there are none."""
        file = self.path / "history.csv"
        rows = list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []
        found = {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
        return {**found, "epoch": [epoch + 1 for epoch in found["epoch"]]} if found else {}

    @functools.cached_property
    def layers(self) -> dict:
        """The statistics of each layer in the TensorBoard files: `{"live": {layer: {epoch from 1: number}}, ...}`.

        Empty if the run has no such files, or the package tensorboard is not installed.
        """
        found = {name: defaultdict(dict) for name in LAYER_TAGS}
        for step, value in read_events(self.path / "tensorboard" / "train"):
            name, _, layer = value.tag.partition("/")
            if name in found:
                found[name][layer][step + 1] = value.tensor.float_val[0]
        return {name: dict(of_layer) for name, of_layer in found.items() if of_layer}


def find_runs(paths) -> list[Run]:
    """Returns the finished runs in some folders and their subfolders, sorted by path: "set_0.9" before "set_0.98".

    Prints a note for each run that has damaged or missing files, or is not a recipe's, and leaves it out.
    """
    results = sorted({r for path in paths for r in Path(path).rglob("result.json")}, key=_words_and_numbers)
    runs = []
    for path in results:
        try:
            config, result = (json.loads((path.parent / x).read_text()) for x in ("config.json", "result.json"))
            if not isinstance(config, dict) or not isinstance(result, dict):
                raise ValueError("its files do not hold a dict, as those of a recipe do")
            if missing := {"method", "dataset"} - set(config) | {"test_accuracy", "parameters"} - set(result):
                raise ValueError(f"its files lack {', '.join(sorted(missing))}, which those of a recipe have")
            runs.append(Run(path.parent, config, result))
        except (OSError, ValueError) as error:
            print(f"Note: {path.parent} is left out, since it cannot be read: {error}", file=sys.stderr)
    return runs


def recipe_of(run) -> str:
    """Returns the name of a run's recipe; that of its data set if an older version has written the run."""
    return run.config.get("recipe") or run.config["dataset"]


def shared_flags(runs) -> list[dict]:
    """Returns, for each run, the flags that all runs of its recipe have, with its values.

    Runs of older versions of a recipe may lack a flag, which does not distinguish runs then.
    """
    names = {}
    for run in runs:
        own = set(run.config) - set(IGNORED_FLAGS)
        names[recipe_of(run)] = own & names.get(recipe_of(run), own)
    found = [{name: run.config[name] for name in names[recipe_of(run)]} for run in runs]
    for settings in found:
        if settings["method"] == "dense":  # which has no sparsity
            settings.pop("sparsity", None)
    return found


def _words_and_numbers(path):
    """Returns a sort key by which numbers in a path are compared as numbers."""
    words = re.split(r"(\d+(?:\.\d+)?)", str(path))
    return [(float(w), "") if i % 2 else (0.0, w) for i, w in enumerate(words)]


def group_by_settings(runs, ignored=()) -> dict:
    """Groups runs of the same settings, such as the seeds of one experiment.

    Args:
        runs: list of `Run`.
        ignored: tuple of str, further flags in which the runs of a group may differ.

    Returns:
        Dict from a label to a list of `Run`. A label is the method, followed by the flags in which groups differ.
    """
    flags = zip(runs, shared_flags(runs), strict=True)
    keys = [{k: v for k, v in (*x.items(), ("recipe", recipe_of(run))) if k not in ignored} for run, x in flags]
    names = sorted({k for key in keys for k in key} - {"method"})
    differing = [k for k in names if len({json.dumps(key[k]) for key in keys if k in key}) > 1]
    found = defaultdict(list)
    for run, key in zip(runs, keys, strict=True):
        flags = [f"{k}={key[k]}" for k in differing if k in key]
        found[" ".join([str(key["method"]).replace("_", " "), *flags])].append(run)
    return dict(found)


def parameters(run) -> int:
    """Returns the number of live weights and of parameters that are not masked."""
    return run.result["parameters"]


def read_events(folder):
    """Yields `(step, value)` of each summary in the event files of a folder, oldest first.

    An incomplete file, of a run that was killed, is read up to its last complete record. Yields nothing if the package
    tensorboard is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError:
        return
    for path in sorted(Path(folder).glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place + 12 <= len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            record = content[place + 12 : place + 12 + length]  # after the length and its checksum
            place += length + 16
            if place > len(content):
                break
            event = Event.FromString(record)
            yield from ((event.step, value) for value in event.summary.value)
