"""Tests what TensorBoard, the page and the figures show of real runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import browser
import figures
import page
import runs
from common import train
from common.experiment import LENET_MNIST
from common.models import lenet_300_100
from common.options import define_flags
from nets import UNCOMPILED

pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")
SMALL = ["--dataset=mnist_5k", "--train_split=train[:1000]", "--verbose=0", "--epochs=3", "--period=5", *UNCOMPILED]
RUNS = {
    "moving": ["--method=dynamic_sparse", "--sparsity=0.95"],
    "moving_1": ["--method=dynamic_sparse", "--sparsity=0.95", "--seed=1"],
    "still": ["--method=static", "--sparsity=0.9"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns the folder of three runs of the LeNet recipe, two of which are seeds of one experiment."""
    made = tmp_path_factory.mktemp("runs")
    for name, given in RUNS.items():
        options = flags.FlagValues()
        define_flags(LENET_MNIST, options)
        options(["recipe", *SMALL, *given, f"--output_dir={made / name}"])
        train.run(LENET_MNIST, lenet_300_100, options=options)
    return made


@pytest.fixture(scope="module")
def tensorboard(folder):
    """Yields the address of a TensorBoard for these runs, started from the command line."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"TensorBoard \S+ at (http://\S+)", line):
                yield found[1]
                break
        else:
            pytest.fail("".join(lines))
        process.terminate()
        process.stderr.close()


def test_tensorboard_shows_the_tags_of_each_layer(tensorboard):
    with browser.opened() as shown:
        shown.goto(f"{tensorboard}#timeseries")
        for group in ("connectivity", "dead_inputs"):
            shown.get_by_text(group, exact=True).first.wait_for()
        shown.locator("input[placeholder='Filter tags (regex)']").fill("^(explored|live)/|network/dropped")
        for tag in ("explored/fc1", "live/fc3", "network/dropped"):
            shown.get_by_text(tag, exact=True).first.wait_for()
        browser.screenshot(shown, "tensorboard_scalars")


def test_tensorboard_shows_the_images_of_two_runs(tensorboard):
    with browser.opened() as shown:
        shown.goto(f"{tensorboard}#images")
        for tag in ("connectivity/fc1", "masks/fc2", "masks/fc3"):
            shown.get_by_text(f"tag: {tag}").nth(1).wait_for()
        shown.wait_for_function(
            # TensorBoard's images are inside of nested shadow roots.
            """() => {
                const inner = x => x.shadowRoot ? all(x.shadowRoot) : [];
                const all = root => [...root.querySelectorAll("*")].flatMap(x => [x, ...inner(x)]);
                return all(document).filter(x => x.tagName === "IMG" && x.naturalWidth >= 100).length >= 6;
            }"""
        )
        browser.screenshot(shown, "tensorboard_images")


def test_tensorboard_compares_the_settings_of_two_runs(tensorboard):
    with browser.opened() as shown:
        shown.goto(f"{tensorboard}#hparams")
        shown.get_by_text("Trial ID").first.wait_for()
        for value in ("dynamic_sparse", "static"):  # once in the list of settings, once in the table
            shown.get_by_text(value, exact=True).nth(1).wait_for()
        browser.screenshot(shown, "tensorboard_hparams")


@pytest.fixture(scope="module")
def written_page(folder):
    """Returns the path of the page about the runs."""
    file = folder / "page.html"
    file.write_text(page.page(runs.find_runs([folder])))
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(written_page, scheme):
    with browser.opened(color_scheme=scheme, offline=True) as shown:
        requests = []
        shown.on("request", lambda request: requests.append(request.url))
        shown.goto(written_page.as_uri())
        assert all(url.startswith(("file:", "data:")) for url in requests)
        assert shown.locator("h2").all_inner_texts() == ["All runs", "moving", "moving_1", "still"]
        assert shown.evaluate("[...document.images].every(x => x.complete && x.naturalWidth > 0)")
        assert shown.locator("img").count() == 3 * 4  # connectivity of pixels, and three masks
        assert shown.locator("figure svg").count() == 3 + 2 * 6 + 6
        text = shown.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", text))) > 380) == (scheme == "dark")
        assert (sum(map(int, re.findall(r"\d+", background))) > 380) == (scheme == "light")
        assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.screenshot(shown, f"page_{scheme}", full_page=True)


def test_the_table_of_a_sweep_sorts(written_page):
    with browser.opened() as shown:
        shown.goto(written_page.as_uri())
        head = shown.locator("table.sortable th")
        column = {name: i for i, name in enumerate(head.all_inner_texts())}["live weights"]

        def cells():
            return shown.locator(f"table.sortable td:nth-child({column + 1})").all_inner_texts()

        assert len(cells()) == 2
        head.nth(column).click()
        assert cells() == ["13,310", "26,620"]
        head.nth(column).click()
        assert cells() == ["26,620", "13,310"]


def test_figures_of_a_sweep(folder, tmp_path):
    found = runs.find_runs([folder])
    for make in figures.FIGURES:
        figure = figures.draw(make, found)
        assert figure is not None, make.__name__
        paths = figures.save(figure, tmp_path / make.__name__)
        assert [path.suffix for path in paths] == [".png", ".svg"]
        assert all(path.stat().st_size > 1000 for path in paths)
    again = figures.save(figures.draw(figures.accuracy, found), tmp_path / "again")
    assert all(a.read_bytes() == (tmp_path / f"accuracy{a.suffix}").read_bytes() for a in again)


@pytest.mark.parametrize("make", figures.FIGURES, ids=lambda make: make.__name__)
def test_nothing_in_a_figure_is_cut_off_or_covered(make, folder):
    """Everything is within the canvas, and the legend covers no axes."""
    figure = figures.draw(make, runs.find_runs([folder]))
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > 0
    for legend in figure.legends:
        assert not any(axes.get_window_extent().overlaps(legend.get_window_extent()) for axes in figure.axes)
    figures.plt.close(figure)


def test_layers_are_read_from_the_run(folder):
    (run,) = runs.find_runs([folder / "moving"])
    assert set(run.layers["live"]) == {"fc1", "fc2", "fc3"}
    for epoch in (1, 2, 3):
        assert sum(by_epoch[epoch] for by_epoch in run.layers["live"].values()) == run.result["live_weights"]
        dropped = sum(by_epoch[epoch] for by_epoch in run.layers["dropped"].values())
        assert dropped == run.history["dropped"][epoch - 1]


def test_an_incomplete_event_file(folder, tmp_path):
    (file,) = (folder / "still/tensorboard/validation").glob("events*")
    whole = list(runs.read_events(file.parent))
    (tmp_path / file.name).write_bytes(file.read_bytes()[:-5])
    assert len(list(runs.read_events(tmp_path))) == len(whole) - 1


def test_groups_are_labeled_by_the_flags_that_differ(folder):
    found = runs.find_runs([folder])
    assert [len(same) for same in runs.group_by_settings(found).values()] == [2, 1]
    assert set(runs.group_by_settings(found)) == {"dynamic sparse sparsity=0.95", "static sparsity=0.9"}
    assert set(runs.group_by_settings(found, ignored=("sparsity",))) == {"dynamic sparse", "static"}


@pytest.mark.parametrize("tool", ["page", "figures"])
def test_folders_without_runs(tool, tmp_path):
    script = Path(__file__).parents[1] / "tools" / f"{tool}.py"
    process = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert process.returncode == 1
    assert "No result.json under" in process.stderr


def test_runs_are_sorted_by_the_numbers_in_their_names(tmp_path):
    names = ["set_0.9_seed2", "set_0.9_seed10", "set_0.98_seed0", "static_0.5_seed0"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"method": "set", "dataset": "mnist"}')
        (tmp_path / name / "result.json").write_text('{"test_accuracy": 0.9, "parameters": 1}')
    assert [run.path.name for run in runs.find_runs([tmp_path])] == names
