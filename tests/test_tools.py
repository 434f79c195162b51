"""Tests the tools on the files of runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import benchmark_page
import compare
import sweep
from processes import Script
from published import published_accuracy
from runs import find_runs, group_by_settings

ROOT = Path(__file__).parents[1]


def write_run(folder, accuracy, seed=0, best=None, **config):
    folder.mkdir(parents=True)
    config = {"method": "dynamic_sparse", "sparsity": 0.98, "dataset": "mnist", "seed": seed, "epochs": 100, **config}
    (folder / "config.json").write_text(json.dumps(config))
    result = {
        "test_accuracy": accuracy,
        "best_test_accuracy": best or accuracy,
        "live_weights": 5324,
        "parameters": 6144,
        "seconds": 70,
        "machine": "M",
    }
    (folder / "result.json").write_text(json.dumps(result))


def test_seeds_make_one_row_and_other_settings_another(tmp_path):
    write_run(tmp_path / "a", 0.97, seed=0, best=0.98)
    write_run(tmp_path / "b", 0.98, seed=1, best=0.98)
    write_run(tmp_path / "c", 0.5, method="static")
    write_run(tmp_path / "d", 0.6, epochs=3)
    table = compare.rows(find_runs([tmp_path]))
    assert len(table) == 3
    row = next(r for r in table if r[7] == "2")
    assert row[:4] == ("mnist", "dynamic_sparse", "0.98", "5,324")
    assert row[4:] == ("97.50 ± 0.71", "98.00 ± 0.00", "98.14 ± .14", "2", "70 s")
    assert compare.markdown(table).splitlines()[0].startswith("| recipe | method | sparsity |")


def test_runs_of_other_recipes_need_few_results(tmp_path):
    write_run(tmp_path / "a", 0.97)
    (tmp_path / "a/result.json").write_text(json.dumps({"test_accuracy": 0.97, "parameters": 100}))
    ((*_, live, last, best, _, runs, seconds),) = compare.rows(find_runs([tmp_path]))
    assert (live, last, best, runs, seconds) == ("100", "97.00", "", "1", "")


def test_runs_of_another_recipe_do_not_change_the_rows(tmp_path):
    write_run(tmp_path / "a", 0.97, settings="paper")
    write_run(tmp_path / "b", 0.99, settings="ours")
    alone = compare.rows(find_runs([tmp_path]))
    assert [row[6] for row in alone] == ["98.14 ± .14", ""]
    write_run(tmp_path / "c", 0.5, dataset="cifar10", depth=10)
    assert [row for row in compare.rows(find_runs([tmp_path])) if row[4] != "50.00"] == alone


def test_recipes_of_one_data_set_are_not_mixed(tmp_path):
    """The LSTM and the Transformer have the same flags, and LeNet has one more, in which its runs differ."""
    for recipe, accuracies in (("lstm_mnist", (0.9, 0.91)), ("transformer_mnist", (0.8, 0.81))):
        for seed, accuracy in enumerate(accuracies):
            write_run(tmp_path / f"{recipe}{seed}", accuracy, seed=seed, recipe=recipe)
    for settings, accuracy in (("paper", 0.6), ("ours", 0.7)):
        write_run(tmp_path / settings, accuracy, recipe="lenet_mnist", settings=settings)
    write_run(tmp_path / "wide", 0.5, recipe="lenet_mnist", settings="paper", widen_factor=0.5, sparsity=0.975)
    found = find_runs([tmp_path])
    means = {(row[0], row[2], row[4].split(" ")[0], row[6]) for row in compare.rows(found)}
    assert means == {
        ("lstm_mnist", "0.98", "90.50", ""),
        ("transformer_mnist", "0.98", "80.50", ""),
        ("lenet_mnist", "0.98", "60.00", "98.14 ± .14"),
        ("lenet_mnist", "0.98", "70.00", ""),
        ("lenet_mnist", "0.975", "50.00", ""),
    }
    assert [len(same) for same in group_by_settings(found).values()] == [2, 1, 1, 2, 1]


@pytest.mark.parametrize(
    "flag", [("widen_factor", 0.5), ("l1", 1e-4), ("batch_size", 50), ("period", 10), ("depth", 9)]
)
def test_other_networks_and_settings_have_no_published_accuracy(flag):
    config = {"recipe": "wrn_cifar10", "dataset": "cifar10", "method": "static", "sparsity": 0.9, "epochs": 200}
    config |= {"widen_factor": 2, "l1": 0.0, "batch_size": 100, "period": None, "depth": 28}
    assert published_accuracy(config) == "92.04"
    assert published_accuracy({**config, **dict([flag])}) == ""


@pytest.mark.parametrize(("made", "given", "same"), [(1e-4, "1e-4", True), (0.9, "0.90", True), (0.9, "0.91", False)])
def test_flags_of_a_finished_run_are_compared_as_numbers(tmp_path, made, given, same):
    write_run(tmp_path / "run", 0.97, l1=made, jit_compile=True)
    command = [sys.executable, "r.py", f"--output_dir={tmp_path / 'run'}", f"--l1={given}", "--jit_compile=true"]
    if same:
        sweep.Record(tmp_path).check(tmp_path / "run", command)
    else:
        with pytest.raises(SystemExit):
            sweep.Record(tmp_path).check(tmp_path / "run", command)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ([], ["--period=10"], "period=None, not 10"),
        (["--l1=5e-4", "--jit_compile"], [], "jit_compile=true, not the default"),
        (["--l1=5e-4"], [], "l1=5e-4, not the default"),
        ([], ["--check_replicas"], "check_replicas=the default, not "),
        (["--l1", "5e-4"], ["--l1=0.0005"], None),
        ([], ["--epochs=100"], None),
        ([], ["--other=3"], "other=the default, not 3"),
    ],
)
def test_a_sweep_does_not_take_a_run_with_other_flags_for_its_own(tmp_path, before, now, message):
    write_run(tmp_path / "run", 0.97, period=None, l1=5e-4)
    command = [sys.executable, "r.py", f"--output_dir={tmp_path / 'run'}"]
    sweep.Record(tmp_path).add(tmp_path / "run", [*command, *before])
    again = sweep.Record(tmp_path)
    if message is None:
        again.check(tmp_path / "run", [*command, *now])
    else:
        with pytest.raises(SystemExit, match=message):
            again.check(tmp_path / "run", [*command, *now])


def test_a_folder_without_results_is_refused(tmp_path):
    process = subprocess.run([sys.executable, ROOT / "tools/compare.py", tmp_path], capture_output=True, text=True)
    assert process.returncode == 1
    assert "No result.json under" in process.stderr


def test_a_sweep_has_every_point_ordered_by_seed():
    runs = sweep.commands("r.py", "dynamic_sparse:0.9,0.98 dense", ["0", "1"], ["--epochs=3"], Path("o"))
    assert [f.name for f, _ in runs] == [
        "dynamic_sparse_0.9_seed0",
        "dynamic_sparse_0.98_seed0",
        "dense_seed0",
        "dynamic_sparse_0.9_seed1",
        "dynamic_sparse_0.98_seed1",
        "dense_seed1",
    ]
    assert runs[0][1][1:] == [
        "r.py",
        "--method=dynamic_sparse",
        "--sparsity=0.9",
        "--seed=0",
        "--output_dir=o/dynamic_sparse_0.9_seed0",
        "--epochs=3",
    ]


def test_a_sweep_skips_finished_runs(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import json, pathlib, sys\n"
        "folder = pathlib.Path(next(a for a in sys.argv if a.startswith('--output_dir')).split('=')[1])\n"
        "folder.mkdir(parents=True, exist_ok=True)\n"
        "flags = dict(a.removeprefix('--').split('=') for a in sys.argv[1:] if '=' in a)\n"
        "(folder / 'config.json').write_text(json.dumps(flags))\n"
        "with open(folder / 'count', 'a') as f: f.write('x')\n"
        "if 'seed1' in folder.name and not (folder / 'failed').exists():\n"
        "    (folder / 'failed').touch(); sys.exit(3)\n"
        "(folder / 'result.json').write_text(json.dumps({'test_accuracy': 0.5}))\n"
    )
    command = [
        sys.executable,
        ROOT / "tools/sweep.py",
        f"--recipe={recipe}",
        f"--output_dir={tmp_path / 'o'}",
        "--seeds=0,1",
    ]
    assert subprocess.run(command, capture_output=True).returncode != 0
    assert subprocess.run(command, capture_output=True).returncode == 0
    counts = {p.parent.name: p.read_text() for p in (tmp_path / "o").rglob("count")}
    assert counts == {"dynamic_sparse_0.98_seed0": "x", "dynamic_sparse_0.98_seed1": "xx"}
    for other in (["--epochs=3"], ["--epochs", "3"]):
        (tmp_path / "o/dynamic_sparse_0.98_seed0/config.json").write_text('{"epochs": 100}')
        process = subprocess.run([*command, "--", *other], capture_output=True, text=True)
        assert process.returncode != 0
        assert "holds a run with epochs=100, not 3. Name another --output_dir." in process.stderr


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("network", "more"),
    [
        ("lenet", ["--steps=20"]),
        pytest.param("wrn", ["--steps=2", "--depth=10", "--widen_factor=2"], marks=pytest.mark.long),
    ],
)
def test_the_step_benchmark(network, more):
    flags = [f"--network={network}", "--rounds=1", "--batch_size=10", "--nojit_compile", *more]
    printed = Script(ROOT / "tools/benchmark.py", "step", *flags).finish()
    assert printed.count("masked/dense") == printed.count("deepr/dense") == 1
    assert printed.count("at Table 4's periods") == 4


@pytest.mark.tensorflow
@pytest.mark.long
@pytest.mark.parametrize(("name", "lines"), [("fit", 3), ("logging", 2)])
def test_the_benchmarks_of_whole_fits(name, lines):
    printed = Script(ROOT / "tools/benchmark.py", name, "--rounds=1", "--steps=12", "--batch_size=10").finish()
    assert len(re.findall(r": [0-9.]+ ms a step, [0-9.]+ of '(?:dense|without)'", printed)) == lines


@pytest.mark.tensorflow
def test_the_input_benchmark(tmp_path):
    if not list(Path(os.environ.get("TFDS_DATA_DIR", tmp_path)).glob("mnist/*/dataset_info.json")):
        pytest.skip("TFDS_DATA_DIR holds no MNIST")
    flags = ["--rounds=1", "--steps=5", "--nojit_compile"]
    printed = Script(ROOT / "tools/benchmark.py", "input", *flags).finish()
    assert re.search(r"lenet: a batch of 100 takes [0-9.]+ ms to load, a masked step [0-9.]+ ms", printed)


@pytest.mark.tensorflow
@pytest.mark.long
def test_the_export_benchmark():
    pytest.importorskip("ai_edge_litert")
    printed = Script(ROOT / "tools/benchmark.py", "export", "--exported=lenet", "--rounds=2").finish()
    for route in ("dense float32", "sparse float32", "sparse float16", "sparse int8", ".keras, bzip2"):
        assert printed.count(f"| {route} |") == 4, route


@pytest.mark.tensorflow
@pytest.mark.long
def test_the_peers_benchmark():
    pytest.importorskip("torch")
    names = "keras_sparse, TensorFlow", "dense, PyTorch alone", "torch.nn.utils.prune"
    flags = ["--networks=lenet", "--rounds=1", "--steps=3", "--batch_size=10"]
    quoted = ",".join(f'"{name}"' for name in names)
    printed = Script(ROOT / "tools/benchmark.py", "peers", f"--peers={quoted}", *flags).finish()
    assert all(f"| {name} |" in printed for name in names)


def test_each_benchmark_writes_its_own_section(tmp_path):
    page = tmp_path / "benchmarks.md"
    for name, text in (("export", "one"), ("peers", "two"), ("export", r"three \1")):
        benchmark_page.write_section(name, text, page)
    written = page.read_text()
    assert "one" not in written
    assert written.index(r"three \1") < written.index("two")
    assert benchmark_page.markdown_table(["a", "b"], [["c", 1]]) == "| a | b |\n| --- | --- |\n| c | 1 |"


def test_a_damaged_run_is_left_out_with_a_note(tmp_path, capfd):
    write_run(tmp_path / "good", 0.9)
    write_run(tmp_path / "bad", 0.9)
    (tmp_path / "bad" / "result.json").write_text("{")
    write_run(tmp_path / "lost", 0.9)
    (tmp_path / "lost" / "config.json").unlink()
    write_run(tmp_path / "foreign", 0.9)
    (tmp_path / "foreign" / "config.json").write_text('{"rate": 0.1}')
    assert [run.path.name for run in find_runs([tmp_path])] == ["good"]
    notes = capfd.readouterr().err
    assert f"{tmp_path / 'bad'} is left out" in notes
    assert f"{tmp_path / 'lost'} is left out" in notes
    assert "its files lack dataset, method, which those of a recipe have" in notes
