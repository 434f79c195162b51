"""What the tools read of the folders that runs write."""

import csv
import dataclasses
import functools
import json
import struct
from collections import defaultdict
from pathlib import Path

SAME = ("seed", "output_dir", "overwrite", "resume", "data_dir", "dense_model", "verbose")  # seeds of one experiment
OF_LAYERS = ("density", "live", "dropped", "grown", "explored", "dead_inputs", "dead_outputs")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: `Path` of its folder.
        config: dict, its flags.
        result: dict, what it ended with.
    """

    path: Path
    config: dict
    result: dict

    @functools.cached_property
    def history(self) -> dict:
        """The epoch's logs, a dict of name to list of floats; "epoch" counts from 1."""
        file = self.path / "history.csv"
        rows = list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []
        found = {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
        return {**found, "epoch": [epoch + 1 for epoch in found["epoch"]]} if found else {}

    @functools.cached_property
    def layers(self) -> dict:
        """What TensorBoard's files tell of each layer: `{"live": {layer: {epoch from 1: number}}, ...}`.

        Empty if the run has written no such files, or the package tensorboard is not installed.
        """
        found = {name: defaultdict(dict) for name in OF_LAYERS}
        for step, value in values(self.path / "tensorboard" / "train"):
            name, _, layer = value.tag.partition("/")
            if name in found:
                found[name][layer][step + 1] = value.tensor.float_val[0]
        return {name: dict(of_layer) for name, of_layer in found.items() if of_layer}


def find(paths) -> list[Run]:
    """Returns the finished runs in folders, or in folders inside of them, in the order of their paths."""
    results = sorted({r for path in paths for r in Path(path).rglob("result.json")})
    return [
        Run(r.parent, json.loads((r.parent / "config.json").read_text()), json.loads(r.read_text())) for r in results
    ]


def series(runs, but=()) -> dict:
    """Returns runs by what is done in them: `{label: [runs that differ in their seed or in the flags `but`]}`.

    A label is the method, with the flags in which runs of a method differ.
    """
    keys = [{k: v for k, v in run.config.items() if k not in (*SAME, *but)} for run in runs]
    shared = set.intersection(*(set(key) for key in keys)) if keys else set()
    differing = sorted(k for k in shared - {"method"} if len({json.dumps(key[k]) for key in keys}) > 1)
    found = defaultdict(list)
    for run, key in zip(runs, keys, strict=True):
        flags = [f"{k}={key[k]}" for k in differing if not (k == "sparsity" and key["method"] in ("dense",))]
        found[" ".join([str(key.get("method", run.path.name)).replace("_", " "), *flags])].append(run)
    return dict(found)


def parameters(run) -> int:
    """Returns the parameters that count of a run: live weights and all that is not masked."""
    return run.result["parameters"]


def values(folder):
    """Yields `(step, value)` of each summary in the event files of a folder, the oldest first.

    A file that was cut off is read as far as it goes.
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
