"""`keras.callbacks.BackupAndRestore` whose backup no kill can spoil."""

import os
import uuid
from pathlib import Path

import keras

from keras_sparse import _keras


class BackupAndRestore(keras.callbacks.Callback):
    """`keras.callbacks.BackupAndRestore` whose backup no kill can spoil.

    Keras writes weights and epoch into two files, in place; a process that dies meanwhile leaves half a file, or
    weights that do not belong to the epoch. Here a backup is one file, named after the epochs it has behind it, and
    the one before is deleted when it is complete. It holds weights, masks, optimizer state and what the sparse
    training method remembers: with data that depend on the epoch only, a run killed and started again ends with the
    same bits.

    Put it last in the list of callbacks, so that their work at the end of an epoch is in the backup.

    Args:
        backup_dir: folder of this run's backups only.
        delete_checkpoint: whether the backup is deleted when `fit` has come to its end.

    Raises:
        ValueError: if `backup_dir` is no path of a folder; in `fit`, if the model is not built, or the backup is
            damaged or of another model.

    Example:

    ```python
    method = keras_sparse.DynamicSparse(prune_count=600, period=100)
    model.fit(x, y, epochs=90, callbacks=[method, keras_sparse.BackupAndRestore("backup")])
    ```
    """

    def __init__(self, backup_dir, delete_checkpoint=True):
        super().__init__()
        if not isinstance(backup_dir, (str, os.PathLike)) or Path(backup_dir).is_file():
            raise ValueError(f"`backup_dir` must be a folder, which may be missing. Received: {backup_dir!r}.")
        self.backup_dir = Path(backup_dir)
        self.delete_checkpoint = delete_checkpoint

    @property
    def epoch(self):
        """How many epochs the last backup has behind it; 0 if there is none."""
        return max((int(path.name.split(".")[0]) for path in self._backups()), default=0)

    def on_train_begin(self, logs=None):
        """Restores the last backup, if there is one, and lets `fit` begin after its epochs."""
        model = self.model
        if not model.built:
            raise ValueError(
                f"The model {model.name!r} is not built, so that no backup can be restored. Call it once on a batch "
                "before `fit`, or start a Sequential model with keras.Input(shape)."
            )
        for unfinished in self.backup_dir.glob("*.new.weights.h5"):
            unfinished.unlink(missing_ok=True)
        if self.epoch:
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            self._restore(self._path(self.epoch))
            _keras.begin_after(model, self.epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Makes a backup."""
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        new = self.backup_dir / f"{uuid.uuid4()}.new.weights.h5"
        try:
            self.model.save_weights(new)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(self._path(epoch + 1))
        finally:
            new.unlink(missing_ok=True)
        for path in self._backups():
            if path != self._path(epoch + 1):
                path.unlink(missing_ok=True)

    def on_train_end(self, logs=None):
        """Deletes the backup."""
        _keras.begin_after(self.model, None)  # else the next `fit` would begin there
        if self.delete_checkpoint:
            for path in self._backups():
                path.unlink(missing_ok=True)

    def _restore(self, path):
        try:
            self.model.load_weights(path)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"The backup {path} cannot be restored into the model {self.model.name!r}: it is damaged, or of "
                f"another model. Build the model as it was, or give another `backup_dir`. Received: {error}"
            ) from error

    def _backups(self):
        paths = self.backup_dir.glob("*.epochs.weights.h5")
        return [path for path in paths if path.name.removesuffix(".epochs.weights.h5").isdecimal()]

    def _path(self, epochs):
        return self.backup_dir / f"{epochs}.epochs.weights.h5"
