"""Runs scripts in processes that are forked from one with all imports done, since imports take seconds."""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["keras", "keras_sparse", "tensorflow_datasets", "tensorboard"])


class Script:
    """A Python script that is running.

    Args:
        path: of the script.
        *arguments: of its command line.
    """

    def __init__(self, path, *arguments):
        self._output = tempfile.NamedTemporaryFile(prefix="script", suffix=".log")  # noqa: SIM115
        command = [str(path), *map(str, arguments)]
        self._process = _context.Process(target=_run, args=(command, self._output.name), daemon=True)
        self._process.start()

    def running(self, seconds=0.0):
        """Waits for the end of the script up to a number of seconds; returns whether it is still running."""
        self._process.join(seconds)
        return self._process.is_alive()

    def kill(self):
        """Kills the script by SIGKILL."""
        self._process.kill()
        self._process.join()

    def interrupt(self):
        """Sends Ctrl-C; returns the exit code and the output."""
        os.kill(self._process.pid, signal.SIGINT)
        assert not self.running(60), "Ctrl-C was lost."
        return self._process.exitcode, Path(self._output.name).read_text()

    def finish(self, seconds=300):
        """Waits for the end of the script, asserts that it succeeded, and returns its output."""
        if self.running(seconds):
            self.kill()
        output = Path(self._output.name).read_text()
        assert self._process.exitcode == 0, output[-3000:]
        return output


def _run(command, output):
    file = os.open(output, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = command
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Shells make background processes ignore SIGINT.
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
