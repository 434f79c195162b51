"""TensorBoard's event files, written by the package tensorboard without TensorFlow."""

import functools
import os
import socket
import struct
import time
import types
from pathlib import Path

import numpy as np


@functools.cache
def problem() -> str | None:
    """Returns why no event files can be written, the words of the ImportError; None if they can."""
    try:
        _writing()
        _plugins()
    except ImportError as error:
        return str(error)
    return None


class EventFile:
    """An event file of this process, made at the first summary.

    It is opened for each `append`: a full disk is an OSError here and now, and a run that is cut off has lost nothing.

    Args:
        folder: path of the run whose file it is, as TensorBoard understands runs.
    """

    def __init__(self, folder):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.v2"
        self._path = Path(folder) / name

    def append(self, summaries, step):
        """Writes summaries of a step.

        Args:
            summaries: list of what the functions below return.
            step: int.
        """
        if not summaries:
            return
        event, record_writer = _writing()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            records, now = record_writer(file), time.time()
            if not file.tell():
                records.write(event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            for summary in summaries:
                records.write(event(wall_time=now, step=step, summary=summary).SerializeToString())


def scalar(tag, value):
    """Returns the summary of a number."""
    return _plugins().scalar.scalar_pb(tag, float(value))


def histogram(tag, values, buckets=30):
    """Returns the summary of an array's histogram."""
    plugins = _plugins()
    values = np.asarray(values, "float32")
    counts, edges = np.histogram(values[np.isfinite(values)], buckets)
    rows = np.stack([edges[:-1], edges[1:], counts], axis=1)
    return _summary(tag, plugins.histogram.create_summary_metadata(None, None), plugins.tensor(rows, np.float64))


def image(tag, png):
    """Returns the summary of a picture, given as the bytes of a PNG file."""
    plugins = _plugins()
    size = (str(n).encode() for n in struct.unpack(">II", png[16:24]))  # width and height, at their place in each PNG
    strings = np.array([*size, png], dtype=object)
    return _summary(tag, plugins.image.create_summary_metadata(None, None), plugins.tensor(strings))


def hparams(values):
    """Returns the summary that begins a run with settings, a dict of str to bool, number or str."""
    return _plugins().hparams.hparams_pb(values)


def end(succeeded=True):
    """Returns the summary that ends a run with settings."""
    plugins = _plugins()
    status = plugins.status.STATUS_SUCCESS if succeeded else plugins.status.STATUS_FAILURE
    info = plugins.hparams_data.SessionEndInfo(status=status, end_time_secs=time.time())
    metadata = plugins.hparams_metadata
    content = plugins.hparams_data.HParamsPluginData(session_end_info=info)
    return _summary(metadata.SESSION_END_INFO_TAG, metadata.create_summary_metadata(content), metadata.NULL_TENSOR)


def _summary(tag, metadata, tensor):
    summary = _plugins().summary.Summary()
    summary.value.add(tag=tag, metadata=metadata, tensor=tensor)
    return summary


def _writing():
    """What writes records; none of the package that is imported here imports TensorFlow."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    return Event, RecordWriter


@functools.cache
def _plugins():
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.histogram import metadata as histogram_metadata
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
    from tensorboard.plugins.hparams import metadata as hparams_metadata
    from tensorboard.plugins.hparams import summary_v2 as hparams_summary
    from tensorboard.plugins.image import metadata as image_metadata
    from tensorboard.plugins.scalar import summary_v2 as scalar_summary
    from tensorboard.util.tensor_util import make_tensor_proto

    return types.SimpleNamespace(
        summary=summary_pb2,
        status=api_pb2,
        hparams=hparams_summary,
        hparams_data=plugin_data_pb2,
        hparams_metadata=hparams_metadata,
        histogram=histogram_metadata,
        image=image_metadata,
        scalar=scalar_summary,
        tensor=make_tensor_proto,
    )
