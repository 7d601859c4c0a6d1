# The environment that everything runs in. `make test VENV=path` uses an environment of yours, with
# the torch it has; otherwise .venv is made, with a pinned torch.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
TORCH = torch==2.13.0

export HACE_REQUIRE_NATIVE = 1

C_FILES = $(shell find csrc tests/cuda/emulation -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: install test test-large build-gpu test-gpu lint format demo demo-tune
.PHONY: bench bench-quick bench-gpu bench-micro bench-check

# Compiles when a source is newer than the library; python files are used in place.
install: $(VENV)/.hace-installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.hace-installed: $(VENV)/bin/python pyproject.toml setup.py $(shell find csrc -type f)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install "$(TORCH)"
	$(BIN)/pip install "setuptools>=77" "pybind11>=2.12"
	$(BIN)/pip install --no-build-isolation -e ".[test,bench,demo]"
	touch $@

test: install
	$(BIN)/python -m pytest -n 2
	cd $(VENV) && bin/python -m hace.verify

test-large: install
	$(BIN)/python -m pytest -m large

# In an environment that is there, with torch for GPUs, triton, numpy, pytest, hypothesis, setuptools
# and pybind11; nothing is installed. The CUDA kernels are compiled where nvcc is.
GPU_ENVIRONMENT = PYTHONPATH=.:python HACE_REQUIRE_NATIVE=0

build-gpu:
	$(GPU_ENVIRONMENT) $(PYTHON) setup.py -q build_ext --inplace

test-gpu: build-gpu
	$(GPU_ENVIRONMENT) $(PYTHON) tests/gpu/run_on_gpu.py

lint: install
	$(BIN)/pip install -q --no-build-isolation -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)

format: install
	$(BIN)/pip install -q --no-build-isolation -e ".[dev]"
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

demo: install
	$(BIN)/python -m examples.icd10

demo-tune: install
	$(BIN)/python -m examples.icd10.tune

# The full report: every claim beside its peers, in benchmarks/results.
bench: install
	$(BIN)/python -m benchmarks

bench-quick: install
	$(BIN)/python -m benchmarks --quick

bench-gpu: build-gpu
	$(GPU_ENVIRONMENT) $(PYTHON) -m benchmarks --device cuda

# Each op and backend alone. glibc would give the buffers of a step back to the system and wait, at
# the next step, for fresh pages, which takes longer than any of the losses: here everyone keeps
# what was freed. The suite sees to that by itself.
bench-micro: export MALLOC_MMAP_THRESHOLD_ = 8589934592
bench-micro: export MALLOC_TRIM_THRESHOLD_ = 17179869184
bench-micro: export MALLOC_TOP_PAD_ = 268435456
bench-micro: install
	$(BIN)/python -m pytest benchmarks -p no:xdist --benchmark-columns=median,iqr,rounds

# Fails when a ratio of times exceeds its limit in benchmarks/limits.json.
bench-check: install
	$(BIN)/python -m benchmarks.gate
