"""Keras's callbacks, made safe for sparse training.

Those that look for a best epoch wait until the network is as sparse as it shall be: while it is pruned, its best epochs
are early ones, in which it is not sparse yet. And a backup survives a kill at any moment.
"""

import math
import os
import uuid
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_sparse.conversion import built_masked_layers
from keras_sparse.masks import check_sparsity
from keras_sparse.methods.zeros import clear


class _FromSparsity:
    """Mixin that keeps a callback out of epochs that end with a network less sparse than `from_sparsity`."""

    def __init__(self, *args, from_sparsity, **kwargs):
        check_sparsity(from_sparsity, "from_sparsity")
        super().__init__(*args, **kwargs)
        self.from_sparsity = from_sparsity
        self._reached = False

    def on_train_begin(self, logs=None):
        """Looks how sparse the network is."""
        if not built_masked_layers(self.model):
            raise ValueError(
                f"The model {self.model.name!r} has no masked layer, so that it never becomes as sparse as "
                f"from_sparsity={self.from_sparsity}. Make one with keras_sparse.sparsify, or take "
                f"keras.callbacks.{type(self).__name__}."
            )
        super().on_train_begin(logs)
        self._reached = is_as_sparse(self.model, self.from_sparsity)

    def on_train_batch_end(self, batch, logs=None):
        """Keras's, once the network is sparse enough."""
        if self._reached:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        """Keras's, once the network is sparse enough."""
        self._reached = self._reached or is_as_sparse(self.model, self.from_sparsity)
        if self._reached:
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        """Keras's; warns if the network was not sparse enough at any epoch's end."""
        super().on_train_end(logs)
        if not self._reached:
            warnings.warn(
                f"{type(self).__name__} has done nothing: no epoch ended with a network as sparse as "
                f"from_sparsity={self.from_sparsity}. Train until it is, or lower `from_sparsity`.",
                stacklevel=2,
            )


class EarlyStopping(_FromSparsity, keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping` that starts counting when the network is as sparse as `from_sparsity`.

    Put it after the sparse training method in the list of callbacks.

    Args:
        from_sparsity: float in [0, 1), the sparsity of all masked kernels together.
        *args: of `keras.callbacks.EarlyStopping`.
        **kwargs: of `keras.callbacks.EarlyStopping`.

    Raises:
        ValueError: if `from_sparsity` is not in [0, 1); in `fit`, if the model has no masked layer.
    """

    def on_train_end(self, logs=None):
        """Keras's; what the optimizer keeps of weights that died when others were restored goes, too."""
        super().on_train_end(logs)
        if self.restore_best_weights:
            clear(built_masked_layers(self.model), self.model.optimizer)


class ModelCheckpoint(_FromSparsity, keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that saves when the network is as sparse as `from_sparsity`, not before.

    Put it after the sparse training method in the list of callbacks.

    Args:
        from_sparsity: float in [0, 1), the sparsity of all masked kernels together.
        *args: of `keras.callbacks.ModelCheckpoint`.
        **kwargs: of `keras.callbacks.ModelCheckpoint`.

    Raises:
        ValueError: if `from_sparsity` is not in [0, 1); in `fit`, if the model has no masked layer.
    """


def is_as_sparse(model, sparsity):
    """Whether all masked kernels together have a sparsity, as near as whole weights in each layer allow."""
    layers = built_masked_layers(model)
    masks = [(x.kernel_mask.numpy(), math.prod(x.kernel_variable.shape)) for x in layers]
    units = [size // mask.size for mask, size in masks]
    live = sum(np.count_nonzero(mask) * unit for (mask, _), unit in zip(masks, units, strict=True))
    return live <= (1 - sparsity) * sum(size for _, size in masks) + sum(units)


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
            model._initial_epoch = self.epoch

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
        self.model._initial_epoch = None  # else the next `fit` would begin there
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
