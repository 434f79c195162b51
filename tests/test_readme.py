"""The README's Python runs as it stands, from top to bottom."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_sparse as ks

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.tensorflow
def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 8
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    dense = keras.models.load_model("model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in dense.layers)
    best = keras.models.load_model("best.keras")
    assert ks.report(best).sparsity == pytest.approx(0.9, abs=1e-3)
    assert np.isfinite(names["history"].history["loss"]).all()


def test_every_method_has_an_example():
    methods = {n for n, v in vars(ks).items() if isinstance(v, type) and issubclass(v, ks.SparseMethod)}
    for name in methods - {"SparseMethod"}:
        assert f"ks.{name}(" in README, name
