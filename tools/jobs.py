"""Runs processes in parallel, each on its own cores."""

import dataclasses
import os
import subprocess
import time
from pathlib import Path


def cores_for_slot(slot, slots):
    """Returns the set of cores for one of several parallel processes: an equal share of those this process may use.

    Args:
        slot: int in [0, slots).
        slots: int, the number of parallel processes. If there are fewer cores, some processes share one.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    each = max(1, len(usable) // slots)
    return {usable[(slot * each + i) % len(usable)] for i in range(each)}


def free_memory():
    """Returns the available memory in bytes; infinity if the system does not report it."""
    return _read_bytes("/proc/meminfo", "MemAvailable", float("inf"))


def _read_bytes(path, name, default):
    """Returns a number of bytes from a file of the proc file system, which has lines such as "MemAvailable: 7 kB"."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return default
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), default)


@dataclasses.dataclass
class Job:
    """A process of a run.

    Attributes:
        slot: int, the share of the cores that it uses.
        folder: `Path` of the run.
        process: `subprocess.Popen`.
        log: `Path` of the file with its output.
        started: float, start time in seconds, from `time.perf_counter`.
        memory: int, the peak memory of the process in bytes, so far.
    """

    slot: int
    folder: Path
    process: subprocess.Popen
    log: Path
    started: float
    memory: int = 0

    def is_running(self):
        """Returns whether the process still runs, and updates `memory`."""
        self.memory = max(self.memory, _read_bytes(f"/proc/{self.process.pid}/status", "VmHWM", 0))
        return self.process.poll() is None


def start(slot, slots, folder, command):
    """Starts a process.

    Args:
        slot: int in [0, slots), the share of the cores.
        slots: int, the number of parallel processes.
        folder: `Path` of the run. The output of the process is written to a file beside it.
        command: list of str.

    Returns:
        `Job`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(folder.name + ".log")
    with log.open("w") as file:
        # A new session does not get Ctrl-C from the terminal. The sweep sends it to the process instead.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if slots > 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, cores_for_slot(slot, slots))
    return Job(slot, folder, process, log, time.perf_counter())
