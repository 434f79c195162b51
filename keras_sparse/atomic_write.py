"""Writes a file or folder completely or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

UNFINISHED = ".new."  # Names of the folders of unfinished writes begin with it: they stay if the process is killed.


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike, folder: bool = False, replaces: Callable[[Path], bool] = lambda existing: False
):
    """Context manager that yields a temporary path, and moves what was written there to `path` at the end.

    If the block raises an exception, the temporary files are deleted and `path` is unchanged. The temporary path is in
    the same folder as `path`, since renaming is atomic only within one file system. It has the same name, since Keras
    chooses the format by the extension.

    Args:
        path: str or `pathlib.Path`, of a file or a folder.
        folder: bool, whether a folder is written.
        replaces: function that tells whether an existing folder, which is not empty, may be replaced. By default, none.

    Raises:
        FileNotFoundError: if the parent folder does not exist.
        FileExistsError: if there is a folder in place of a file, a file in place of a folder, or a folder that must not
            be replaced.
    """
    given, path = path, Path(path).absolute()
    # A link stays, and what it points to is replaced. "." and ".." have no name that could be given to the new folder.
    name, path = path.name, Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The parent folder of `path` must exist. Received: path={str(given)!r}. Make the folder "
            f"{str(path.parent)!r}, or give another path."
        )
    _check_existing(path, given, folder, replaces)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as temporary:
        new = Path(temporary) / (path.name if name == ".." else name)
        yield new
        _flush(new)
        if path.is_file():
            shutil.copymode(path, new)
        if path.is_dir():
            _swap_folders(new, path, new.with_name(f"{new.name}.old"))
        else:
            os.replace(new, path)


def _check_existing(path, given, folder, replaces):
    """Raises FileExistsError if what exists at a path must not be replaced."""
    if folder and path.is_file():
        problem = "`path` is a file, and a folder is to be written"
    elif not folder and path.is_dir():
        problem = "`path` is a folder, and a file is to be written"
    elif folder and path.is_dir() and (Path.cwd().is_relative_to(path) or (any(path.iterdir()) and not replaces(path))):
        problem = "`path` is a folder with other files, or the current folder, which would be deleted"
    else:
        return
    raise FileExistsError(f"{problem}. Received: path={str(given)!r}. Nothing was changed. Give another path.")


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
