# The environment that everything runs in. `make test VENV=path` uses an environment of yours, with
# the torch it has; otherwise .venv is made, with a pinned torch.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
TORCH = torch==2.13.0

export HACE_REQUIRE_NATIVE = 1

.PHONY: install test test-large lint format demo demo-tune bench

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

lint: install
	$(BIN)/pip install -q --no-build-isolation -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(shell find csrc -name '*.cpp' -o -name '*.h')

format: install
	$(BIN)/pip install -q --no-build-isolation -e ".[dev]"
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell find csrc -name '*.cpp' -o -name '*.h')

demo: install
	$(BIN)/python -m examples.icd10

demo-tune: install
	$(BIN)/python -m examples.icd10.tune

# glibc would give the buffers of a step back to the system and wait, at the next step, for fresh
# pages, which takes longer than any of the losses: here everyone keeps what was freed.
bench: export MALLOC_MMAP_THRESHOLD_ = 8589934592
bench: export MALLOC_TRIM_THRESHOLD_ = 17179869184
bench: export MALLOC_TOP_PAD_ = 268435456
bench: install
	$(BIN)/python -m pytest benchmarks -p no:xdist --benchmark-columns=median,iqr,rounds
