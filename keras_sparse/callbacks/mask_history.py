"""Records which mask elements were dropped, grown and ever live during training."""

import weakref
import zipfile
from pathlib import Path

import numpy as np

from keras_sparse.atomic_write import atomic_write
from keras_sparse.layers.traversal import masked_weights
from keras_sparse.training.active_method import method_in_fit


class MaskHistory:
    """Counts the dropped and grown mask elements of a model during `fit`.

    Call `record` after each update, that is, whenever `has_update` is True. Methods that act inside of the compiled
    steps, such as DeepR, set no `has_update`. Their changes are counted from one call of `record` to the next, without
    elements that were dropped and grown again in between.

    Args:
        model: a built `keras.Model`. The initial masks are those at the time of this call.
        params: dict, `params` of a `keras.callbacks.Callback` in this `fit`; None outside of `fit`.

    Attributes:
        dropped: int array, the number of mask elements dropped in each masked weight since `restart_counts`.
        grown: int array, the number of mask elements grown in each masked weight since `restart_counts`.
    """

    def __init__(self, model, params=None):
        self._model, self._params = weakref.ref(model), params
        self._recorded_updates = 0
        self._live = [w.mask.numpy() for w in masked_weights(model)]
        self._ever_live = [mask.copy() for mask in self._live]
        self.restart_counts()

    def restart_counts(self):
        """Counts the dropped and grown mask elements from 0 again."""
        self.dropped, self.grown = (np.zeros(len(self._live), int) for _ in range(2))

    @property
    def explored(self) -> list[float]:
        """The fraction in [0, 1] of the mask elements of each masked weight that were ever live."""
        return [float(mask.mean()) for mask in self._ever_live]

    @property
    def has_update(self) -> bool:
        """Whether the method has made an update since the last `record`. This reads nothing from a device."""
        return self._updates_of_method() != self._recorded_updates

    def record(self, model):
        """Counts the mask elements that were dropped and grown since the last call.

        Args:
            model: the `keras.Model`.
        """
        self._recorded_updates = self._updates_of_method()
        for i, weight in enumerate(masked_weights(model)):
            before, now = self._live[i], weight.mask.numpy()
            changed = before != now
            grown = int(np.count_nonzero(changed & now))
            self.grown[i] += grown
            self.dropped[i] += int(np.count_nonzero(changed)) - grown
            if grown:
                self._ever_live[i] |= now
            self._live[i] = now

    @property
    def method(self):
        """The `SparseMethod` that trains the model in this `fit`; None if there is none, or it has not started."""
        return method_in_fit(self._model(), self._params)

    def _updates_of_method(self):
        method = self.method
        return 0 if method is None else method.updates_in_fit

    def save(self, path, epoch):
        """Saves which mask elements are live and ever were, and the counts, so that a resumed run continues them.

        The file is replaced atomically.

        Args:
            path: str or `pathlib.Path`, of an .npz file.
            epoch: int, the number of completed epochs.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"live_{i}": np.packbits(x) for i, x in enumerate(self._live)}
        arrays |= {f"ever_{i}": np.packbits(x) for i, x in enumerate(self._ever_live)}
        with atomic_write(path) as new, new.open("wb") as file:
            sizes = [mask.size for mask in self._live]
            np.savez(file, epoch=epoch, sizes=sizes, dropped=self.dropped, grown=self.grown, **arrays)

    def load(self, path, epoch):
        """Restores what `save` has written, if the file exists, is complete, and belongs to masks of these sizes.

        Args:
            path: str or `pathlib.Path`.
            epoch: int, the number of completed epochs.
        """
        try:
            with Path(path).open("rb") as file, np.load(file) as saved:
                sizes = saved["sizes"].tolist()
                if sizes != [mask.size for mask in self._live]:
                    return
                bits = {n: [saved[f"{n}_{i}"] for i in range(len(sizes))] for n in ("ever", "live")}
                same_epoch = saved["epoch"] == epoch
                counts = [saved[n] if n in saved else np.zeros(len(sizes), int) for n in ("dropped", "grown")]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return
        self._ever_live = self._unpacked(bits["ever"])
        # The file may be an epoch ahead of the checkpoint of a killed run. The resumed run repeats that epoch, so that
        # `ever` is still valid, but `live` is not the mask of the restored model.
        if same_epoch:
            self._live = self._unpacked(bits["live"])
            self.dropped, self.grown = counts

    def _unpacked(self, bits):
        """Returns masks of the shapes of this model's, from arrays that `numpy.packbits` made."""
        pairs = zip(bits, self._live, strict=True)
        return [np.unpackbits(x, count=mask.size).reshape(mask.shape).astype(bool) for x, mask in pairs]
