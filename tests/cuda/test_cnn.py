"""A CNN's training step for CUDA without a GPU: compiled for sm_90 with cuDNN, and run as CUDA's kernels on the host (simt)."""
import os
import re
import subprocess
import sys

import pytest

import gpu_programs

HERE = os.path.dirname(os.path.abspath(__file__))


def run(folder, target, *arguments):
    folder.mkdir(mode=0o700)
    environment = {**os.environ, "THUNDER_RUNTIME_DIR": str(folder), "THUNDER_CACHE_DIR": str(folder / "cache"), "THUNDER_DUMP": str(folder / "dump"),
                   "THUNDER_VERIFY": "1"}
    if target:
        environment["THUNDER_TARGET"] = target
    try:
        done = subprocess.run([sys.executable, os.path.join(HERE, "cnn_step.py"), *arguments], env=environment, capture_output=True, text=True, timeout=300)
    finally:
        subprocess.run([os.path.join(os.environ["THUNDER_BIN"], "thunderctl"), "stop"], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / "dump"


@pytest.mark.parametrize("last", [(), ("last",)])
def test_compiles_for_sm_90(last, tmp_path):
    gpu_programs.need("libnvrtc.so.13", "libcudnn.so.9")
    said, dump = run(tmp_path / "rt", "cuda:sm_90:cudnn=9.19.0", "bf16", *last)
    assert said.startswith("ValueError input 0 is not on cuda"), said  # one plan for the whole step, and nothing eager
    layout, = dump.rglob("*-layout__step.tir")
    text = layout.read_text()
    graphs = dict(re.findall(r'^graph (@\d+) "[^"]*" \{\n(.*?)^\}', text, re.M | re.S))
    main = graphs["@0"]
    assert len(re.findall(r'"cudnn\.conv"', main)) == 6 and len(re.findall(r'"cudnn\.conv_grad_x"', main)) == 5 and len(re.findall(r'"cudnn\.conv_grad_w"', main)) == 6
    # No kernel only brings a value of the network into another order: those of one `convert` change its dtype.
    types = {value: dtype for line in main.splitlines() if " = " not in line for value, dtype in re.findall(r"^  (%\d+) : (\w+)\[", line)}
    for values, made in re.findall(r"^  (%[^=]*) = [^:]* : (.*)", re.sub(r"\{[^}]*\}", "", main), re.M):
        types.update(zip(values.split(", "), re.findall(r"(\w+)\[[^]]*\]", made)))
    for operand, body, dtype, dims in re.findall(r"= fusion\((%\d+)\) \{body: (@\d+)\} : (\w+)\[([^]]*)\]", main):
        if dtype == "bf16" and dims.count(",") == 3 and re.fullmatch(r"[^=]*= convert[^=]*", graphs[body]):
            assert types[operand] != dtype, (operand, body)


@pytest.mark.parametrize("last", [(), ("last",)])
def test_same_on_simt(last, tmp_path):
    here, _ = run(tmp_path / "cpu", None, *last)
    there, dump = run(tmp_path / "simt", "cuda:simt", *last)
    layout, = dump.rglob("*-channels__step.tir")
    assert "permutation: [0, 2, 3, 1]" in layout.read_text()
    here, there = ([(word, float(number)) for word, number in (line.split() for line in text.splitlines())] for text in (here, there))
    assert len(here) > 15 and [word for word, _ in here] == [word for word, _ in there]
    for (_, x), (_, y) in zip(here, there):
        assert x == pytest.approx(y, rel=2e-4, abs=2e-4)
