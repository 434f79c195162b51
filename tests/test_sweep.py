"""Tests parallel runs of a sweep: failures, interruption, and resuming."""

import functools
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

import jobs
import sweep

ROOT = Path(__file__).parents[1]
# A custom recipe: it writes a backup, waits for a file "finish", and stops at Ctrl-C.
RECIPE = """
import json, os, pathlib, signal, sys, time
flags = dict((a.removeprefix("--") + "=").split("=")[:2] for a in sys.argv[1:])
folder = pathlib.Path(flags["output_dir"])
(folder / "backup").mkdir(parents=True, exist_ok=True)
with open(folder / "calls", "a") as f:
    f.write(" ".join(sys.argv[1:]) + "\\n")
print("rate", flags["rate"], flush=True)
if flags["rate"] == "bad":
    sys.exit("This rate is bad.")
begin = time.time()
(folder / "backup" / "1").touch()
while not (folder.parent / "finish").exists() and time.time() < begin + 60:
    time.sleep(0.01)
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
result = {"score": float(flags["rate"]), "begin": begin, "end": time.time(), "cores": cores}
(folder / "result.json").write_text(json.dumps([0.5] if flags["rate"] == "2.5" else result))
"""


@pytest.fixture
def command(tmp_path):
    """Returns the command of a sweep of four runs, two in parallel, of which one fails."""
    (tmp_path / "recipe.py").write_text(RECIPE)
    flags = ["--grid=", "--seeds=", "--vary=rate=1,bad,2,3", "--jobs=2", "--memory=0.01", "--metric=score"]
    places = [f"--recipe={tmp_path / 'recipe.py'}", f"--output_dir={tmp_path / 'o'}"]
    return [sys.executable, ROOT / "tools/sweep.py", *places, *flags]


def wait_for(*paths, seconds=30):
    until = time.time() + seconds
    while not all(path.exists() for path in paths):
        assert time.time() < until, [path for path in paths if not path.exists()]
        time.sleep(0.02)


def test_a_run_whose_result_cannot_be_read_has_failed(command, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/finish").touch()
    process = subprocess.run([*command, "--vary=rate=1,2.5,3"], capture_output=True, text=True)
    assert process.returncode == 1
    assert "1 of 3 runs failed: " in process.stderr
    assert "Traceback" not in process.stderr
    assert {p.parent.name for p in (tmp_path / "o").rglob("result.json")} == {"rate1", "rate2.5", "rate3"}


def test_an_error_of_the_sweep_stops_its_runs(tmp_path, monkeypatch):
    (tmp_path / "recipe.py").write_text(RECIPE)
    command = [sys.executable, str(tmp_path / "recipe.py"), f"--output_dir={tmp_path / 'o/a'}", "--rate=1"]
    options = types.SimpleNamespace(fresh="", go_on="", metric="score")
    made = sweep.Sweep([(tmp_path / "o/a", command)], 1, 0, options, sweep.Record(tmp_path / "o"))

    def fail(job):
        raise OSError("disk")

    monkeypatch.setattr(jobs.Job, "is_running", fail)
    with pytest.raises(OSError, match="disk"):
        made.run()
    assert made._running[0].process.poll() is not None


def test_a_failed_run_does_not_stop_the_others(command, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/finish").touch()
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1
    lines = process.stdout.splitlines()
    done = [line for line in lines if line.startswith("[")]
    assert [line.split("]")[0] for line in done] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert sum("FAILED, see " in line for line in done) == 1
    assert "    This rate is bad." in lines
    assert "1 of 4 runs failed: " in process.stderr
    assert any("rate3: score 3.0000, " in line for line in done)
    assert any("left" in line for line in done[:3])
    assert {p.name for p in (tmp_path / "o").rglob("result.json") for p in [p.parent]} == {"rate1", "rate2", "rate3"}
    assert (tmp_path / "o/rate1.log").read_text() == "rate 1\n"


def test_ctrl_c_stops_all_runs_and_the_same_command_resumes_them(command, tmp_path):
    # If the tests run in the background of a shell, they and their child processes ignore SIGINT.
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default)
    wait_for(tmp_path / "o/rate1/backup/1", tmp_path / "o/rate2/backup/1")  # Both run, since "bad" has failed.
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=120)
    assert "Stopping 2 runs" in printed
    assert "Stopped. The same command resumes the sweep." in errors
    assert not list((tmp_path / "o").rglob("result.json"))
    (tmp_path / "o/finish").touch()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stdout.count("score") == 3
    calls = (tmp_path / "o/rate1/calls").read_text().splitlines()
    assert [call.split(" ")[-1] for call in calls] == ["--overwrite", "--resume"]
    third = subprocess.run(command, capture_output=True, text=True)
    assert third.stdout.count("finished before") == 3
    assert len((tmp_path / "o/rate1/calls").read_text().splitlines()) == 2


def test_a_run_waits_for_memory(monkeypatch, tmp_path):
    """If there is less free memory than a run needs, one run is processed at a time."""
    monkeypatch.setattr(jobs, "free_memory", lambda: 1000)
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "o").mkdir()
    (tmp_path / "o/finish").touch()
    runs = sweep.commands(str(tmp_path / "recipe.py"), "", [], [], tmp_path / "o", "rate=1,2,3")

    class Options:
        fresh, go_on, metric = "", "", "score"

    sweep_ = sweep.Sweep(runs, 3, 2000, Options, sweep.Record(tmp_path / "o"))
    running = []
    start = jobs.start
    monkeypatch.setattr(jobs, "start", lambda *x: running.append(len(sweep_._running)) or start(*x))
    sweep_.run()
    assert running == [0, 0, 0]
    assert not sweep_.failed


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not report cores")
def test_parallel_runs_share_the_cores():
    usable = os.sched_getaffinity(0)
    parts = [jobs.cores_for_slot(job, len(usable)) for job in range(len(usable))]
    assert set.union(*parts) == usable
    assert all(len(part) == 1 for part in parts)
    assert jobs.cores_for_slot(0, 1) == usable
    assert all(len(jobs.cores_for_slot(job, 3 * len(usable))) == 1 for job in range(9))


def test_every_combination_of_flags():
    runs = sweep.commands("r.py", "a:0.9 b", ["0"], ["--data={seed}"], Path("o"), "rate=1,2 path=x/y")
    assert [folder.name for folder, _ in runs] == [
        "a_0.9_rate1_pathx-y_seed0",
        "a_0.9_rate2_pathx-y_seed0",
        "b_rate1_pathx-y_seed0",
        "b_rate2_pathx-y_seed0",
    ]
    assert runs[0][1][-3:] == ["--rate=1", "--path=x/y", "--data=0"]
