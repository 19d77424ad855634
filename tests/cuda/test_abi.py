"""What stands here of NVIDIA's headers against the headers, where their wheels are: beside a folder of THUNDER_CUDA_LIBS, or in this environment."""
import os
import pathlib
import re
import subprocess

import pytest

import gpu_programs

ROOT = pathlib.Path(__file__).parents[2]
ABI = ROOT / "executors/cudnn/cudnn_abi.h"
ASSIGNED = re.compile(r"\b(CUDNN_[A-Z0-9_a-z]+)(?:\s+CUDNN_DEPRECATED_ENUM)?\s*=\s*(\d+)")


def _header():
    return pathlib.Path(gpu_programs.need("include/cudnn_graph_v9.h")[0]).read_text()


def test_numbers_are_those_of_the_header():
    theirs = {name: int(value) for name, value in ASSIGNED.findall(_header())}
    ours = {name: int(value) for name, value in ASSIGNED.findall(ABI.read_text())}
    assert len(ours) > 90
    assert {name: theirs.get(name) for name in ours} == ours


def test_functions_are_in_the_header():
    header = re.sub(r"\s+", " ", _header())
    functions = re.findall(r"TH_CUDNN_FUNCTION\([^,]+, ([A-Z]\w+),", ABI.read_text())
    assert len(functions) > 8
    assert [f for f in functions if not re.search(rf"\bcudnn{f}\(", header)] == []


def _toolkit(file):
    toolkits = [f"{folder}/include" for folder in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if folder]
    toolkit = next((t for t in toolkits if os.path.exists(f"{t}/{file}")), None)
    if not toolkit:
        pytest.skip(f"no CUDA toolkit: no {file} in {toolkits}")
    return toolkit


def test_nvtx():
    """nvtx_check.c: likewise."""
    command = ["cc", "-fsyntax-only", "-I", ROOT, "-isystem", _toolkit("nvtx3/nvToolsExt.h"), ROOT / "tests/cuda/nvtx_check.c"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_cublaslt_and_the_driver():
    """abi_check.c: assertions that the compiler holds."""
    header, = gpu_programs.need("include/cublasLt.h")
    command = ["cc", "-fsyntax-only", "-I", ROOT, "-I", os.path.dirname(header), "-I", _toolkit("cuda.h"), ROOT / "tests/cuda/abi_check.c"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
