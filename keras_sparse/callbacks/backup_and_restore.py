"""`keras.callbacks.BackupAndRestore` with atomic backups, which survive a kill at any time."""

import os
import shutil
from pathlib import Path

import keras

from keras_sparse import _keras, backend
from keras_sparse.atomic_write import UNFINISHED, atomic_write
from keras_sparse.layers.traversal import flatten
from keras_sparse.training.optimizer_state import build_optimizer

_SEEDS = "seed_generators"  # a group of the backup, which Keras does not read


class BackupAndRestore(keras.callbacks.Callback):
    """`keras.callbacks.BackupAndRestore` with atomic backups, which survive a kill at any time.

    Keras overwrites one file with the weights and another one with the epoch. A process that is killed while it writes
    leaves an incomplete file, or weights that do not belong to the epoch. This callback writes each backup into a new
    file, whose name has the number of completed epochs, and deletes the previous backup once the new one is complete.

    A backup holds weights, masks, optimizer state, the state of the sparse training method and, unlike weight files of
    Keras, that of the seed generators of layers such as Dropout. If the data depend on
    the epoch only, a run that is killed and resumed ends with bitwise the same weights as an uninterrupted run.

    Put it last in the list of callbacks, so that the backup includes what they do at the end of an epoch.

    Args:
        backup_dir: str or path, a folder with the backups of this run and of no other.
        delete_checkpoint: bool, whether the backup is deleted at the end of `fit`.

    Raises:
        ValueError: if `backup_dir` is not the path of a folder; in `fit`, if the model is not built, or the backup is
            damaged or belongs to another model.

    Example:

    ```python
    method = keras_sparse.DynamicSparse(prune_count=600, period=100)
    model.fit(x, y, epochs=90, callbacks=[method, keras_sparse.BackupAndRestore("backup")])
    ```
    """

    def __init__(self, backup_dir: str | os.PathLike, *, delete_checkpoint: bool = True):
        super().__init__()
        if not isinstance(backup_dir, (str, os.PathLike)) or Path(backup_dir).is_file():
            raise ValueError(
                f"`backup_dir` must be the path of a folder, which need not exist. Received: {backup_dir!r}."
            )
        self.backup_dir = Path(backup_dir)
        self.delete_checkpoint = delete_checkpoint

    @property
    def epoch(self) -> int:
        """Number of completed epochs in the last backup; 0 if there is no backup."""
        return max((int(path.name.split(".")[0]) for path in self._backups()), default=0)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Restores the last backup, if there is one, and makes `fit` start after its epochs."""
        model = self.model
        if not model.built:
            raise ValueError(
                f"The model {model.name!r} is not built, so that no backup can be restored. Call it once on a batch "
                "before `fit`, or start a Sequential model with keras.Input(shape)."
            )
        for unfinished in self.backup_dir.glob(f"{UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if self.epoch:
            build_optimizer(model)
            self._restore(self._path(self.epoch))
            _keras.begin_after(model, self.epoch)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Makes the next `fit` start at its first epoch, even if this one, which has started, is interrupted."""
        _keras.begin_after(self.model, None)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes a backup, and deletes the previous one."""
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path(epoch + 1)) as new:
            self.model.save_weights(new)
            _save_seeds(self.model, new)
        for path in self._backups():
            if path != self._path(epoch + 1):
                path.unlink(missing_ok=True)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Deletes the backup, if `delete_checkpoint` is set."""
        _keras.begin_after(self.model, None)  # There may have been no epoch left.
        if self.delete_checkpoint:
            for path in self._backups():
                path.unlink(missing_ok=True)

    def _restore(self, path):
        try:
            self.model.load_weights(path)
            _load_seeds(self.model, path)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"The backup {path} cannot be restored into the model {self.model.name!r}: it is damaged, or of "
                f"another model. Build the same model, or give another `backup_dir`. Received: {error}"
            ) from error

    def _backups(self):
        """Returns the paths of all complete backups."""
        paths = self.backup_dir.glob("*.epochs.weights.h5")
        return [path for path in paths if path.name.removesuffix(".epochs.weights.h5").isdecimal()]

    def _path(self, epochs):
        """Returns the path of the backup after so many completed epochs."""
        return self.backup_dir / f"{epochs}.epochs.weights.h5"


def _save_seeds(model, path):
    """Adds the state of the seed generators to a weight file."""
    import h5py

    with h5py.File(path, "a") as file:
        for i, state in enumerate(_seed_states(model)):
            file[f"{_SEEDS}/{i}"] = backend.read(state)


def _load_seeds(model, path):
    """Sets the state of the seed generators to that in a weight file."""
    import h5py

    with h5py.File(path) as file:
        for i, state in enumerate(_seed_states(model)):
            state.assign(file[f"{_SEEDS}/{i}"][()])


def _seed_states(model):
    """Returns the variables of the seed generators of all layers, each once."""
    states = {id(x): x.state for layer in (model, *flatten(model)) for x in _keras.seed_generators(layer)}
    return list(states.values())
