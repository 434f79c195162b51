"""Saves a model to a compressed `.keras` file."""

import lzma
import os
import shutil
import struct
import zipfile
from pathlib import Path

import keras

from keras_sparse.atomic_write import atomic_write
from keras_sparse.conversion.copying import copy_model
from keras_sparse.conversion.densify import dense_copy
from keras_sparse.conversion.trainable_weights import check_convertible
from keras_sparse.layers.traversal import masked_weights
from keras_sparse.validation import check_choice, check_path

_COMPRESSIONS = {
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
    "deflate": zipfile.ZIP_DEFLATED,
    "none": zipfile.ZIP_STORED,
}


def save_model(
    model: keras.Model, path: str | os.PathLike, compression: str = "bzip2", keep_masks: bool = False
) -> int:
    """Saves a model for inference, to a `.keras` file that is small if many weights are 0.

    `keras.models.load_model` reads the file without keras_sparse, unless `keep_masks` is set. The file holds neither
    the optimizer nor the loss. Keras does not compress its files. bzip2 reduces them to about 4 bytes for each live
    weight plus the entropy of the masks, which is near the minimum for float32.

    The file replaces an existing one only when it is complete. If writing fails, the existing file is unchanged.

    Args:
        model: a built `keras.Model` of any kind. It is not changed.
        path: str or `pathlib.Path`, ending in ".keras".
        compression: "bzip2"; "lzma", a tenth smaller and faster to load, but written in about a second for each MB of
            the uncompressed file; "deflate", faster and larger; or "none".
        keep_masks: bool, whether masks are saved, so that sparse training can continue. Loading the file then needs
            `import keras_sparse`. The file is hardly larger, since it has only the differences between the masks and
            those of the nonzero weights.

    Returns:
        The size of the file in bytes, an int.

    Raises:
        ValueError: if `model` is not a Keras model or not built, `path` does not end in ".keras", or `compression` is
            unknown.
        TypeError: if `path` is not a path.
        FileNotFoundError: if the parent folder of `path` does not exist.
        FileExistsError: if `path` is a folder.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300), keras.layers.Dense(10)])
    >>> save_model(sparsify(model, sparsity=0.98), "model.keras") < 40_000
    True
    """
    check_convertible(model, "save_model")
    check_choice(compression, "compression", _COMPRESSIONS)
    check_path(path, "path")
    check_choice(keep_masks, "keep_masks", (False, True))
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"`path` must end in '.keras', the extension of Keras's format. Received: path={str(path)!r}.")
    copy = copy_model(model)[0] if keep_masks else dense_copy(model)
    for weight in masked_weights(copy):
        weight.mask.saved_as_difference = True
    with atomic_write(path) as compressed:
        uncompressed = compressed.with_name("uncompressed") / "model.keras"
        uncompressed.parent.mkdir()
        copy.save(uncompressed)
        _recompress(uncompressed, compressed, _COMPRESSIONS[compression])
    return path.stat().st_size


def _recompress(source, target, method):
    """Copies a zip archive with another compression, in chunks, since a member may be larger than the memory."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for member in old.infolist():
            entry = zipfile.ZipInfo(member.filename, member.date_time)
            entry.compress_type, entry.file_size = method, member.file_size
            with old.open(member) as reader, new.open(entry, "w") as writer:
                if method == zipfile.ZIP_LZMA:
                    writer._compressor = _FloatsLZMA()
                shutil.copyfileobj(reader, writer, 1 << 20)


class _FloatsLZMA:
    """LZMA compression of a zip member, with parameters for float32 arrays. Any reader of zip archives decompresses it.

    `zipfile` has fixed parameters, with which LZMA gains nothing over bzip2. A float32 number has 4 bytes, of which the
    first ones are random, and the last ones are not. So the position of a byte in its number predicts it
    (`lp` = log2(4)), while the byte before it does not (`lc` = 0).
    """

    LC, LP, PB, DICTIONARY = 0, 2, 2, 1 << 24

    def __init__(self):
        preset = 9 | lzma.PRESET_EXTREME
        chosen = {"lc": self.LC, "lp": self.LP, "pb": self.PB, "dict_size": self.DICTIONARY}
        filters = [{"id": lzma.FILTER_LZMA1, "preset": preset, **chosen}]
        self._compressor = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)
        # The zip format puts before the data: the version of the LZMA SDK, the size of the parameters, and these.
        self._header = struct.pack("<BBHBI", 9, 4, 5, (self.PB * 5 + self.LP) * 9 + self.LC, self.DICTIONARY)

    def compress(self, data):
        """Returns the next compressed bytes."""
        header, self._header = self._header, b""
        return header + self._compressor.compress(data)

    def flush(self):
        """Returns the last compressed bytes."""
        return self._header + self._compressor.flush()
