"""Recipes that are killed at random times and resumed end with the same bits as an uninterrupted run.

`pytest tests/test_kill.py --kills 4` kills four runs of each method.
"""

import io
import json
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from nets import UNCOMPILED
from processes import Script

ROOT = Path(__file__).parents[1]
METHODS = {
    "dynamic_sparse": ["--prune_count=300"],
    "set": ["--prune_count=300"],
    "deepr": [],
    "rigl": [],
    "compressed": ["--epochs=5", "--train_split=train[:500]"],
    "static": ["--settings=ours"],
}
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(keras.backend.backend() == "torch", reason="Promised on TensorFlow and JAX."),
]


class Run:
    """A recipe in a process of its own, with --resume.

    Attributes:
        folder: path of its output.
        flags: list of str, flags of its command line.
    """

    def __init__(self, method, folder):
        self.folder = folder
        flags = [f"--method={method}", "--sparsity=0.9", "--train_split=train[:1000]", "--epochs=10", *METHODS[method]]
        small = ["--dataset=mnist_5k", "--period=3", "--verbose=0", *UNCOMPILED]
        self.flags = [*small, "--resume", *flags, f"--output_dir={folder}"]

    def start(self):
        """Starts the run; returns when it has written its `config.json`."""
        begun = self._begun()
        script = Script(ROOT / "recipes/lenet_mnist.py", *self.flags)
        while self._begun() == begun and script.running(0.02):
            pass
        return script

    def _begun(self):
        path = self.folder / "config.json"
        return path.stat().st_mtime_ns if path.exists() else None

    def finish(self):
        """Runs to the end; returns the time of training in seconds."""
        script, started = self.start(), time.perf_counter()
        script.finish()
        return time.perf_counter() - started

    def kill(self, delay):
        """Starts and kills the run; returns whether it was still running then."""
        script = self.start()
        if script.running(delay):
            script.kill()
            return True
        script.finish()
        return False

    def bits(self):
        """Returns the results of the run, except for times."""
        result = json.loads((self.folder / "result.json").read_text())
        result.pop("seconds")
        arrays = {}
        with zipfile.ZipFile(self.folder / "model.keras") as archive:
            file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
            file.visititems(lambda name, x: arrays.update({name: x[()]}) if isinstance(x, h5py.Dataset) else None)
        return result, (self.folder / "history.csv").read_text(), arrays


def assert_same(run, whole, when):
    """Asserts that a run has the bits of an uninterrupted run, `whole`; `when` describes the interruptions."""
    result, history, arrays = whole
    after, lines, others = run.bits()
    assert (after, lines, others.keys()) == (result, history, arrays.keys()), when
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=f"{name} {when}")


@pytest.fixture
def kills(request):
    return request.config.getoption("--kills")


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_with_the_same_bits(method, kills, tmp_path):
    whole = Run(method, tmp_path / "whole")
    seconds = whole.finish()
    expected = whole.bits()
    assert any("optimizer" in name for name in expected[2])
    done, delays = 0, []
    while done < kills:
        delays.append(random.uniform(0, 0.95 * seconds))
        run = Run(method, tmp_path / f"killed{len(delays)}")
        if not run.kill(delays[-1]):
            assert len(delays) < 5 * kills + 5, "It ends before it can be killed."
            continue
        done += 1
        run.finish()
        assert_same(run, expected, f"after a kill at {delays[-1]} s")
        assert not (run.folder / "backup").exists()


def test_a_run_stopped_by_ctrl_c_says_how_to_resume_and_ends_with_the_same_bits(kills, tmp_path):
    whole = Run("dynamic_sparse", tmp_path / "whole")
    seconds, expected, stopped = whole.finish(), whole.bits(), 0
    for i in range(5 * kills + 5):
        run = Run("dynamic_sparse", tmp_path / f"stopped{i}")
        script = run.start()
        if not script.running(random.uniform(0, 0.8 * seconds)):
            continue
        code, printed = script.interrupt()
        if code != 0:  # otherwise the run had just ended
            assert code == 130
            assert re.search(r"Stopped\. (The epochs finished so far are in .*; go on|No epoch.*start) with:", printed)
            assert re.search(r"python .*lenet_mnist\.py .*--resume", printed)
            stopped += 1
        run.finish()
        assert_same(run, expected, "after Ctrl-C")
        if stopped == kills:
            return
    raise AssertionError("It ends before it can be stopped.")


def test_a_run_whose_disk_was_full_resumes_when_there_is_room(tmp_path):
    mounts = ["unshare", "--map-root-user", "--mount", "bash", "-c"]
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    tmpfs = f"mount -t tmpfs -o size=3m none {disk}"  # room for one and a half backups
    if not shutil.which("unshare") or subprocess.run([*mounts, tmpfs], capture_output=True).returncode:
        pytest.skip("needs Linux, and the right to mount")
    run = Run("dynamic_sparse", disk / "run")
    recipe = shlex.join([sys.executable, str(ROOT / "recipes/lenet_mnist.py"), *run.flags])
    more = f"mount -o remount,size=50m {disk}"
    both = subprocess.run(
        [*mounts, f"{tmpfs} && {recipe}; echo code $? && {more} && {recipe} && cp -r {disk}/run {copy}"],
        capture_output=True,
        text=True,
    )
    assert both.returncode == 0, both.stderr[-3000:]
    assert "code 1\n" in both.stdout
    assert (
        f"The disk of {disk}/run is full. The last backup is whole: make room, and go on with --resume." in both.stderr
    )
    whole = Run("dynamic_sparse", tmp_path / "whole")
    whole.finish()
    run.folder = copy
    assert_same(run, whole.bits(), "after a full disk")
