# Thin front of the build: the README's commands.
#   make demo        install what is missing, build, train a small GPT on 2 ranks
#   make test        everything (about 25 minutes on 2 cores); make test-quick: 2 minutes
#   make bench       eager, torch.compile and Thunder side by side
#   make docs        docs/build/index.html
#   make dist        dist/: a wheel and a relocatable bundle with all programs and the libraries they need
#   make soak        random tests for HOURS (1), outside CI; goes on where tests/soak/summary.json says
#   make aarch64     everything compiled for Linux on aarch64 (Debian's cross compiler), C tests run by: cd build-aarch64 && ctest -L quick
#   make fuzz        clang's libFuzzer on the text parser and the wire decoder, and the lines they reach (SECONDS=120)
# VENV=DIR uses another Python environment than .venv; BUILD=DIR another build folder; NO_APT=1 installs no system package.
BUILD ?= build
VENV ?= .venv
PYTHON := $(abspath $(VENV))/bin/python
export PATH := $(abspath $(BUILD))/bin:$(abspath $(VENV))/bin:$(PATH)
export PYTHONPATH := $(abspath $(BUILD))/python
export THUNDER_BIN := $(abspath $(BUILD))/bin
export THUNDER_BUILD_DIR := $(abspath $(BUILD))
PYTEST = $(PYTHON) -m pytest -q -p no:cacheprovider

.PHONY: all setup build demo test test-quick bench docs dist fuzz soak aarch64 format clean
all: build

setup:
	@deploy/setup.sh system
	@deploy/setup.sh venv $(VENV)

build: setup
	@cmake -S . -B $(BUILD) -G Ninja -DPython3_EXECUTABLE=$(PYTHON) $(CMAKE_FLAGS) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@cmake --build $(BUILD)

demo: build
	thunderrun -n 2 docs/examples/train_gpt.py $(ARGS)

test-quick: build
	ctest --test-dir $(BUILD) --output-on-failure -j2 -L quick
	$(PYTEST) -m quick tests

test: build
	ctest --test-dir $(BUILD) --output-on-failure -j2
	$(PYTEST) tests

bench: build
	$(PYTHON) tests/bench/bench.py $(ARGS)

docs: build
	$(PYTHON) -m sphinx -q -b html docs docs/build

dist: build
	$(PYTHON) deploy/dist.py $(BUILD) dist

fuzz: setup
	tests/fuzz/run.sh $(SECONDS)

soak: build
	$(PYTHON) tests/soak/soak.py --hours $(or $(HOURS),1) $(ARGS)

aarch64: setup
	deploy/aarch64.sh

format:
	git ls-files '*.c' '*.h' | xargs clang-format-14 -i

clean:
	rm -rf $(BUILD) $(BUILD).log docs/build dist
