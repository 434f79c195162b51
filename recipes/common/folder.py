"""The folder of a run: starts, resumes and finishes runs."""

import csv
import errno
import json
import os
import shutil
from pathlib import Path

from absl import app

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILES = ("config.json", "result.json", "history.csv", "model.keras")
FOLDERS = ("tensorboard", "dense", "backup")
FREE = {"resume", "overwrite", "verbose", "output_dir", "data_dir"}  # flags that do not change what a run computes


class RunFolder:
    """The files of a run.

    `config.json` is written first, and holds the recipe's name and all flags. `result.json` is written last: a folder
    with it holds a finished run.

    Args:
        path: path of the folder.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._locked = None  # descriptor of the folder, while this process writes to it

    def close(self):
        """Lets other processes write to the folder."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def check(self, config, resume, overwrite):
        """Raises `app.UsageError` if the folder holds a run of at least one epoch that must not be lost.

        Args:
            config: dict of the recipe's name and all flags.
            resume: bool, whether a run with the same flags is resumed.
            overwrite: bool, whether any other run is deleted.
        """
        if resume and overwrite:
            raise app.UsageError("--resume keeps what --overwrite would delete: give one of them.")
        found = [name for name in (*FILES, *FOLDERS) if (self.path / name).exists()]
        if found and not (self.path / "config.json").exists():
            raise app.UsageError(
                f"{self.path} is not the folder of a run, since it has no config.json, but holds {', '.join(found)}, "
                "which a run would replace. Give another --output_dir."
            )
        if not self.result() and not self.backups():
            return  # No epoch was finished: nothing can be lost.
        if resume:
            self._check_same(config)
        elif not overwrite:
            kind = "a finished" if self.result() else "an unfinished"
            raise app.UsageError(
                f"{self.path} holds {kind} run. Keep it and give another --output_dir, "
                f"{'' if self.result() else 'go on with it by --resume, '}or replace it with --overwrite."
            )

    def _check_same(self, config):
        before = _read(self.path / "config.json")
        before = {"recipe": config.get("recipe"), **before}  # which older versions did not write
        changed = {name: value for name, value in config.items() if name not in FREE and value != before.get(name)}
        names = {"backend": "KERAS_BACKEND", "recipe": "recipe"}  # the others are flags
        other = [
            f"{names.get(name, f'--{name}')}={value} (there: {before.get(name)})" for name, value in changed.items()
        ]
        if other:
            raise app.UsageError(
                f"--resume goes on with the run in {self.path}, which has other flags. Received: {', '.join(other)}. "
                "Repeat its command, or give another --output_dir."
            )

    def backups(self):
        """Returns the folders with the backups of an unfinished run."""
        return [x for x in (self.path / "backup", self.path / "dense" / "backup") if x.exists() and any(x.iterdir())]

    def begin(self, config, overwrite):
        """Makes the folder, deletes the files of another run, and writes the flags."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            if overwrite or not self.backups():
                for name in FOLDERS:
                    shutil.rmtree(self.path / name, ignore_errors=True)
                for name in FILES[1:]:  # config.json, the first, is replaced below.
                    (self.path / name).unlink(missing_ok=True)
            _write(self.path / "config.json", config)
        except OSError as error:
            if is_full(error):
                raise
            raise app.UsageError(
                f"The run cannot be written to {self.path}: {error}. Give another --output_dir."
            ) from error

    def _lock(self):
        """Raises `app.UsageError` if another process writes to the folder. It cannot from now on, until `close`."""
        if fcntl is None:
            return
        self._locked = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise app.UsageError(
                f"Another process is writing a run to {self.path}. Wait until it ends, or give another --output_dir."
            ) from None
        except OSError:  # a file system without locks
            self.close()

    def finish(self, result):
        """Writes the result, and deletes the backups, which are no longer needed."""
        _write(self.path / "result.json", result)
        for backup in (self.path / "backup", self.path / "dense" / "backup"):
            shutil.rmtree(backup, ignore_errors=True)

    def result(self):
        """Returns the content of `result.json`, a dict; None if the run is not finished."""
        path = self.path / "result.json"
        return _read(path) if path.exists() else None


def forget_epochs(path, first):
    """Deletes the lines of a CSVLogger's file from an epoch on, since these epochs are trained again.

    Args:
        path: path of the file, which may be missing.
        first: int, the first epoch to delete.
    """
    if not path.exists():
        return
    with path.open(newline="") as file:
        header, *lines = file.readlines() or [""]
    kept = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) < first]
    _replace(path, "".join([header, *kept]) if kept else "")


def history(path):
    """Reads the file of a CSVLogger: dict of name to list of floats, like `History.history`."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}


def is_full(error):
    """Whether an OSError means that the disk is full; errors of HDF5 say so only in the message."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or "errno = 28" in str(error)


def _read(path):
    """Reads a JSON file; raises `app.UsageError` if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise app.UsageError(
            f"{path} is damaged: {error}. Delete it to train the run again, or give another --output_dir."
        ) from error


def _write(path, content):
    _replace(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _replace(path, text):
    """Writes a file atomically."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)
