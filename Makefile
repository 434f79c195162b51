# `make demo` and `make test` need only Python 3.11 or newer: each target creates the environment that it runs in.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
PARALLEL ?= --numprocesses 2 --dist worksteal
export TF_CPP_MIN_LOG_LEVEL ?= 2
# A pinned build of the next Keras, updated by hand, and the tests that run against it.
KERAS_NIGHTLY = 3.16.0.dev2026102704
NIGHTLY = $(VENV)/nightly
NEXT_KERAS = tests/test_keras_internals.py tests/test_contract.py

.PHONY: demo test test-long test-backends test-nightly lint clean

demo: $(VENV)/installed-demo  ## Train a 98% sparse network on 5,000 real digits
# An epoch of 4,000 digits has 40 steps instead of 600, hence the shorter period; with less data, more L1 is better.
	$(BIN)/python recipes/lenet_mnist.py --dataset mnist_5k --period 10 --l1 5e-4 --output_dir runs/demo --overwrite

test: $(VENV)/installed-test  ## Run the short tests on the TensorFlow backend, in minutes
	$(BIN)/python -m pytest $(PARALLEL) -m "not long" $(ARGS)

test-long: $(VENV)/installed-test  ## Run the long tests: random, unusual, interrupted, killed, saved and convolutional trainings
	$(BIN)/python -m pytest $(PARALLEL) -m long --examples 500 --kills 2 $(ARGS)

test-backends: $(VENV)/installed-jax $(VENV)/installed-torch  ## Run all tests on the other backends
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(PARALLEL)
	KERAS_BACKEND=torch $(BIN)/python -m pytest $(PARALLEL)

test-nightly: $(VENV)/installed-jax  ## Test the methods against the next Keras, on JAX, where it changes most
	test -d $(NIGHTLY) || $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target $(NIGHTLY) keras-nightly==$(KERAS_NIGHTLY)
	KERAS_BACKEND=jax PYTHONPATH=$(NIGHTLY) $(BIN)/python -m pytest $(PARALLEL) -m "not long" $(NEXT_KERAS) $(ARGS)

lint: $(VENV)/installed-dev  ## Check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) runs/demo .pytest_cache .ruff_cache .hypothesis

# All targets share one environment, to which each adds what it needs.
$(VENV)/installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[$(if $(filter jax torch,$*),test$(comma))$*]"
	touch $@

comma := ,
