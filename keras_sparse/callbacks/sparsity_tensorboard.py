"""A callback that writes the masks and logs of a sparse training to TensorBoard."""

import os
from pathlib import Path

import keras
import numpy as np

from keras_sparse import backend
from keras_sparse.callbacks import event_file
from keras_sparse.callbacks.mask_history import MaskHistory
from keras_sparse.layers.traversal import masked_weights
from keras_sparse.report import mask_images
from keras_sparse.report.report import report
from keras_sparse.validation import check_not_negative_int, check_path, check_positive_int


class SparsityTensorBoard(keras.callbacks.Callback):
    """Writes statistics of each masked weight, and Keras's logs, for TensorBoard. Works on all backends.

    The files are written by the package tensorboard, without TensorFlow. The folder `log_dir/train` gets:

    - `density/LAYER`, `live/LAYER`, `macs/LAYER`; `dead_inputs/LAYER` and `dead_outputs/LAYER`, the number of units
      without a live weight; `dropped/LAYER` and `grown/LAYER`, the number of mask elements since the last entry;
      `explored/LAYER`, the fraction of mask elements that were ever live;
    - the same for all masked weights together, with `network` instead of the layer;
    - `live_weights/LAYER`, histograms of the live weights;
    - images, light where weights are live: `connectivity/LAYER`, the number of live weights of each pixel, for a dense
      first layer on images; `windows/LAYER`, the kernels of a first layer that is a convolution; `masks/LAYER` for
      other layers, with a row for each input and a column for each output unit, downsampled if they are large;
    - `network/NAME` for each entry of `method.logs()`, such as the threshold of `DynamicSparse`;
    - `epoch_NAME` for each entry of the epoch's logs, as `keras.callbacks.TensorBoard` writes it. Entries `val_NAME`
      are written to `log_dir/validation`, where `evaluation_NAME_vs_iterations` has the metrics of each evaluation.

    Hyperparameters are in a file of `log_dir` itself. `log_dir/explored.npz` has what a resumed run needs.

    The callback may be anywhere in the list of callbacks, since it reads the model itself. DeepR changes masks inside
    of the compiled steps; its changes are seen at each entry only. For a model without masked weights, only logs are
    written.

    Args:
        log_dir: str or path, folder of the event files of one run. A run that is resumed with `initial_epoch` adds to
            them.
        update_freq: "epoch" for one entry an epoch, or int of at least 1, the number of optimizer steps between
            entries, which are then numbered by steps.
        histogram_freq: int of at least 0, epochs between histograms; 0 for none.
        image_freq: int of at least 0, epochs between images; 0 for none. The last epoch has images, too.
        hparams: dict of str to bool, number or str, hyperparameters for the HParams tab of TensorBoard, which compares
            runs. Entries with the value None are omitted.
        write_logs: bool, whether to write the epoch's logs. False avoids writing them twice if
            `keras.callbacks.TensorBoard` is used as well.

    Raises:
        ImportError: if the package tensorboard cannot be imported.
        ValueError: if an argument is out of range.
        TypeError: if `log_dir` is not a path.

    Example:

    ```python
    method = keras_sparse.DynamicSparse(fraction=0.1, period=100)
    model.fit(x, y, epochs=5, callbacks=[method, keras_sparse.SparsityTensorBoard("logs")])
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        update_freq: str | int = "epoch",
        histogram_freq: int = 1,
        image_freq: int = 10,
        hparams: dict | None = None,
        write_logs: bool = True,
    ):
        super().__init__()
        if error := event_file.import_error():
            raise ImportError(f"SparsityTensorBoard needs the package tensorboard ({error}): pip install tensorboard")
        check_path(log_dir, "log_dir")
        if update_freq != "epoch":
            check_positive_int(update_freq, "update_freq")
        for name, value in (("histogram_freq", histogram_freq), ("image_freq", image_freq)):
            check_not_negative_int(value, name)
        known = (bool, int, float, str, np.number, type(None))
        if not isinstance(hparams or {}, dict) or not all(isinstance(v, known) for v in (hparams or {}).values()):
            raise ValueError(f"`hparams` must be a dict of str to bool, number or str. Received: hparams={hparams!r}.")
        self.log_dir = Path(log_dir)
        self.update_freq, self.write_logs = update_freq, write_logs
        self.histogram_freq, self.image_freq = histogram_freq, image_freq
        self.hparams = {k: v for k, v in (hparams or {}).items() if v is not None}
        self._train, self._validation = (event_file.EventFile(self.log_dir / x) for x in ("train", "validation"))
        self._hparams_file = event_file.EventFile(self.log_dir)
        self._history = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Records the initial masks, and writes the hyperparameters."""
        self._history = MaskHistory(self.model, self.params)
        self._started = False
        self._last_logs = None  # (epoch, logs, names already written) of the last epoch
        self._last_image_step = None
        if self.hparams:
            self._hparams_file.append([event_file.hparams_start(self.hparams)], 0)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Writes logs that later callbacks added. In the first epoch of a resumed run, restores the history."""
        self._write_added_logs()
        if not self._started:
            # Another callback may have restored a checkpoint since `on_train_begin`.
            self._steps = self._optimizer_steps()
            if epoch:
                self._history = MaskHistory(self.model, self.params)
                self._history.load(self._history_path, epoch)
        self._started = True
        self._record_update()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Records the update after the previous batch, and writes the entry that is due after it.

        It is not done in `on_train_batch_end`, since Keras would then wait for the metrics of every batch.
        """
        self._follow(batch)

    def on_test_end(self, logs: dict | None = None) -> None:
        """Writes the metrics of the evaluation by optimizer step."""
        if self.write_logs:
            scalars = {f"evaluation_{name}_vs_iterations": value for name, value in (logs or {}).items()}
            self._validation.append(_scalar_summaries(scalars), self._optimizer_steps())

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the entry, logs, histograms and images of the epoch."""
        self._follow()
        step = epoch if self.update_freq == "epoch" else self._optimizer_steps()
        if self.update_freq == "epoch":
            self._write_entry(step)
        self._write_logs(epoch, logs or {})
        self._last_logs = epoch, logs or {}, set(logs or {})
        weights = masked_weights(self.model)
        if self.histogram_freq and not epoch % self.histogram_freq:
            self._train.append([_histogram(w) for w in weights], step)
        if self.image_freq and not epoch % self.image_freq:
            self._write_images(step)
        if weights:
            self._history.save(self._history_path, epoch + 1)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Writes the final logs and images, and the end of the run."""
        if self._last_logs is not None:
            step = self._last_logs[0] if self.update_freq == "epoch" else self._optimizer_steps()
            self._write_added_logs()
            if self.image_freq and self._last_image_step != step:
                self._write_images(step)
        if self.hparams:
            self._hparams_file.append([event_file.hparams_end()], 0)
        self._history = None

    @property
    def _history_path(self):
        """The file with the state of the `MaskHistory`, which a resumed run restores."""
        return self.log_dir / "explored.npz"

    def _optimizer_steps(self):
        optimizer = backend.inner_optimizer(self.model.optimizer)
        return int(keras.ops.convert_to_numpy(optimizer.iterations))

    def _follow(self, batches=None):
        """Lets the method make the update that is due after `batches` batches, None for the epoch, and records it.

        Writes an entry if `update_freq` steps have passed.
        """
        self._record_update()  # made by a later callback in `on_epoch_begin`
        if (method := self._history.method) is not None:
            method.catch_up(batches)
        self._record_update()
        if self.update_freq == "epoch" or batches == 0:
            return
        steps = self._optimizer_steps()
        if steps // self.update_freq > self._steps // self.update_freq:
            self._write_entry(steps)
        self._steps = steps

    def _record_update(self):
        if self._history.has_update:
            self._history.record(self.model)

    def _write_entry(self, step):
        """Writes the statistics of the masked weights."""
        model, history = self.model, self._history
        if not masked_weights(model):
            return
        history.record(model)
        sizes = [w.mask.size for w in masked_weights(model)]
        scalars = _mask_scalars(report(model), history.dropped, history.grown, history.explored, sizes)
        history.restart_counts()
        method = history.method
        if method is not None:
            scalars |= {f"network/{name}": value for name, value in method.logs().items()}
        self._train.append(_scalar_summaries(scalars), step)

    def _write_logs(self, epoch, logs):
        if not self.write_logs:
            return
        prefix = "val_"
        train = {f"epoch_{k}": v for k, v in logs.items() if not k.startswith(prefix)}
        validation = {f"epoch_{k.removeprefix(prefix)}": v for k, v in logs.items() if k.startswith(prefix)}
        self._train.append(_scalar_summaries(train), epoch)
        self._validation.append(_scalar_summaries(validation), epoch)

    def _write_added_logs(self):
        """Writes entries that later callbacks added to the logs of the last epoch. All callbacks share one dict."""
        if self._last_logs is not None:
            epoch, logs, written = self._last_logs
            self._write_logs(epoch, {k: v for k, v in logs.items() if k not in written})
        self._last_logs = None

    def _write_images(self, step):
        self._last_image_step = step
        summaries = []
        for i, weight in enumerate(masked_weights(self.model)):
            tag, matrix = mask_images.first_layer_image(self.model, weight) if i == 0 else (None, None)
            if matrix is None:
                tag, matrix = "masks", mask_images.downsample(mask_images.mask_matrix(weight))
            summaries.append(event_file.image(f"{tag}/{weight.path}", mask_images.encode_png(matrix)))
        self._train.append(summaries, step)


def _mask_scalars(statistics, dropped, grown, explored, sizes):
    """Returns statistics of each masked weight and of all together, a dict from tag to number.

    Args:
        statistics: `Report`, what `keras_sparse.report` returns.
        dropped: array of ints, mask elements dropped in each masked weight since the last entry.
        grown: array of ints, mask elements grown in each masked weight since the last entry.
        explored: list of floats, the fraction of mask elements of each masked weight that were ever live.
        sizes: list of ints, the number of mask elements of each masked weight.
    """
    scalars, network = {}, dict.fromkeys(("live", "dropped", "grown", "dead_inputs", "dead_outputs"), 0)
    for row, *changes, fraction in zip(statistics.layers, dropped, grown, explored, strict=True):
        counts = dict(zip(network, (row.live, *changes, row.dead_inputs, row.dead_outputs), strict=True))
        network = {name: network[name] + value for name, value in counts.items()}
        of_layer = {"density": row.density, "explored": fraction, "macs": row.macs, **counts}
        scalars |= {f"{name}/{row.name}": value for name, value in of_layer.items()}
    network |= {
        "density": 1 - statistics.sparsity,
        "explored": np.average(explored, weights=sizes),
        "macs": statistics.macs,
    }
    return scalars | {f"network/{name}": value for name, value in network.items()}


def _scalar_summaries(values):
    """Returns the summaries of a dict from tag to number. Unknown numbers, which are None, are omitted.

    Of an array, such as the `F1Score` of each class, each number has a tag: "f1_score/0" and so on.
    """
    known = {tag: np.asarray(value) for tag, value in values.items() if value is not None}
    parts = [(f"{tag}/{i}" if x.ndim else tag, n) for tag, x in known.items() for i, n in enumerate(x.ravel())]
    return [event_file.scalar(tag, n) for tag, n in parts]


def _histogram(weight):
    """Returns the summary of the histogram of the live weights."""
    return event_file.histogram(f"live_weights/{weight.path}", backend.read(weight.variable)[weight.live()])
