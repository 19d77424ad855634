# Thin front of the build: the README's commands.
BUILD ?= build
PYTHON ?= python3

.PHONY: build test test-quick demo clean
build:
	cmake -S . -B $(BUILD) -G Ninja $(CMAKE_FLAGS) >/dev/null
	cmake --build $(BUILD)

test-quick: build
	ctest --test-dir $(BUILD) --output-on-failure -L quick
