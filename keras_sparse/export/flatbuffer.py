"""Reads and writes LiteRT models, which are files in the FlatBuffers format."""

import numpy as np

_IDENTIFIER = b"TFL3"
_VERSION = 3


def schema():
    """Returns the module with the classes of LiteRT's FlatBuffers schema.

    Raises:
        ImportError: if `ai_edge_litert` is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError(
            "LiteRT files need the package `ai-edge-litert`: pip install 'keras_sparse[export]'."
        ) from error
    return schema_py_generated


def read(data, name):
    """Returns the model in the bytes of a `.tflite` file.

    Args:
        data: bytes.
        name: str, the name of the file, for messages.

    Returns:
        `ModelT`, the root object of LiteRT's schema.

    Raises:
        ValueError: if the file has another format or another version of it, or is damaged.
    """
    s = schema()
    if data[4:8] != _IDENTIFIER:
        raise ValueError(
            f"A LiteRT file has {_IDENTIFIER!r} at its fifth byte. Received: {name!r} of {len(data)} bytes, with "
            f"{bytes(data[4:8])!r} there. Give a .tflite file that `keras_sparse.export` wrote."
        )
    try:
        model = s.ModelT.InitFromObj(s.Model.GetRootAsModel(data, 0))
        version = model.version
        _read_external_buffers(model, data)
    except Exception as error:  # The generated classes raise errors of many types if an offset is wrong.
        raise ValueError(
            f"The file {name!r} is damaged or incomplete: it begins as a LiteRT file, but cannot be parsed. "
            f"Received: {len(data)} bytes; {type(error).__name__}: {error}. Export the model again."
        ) from error
    if version != _VERSION:
        raise ValueError(f"A LiteRT file of version {_VERSION} is expected. Received: {name!r} of version {version}.")
    return model


def write(model):
    """Returns the bytes of a `.tflite` file with a `ModelT`."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def add_metadata(model, name, content):
    """Adds an entry to the metadata of a `ModelT`, which LiteRT ignores. `name` and `content` are bytes."""
    entry, buffer = schema().MetadataT(), schema().BufferT()
    entry.name, entry.buffer = name, len(model.buffers)
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def _read_external_buffers(model, data):
    """Reads the constants that are stored after the FlatBuffers objects.

    FlatBuffers offsets have 32 bits, so that the converter stores the constants of models of 2 GiB and more outside of
    the objects. A buffer then has the offset and size of its data in the file; 0 and 1 mean that it has none.
    """
    for buffer in model.buffers:
        if getattr(buffer, "offset", 0) > 1 and buffer.size:
            if buffer.offset + buffer.size > len(data):
                raise EOFError(f"constants reach to byte {buffer.offset + buffer.size}")
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0  # `write` stores the data within the objects.
