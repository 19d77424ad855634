"""executors/cudnn/cudnn_abi.h against cuDNN's own header, where its wheel is: beside a folder of THUNDER_CUDA_LIBS, or in this environment."""
import os
import pathlib
import re

import pytest

from thunder import device

ABI = pathlib.Path(__file__).parents[2] / "executors/cudnn/cudnn_abi.h"
ASSIGNED = re.compile(r"\b(CUDNN_[A-Z0-9_a-z]+)(?:\s+CUDNN_DEPRECATED_ENUM)?\s*=\s*(\d+)")


def _header():
    for folder in (os.environ.get("THUNDER_CUDA_LIBS") or device.library_folders()).split(":"):
        header = pathlib.Path(folder).parent / "include/cudnn_graph_v9.h"
        if folder and header.exists():
            return header.read_text()
    pytest.skip("no cudnn_graph_v9.h: neither beside a folder of THUNDER_CUDA_LIBS nor in a wheel of this environment")


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
