"""Configuration and fixtures shared by all tests."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
from hypothesis import settings

# No deadline: on a busy machine single examples are slow.
settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")


def pytest_addoption(parser):
    """Adds options for the number of random examples, and for the methods to test."""
    parser.addoption("--kills", type=int, default=1, help="Runs that tests/test_kill.py kills for each method.")
    parser.addoption("--examples", type=int, default=100, help="Random runs of tests/test_properties.py.")
    parser.addoption("--methods", default="", help="Names of the methods to test, separated by commas; all if empty.")


def pytest_configure(config):
    """Makes the processes of a test run share the compilation cache of JAX.

    Scripts that tests start do not use it, since tests may kill them.
    """
    if os.environ.get("KERAS_BACKEND") == "jax":
        import jax

        if not hasattr(config, "workerinput"):
            os.environ["KERAS_SPARSE_COMPILED"] = tempfile.mkdtemp(prefix="compiled")
        jax.config.update("jax_compilation_cache_dir", os.environ["KERAS_SPARSE_COMPILED"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure(config):
    """Deletes the compilation cache."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop("KERAS_SPARSE_COMPILED", ""), ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """Skips the tests that need another backend than the current one, and leaves out those of other `--methods`."""
    if config.getoption("methods"):
        from test_contract import METHODS

        others = METHODS.keys() - set(config.getoption("methods").split(","))
        left_out = [x for x in items if hasattr(x, "callspec") and x.callspec.params.get("name") in others]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [x for x in items if x not in left_out]
    import keras  # Imported here, since the process that only starts the workers does not need it.

    backend = keras.backend.backend()
    for item in items:
        for needed in {"tensorflow", "jax"} & set(item.keywords) - {backend}:
            item.add_marker(pytest.mark.skip(reason=f"needs the {needed} backend, this is {backend}"))


@pytest.fixture(autouse=True)
def _same_start():
    """Makes a test independent of those before it, which took names such as "dense" and random numbers."""
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)


@pytest.fixture
def blobs():
    """Returns 96 points of 3 classes in 8 dimensions, which a small net can learn."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    centres = rng.normal(size=(3, 8)) * 3
    return (centres[labels] + rng.normal(size=(96, 8))).astype("float32"), labels.astype("int32")


@pytest.fixture(scope="session")
def tfmot():
    """Loads the module of TF-MOT with its schedules, without the package, which would switch the process to Keras 2."""
    pytest.importorskip("tensorflow")
    package = importlib.util.find_spec("tensorflow_model_optimization")
    if package is None:
        pytest.skip("needs tensorflow_model_optimization")
    (folder,) = package.submodule_search_locations
    file = Path(folder) / "python/core/sparsity/keras/pruning_schedule.py"
    spec = importlib.util.spec_from_file_location("pruning_schedule", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
