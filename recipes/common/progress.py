"""A callback that prints the progress of training: a bar within an epoch, and a line for each epoch."""

import sys
import time

import keras

PERCENTAGES = ("accuracy", "sparsity")  # endings of names
COUNTS = ("dropped", "grown")
ERASE = "\x1b[K"  # terminal control sequence that erases the rest of the line
SHORT_NAMES = {"learning_rate": "rate"}


class Progress(keras.callbacks.Callback):
    """Prints the logs of epochs: counts as integers, accuracies and sparsity as percentages.

    Keras's progress bar prints all of them with four decimals. Put this callback after those that add to the logs.

    Args:
        every: int of at least 1, epochs between two lines. The last epoch has a line, too.
        bar: bool, whether to draw a progress bar within an epoch; None to draw one if the stream is a terminal.
        stream: file object to print to; None for the standard output.
    """

    async_safe = True  # Keras does not wait for the metrics of each step if no callback needs them at once.

    def __init__(self, every=1, bar=None, stream=None):
        super().__init__()
        self._every, self._stream = every, stream or sys.stdout
        self._bar = self._stream.isatty() if bar is None else bar
        self._start_time = self._last_drawn = 0.0
        self._first_epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        """Records the time of the first epoch."""
        if self._first_epoch is None:
            self._first_epoch, self._start_time = epoch, time.perf_counter()
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Draws the bar, at most ten times a second."""
        if not self._bar or time.perf_counter() - self._last_drawn < 0.1:
            return
        self._last_drawn, steps = time.perf_counter(), self.params["steps"]
        done = round(20 * (batch + 1) / steps)
        left = self._time_left(self._epoch + (batch + 1) / steps)
        self._write(
            f"\r{self._epoch_number()} [{'=' * done}{'.' * (20 - done)}] {format_logs(logs or {})}{left}{ERASE}"
        )

    def on_epoch_end(self, epoch, logs=None):
        """Prints the line of the epoch, if it has one."""
        last = epoch + 1 == self.params["epochs"]
        if (epoch + 1) % self._every and not last:
            return
        left = "" if last else self._time_left(epoch + 1)
        erased = f"\r{ERASE}" if self._bar else ""
        self._write(f"{erased}{self._epoch_number()}  {format_logs(logs or {})}{left}\n")

    def on_train_end(self, logs=None):
        """Erases the bar."""
        if self._bar:
            self._write(f"\r{ERASE}")

    def _epoch_number(self):
        epochs = str(self.params["epochs"])
        return f"epoch {self._epoch + 1:>{len(epochs)}}/{epochs}"

    def _time_left(self, epochs):
        """Returns the estimated time for the other epochs as text, after so many epochs, which may be a fraction."""
        taken, done = time.perf_counter() - self._start_time, epochs - self._first_epoch
        return f"  {format_duration(taken / done * (self.params['epochs'] - epochs))} left"

    def _write(self, text):
        self._stream.write(text)
        self._stream.flush()


def format_logs(logs):
    """Returns the logs of an epoch as text.

    >>> format_logs({"loss": 0.12345, "accuracy": 0.9712, "dropped": 2302.0, "sparsity": 0.98})
    'loss 0.123  accuracy 97.12%  dropped 2302  sparsity 98.00%'
    """
    return "  ".join(
        f"{SHORT_NAMES.get(name, name)} {_format_value(name, float(value))}" for name, value in logs.items()
    )


def _format_value(name, value):
    if name.endswith(PERCENTAGES):
        return f"{value:.2%}"
    return f"{value:.0f}" if name in COUNTS else f"{value:.3g}"


def format_duration(seconds):
    """Returns a time as text, in at most two units.

    >>> format_duration(59), format_duration(61), format_duration(7384)
    ('59 s', '1 min 1 s', '2 h 3 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
