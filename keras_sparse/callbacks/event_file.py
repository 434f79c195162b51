"""Writes TensorBoard's event files with the package tensorboard, without TensorFlow."""

import functools
import os
import socket
import struct
import time
import types
from pathlib import Path

import numpy as np


@functools.cache
def import_error() -> str | None:
    """Returns the message of the ImportError if the package tensorboard cannot be imported, else None."""
    try:
        _import_writer()
        _plugins()
    except ImportError as error:
        return str(error)
    return None


class EventFile:
    """An event file of this process, created with the first summary.

    It is opened and closed in each `append`: a full disk raises OSError at once, and a killed run loses nothing.

    Args:
        folder: str or path, the folder that TensorBoard shows as one run.
    """

    def __init__(self, folder):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.v2"
        self._path = Path(folder) / name

    def append(self, summaries, step):
        """Appends summaries to the file.

        Args:
            summaries: list of summaries, made by the functions below.
            step: int, to which the summaries belong.
        """
        if not summaries:
            return
        event, record_writer = _import_writer()
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
    """Returns the summary of the histogram of the finite values of an array."""
    plugins = _plugins()
    values = np.asarray(values, "float32")
    counts, edges = np.histogram(values[np.isfinite(values)], buckets)
    rows = np.stack([edges[:-1], edges[1:], counts], axis=1)
    return _summary(tag, plugins.histogram.create_summary_metadata(None, None), plugins.tensor(rows, np.float64))


def image(tag, png):
    """Returns the summary of an image, given as the bytes of a PNG file."""
    plugins = _plugins()
    size = (str(n).encode() for n in struct.unpack(">II", png[16:24]))  # width and height in the header of the PNG file
    strings = np.array([*size, png], dtype=object)
    return _summary(tag, plugins.image.create_summary_metadata(None, None), plugins.tensor(strings))


def hparams_start(values):
    """Returns the summary for the start of a run with hyperparameters, a dict of str to bool, number or str."""
    return _plugins().hparams.hparams_pb(values)


def hparams_end():
    """Returns the summary for the end of a run with hyperparameters."""
    plugins = _plugins()
    info = plugins.hparams_data.SessionEndInfo(status=plugins.status.STATUS_SUCCESS, end_time_secs=time.time())
    metadata = plugins.hparams_metadata
    content = plugins.hparams_data.HParamsPluginData(session_end_info=info)
    return _summary(metadata.SESSION_END_INFO_TAG, metadata.create_summary_metadata(content), metadata.NULL_TENSOR)


def _summary(tag, metadata, tensor):
    summary = _plugins().summary.Summary()
    summary.value.add(tag=tag, metadata=metadata, tensor=tensor)
    return summary


def _import_writer():
    """Returns the classes `(Event, RecordWriter)`. None of the modules imported here imports TensorFlow."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    return Event, RecordWriter


@functools.cache
def _plugins():
    """Returns the modules of TensorBoard that make summaries."""
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
