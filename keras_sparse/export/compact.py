"""Saves a model in the bytes that its live weights need."""

import shutil
import zipfile
from pathlib import Path

from keras_sparse.conversion.copying import copy_model
from keras_sparse.conversion.densify import densify
from keras_sparse.conversion.maskable_weights import check_convertible
from keras_sparse.export.replacing import replacing
from keras_sparse.validation import check_choice

_COMPRESSIONS = {
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
    "deflate": zipfile.ZIP_DEFLATED,
    "none": zipfile.ZIP_STORED,
}


def save_model(model, path, compression="bzip2", keep_masks=False):
    """Saves a model for use, in a `.keras` file that is small where many weights are 0.

    The file is a plain one of Keras: `keras.models.load_model` reads it and needs nothing of keras_sparse, unless
    `keep_masks` is set. It holds neither the optimizer nor the loss. Keras itself does not compress its files; bzip2
    brings them to about 4 bytes a live weight and the entropy of the mask, which is as little as float32 can take. The
    file takes the place of an older one at once when it is whole; if writing fails, the older one stays.

    Args:
        model: a built `keras.Model` of any kind. It is not changed.
        path: str or `pathlib.Path`, ending in ".keras".
        compression: "bzip2"; "lzma", slower and seldom smaller; "deflate", faster and larger; or "none".
        keep_masks: bool, whether the file keeps the masks, so that training may go on. It then needs
            `import keras_sparse` to be loaded, and about the masks' entropy more.

    Returns:
        The size of the file in bytes, an int.

    Raises:
        ValueError: if the model is none or not built, the path does not end in ".keras", or `compression` is unknown.
        FileNotFoundError: if the folder of the path does not exist.

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300), keras.layers.Dense(10)])
    >>> save_model(sparsify(model, sparsity=0.98), "model.keras") < 40_000
    True
    """
    check_convertible(model, "save_model")
    check_choice(compression, "compression", _COMPRESSIONS)
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"`path` must end in '.keras', by which Keras knows its format. Received: path={str(path)!r}.")
    made = copy_model(model)[0] if keep_masks else densify(model)
    with replacing(path) as packed:
        plain = packed.with_name(f"plain_{packed.name}")
        made.save(plain)
        _repack(plain, packed, _COMPRESSIONS[compression])
    return path.stat().st_size


def _repack(source, target, method):
    """Copies a zip archive with another compression, piece by piece: a member may be larger than the memory."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for member in old.infolist():
            entry = zipfile.ZipInfo(member.filename, member.date_time)
            entry.compress_type, entry.file_size = method, member.file_size
            with old.open(member) as reader, new.open(entry, "w") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
