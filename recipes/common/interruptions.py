"""Handles what ends a run early (Ctrl-C, a full disk, damaged data, an invalid setting) and prints how to resume."""

import contextlib
import os
import shlex
import signal
import sys
import threading
import traceback
from pathlib import Path

import keras
from absl import app

import keras_sparse as ks
from common import folder

# Errors of TensorFlow while it reads data: a damaged record, a missing file, a file with too few records.
READING = ("DataLossError", "NotFoundError", "FailedPreconditionError")


class CtrlC(keras.callbacks.Callback):
    """Stops training at the end of the step or evaluation in which Ctrl-C is pressed.

    It is a callback, and a context manager that installs the signal handler. Without it, Python raises
    KeyboardInterrupt wherever it happens to be: in a destructor or a hook of the garbage collector, where the exception
    is lost, or within XLA, which can crash. On JAX this happened in 8 of 25 trials.
    """

    async_safe = True  # It writes to no weights between steps.

    def __init__(self):
        super().__init__()
        self._asked = self._training = False
        self._before = None

    def __enter__(self):
        before = signal.getsignal(signal.SIGINT)
        # Another handler is left alone, and so is a process that ignores SIGINT, as shells start background jobs.
        if before is signal.default_int_handler and threading.current_thread() is threading.main_thread():
            self._before = before
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_):
        if self._before:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number, frame):
        at_once = self._asked or not self._training
        self._asked = True
        if at_once:
            raise KeyboardInterrupt
        # The handler may interrupt `print`, which is not reentrant.
        os.write(sys.stderr.fileno(), b"\nStopping after this step or test. To stop at once, press Ctrl-C again.\n")

    def on_train_begin(self, logs=None):
        """From now on, Ctrl-C waits for the end of the step."""
        self._training = True

    def on_train_end(self, logs=None):
        """From now on, Ctrl-C stops at once again."""
        self._training = False

    def on_epoch_begin(self, epoch, logs=None):
        """Stops if Ctrl-C was pressed during the last evaluation, or before training and the exception was lost."""
        self._stop_if_asked()

    def on_train_batch_begin(self, batch, logs=None):
        """Stops if Ctrl-C was pressed. At the end of a step, Keras would wait for the metrics of each step."""
        self._stop_if_asked()

    def _stop_if_asked(self):
        if self._asked:
            raise KeyboardInterrupt


@contextlib.contextmanager
def explained(options, runs):
    """Context manager that explains errors which end a run, and how to resume it.

    Ctrl-C ends the process with exit code 130, a full disk with exit code 1.

    Args:
        options: parsed flags.
        runs: `common.folder.RunFolder`.

    Raises:
        app.UsageError: if a setting is invalid, or if data cannot be read.
    """
    try:
        yield
    except KeyboardInterrupt:
        same = [a for a in sys.argv[1:] if a not in ("--overwrite", "--resume")]
        go_on = shlex.join([sys.executable, sys.argv[0], *same, "--resume"])
        backend = f"KERAS_BACKEND={keras.backend.backend()} " if "KERAS_BACKEND" in os.environ else ""
        kept = (
            f"The epochs finished so far are in {runs.path}; go on"
            if runs.backups()
            else "No epoch was finished; start"
        )
        _quit(f"\nStopped. {kept} with:\n    {backend}{go_on}", 130)
    except ValueError as error:
        if not _is_ours(error):
            raise
        raise app.UsageError(str(error)) from error
    except OSError as error:
        if not folder.is_full(error):
            raise
        kept = "The last backup is whole: make room, and go on with" if runs.backups() else "Make room, and start with"
        _quit(f"The disk of {runs.path} is full. {kept} --resume.", 1)
    except Exception as error:
        if type(error).__name__ not in READING:
            raise
        raise app.UsageError(
            f"A file of --dataset={options.dataset} is damaged or gone: {str(error).splitlines()[0][:300]} Delete the "
            "folder of the set, let TFDS prepare it again, and go on with --resume."
        ) from error


def _quit(message, code):
    """Ends the process at once.

    At a regular exit, HDF5 crashes if it could not finish a file, and so does XLA if it was interrupted.
    """
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _is_ours(error):
    """Whether an error was raised by the recipes or the library, whose messages need no traceback."""
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return any(file.is_relative_to(Path(x).parent) for x in (__file__, ks.__file__))
