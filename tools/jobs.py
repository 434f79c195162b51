"""Processes at work beside each other, each on its part of the cores."""

import dataclasses
import os
import subprocess
import time
from pathlib import Path


def cores_of(job, jobs):
    """The cores of one of so many runs at once: a part of those this process may use, the same number for each."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    each = max(1, len(usable) // jobs)
    return {usable[(job * each + i) % len(usable)] for i in range(each)}


def free_memory():
    """Bytes that new processes can have; infinity where the system does not tell."""
    return _kibibytes("/proc/meminfo", "MemAvailable", float("inf"))


def _kibibytes(path, name, default):
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return default
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), default)


@dataclasses.dataclass
class Job:
    """A run at work.

    Attributes:
        place: int, which part of the cores it has.
        folder: `Path` of the run.
        process: `subprocess.Popen`.
        log: path of the file that has what it prints.
        started: when, by the clock of `time.perf_counter`.
        memory: int, the most bytes that its process has held.
    """

    place: int
    folder: Path
    process: subprocess.Popen
    log: Path
    started: float
    memory: int = 0

    def working(self):
        """Whether it still is; notes what memory it takes."""
        self.memory = max(self.memory, _kibibytes(f"/proc/{self.process.pid}/status", "VmHWM", 0))
        return self.process.poll() is None


def start(place, jobs, folder, command):
    """Starts a run on its part of the cores; returns its `Job`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(folder.name + ".log")
    with log.open("w") as file:
        # In a session of its own: Ctrl-C at the terminal is for the sweep, which passes it on.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if jobs > 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, cores_of(place, jobs))
    return Job(place, folder, process, log, time.perf_counter())
