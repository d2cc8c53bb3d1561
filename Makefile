# Each target does its own set-up: Python >= 3.11 and a C++ compiler are all a machine needs.
#   make demo    the main job on a small problem, results under runs/demo (DEMO=quick: a short form)
#   make test    the tests
#   make interop the tests against other libraries (Stable-Baselines3, d3rlpy, TorchRL, transformers, Flax, onnxruntime)
#   make simt-test, make cuda-check    the CUDA kernels on the CPU under sanitizers; their registers and spills (needs nvcc)
# Variables: PYTHON (interpreter for .venv), CXX, DTAG_CUDA, DTAG_BUILD=0 (no compiled module), TESTS, BENCH

VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
BENCH ?= benchmarks
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Where nothing can run them, compiling the CUDA kernels once shows that they compile; cuda-check does it for every target.
ifeq ($(shell command -v nvidia-smi),)
export CMAKE_CUDA_ARCHITECTURES ?= 90a
endif

SOURCES := setup.py CMakeLists.txt $(shell find csrc cmake -type f 2>/dev/null)
FOR_USE := $(VENV)/.installed-for-use
FOR_TESTS := $(VENV)/.installed-for-tests
FOR_BENCH := $(VENV)/.installed-for-benchmarks
FOR_INTEROP := $(VENV)/.installed-for-interop
# A stamp for either kind of build, so that a switch of DTAG_BUILD is noticed.
BUILT := $(VENV)/.built$(if $(filter 0,$(DTAG_BUILD)),-without-core)
STAMP_BUILT = rm -f $(VENV)/.built* && touch $(BUILT)

PYTEST := $(BIN)/python -m pytest -p no:benchmark -n auto --maxprocesses 8 --dist worksteal

.NOTPARALLEL:
.PHONY: demo test interop bench lint sanitize simt-test cuda-check clean

demo: $(FOR_USE) $(BUILT)
	$(BIN)/dtag demo $(if $(filter quick,$(DEMO)),--quick)

test: $(FOR_TESTS) $(BUILT)
	$(PYTEST) $(TESTS)

# Without the other libraries `make test` skips what compares with them.
interop: $(FOR_INTEROP) $(BUILT)
	$(PYTEST) tests/interop tests/cli/test_convert.py tests/cli/test_export.py

# Both cores, one process: times of two benchmarks at once mean nothing.
bench: $(FOR_BENCH) $(BUILT)
	$(BIN)/python -m pytest $(BENCH) --benchmark-only --benchmark-json build/benchmark.json
	$(BIN)/python -m benchmarks.report build/benchmark.json

lint: $(FOR_TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tools.make_tables --check

# The binding's fuzz on a build of the C++ core that stops at every bad access and undefined operation.
sanitize: $(FOR_TESTS)
	tools/sanitize.sh

# The CUDA kernels on the CPU: the machine that stands in for a GPU finds what is planted, then the kernels under sanitizers
# (their other tests are part of `make test`).
simt-test: $(FOR_TESTS)
	$(BIN)/python -m tools.simt
	$(BIN)/python -m tools.simt --sanitize

# Registers, spills and shared memory of the CUDA kernels; needs nvcc, but no GPU.
cuda-check: $(FOR_TESTS)
	$(BIN)/python -m tools.cuda_check

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f dtag_fast/_C.*.so
	find dtag_fast tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(FOR_USE): constraints.txt pyproject.toml tools/setup_venv.sh
	tools/setup_venv.sh robotics
	$(STAMP_BUILT) && touch $@

$(FOR_TESTS): constraints.txt pyproject.toml tools/setup_venv.sh
	tools/setup_venv.sh robotics,test
	$(STAMP_BUILT) && touch $@ $(FOR_USE)

$(FOR_BENCH): constraints.txt pyproject.toml tools/setup_venv.sh
	tools/setup_venv.sh dev
	$(STAMP_BUILT) && touch $@ $(FOR_TESTS) $(FOR_USE)

$(FOR_INTEROP): $(FOR_TESTS)
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation -c constraints.txt -e ".[interop]"
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -c constraints.txt d3rlpy
	$(STAMP_BUILT) && touch $@

$(BUILT): $(SOURCES)
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --no-deps -e .
	$(STAMP_BUILT)
