"""What can end a run before its time, and what is said then: Ctrl-C, a full disk, damaged data, a wrong setting."""

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

# TensorFlow's, of data that are read while training: a damaged record, a file that is gone, one with too few records.
READING = ("DataLossError", "NotFoundError", "FailedPreconditionError")


class CtrlC(keras.callbacks.Callback):
    """Ends training at the end of the step, or test, in which Ctrl-C is pressed. Also the context that listens to it.

    Python raises KeyboardInterrupt wherever it is: in a destructor or a hook of the garbage collector, where it is
    lost, or in the midst of XLA's work, which can end in a crash. On JAX 8 of 25 came to that.
    """

    def __init__(self):
        super().__init__()
        self._asked = self._training = False
        self._before = None

    def __enter__(self):
        before = signal.getsignal(signal.SIGINT)
        # Whoever has his own handler, or ignores it, as a shell lets what runs in its background, goes on so.
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
        # `print` must not be called while it is at work, as it may be now.
        os.write(sys.stderr.fileno(), b"\nStopping after this step or test. To stop at once, press Ctrl-C again.\n")

    def on_train_begin(self, logs=None):
        """From here on it waits."""
        self._training = True

    def on_train_end(self, logs=None):
        """To here."""
        self._training = False

    def on_epoch_begin(self, epoch, logs=None):
        """Stops, if asked to in the tests after the epoch before; or before training, and it got lost there."""
        self._stop_if_asked()

    def on_train_batch_end(self, batch, logs=None):
        """Stops, if asked to."""
        self._stop_if_asked()

    def _stop_if_asked(self):
        if self._asked:
            raise KeyboardInterrupt


@contextlib.contextmanager
def explained(options, runs):
    """Says of what ends the work inside of it, why and how to go on.

    Ctrl-C and a full disk end the process itself, with code 130 and 1.

    Args:
        options: parsed flags.
        runs: `common.folder.RunFolder`.

    Raises:
        app.UsageError: of a wrong setting, or of data that cannot be read.
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
    """Ends the process at once: at its regular end HDF5 crashes if it could not finish a file, and XLA if cut off."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _is_ours(error):
    """Whether it was raised here or in the library, whose messages say all there is to say."""
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return any(file.is_relative_to(Path(x).parent) for x in (__file__, ks.__file__))
