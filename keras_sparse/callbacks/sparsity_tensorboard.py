"""What happens to the masks of a network while it trains, for TensorBoard."""

from pathlib import Path

import keras
import numpy as np

from keras_sparse import backend
from keras_sparse.callbacks import event_file
from keras_sparse.callbacks.mask_history import MaskHistory
from keras_sparse.layers.traversal import masked_weights
from keras_sparse.report import pictures
from keras_sparse.report.report import report
from keras_sparse.validation import check_positive_int


class SparsityTensorBoard(keras.callbacks.Callback):
    """Writes what becomes of each masked weight, and what Keras logs, for TensorBoard; on any backend.

    TensorFlow is not needed: the package tensorboard writes the files. `log_dir/train` gets:

    - `density/LAYER`, `live/LAYER`, `macs/LAYER`, `dead_inputs/LAYER`, `dead_outputs/LAYER` (units without a live
      weight), `dropped/LAYER` and `grown/LAYER` (mask elements since the last entry) and `explored/LAYER` (the part of
      the positions that was ever live);
    - the same of all masked weights together, under `network/`;
    - `live_weights/LAYER`, histograms of the live weights only;
    - pictures, light where weights live: `connectivity/LAYER`, how many live weights each pixel has, of a first layer
      on images, `windows/LAYER` of its windows if it is a convolution, and `masks/LAYER` of the others, inputs
      downwards and outputs to the right, large ones reduced;
    - `epoch_NAME` of each entry of the epoch's logs, as `keras.callbacks.TensorBoard` does, and so does
      `log_dir/validation` of the entries `val_NAME`.

    It reads the model itself, so that its place among the callbacks does not matter. Of DeepR, which rewires inside of
    the compiled steps, it sees the masks at each entry only. A model without masked weights has its logs written.

    Args:
        log_dir: folder of this run's files. A run that goes on with `initial_epoch` adds to them.
        update_freq: "epoch" for an entry an epoch, or an int, a number of optimizer steps; entries then count steps.
        histogram_freq: int, epochs between histograms; 0 for none.
        image_freq: int, epochs between pictures, of which the last epoch has one, too; 0 for none.
        hparams: dict of str to bool, number or str, the settings of the run, by which TensorBoard compares runs; None
            values are left out.
        write_logs: bool, whether the epoch's logs are written; False beside `keras.callbacks.TensorBoard`.

    Raises:
        ImportError: if the package tensorboard cannot be imported.
        ValueError: if an argument is out of its range.

    Example:

    ```python
    method = keras_sparse.DynamicSparse(fraction=0.1, period=100)
    model.fit(x, y, epochs=5, callbacks=[method, keras_sparse.SparsityTensorBoard("logs")])
    ```
    """

    def __init__(self, log_dir, update_freq="epoch", histogram_freq=1, image_freq=10, hparams=None, write_logs=True):
        super().__init__()
        if event_file.problem():
            raise ImportError(
                f"SparsityTensorBoard needs the package tensorboard ({event_file.problem()}): pip install tensorboard"
            )
        if update_freq != "epoch":
            check_positive_int(update_freq, "update_freq")
        for name, value in (("histogram_freq", histogram_freq), ("image_freq", image_freq)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"`{name}` must be an int of at least 0, of epochs. Received: {name}={value!r}.")
        self.log_dir = Path(log_dir)
        self.update_freq, self.write_logs = update_freq, write_logs
        self.histogram_freq, self.image_freq = histogram_freq, image_freq
        self.hparams = {k: v for k, v in (hparams or {}).items() if v is not None}
        self._train, self._validation = (event_file.EventFile(self.log_dir / x) for x in ("train", "validation"))
        self._run = event_file.EventFile(self.log_dir)
        self._history = None

    def on_train_begin(self, logs=None):
        """Takes down the masks as they are, and the settings of the run."""
        self._history = MaskHistory(self.model, self.params)
        self._begun = False
        self._late = self._due = None
        self._written = [0] * len(self._history.dropped), [0] * len(self._history.grown)
        self._steps = self._steps_of_optimizer()
        self._pictured = None
        if self.hparams:
            self._run.append([event_file.hparams(self.hparams)], 0)

    def on_epoch_begin(self, epoch, logs=None):
        """Writes what callbacks after this one have added to the logs; at first, goes on from an earlier run."""
        self._write_late()
        if not self._begun and epoch:
            self._history = MaskHistory(self.model, self.params)  # of weights that were restored meanwhile
            self._history.load(self._state, epoch)
        self._begun = True
        self._look()

    def on_train_batch_begin(self, batch, logs=None):
        """Counts an update that a method after this one has made, and makes the entry that is due."""
        self._look()
        self._write_due()

    def on_train_batch_end(self, batch, logs=None):
        """Counts an update; an entry by steps is due now, and made when all callbacks have had their turn."""
        self._look()
        if self.update_freq == "epoch":
            return
        steps = self._steps_of_optimizer()
        if steps // self.update_freq > self._steps // self.update_freq:
            self._due = steps
        self._steps = steps

    def on_test_end(self, logs=None):
        """Writes the test's metrics by optimizer step."""
        if self.write_logs:
            scalars = {f"evaluation_{name}_vs_iterations": value for name, value in (logs or {}).items()}
            self._validation.append(_scalars(scalars), self._steps_of_optimizer())

    def on_epoch_end(self, epoch, logs=None):
        """Makes the epoch's entry."""
        step = epoch if self.update_freq == "epoch" else self._steps_of_optimizer()
        if self.update_freq == "epoch":
            self._due = step
        self._write_due()
        self._write_logs(epoch, logs or {})
        self._late = epoch, logs or {}, set(logs or {})
        weights = masked_weights(self.model)
        if self.histogram_freq and not epoch % self.histogram_freq:
            self._train.append([_histogram(w) for w in weights], step)
        if self.image_freq and not epoch % self.image_freq:
            self._write_pictures(step)
        if weights:
            self._history.save(self._state, epoch + 1)

    def on_train_end(self, logs=None):
        """Writes what is left, the pictures of the end, and that the run has ended."""
        if self._late is not None:
            step = self._late[0] if self.update_freq == "epoch" else self._steps_of_optimizer()
            self._write_late()
            if self.image_freq and self._pictured != step:
                self._write_pictures(step)
        if self.hparams:
            self._run.append([event_file.end()], 0)
        self._history = None

    @property
    def _state(self):
        """The file of what was live before, which a run that goes on needs."""
        return self.log_dir / "explored.npz"

    def _steps_of_optimizer(self):
        optimizer = backend.inner_optimizer(self.model.optimizer)
        return int(keras.ops.convert_to_numpy(optimizer.iterations))

    def _look(self):
        if self._history.news:
            self._history.look(self.model)

    def _write_due(self):
        step, self._due = self._due, None
        model, history = self.model, self._history
        if step is None or not masked_weights(model):
            return
        history.look(model)
        counts = list(history.dropped), list(history.grown)
        moved = [np.subtract(*x) for x in zip(counts, self._written, strict=True)]
        self._written = counts
        scalars = _of_masks(report(model), *moved, history.explored)
        method = history.method
        if method is not None:
            scalars |= {f"network/{name}": value for name, value in method.logs().items()}
        self._train.append(_scalars(scalars), step)

    def _write_logs(self, epoch, logs):
        if not self.write_logs:
            return
        prefix = "val_"
        train = {f"epoch_{k}": v for k, v in logs.items() if not k.startswith(prefix)}
        tests = {f"epoch_{k.removeprefix(prefix)}": v for k, v in logs.items() if k.startswith(prefix)}
        self._train.append(_scalars(train), epoch)
        self._validation.append(_scalars(tests), epoch)

    def _write_late(self):
        """Writes the entries of the logs, one dict for all callbacks, that were not there at this one's turn."""
        if self._late is not None:
            epoch, logs, known = self._late
            self._write_logs(epoch, {k: v for k, v in logs.items() if k not in known})
        self._late = None

    def _write_pictures(self, step):
        self._pictured = step
        summaries = []
        for i, weight in enumerate(masked_weights(self.model)):
            tag, matrix = pictures.of_first(self.model, weight) if i == 0 else (None, None)
            if matrix is None:
                tag, matrix = "masks", pictures.reduced(pictures.mask_matrix(weight))
            summaries.append(event_file.image(f"{tag}/{weight.path}", pictures.png(matrix)))
        self._train.append(summaries, step)


def _of_masks(made, dropped, grown, explored):
    """The scalars of a `Report`'s masked weights, with what was moved and explored of each, and of all together."""
    scalars, network = {}, dict.fromkeys(("live", "dropped", "grown", "dead_inputs", "dead_outputs"), 0)
    for row, *moved, part in zip(made.layers, dropped, grown, explored, strict=True):
        sums = dict(zip(network, (row.live, *moved, row.dead_inputs, row.dead_units), strict=True))
        network = {name: network[name] + value for name, value in sums.items()}
        of_layer = {"density": row.density, "explored": part, "macs": row.macs, **sums}
        scalars |= {f"{name}/{row.name}": value for name, value in of_layer.items()}
    sizes = [row.weights for row in made.layers]
    network |= {"density": 1 - made.sparsity, "explored": np.average(explored, weights=sizes), "macs": made.macs}
    return scalars | {f"network/{name}": value for name, value in network.items()}


def _scalars(values):
    return [event_file.scalar(tag, value) for tag, value in values.items() if value is not None]


def _histogram(weight):
    mask = np.broadcast_to(weight.mask.numpy(), weight.shape)
    return event_file.histogram(f"live_weights/{weight.path}", backend.read(weight.variable)[mask])
