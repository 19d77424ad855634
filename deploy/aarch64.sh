#!/usr/bin/env bash
# Compiles everything for Linux on aarch64 with Debian's cross compiler, and runs the C tests under qemu where it is installed:
#   deploy/aarch64.sh [BUILD, default build-aarch64]
# Libraries come as arm64 packages that are unpacked below the build folder; nothing of this system is replaced.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(mkdir -p "${1:-build-aarch64}" && cd "${1:-build-aarch64}" && pwd)
root=$build/root
command -v aarch64-linux-gnu-gcc >/dev/null || { echo "deploy/aarch64.sh wants a cross compiler: apt-get install gcc-aarch64-linux-gnu (and qemu-user to run the tests)" >&2; exit 1; }
packages=(libprotobuf-c-dev libprotobuf-c1 libuv1-dev libuv1 libpmix-dev libpmix2 libopenmpi-dev libopenmpi3 libpython3-dev libpython3.11-dev libhwloc-dev libhwloc15
          libevent-dev libevent-core-2.1-7 libevent-pthreads-2.1-7 libudev1 libmunge2 zlib1g)
if [ ! -f "$root/.done" ]; then
  mkdir -p "$root" "$build/apt/partial"
  options=(-oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oDir::State::Lists="$build/apt")
  apt-get "${options[@]}" -q update >"$build/apt.log" 2>&1
  for package in "${packages[@]}"; do # a name that this release does not have is left out; the build says what it misses
    (cd "$build/apt" && apt-get "${options[@]}" -q download "$package" >>"$build/apt.log" 2>&1) || echo "no arm64 package $package" >&2
  done
  for file in "$build"/apt/*.deb; do dpkg-deb -x "$file" "$root"; done
  touch "$root/.done"
fi
cat >"$build/toolchain.cmake" <<EOF
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_FIND_ROOT_PATH $root)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_C_FLAGS_INIT "-isystem $root/usr/include -isystem $root/usr/include/aarch64-linux-gnu -idirafter /usr/include")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-L$root/usr/lib/aarch64-linux-gnu -Wl,-rpath-link,$root/usr/lib/aarch64-linux-gnu:$root/usr/lib/aarch64-linux-gnu/openmpi/lib")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "\${CMAKE_EXE_LINKER_FLAGS_INIT}")
set(CMAKE_CROSSCOMPILING_EMULATOR $(command -v qemu-aarch64 || command -v qemu-aarch64-static || echo "") -L /usr/aarch64-linux-gnu -E "LD_LIBRARY_PATH=$root/usr/lib/aarch64-linux-gnu")
EOF
export PKG_CONFIG_LIBDIR=$root/usr/lib/aarch64-linux-gnu/pkgconfig:$root/usr/share/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root
cmake -S . -B "$build" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$build/toolchain.cmake" -DCMAKE_BUILD_TYPE=Release -DTHUNDER_WERROR=ON -DPython3_INCLUDE_DIR="$root/usr/include/python3.11" ${CMAKE_FLAGS:-}
cmake --build "$build"
# The gRPC adapter's libraries come as dozens of packages: it is compiled against this system's headers and not linked.
if [ -f /usr/include/grpc/grpc.h ]; then
  aarch64-linux-gnu-gcc -std=gnu11 -Wall -Wextra -Werror -fsyntax-only -I. -I"$build" -I"$build/proto" -isystem "$root/usr/include" -idirafter /usr/include daemon/grpc/grpc.c
fi
