#!/usr/bin/env bash
# Fuzzes text parser and wire decoder with clang's libFuzzer, then shows how much of parser, decoder and verifiers the corpus
# reaches (line coverage).   tests/fuzz/run.sh [SECONDS a target, default 120]
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-120} build=build-fuzz
command -v clang-14 >/dev/null || { echo "tests/fuzz/run.sh wants clang-14, libclang-rt-14-dev and llvm-14 (apt-get install them)" >&2; exit 1; }
configure() { # folder, flags. Debian's clang has no OpenMP of its own; what is built here uses none.
  cmake -S . -B "$1" -G Ninja -DCMAKE_C_COMPILER=clang-14 -DCMAKE_BUILD_TYPE=RelWithDebInfo -DTHUNDER_FUZZER=ON -DCMAKE_C_FLAGS="$2" \
    -DOpenMP_C_FLAGS=-pthread -DOpenMP_C_LIB_NAMES=pthread -DOpenMP_pthread_LIBRARY=-lpthread >"$1.log" 2>&1 || { tail -20 "$1.log"; exit 1; }
  cmake --build "$1" --target fuzz_text fuzz_wire libfuzz_text libfuzz_wire >"$1.log" 2>&1 || { tail -20 "$1.log"; exit 1; }
}
configure "$build" "-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fprofile-instr-generate -fcoverage-mapping"
golden=tests/conformance/golden objects=() profiles=()
for target in text wire; do
  corpus=$build/corpus-$target
  mkdir -p "$corpus" "$build/crashes"
  LLVM_PROFILE_FILE=$build/seeds.profraw "$build/tests/fuzz_$target" --write-seeds "$corpus" "$golden"
  LLVM_PROFILE_FILE=$build/$target.profraw "$build/tests/libfuzz_$target" -max_total_time="$seconds" -max_len=65536 -timeout=30 -rss_limit_mb=4096 -print_final_stats=1 \
    -artifact_prefix="$build/crashes/$target-" "$corpus" tests/fuzz/corpus/"$target" 2>&1 | tail -12
  LLVM_PROFILE_FILE=$build/$target-driver.profraw "$build/tests/fuzz_$target" --seconds "$((seconds / 4 + 1))" "$golden"
  objects+=(-object "$build/tests/libfuzz_$target")
  profiles+=("$build/$target.profraw" "$build/$target-driver.profraw")
done
llvm-profdata-14 merge -o "$build/all.profdata" "${profiles[@]}"
llvm-cov-14 report "$build/tests/fuzz_text" -object "$build/tests/fuzz_wire" -object "$build/tests/libfuzz_text" -object "$build/tests/libfuzz_wire" \
  -instr-profile="$build/all.profdata" ir/parse.c ir/wire_decode.c ir/verify.c | awk 'NR <= 2 || /\.c|TOTAL/ { print }' | cut -c1-200
