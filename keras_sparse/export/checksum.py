"""A checksum inside of a LiteRT file, whose format has none: a flipped byte of a weight is a valid weight.

It is an entry of the file's metadata, which LiteRT does not read.
"""

import hashlib

import numpy as np

from keras_sparse.export import flatbuffer

_NAME = b"keras_sparse.sha256"
_MARK = b"keras_sparse.sha256:"
_EMPTY = bytes(32)


def signed(model):
    """Returns the bytes of a `ModelT` with the checksum of all other bytes among them."""
    s = flatbuffer.schema()
    entry, buffer = s.MetadataT(), s.BufferT()
    entry.name, entry.buffer = _NAME, len(model.buffers)
    buffer.data = np.frombuffer(_MARK + _EMPTY, np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    data = flatbuffer.write(model)
    start = data.index(_MARK + _EMPTY) + len(_MARK)
    return data[:start] + hashlib.sha256(data).digest() + data[start + len(_EMPTY) :]


def check(data, name):
    """Raises ValueError unless bytes are those that `signed` returned.

    Args:
        data: bytes.
        name: str, of the file, for messages.
    """
    place = data.find(_MARK)
    if place < 0:
        flatbuffer.read(data, name)  # says what is wrong with a foreign or a damaged file
        raise ValueError(
            f"The file {name!r} has no checksum of keras_sparse: another program wrote it, or it is damaged. "
            "Give the .tflite file that `keras_sparse.export` wrote."
        )
    start = place + len(_MARK)
    digest = data[start : start + len(_EMPTY)]
    found = hashlib.sha256(data[:start] + _EMPTY + data[start + len(_EMPTY) :]).digest()
    if digest != found:
        raise ValueError(
            f"The file {name!r} is damaged or cut off: its {len(data)} bytes have the checksum {found.hex()[:12]}..., "
            f"and it was written with {digest.hex()[:12]}.... Copy or export it again."
        )
