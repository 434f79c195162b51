"""Adds a checksum to a LiteRT file, and verifies it.

The format has none, and a flipped byte in a weight is another valid weight. The checksum is an entry of the file's
metadata, which LiteRT ignores.
"""

import hashlib

from keras_sparse.export import flatbuffer

_METADATA_NAME = b"keras_sparse.sha256"
# The checksum is found in the bytes of a file by this prefix, so that a damaged file need not be parsed.
_PREFIX = b"keras_sparse.sha256:"
_PLACEHOLDER = bytes(32)  # in the place of the checksum while it is computed


def write_with_checksum(model):
    """Returns the bytes of a `.tflite` file with a SHA-256 checksum of all its other bytes.

    Args:
        model: `ModelT`, to which a metadata entry is added.
    """
    flatbuffer.add_metadata(model, _METADATA_NAME, _PREFIX + _PLACEHOLDER)
    data = flatbuffer.write(model)
    start = data.index(_PREFIX + _PLACEHOLDER) + len(_PREFIX)
    return data[:start] + hashlib.sha256(data).digest() + data[start + len(_PLACEHOLDER) :]


def verify_checksum(data, name):
    """Raises ValueError unless `write_with_checksum` returned exactly these bytes.

    Args:
        data: bytes, the content of a file.
        name: str, the name of the file, for messages.
    """
    place = data.find(_PREFIX)
    if place < 0:
        flatbuffer.read(data, name)  # Raises a more specific error if the file has another format or is damaged.
        raise ValueError(
            f"The file {name!r} has no checksum of keras_sparse: another program wrote it, or it is damaged. "
            "Give a .tflite file that `keras_sparse.export` wrote."
        )
    start = place + len(_PREFIX)
    stored = data[start : start + len(_PLACEHOLDER)]
    computed = hashlib.sha256(data[:start] + _PLACEHOLDER + data[start + len(_PLACEHOLDER) :]).digest()
    if stored != computed:
        raise ValueError(
            f"The file {name!r} is damaged or incomplete. Expected: checksum {stored.hex()[:12]}... Received: "
            f"{len(data)} bytes with checksum {computed.hex()[:12]}... Copy or export the file again."
        )
