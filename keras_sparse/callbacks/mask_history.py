"""What becomes of the masks of a model while it trains: what was dropped and grown, and what was ever live."""

import weakref
import zipfile
from pathlib import Path

import numpy as np

from keras_sparse.layers.traversal import masked_weights
from keras_sparse.training import checks


class MaskHistory:
    """Follows the masks of a model through a `fit`.

    Ask at each batch whether there is `news`, and `look` if so: what was dropped and grown is counted update by update,
    whatever the order of the callbacks. A method that acts inside of the compiled steps, such as DeepR, makes no news,
    and is seen at other looks only: what died and came back in between is not counted.

    Args:
        model: the `keras.Model`, built.
        params: `keras.callbacks.Callback.params` of the `fit`; None outside of one.

    Attributes:
        dropped: list of ints, mask elements dropped in each masked weight so far.
        grown: list of ints, grown likewise.
    """

    def __init__(self, model, params=None):
        self._model, self._params = weakref.ref(model), params
        self._updates = 0
        self._live = [w.mask.numpy() for w in masked_weights(model)]
        self._ever = [mask.copy() for mask in self._live]
        self.dropped, self.grown = [0] * len(self._live), [0] * len(self._live)

    @property
    def explored(self) -> list[float]:
        """What part of the positions of each masked weight was ever live."""
        return [float(mask.mean()) for mask in self._ever]

    @property
    def news(self) -> bool:
        """Whether the method has made an update since the last look; nothing is read from a device to tell."""
        return self._updates_of_method() != self._updates

    def look(self, model):
        """Counts what has changed in the masks of the model, which must have the values of now."""
        self._updates = self._updates_of_method()
        for i, weight in enumerate(masked_weights(model)):
            before, now = self._live[i], weight.mask.numpy()
            changed = before != now
            grown = int(np.count_nonzero(changed & now))
            self.grown[i] += grown
            self.dropped[i] += int(np.count_nonzero(changed)) - grown
            if grown:
                self._ever[i] |= now
            self._live[i] = now

    @property
    def method(self):
        """The `SparseMethod` that trains the model in this `fit`; None if there is none, or it has not begun."""
        params, method = checks._owners.get(self._model(), (None, lambda: None))
        return method() if params is self._params else None

    def _updates_of_method(self):
        method = self.method
        return 0 if method is None else method._updates

    def save(self, path, epoch):
        """Writes, at once or not at all, what a run needs that goes on after so many epochs."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"live_{i}": np.packbits(x) for i, x in enumerate(self._live)}
        arrays |= {f"ever_{i}": np.packbits(x) for i, x in enumerate(self._ever)}
        new = path.with_name(path.name + ".new")
        with new.open("wb") as file:
            np.savez(file, epoch=epoch, **arrays)
        new.replace(path)

    def load(self, path, epoch):
        """Goes on from what `save` has written, if it is there and of such masks."""
        try:
            with Path(path).open("rb") as file, np.load(file) as arrays:
                saved = dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile):
            return
        for name, masks in (("ever", self._ever), ("live", self._live)):
            # After a run was killed the file may be an epoch ahead: what lived then lives again.
            if name == "live" and saved["epoch"] != epoch:
                return
            for i, mask in enumerate(masks):
                bits = saved.get(f"{name}_{i}")
                if bits is None or len(bits) != -(-mask.size // 8):
                    return
                masks[i] = np.unpackbits(bits, count=mask.size).reshape(mask.shape).astype(bool)
