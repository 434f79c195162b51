"""Writes TensorBoard logs without TensorFlow."""

import functools
import os
import socket
import time
from pathlib import Path

import keras


class EventLog(keras.callbacks.Callback):
    """Writes the same scalars, with the same names, as `keras.callbacks.TensorBoard`, which needs TensorFlow.

    `train/` has `epoch_NAME` for each entry of the logs of an epoch. `validation/` has the same for the `val_` entries,
    and `evaluation_NAME_vs_iterations` by optimizer step. The logs of an epoch are on disk at its end. Needs the
    package tensorboard; see `problem`.

    Args:
        folder: path of the folder of the logs.
    """

    def __init__(self, folder):
        super().__init__()
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.v2"
        self._train, self._validation = (Path(folder) / part / name for part in ("train", "validation"))

    def on_test_end(self, logs=None):
        """Writes the metrics of an evaluation, by optimizer step."""
        scalars = {f"evaluation_{name}_vs_iterations": value for name, value in (logs or {}).items()}
        _append(self._validation, scalars, int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)))

    def on_epoch_end(self, epoch, logs=None):
        """Writes the logs of an epoch."""
        logs, prefix = logs or {}, "val_"
        train = {f"epoch_{k}": v for k, v in logs.items() if not k.startswith(prefix)}
        tests = {f"epoch_{k.removeprefix(prefix)}": v for k, v in logs.items() if k.startswith(prefix)}
        _append(self._train, train, epoch)
        _append(self._validation, tests, epoch)


@functools.cache
def problem():
    """Returns the message of the ImportError if the package tensorboard is missing, else None."""
    try:
        _writing()
    except ImportError as error:
        return str(error)
    return None


def _writing():
    """Imports what is needed from the package tensorboard, none of which imports TensorFlow."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    return Event, scalar_pb, RecordWriter


def _append(path, scalars, step):
    """Appends the scalars of a step to an event file, which is created if it does not exist.

    The file is opened and closed each time, so that a full disk raises OSError at once, and an interrupted run loses
    nothing.
    """
    event, scalar_pb, record_writer = _writing()
    if not scalars:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        records, now = record_writer(file), time.time()
        if not file.tell():
            records.write(event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for tag, value in scalars.items():
            summary = scalar_pb(tag, float(value))
            records.write(event(wall_time=now, step=step, summary=summary).SerializeToString())
