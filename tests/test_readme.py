"""Runs the Python code of the README and the guides, twice in the same process, and checks their links.

The code of a block that begins with "```python NAME" is run on the backend NAME only, or if the package NAME is
installed.
"""

import importlib.util
import re
from pathlib import Path

import keras
import pytest

import keras_sparse as ks

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


BACKENDS = ("tensorflow", "jax", "torch")
PACKAGES = ("keras_hub",)


def blocks(path):
    found = re.findall(r"```python ?(\w*)\n(.*?)```", path.read_text(), re.DOTALL)
    assert {name for name, _ in found} <= {"", *BACKENDS, *PACKAGES}
    return [code for name, code in found if _is_run(name)]


def _is_run(name):
    return name in ("", keras.backend.backend()) or (name in PACKAGES and importlib.util.find_spec(name) is not None)


def _examples():
    short = {"README.md", "new_method.md", "models.md", "custom_loops.md"}
    for path in filter(blocks, GUIDES):
        marks = [] if path.name in short else [pytest.mark.long]
        if path.name == "after_training.md":  # Keras writes LiteRT files on TensorFlow only.
            marks.append(pytest.mark.tensorflow)
        yield pytest.param(path, id=path.name, marks=marks)


@pytest.mark.filterwarnings("ignore:The export to:UserWarning")
@pytest.mark.parametrize("path", list(_examples()))
def test_the_examples_run_twice_in_a_row(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        names = {"__name__": "__main__"}  # the module of the classes that the code defines
        for block in blocks(path):
            exec(compile(block, path.name, "exec"), names)
    if (tmp_path / "model.keras").exists():
        dense = keras.models.load_model("model.keras")
        assert all(type(layer).__module__.startswith("keras.") for layer in dense.layers)
    if (tmp_path / "best.keras").exists():
        assert ks.report(keras.models.load_model("best.keras")).sparsity == pytest.approx(0.9, abs=1e-3)


def test_every_method_has_an_example():
    methods = {n for n, v in vars(ks).items() if isinstance(v, type) and issubclass(v, ks.SparseMethod)}
    for name in methods - {"SparseMethod", "PerStepMethod"}:
        for path in (ROOT / "README.md", ROOT / "docs" / "methods.md"):
            assert f"ks.{name}(" in path.read_text(), name


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: p.name)
def test_links_have_a_target(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target
