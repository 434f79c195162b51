"""Writes a file or folder whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """Yields a path to write to, and puts what was written in the place of `path` when the block ends.

    If the block raises, what it wrote is deleted, and what was at `path` stays as it was. The path that it yields is
    beside `path`, since only within one file system is a rename one act, and ends alike, since Keras goes by that.

    Args:
        path: str or `pathlib.Path`, of a file or a folder.

    Raises:
        FileNotFoundError: if the folder that is to hold it does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The folder that is to hold the file does not exist. Received: {str(path)!r}. Make "
            f"{str(path.parent)!r} first, or give another path."
        )
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        new = Path(folder) / path.name
        yield new
        _flush(new)
        if path.is_dir():
            _swap_folders(new, path, Path(folder) / "old")
        else:
            os.replace(new, path)


def _swap_folders(new, path, old):
    """Moves the old folder aside first: no file system replaces a folder that is not empty."""
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old)


def _flush(path):
    """Has the bytes of a file on the disk before the rename is, which a loss of power could else turn around."""
    if path.is_file():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
