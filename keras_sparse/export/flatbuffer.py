"""A LiteRT model as objects, read from bytes and written to them."""

import numpy as np

_IDENTIFIER = b"TFL3"
_VERSION = 3


def schema():
    """Returns the module of the classes of LiteRT's format.

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
    """Returns the `ModelT` of the bytes of a `.tflite` file.

    Args:
        data: bytes.
        name: str, of the file, for messages.

    Raises:
        ValueError: if they are those of another format, of another version of it, or cut off.
    """
    s = schema()
    if data[4:8] != _IDENTIFIER:
        raise ValueError(
            f"A LiteRT file has {_IDENTIFIER!r} at its fifth byte. Received: {name!r} of {len(data)} bytes, with "
            f"{bytes(data[4:8])!r} there. Give the .tflite file that `keras_sparse.export` wrote."
        )
    try:
        model = s.ModelT.InitFromObj(s.Model.GetRootAsModel(data, 0))
        version = model.version
        _bring_in(model, data)
    except Exception as error:  # Offsets that lead nowhere raise whatever they meet.
        raise ValueError(
            f"The file {name!r} is damaged or cut off: it begins as a LiteRT file and cannot be read to its end. "
            f"Received: {len(data)} bytes; {type(error).__name__}: {error}. Export the model again."
        ) from error
    if version != _VERSION:
        raise ValueError(f"A LiteRT file of version {_VERSION} is expected. Received: {name!r} of version {version}.")
    return model


def write(model):
    """Returns the bytes of a `ModelT`."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _bring_in(model, data):
    """Reads the constants that lie behind the objects, where large models have them."""
    for buffer in model.buffers:
        if getattr(buffer, "offset", 0) > 1 and buffer.size:
            if buffer.offset + buffer.size > len(data):
                raise EOFError(f"constants reach to byte {buffer.offset + buffer.size}")
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
