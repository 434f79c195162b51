"""Tests that the TensorBoard logs of the recipes equal those of Keras's callback."""

import keras
import pytest
from common import event_log
from nets import ready

import keras_sparse as ks

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
make_ndarray = pytest.importorskip("tensorboard.util.tensor_util").make_ndarray


def read(folder):
    """Reads a folder of logs: dict `{(part, tag): (list of (step, value), metadata)}`."""
    found = {}
    for part in sorted(p.name for p in folder.iterdir()):
        events = accumulator.EventAccumulator(str(folder / part)).Reload()
        for tag in events.Tags()["tensors"]:
            values = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
            found[part, tag] = (values, events.SummaryMetadata(tag).SerializeToString())
    return found


def fit(blobs, *logs, **arguments):
    model = ready()
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    callbacks = [ks.DynamicSparse(10, 5, threshold=0.05), rates, *logs]
    model.fit(*blobs, batch_size=8, verbose=0, callbacks=callbacks, **{"epochs": 3, **arguments})


def test_scalars_equal_those_that_keras_writes(blobs, tmp_path):
    pytest.importorskip("tensorflow")
    own = keras.callbacks.TensorBoard(tmp_path / "keras", write_graph=False)
    fit(blobs, own, event_log.EventLog(tmp_path / "ours"), validation_data=blobs)
    written = read(tmp_path / "ours")
    assert written == read(tmp_path / "keras")
    assert {t for part, t in written if part == "validation"} == {"epoch_loss", "evaluation_loss_vs_iterations"}
    train = {t for part, t in written if part == "train"}
    names = ("loss", "learning_rate", "sparsity", "threshold", "dropped", "grown")
    assert train == {f"epoch_{name}" for name in names}
    values, _ = written["train", "epoch_learning_rate"]
    assert values == [(0, pytest.approx(0.1)), (1, pytest.approx(0.05)), (2, pytest.approx(0.1 / 3))]
    assert [step for step, _ in written["validation", "evaluation_loss_vs_iterations"][0]] == [12, 24, 36]


def test_logs_are_on_the_disk_after_each_epoch(blobs, tmp_path):
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(len(read(tmp_path)["train", "epoch_loss"][0]))
    )
    fit(blobs, event_log.EventLog(tmp_path), look)
    assert seen == [1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["train"]  # There was no evaluation.


def test_a_resumed_run_appends_to_its_logs(blobs, tmp_path):
    fit(blobs, event_log.EventLog(tmp_path), epochs=2)
    fit(blobs, event_log.EventLog(tmp_path), initial_epoch=2, epochs=3)
    assert [step for step, _ in read(tmp_path)["train", "epoch_loss"][0]] == [0, 1, 2]


def test_a_full_disk_is_an_os_error(blobs, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            pass

        def write(self, record):
            raise OSError(28, "No space left on device")

    event, scalar_pb, _ = event_log._writing()
    monkeypatch.setattr(event_log, "_writing", lambda: (event, scalar_pb, Full))
    with pytest.raises(OSError, match="No space left"):
        fit(blobs, event_log.EventLog(tmp_path))
