"""Writes a file or folder completely or not at all."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path):
    """Context manager that yields a temporary path, and moves what was written there to `path` at the end.

    If the block raises an exception, the temporary files are deleted and `path` is unchanged. The temporary path is in
    the same folder as `path`, since renaming is atomic only within one file system. It has the same name, since Keras
    chooses the format by the extension.

    Args:
        path: str or `pathlib.Path`, of a file or a folder.

    Raises:
        FileNotFoundError: if the parent folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The parent folder of `path` must exist. Received: path={str(path)!r}. Make the folder "
            f"{str(path.parent)!r}, or give another path."
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
    """Replaces a folder. The old one is moved away first, since `os.replace` cannot replace a non-empty folder."""
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old)


def _flush(path):
    """Writes a file to the disk before it is renamed. A power failure could otherwise leave an incomplete file."""
    if path.is_file():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
