# Thin front of the build: the README's commands.
#   make demo        install what is missing, build, train a small GPT on 2 ranks
#   make test        everything (about 30 minutes on 2 cores); make test-quick: 2 minutes; make test-sanitizers: the C tests under
#                    AddressSanitizer, UBSan and ThreadSanitizer (4 minutes; part of make test)
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
# CI compiles with warnings as errors (so do the builds of test-sanitizers); who builds a release with another compiler does not.
ifeq ($(CI),true)
WERROR := -DTHUNDER_WERROR=ON
endif
PYTEST = $(PYTHON) -m pytest -q -p no:cacheprovider -rs

# C tests find NVIDIA's wheels of the environment by it; the client looks for them itself.
WHEELS = THUNDER_CUDA_LIBS="$${THUNDER_CUDA_LIBS:-$$(echo $(abspath $(VENV))/lib/python3*/site-packages/nvidia/*/lib | tr ' ' :)}"

.PHONY: all setup build demo test test-quick test-sanitizers bench docs dist fuzz soak aarch64 format clean
all: build

setup:
	@deploy/setup.sh system
	@deploy/setup.sh venv $(VENV)

build: setup
	@cmake -S . -B $(BUILD) -G Ninja -DPython3_EXECUTABLE=$(PYTHON) $(WERROR) $(CMAKE_FLAGS) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@cmake --build $(BUILD)

demo: build
	thunderrun -n 2 docs/examples/train_gpt.py $(ARGS)
	@printf '%s\n' 'To run a program of your own, in any shell:' '    . $(abspath $(VENV))/bin/activate' \
	  '    export PATH=$(abspath $(BUILD))/bin:$$PATH PYTHONPATH=$(abspath $(BUILD))/python' '    thunderrun -n 2 train.py'

test-quick: build
	$(WHEELS) ctest --test-dir $(BUILD) --output-on-failure -j2 -L quick
	$(PYTEST) -m quick tests

test: build test-sanitizers
	$(WHEELS) ctest --test-dir $(BUILD) --output-on-failure -j2
	$(PYTEST) tests

# Only C tests are built here; tests/daemon can be run with the programs of build-asan by hand (docs/design/0004-testing.md).
# - fuzz_text and fuzz_wire get fewer inputs than in the main build (ctest's 20000 take minutes here on a busy machine), from another seed.
# - The tests over MPI run without leak detection: Open MPI 4.1 keeps what it allocated when a process ends.
# - ThreadSanitizer gets what has threads (label threads); Criterion aborts under it.
# - Where clang-14 is installed, all but the reference executor (its _Float16 wants clang 15) is compiled with it
#   once: it has warnings that gcc has not.
SANITIZED := ASAN_OPTIONS=halt_on_error=1:detect_stack_use_after_return=1:detect_leaks
export UBSAN_OPTIONS := halt_on_error=1:print_stacktrace=1
test-sanitizers: setup
	@cmake --preset asan -DPython3_EXECUTABLE=$(PYTHON) >build-asan.log 2>&1 || { cat build-asan.log; exit 1; }
	@cmake --build build-asan --target c_tests
	$(SANITIZED)=1 ctest --test-dir build-asan --output-on-failure -j2 -LE mpi -E '^fuzz_[a-z]*$$'
	cd build-asan && for target in text wire; do $(SANITIZED)=1 tests/fuzz_$$target --seed 11 --runs 4000 ../tests/conformance/golden || exit 1; done
	$(SANITIZED)=0 ctest --test-dir build-asan --output-on-failure -j2 -L mpi
	@cmake --preset tsan -DPython3_EXECUTABLE=$(PYTHON) >build-tsan.log 2>&1 || { cat build-tsan.log; exit 1; }
	@cmake --build build-tsan --target c_tests
	TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 ctest --test-dir build-tsan --output-on-failure -j2 -L threads
	@if command -v clang-14 >/dev/null; then \
	  cmake --preset clang -DPython3_EXECUTABLE=$(PYTHON) >build-clang.log 2>&1 || { cat build-clang.log; exit 1; }; \
	  cmake --build build-clang --target c_tests thunderd thunderc thunderctl thunder_python; \
	else echo "clang-14 is not installed: its warnings are not looked for"; fi

bench: build
	$(PYTHON) tests/bench/bench.py $(ARGS)

docs: build
	$(PYTHON) -m sphinx -q -b html docs docs/build

dist: setup # without fail points and tests
	@cmake -S . -B $(BUILD)-dist -G Ninja -DPython3_EXECUTABLE=$(PYTHON) -DTHUNDER_FAILPOINTS=OFF -DTHUNDER_TESTS=OFF $(CMAKE_FLAGS) >$(BUILD)-dist.log 2>&1 || { cat $(BUILD)-dist.log; exit 1; }
	@cmake --build $(BUILD)-dist
	$(PYTHON) deploy/dist.py $(BUILD)-dist dist

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
