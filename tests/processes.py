"""Scripts, each run in a process of its own, forked from one that has imported what they need: that takes seconds."""

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
        """Whether it still is, after waiting for its end so long."""
        self._process.join(seconds)
        return self._process.is_alive()

    def kill(self):
        """By SIGKILL."""
        self._process.kill()
        self._process.join()

    def interrupt(self):
        """By Ctrl-C; returns its exit code and what it has printed."""
        os.kill(self._process.pid, signal.SIGINT)
        assert not self.running(60), "Ctrl-C was lost."
        return self._process.exitcode, Path(self._output.name).read_text()

    def finish(self, seconds=300):
        """Waits for its end; returns what it has printed. It must not have failed."""
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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has started in its background
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
