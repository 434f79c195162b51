"""Tests what the Progress callback prints."""

import io

import keras
import pytest

import keras_sparse as ks
from common import progress
from nets import ready


def printed(blobs, epochs=4, **settings):
    stream = io.StringIO()
    callbacks = [ks.DynamicSparse(10, 5, threshold=0.05), progress.Progress(stream=stream, **settings)]
    history = ready().fit(*blobs, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks)
    return stream.getvalue(), history.history


def test_a_line_every_so_many_epochs_and_at_the_end(blobs):
    text, _ = printed(blobs, epochs=5, every=2)
    assert [line.split("  ")[0] for line in text.splitlines()] == ["epoch 2/5", "epoch 4/5", "epoch 5/5"]
    assert " left" in text.splitlines()[0]
    assert " left" not in text.splitlines()[-1]


def test_counts_are_integers_and_fractions_are_percentages(blobs):
    text, history = printed(blobs, epochs=1)
    assert f"dropped {round(history['dropped'][0])}  " in text
    assert f"sparsity {history['sparsity'][0]:.2%}  " in text
    assert "sparsity 60." in text


def test_the_line_erases_the_bar(blobs):
    text, _ = printed(blobs, epochs=2, bar=True)
    assert "[==" in text
    bar, line = text.split("\n")[0].rsplit("\r\x1b[K", 1)
    assert "[" not in line
    assert "epoch 1/2" in bar


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7384, "2 h 3 min")])
def test_durations(seconds, words):
    assert progress.format_duration(seconds) == words


def test_values():
    logs = {"loss": 0.12345, "val_accuracy": 0.9712, "dropped": 2302.0, "threshold": 1.25e-3, "learning_rate": 0.1}
    assert progress.format_logs(logs) == "loss 0.123  val_accuracy 97.12%  dropped 2302  threshold 0.00125  rate 0.1"


def test_a_resumed_run_begins_with_its_first_epoch(blobs):
    stream = io.StringIO()
    callback = progress.Progress(stream=stream)
    keras.utils.set_random_seed(1)
    ready().fit(*blobs, initial_epoch=2, epochs=4, verbose=0, callbacks=[ks.Static(), callback])
    assert stream.getvalue().startswith("epoch 3/4  ")
