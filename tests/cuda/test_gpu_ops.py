"""Every operator of the conformance suite (tests/conformance/samples.py) on a GPU against eager PyTorch: values, gradients and strides, and the same
bits in another call. The cases run in several processes at a time; each is a test of its own here.

Eager PyTorch on the GPU is what is compared with. Where the two differ, or it has no such kernel, eager PyTorch on the CPU is asked before the case
fails: at kinks and poles eager PyTorch has one subgradient on the one and another on the other.

    python tests/cuda/test_gpu_ops.py PART PARTS [DEVICE]      # without pytest: a line of JSON for each case; "cpu": their kernels on the host (simt)"""
import contextlib
import json
import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from torch.utils import _pytree as pytree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "conformance"))
from samples import SAMPLES  # noqa: E402

CASES = [(f"{row}-{i}", fn, tensors) for row, cases in SAMPLES.items() for i, (fn, tensors) in enumerate(cases)]
PARTS = max(1, min(8, (os.cpu_count() or 2) // 2))
GAPS = {"torch.conv2d-1": "no executor takes conv of f64"}  # docs/guide/gpu.rst; what is said of them
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false"), pytest.mark.timeout(600)]


# ---- a process ----

def moved(tree, device):
    return pytree.tree_map(lambda t: t.detach().to(device) if isinstance(t, torch.Tensor) else t, tree)


def run(fn, tensors, device):
    """(outputs, gradients) of a case on a device: what test_ops.call gives, whose tangents these are."""
    from test_ops import call
    _, out, _, gradients = call(fn, [t.detach().to(device).requires_grad_(t.requires_grad) for t in tensors])
    return [t.detach() for t in out], list(gradients)


def same(got, want, name, strides=True):
    from test_ops import close
    assert not strides or [t.stride() for t in got[0]] == [t.stride() for t in want[0]], f"{name}: strides {[t.stride() for t in got[0]]}, wanted {[t.stride() for t in want[0]]}"
    got, want = moved(got, "cpu"), moved(want, "cpu")
    close(got[0], want[0], f"{name}: output")
    close(got[1], want[1], f"{name}: gradient", 5)


def check(name, fn, tensors, device):
    """None or "on the CPU" (it is as there); raises."""
    import thunder
    from test_ops import close
    torch._dynamo.reset()
    try:
        want = run(fn, tensors, device)
    except NotImplementedError:  # of integers, by cuBLAS
        want = None
    compiled = thunder.compile(fn, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a piece that runs in eager PyTorch is a failure here
        got = run(compiled, tensors, device)
    assert thunder.compile_stats(compiled).regions, "nothing was compiled"
    assert not thunder.compile_stats(compiled).eager_pieces
    once, again = (run(compiled, tensors, device) for _ in range(2))  # the first call may have timed products
    for i in range(2):
        close(again[i], once[i], f"{name}: {('output', 'gradient')[i]} of another call", 0)
    try:
        if want is not None:
            same(got, want, name)
            return None
    except AssertionError:
        if device == "cpu":
            raise
    same(got, run(fn, tensors, "cpu"), name, strides=False)
    return "on the CPU"


def child(part, parts, device="cuda"):
    warnings.filterwarnings("ignore", message=".*degrees of freedom is <= 0")  # eager PyTorch's, of samples that are there for it
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device == "cpu":
        os.environ["THUNDER_TARGET"] = "cuda:simt"
    for name, fn, tensors in CASES[part::parts]:
        print(json.dumps({"begins": name}), flush=True)
        try:
            said = {"as": check(name, fn, tensors, device)}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps({"name": name, **said}), flush=True)


# ---- the tests ----

@pytest.fixture(scope="module")
def results():
    """name -> what its process said. All processes run until they are through, each in its own time."""
    found, threads, lock = {}, [], threading.Lock()

    def follow(part):
        process = subprocess.Popen([sys.executable, os.path.abspath(__file__), str(part), str(PARTS)], cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with contextlib.ExitStack() as stack:
            timer = threading.Timer(540, process.kill)
            timer.start()
            stack.callback(timer.cancel)
            errors = []
            reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
            reader.start()
            at = None
            for line in process.stdout:
                if not line.startswith("{"):
                    continue
                said = json.loads(line)
                at = said.get("begins")
                if "name" in said:
                    with lock:
                        found[said["name"]] = said
            status = process.wait()
            reader.join()
        if status:
            with lock:
                for name, *_ in CASES[part::PARTS]:
                    found.setdefault(name, {"error": f"its process ended ({status}){f' in {at}' if at else ''}: {errors[0][-1500:]}"})

    for part in range(PARTS):
        threads.append(threading.Thread(target=follow, args=(part,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("name", [c[0] for c in CASES])
def test_op(name, results):
    assert name in results, "its process said nothing of it"
    if name in GAPS:
        assert GAPS[name] in results[name].get("error", ""), "no gap any more: take it out of GAPS"
        return
    assert "error" not in results[name], results[name]["error"]


def test_few_are_only_as_on_the_cpu(results):
    """Else the first comparison does not mean much."""
    other = [name for name, said in results.items() if said.get("as")]
    assert len(other) < len(CASES) // 20, other


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
