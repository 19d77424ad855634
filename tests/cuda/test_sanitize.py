"""compute-sanitizer over the generated kernels. Without a GPU: how sanitize.py reads what the tools say, and that its planted kernels compile.
With one: a few programs under three tools; all of them: `python tests/cuda/sanitize.py`."""
import argparse
import os
import subprocess
import sys

import pytest
import torch

import gpu_programs
import planted
import sanitize

PLANTED = """========= Invalid __global__ write of size 4 bytes
=========     at th_kernel_planted_launched+0x90
=========     by thread (0,0,0) in block (0,0,0)
=========     Access to 0x7f3a4a000100 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f3a4a000000 of size 256 bytes
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame:  [0x2d] in libffi.so.8
========= 
========= Invalid __global__ write of size 4 bytes
=========     at th_kernel_planted_graph+0x90
=========     by thread (1,0,0) in block (0,0,0)
"""
CLEAN = "========= COMPUTE-SANITIZER\nRAN norms 12 7\nRAN step 30 21\n" + PLANTED + "========= Target application returned an error\n========= ERROR SUMMARY: 2 errors\n"
RACE = """========= Error: Race reported between Write access at th_kernel_4+0x510 and Read access at th_kernel_4+0x6b0 [128 hazards]
========= Warning: Race reported between Read access at th_kernel_planted_launched+0x20 and Write access at th_kernel_planted_launched+0x10 [64 hazards]
========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)
"""
OTHERS = """========= Uninitialized __global__ memory read of size 4 bytes
=========     at void cublasLt::splitKreduce_kernel<32, 16>(cublasLt::params)+0x120
=========     by thread (32,0,0) in block (0,0,0)
"""
COPY = """========= Host API uninitialized memory access
=========     Access at 0x7f of size 4 bytes on cuMemcpyDtoHAsync source
=========         Host Frame: th__cuda_issue [0x1] in _C.abi3.so
"""


def read(text, programs=("norms", "step"), status=0):
    return sanitize.Report(text, status, list(programs))


@pytest.mark.quick
def test_clean():
    report = read(CLEAN)
    assert report.ran == {"norms": (12, 7), "step": (30, 21)} and not report.faults and not report.trouble and not report.other
    assert report.planted == {"th_kernel_planted_launched", "th_kernel_planted_graph"}
    assert [sanitize.verdict(report, p) for p in ("norms", "step")] == [("clean", [])] * 2
    assert not read(CLEAN + OTHERS).faults and read(CLEAN + OTHERS).other == 1


@pytest.mark.quick
@pytest.mark.parametrize("text, word, said", [
    (CLEAN + RACE, "FAULTS", "th_kernel_4"),
    (CLEAN + PLANTED.replace("planted_graph", "12"), "FAULTS", "th_kernel_12"),
    (CLEAN + COPY, "FAULTS", "cuMemcpyDtoHAsync"),
    (CLEAN.replace(PLANTED, ""), "BLIND", "planted"),
    (CLEAN.replace("RAN step 30 21", "RAN step 0 0"), "NOTHING RAN", "no generated kernel"),
    (CLEAN.replace("RAN step 30 21\n", "Traceback:\nValueError: what\n"), "FAILED", "step did not end (exit status 1): ValueError: what"),
    (CLEAN + "========= Error: Internal Sanitizer Error: out of memory\n", "FAILED", "Internal"),
], ids=["race", "write", "copy", "blind", "nothing", "error", "tool"])
def test_what_is_not_clean(text, word, said):
    got, rows = sanitize.verdict(read(text, status=1), "step")
    assert got == word and said in "\n".join(line for row in rows for line in row)


@pytest.mark.quick
def test_a_device_that_the_tool_does_not_know():
    assert read("========= COMPUTE-SANITIZER\n========= Error: Device not supported. Please refer to the \"Supported Devices\" section\n").unsupported


def examine(monkeypatch, tools, groups, says):
    """What check() makes of processes that say this: (table, notes, which ran)."""
    ran = []

    def launch(options, tool, programs):
        ran.append((tool, *programs))
        return read("".join(f"RAN {p} 3 2\n" for p in programs) + says(tool, programs), programs)
    monkeypatch.setattr(sanitize, "launch", launch)
    return (*sanitize.check(argparse.Namespace(jobs=1, tools=tools), groups), ran)


@pytest.mark.quick
def test_the_program_at_fault_is_found(monkeypatch):
    """A group with a fault runs again one by one."""
    table, notes, ran = examine(monkeypatch, ["racecheck"], [["a", "b"], ["c", "d"]], lambda tool, programs: PLANTED + (RACE if "b" in programs else ""))
    assert {p: word for p, (word, _) in table["racecheck"].items()} == {"a": "clean", "b": "FAULTS", "c": "clean", "d": "clean"}
    assert ran == [("racecheck",), ("racecheck", "a", "b"), ("racecheck", "c", "d"), ("racecheck", "a"), ("racecheck", "b")]
    assert notes == ["racecheck: planted faults found; kernels in graphs: seen"]


@pytest.mark.quick
def test_a_tool_that_sees_less(monkeypatch):
    fault = OTHERS.replace("void cublasLt::splitKreduce_kernel<32, 16>(cublasLt::params)", "th_kernel_0")
    says = {("faulty",): fault, ("attention",): fault}
    table, notes, _ = examine(monkeypatch, ["initcheck"], [["gpt"], ["step"]], lambda tool, programs: PLANTED + says.get(tuple(programs), ""))
    assert {p: word for p, (word, _) in table["initcheck"].items()} == {"gpt": "unseen", "step": "clean"} and "left out" in notes[0]
    for hides in ([], ["faulty"]):
        table, notes, _ = examine(monkeypatch, ["memcheck"], [["step"]], lambda tool, programs, hides=hides: "" if programs == hides else PLANTED + fault * (programs == ["faulty"]))
        assert isinstance(table["memcheck"], str) and "BLIND" in notes[0]


@pytest.mark.quick
@pytest.mark.parametrize("tool", planted.KERNELS)
def test_planted_kernels_compile(tool):
    gpu_programs.need("libnvrtc.so.13")
    data = planted.cubin(planted.source(tool), "sm_90", gpu_programs.folders())
    assert all(name.encode() in data for name in planted.NAMES.values()) and data[:4] == b"\x7fELF"
    assert set(sanitize.TOOLS) == set(planted.KERNELS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false")
def test_a_few_programs():
    command = [sys.executable, os.path.join(sanitize.HERE, "sanitize.py"), "--tools", "memcheck", "racecheck", "initcheck", "--programs", *sanitize.SUBSET]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    if done.returncode == 77:
        pytest.skip(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
