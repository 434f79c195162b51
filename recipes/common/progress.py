"""What a run shows while it trains: a bar on a terminal, and lines that stay."""

import sys
import time

import keras

SHARES = ("accuracy", "sparsity")  # shown as percentages
COUNTS = ("dropped", "grown")
NAMES = {"learning_rate": "rate"}


class Progress(keras.callbacks.Callback):
    """Shows the epoch's logs, which Keras's bar shows as numbers with four decimals, as what they are.

    Put it after the callbacks that add to the logs.

    Args:
        every: int, epochs between two lines; the last epoch has one, too.
        bar: whether to draw a bar within an epoch, which is wiped out at its end; None for where it is a terminal.
        stream: where to; None for the standard output.
    """

    def __init__(self, every=1, bar=None, stream=None):
        super().__init__()
        self._every, self._stream = every, stream or sys.stdout
        self._bar = self._stream.isatty() if bar is None else bar
        self._begun = self._drawn = 0.0
        self._first = None

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        if self._first is None:
            self._first, self._begun = epoch, time.perf_counter()
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Draws the bar, ten times a second at most."""
        if not self._bar or time.perf_counter() - self._drawn < 0.1:
            return
        self._drawn, steps = time.perf_counter(), self.params["steps"]
        done = round(20 * (batch + 1) / steps)
        left = self._left(self._epoch + (batch + 1) / steps)
        self._write(f"\r{self._head()} [{'=' * done}{'.' * (20 - done)}] {described(logs or {})}{left}\x1b[K")

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's line, if it has one."""
        last = epoch + 1 == self.params["epochs"]
        if (epoch + 1) % self._every and not last:
            return
        left = "" if last else self._left(epoch + 1)
        wiped = "\r\x1b[K" if self._bar else ""
        self._write(f"{wiped}{self._head()}  {described(logs or {})}{left}\n")

    def on_train_end(self, logs=None):
        """Wipes the bar out."""
        if self._bar:
            self._write("\r\x1b[K")

    def _head(self):
        epochs = str(self.params["epochs"])
        return f"epoch {self._epoch + 1:>{len(epochs)}}/{epochs}"

    def _left(self, epochs):
        taken, done = time.perf_counter() - self._begun, epochs - self._first
        return f"  {duration(taken / done * (self.params['epochs'] - epochs))} left"

    def _write(self, text):
        self._stream.write(text)
        self._stream.flush()


def described(logs):
    """An epoch's logs in words.

    >>> described({"loss": 0.12345, "accuracy": 0.9712, "dropped": 2302.0, "sparsity": 0.98})
    'loss 0.123  accuracy 97.12%  dropped 2302  sparsity 98.00%'
    """
    return "  ".join(f"{NAMES.get(name, name)} {_value(name, float(value))}" for name, value in logs.items())


def _value(name, value):
    if name.endswith(SHARES):
        return f"{value:.2%}"
    return f"{value:.0f}" if name in COUNTS else f"{value:.3g}"


def duration(seconds):
    """A time in words of at most two units.

    >>> duration(59), duration(61), duration(7384)
    ('59 s', '1 min 1 s', '2 h 3 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
