"""TensorBoard logs of a run, written without TensorFlow."""

import functools
import os
import socket
import time
from pathlib import Path

import keras


class EventLog(keras.callbacks.Callback):
    """Writes the scalars that `keras.callbacks.TensorBoard` writes, which needs TensorFlow, as Keras names them.

    The folder gets `train/` with `epoch_NAME` of each entry of the epoch's logs, and `validation/` with the same of the
    `val_` entries, by epoch, and `evaluation_NAME_vs_iterations`, by optimizer step. What an epoch has logged is on
    the disk at its end. Needs the package tensorboard, see `problem`.

    Args:
        folder: path of the logs.
    """

    def __init__(self, folder):
        super().__init__()
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.v2"
        self._train, self._validation = (Path(folder) / part / name for part in ("train", "validation"))

    def on_test_end(self, logs=None):
        """Writes the test's metrics by optimizer step."""
        scalars = {f"evaluation_{name}_vs_iterations": value for name, value in (logs or {}).items()}
        _append(self._validation, scalars, int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)))

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's logs."""
        logs, prefix = logs or {}, "val_"
        train = {f"epoch_{k}": v for k, v in logs.items() if not k.startswith(prefix)}
        tests = {f"epoch_{k.removeprefix(prefix)}": v for k, v in logs.items() if k.startswith(prefix)}
        _append(self._train, train, epoch)
        _append(self._validation, tests, epoch)


@functools.cache
def problem():
    """Why no logs can be written, the words of the ImportError; None if they can."""
    try:
        _writing()
    except ImportError as error:
        return str(error)
    return None


def _writing():
    """What is needed of the package tensorboard; none of it imports TensorFlow."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    return Event, scalar_pb, RecordWriter


def _append(path, scalars, step):
    """Appends scalars of a step to an event file, which is made if it is not there.

    Opened each time: a full disk is an OSError here and now, and a run that is cut off has lost nothing.
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
