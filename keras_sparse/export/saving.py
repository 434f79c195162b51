"""Saves a model to a compressed `.keras` file."""

import os
import shutil
import zipfile
from pathlib import Path

import keras

from keras_sparse.atomic_write import atomic_write
from keras_sparse.conversion.copying import copy_model
from keras_sparse.conversion.densify import densify
from keras_sparse.conversion.maskable_weights import check_convertible
from keras_sparse.layers.traversal import masked_weights
from keras_sparse.validation import check_choice

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
        compression: "bzip2"; "lzma", slower and seldom smaller; "deflate", faster and larger; or "none".
        keep_masks: bool, whether masks are saved, so that sparse training can continue. Loading the file then needs
            `import keras_sparse`. The file is hardly larger, since it has only the differences between the masks and
            those of the nonzero weights.

    Returns:
        The size of the file in bytes, an int.

    Raises:
        ValueError: if `model` is not a Keras model or not built, `path` does not end in ".keras", or `compression` is
            unknown.
        FileNotFoundError: if the parent folder of `path` does not exist.
        FileExistsError: if `path` is a folder.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300), keras.layers.Dense(10)])
    >>> save_model(sparsify(model, sparsity=0.98), "model.keras") < 40_000
    True
    """
    check_convertible(model, "save_model")
    check_choice(compression, "compression", _COMPRESSIONS)
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"`path` must end in '.keras', the extension of Keras's format. Received: path={str(path)!r}.")
    copy = copy_model(model)[0] if keep_masks else densify(model)
    for weight in masked_weights(copy):
        weight.mask.saved_as_difference = True
    with atomic_write(path) as compressed:
        uncompressed = compressed.with_name(f"uncompressed_{compressed.name}")
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
                shutil.copyfileobj(reader, writer, 1 << 20)
