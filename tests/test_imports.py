"""Tests the direction of imports in the package, and that importing it loads nothing but Keras and its backend."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_sparse

PACKAGE = Path(keras_sparse.__file__).parent
# Each room may import from those above it.
ORDER = [
    {"criteria"},
    {"validation", "atomic_write"},
    {"schedules", "distributions", "counter_rng"},
    {"_keras"},
    {"backend"},
    {"layers"},
    {"conversion"},
    {"replicas"},
    {"training"},
    {"methods"},
    {"report", "export"},
    {"callbacks"},
]
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room(module):
    """Returns the room of a module, such as "training" for keras_sparse.training.sparse_method."""
    return module.split(".")[1]


def level(name):
    return next(i for i, rooms in enumerate(ORDER) if name in rooms)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "keras_sparse":
                yield from (f"keras_sparse.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_in_one_direction(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imported(path):
        if module.startswith("keras_sparse."):
            assert room(module) == own or level(room(module)) < level(own), f"{path.name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_keras_numpy_and_the_standard_library_at_import_time(path):
    body = ast.parse(path.read_text()).body
    for node in body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.split(".")[0]
            assert top in {"keras", "numpy", "keras_sparse"} | sys.stdlib_module_names, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_says_what_it_holds_and_is_short(path):
    assert len(path.read_text().splitlines()) < 350
    assert ast.get_docstring(ast.parse(path.read_text())) or path.name == "__init__.py"


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_importing_loads_no_other_backend_or_package(backend):
    if backend != "tensorflow":
        pytest.importorskip(backend)
    code = (
        "import sys, keras; before = set(sys.modules); import keras_sparse;"
        "print({m.split('.')[0] for m in set(sys.modules) - before})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    new = ast.literal_eval(run.stdout.strip().splitlines()[-1])
    assert not new & {"tensorflow", "tensorflow_model_optimization", "tensorflow_datasets", "jax", "torch", "tf_keras"}


@pytest.mark.parametrize("name", keras_sparse.__all__)
def test_public_functions_and_constructors_have_type_hints(name):
    public = getattr(keras_sparse, name)
    if not callable(public):
        pytest.skip("is a module")
    parameters = inspect.signature(public).parameters.values()
    untyped = [
        p.name for p in parameters if p.annotation is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    assert not untyped
    assert inspect.isclass(public) or inspect.signature(public).return_annotation is not inspect.Signature.empty
