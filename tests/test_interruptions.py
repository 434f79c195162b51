"""Tests that Ctrl-C stops at the end of a step and is never lost; tests/test_kill.py tests it in whole runs."""

import contextlib
import os
import signal
import time

import keras
import pytest

from common.interruptions import CtrlC
from nets import mlp, ready


@pytest.fixture(autouse=True)
def _as_in_a_terminal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)  # Python handles signals between two instructions.


class Press(keras.callbacks.Callback):
    """Sends Ctrl-C before the third batch, and records the batches that end."""

    def __init__(self, times=1):
        super().__init__()
        self.times, self.ended = times, []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            for _ in range(self.times):
                press_ctrl_c()

    def on_train_batch_end(self, batch, logs=None):
        self.ended.append(batch)


def fit(blobs, *callbacks):
    ready(mlp).fit(*blobs, batch_size=8, callbacks=callbacks, verbose=0)


@pytest.mark.parametrize(("times", "ended"), [(1, [0, 1, 2]), (2, [0, 1])], ids=["once", "twice"])
def test_training_stops_at_the_end_of_the_step_or_at_once_if_pressed_again(blobs, capfd, times, ended):
    press = Press(times)
    with pytest.raises(KeyboardInterrupt), CtrlC() as ctrl_c:
        fit(blobs, ctrl_c, press)
    assert press.ended == ended
    assert "Stopping after this step or test. To stop at once, press Ctrl-C again." in capfd.readouterr().err


def test_an_interrupt_lost_before_training_stops_it_later(blobs):
    look = Press(times=0)
    with CtrlC() as ctrl_c:
        with contextlib.suppress(KeyboardInterrupt):
            press_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            fit(blobs, look, ctrl_c)
    assert look.ended == []


def test_ctrl_c_raises_at_once_outside_training(blobs):
    before = signal.getsignal(signal.SIGINT)
    with CtrlC() as ctrl_c:
        fit(blobs, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_that_ignores_sigint_keeps_ignoring_it(blobs):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    press = Press()
    with CtrlC() as ctrl_c:
        fit(blobs, press, ctrl_c)
    assert len(press.ended) == 12
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
