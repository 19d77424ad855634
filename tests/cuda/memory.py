"""On a GPU: what TrainStep.memory says in a process without one, beside what steps then take. Not a test.

    python tests/cuda/memory.py [--works gpt2:32,gpt2:16,llama:4,llama:2,resnet:256,resnet:128] [--budgets gpt2:32:8,llama:4:16] [--too-large gpt2:4096]

A process each, with the GPU hidden for the predictions. Measured: PyTorch's torch.cuda.max_memory_allocated after five steps; NVML's used memory of the
device then, less what it was when the process had a context and nothing else (context and code of PyTorch's own kernels), and with it. Budgets in GiB:
the step's time and memory with memory_budget. Exit status 1: a prediction is off by more than 2 %, or a step that cannot fit was run."""
import argparse
import ctypes
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "bench"))


def made(work, batch, device, budget=None):
    """(step, x, y) of a work."""
    import models
    import torch
    import thunder
    name, half, length = {"gpt2": ("gpt2-124m", False, 1024), "llama": ("llama-1b", True, 4096), "resnet": (None, False, 0)}[work]
    with torch.device(device):
        model = models.LM(name, length) if name else models.ResNet()
        if half:
            model = model.to(torch.bfloat16)
        if name:
            x, y = (torch.randint(0, 50257, (batch, length)) for _ in range(2))
            optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
            step = thunder.train_step(model, optimizer, models.loss_fn, clip_grad_norm=1.0, precision=None if half else "bf16-mixed", memory_budget=budget)
        else:
            model = model.to(memory_format=torch.channels_last)
            x, y = torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last), torch.randint(0, 1000, (batch,))
            step = thunder.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4), torch.nn.functional.cross_entropy,
                                      precision="bf16-mixed", memory_budget=budget)
    return step, x, y


def used():
    """Bytes of the device in use, by NVML."""
    class Memory(ctypes.Structure):
        _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]
    nvml, handle, memory = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p(), Memory()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) or nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
        raise RuntimeError("NVML does not answer")
    return memory.used


def predict(work, batch, budget):
    step, x, y = made(work, batch, "meta", budget)
    started = time.perf_counter()
    plan = step.memory(x, y, gpu="h200")
    return {"peak": plan.peak, "seconds": time.perf_counter() - started, "table": plan.table(8)}


def measure(work, batch, budget):
    import statistics
    import torch
    before = used()
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    context = used()
    step, x, y = made(work, batch, "cuda", budget)
    times = []
    for _ in range(12):
        torch.cuda.synchronize()
        started = time.perf_counter()
        step(x, y)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return {"peak": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved(), "idle": before, "context": context - before, "nvml": used() - before,
            "ms": statistics.median(times[4:]) * 1e3, "said": thunder_says(step)}


def thunder_says(step):
    return step.held[0].native.predicted_peak


def refuse(work, batch, budget):
    import torch
    step, x, y = made(work, batch, "cuda", budget)
    before = torch.cuda.max_memory_allocated()
    try:
        step(x, y)
        said = None
    except torch.OutOfMemoryError as error:
        said = str(error)
    return {"said": said, "more": torch.cuda.max_memory_allocated() - before}


def child(kind, work, batch, budget=None, hidden=False):
    program = f"import sys; sys.path.insert(0, {HERE!r}); import json, memory; print('RESULT', json.dumps(memory.{kind}({work!r}, {batch}, {budget})))"
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if hidden else os.environ
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:])
    raise RuntimeError(f"{kind} of {work}, batch {batch}: {done.stdout[-2000:]}{done.stderr[-3000:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--works", default="gpt2:32,gpt2:16,llama:4,llama:2,resnet:256,resnet:128")
    parser.add_argument("--budgets", default="gpt2:32:8,gpt2:32:5,llama:4:16")
    parser.add_argument("--too-large", default="gpt2:4096")
    o = parser.parse_args()
    off = False

    def gib(count):
        return count / 2**30
    print("GiB            predicted  max_memory_allocated          NVML less context        NVML   context  reserved     ms")
    for entry in [*filter(None, o.works.split(",")), *filter(None, o.budgets.split(","))]:
        work, batch, *budget = entry.split(":")
        limit = int(float(budget[0]) * 2**30) if budget else None
        try:
            predicted, measured = child("predict", work, int(batch), limit, hidden=True), child("measure", work, int(batch), limit)
        except RuntimeError as error:
            print(entry, error)
            off = True
            continue
        by_torch, by_nvml = predicted["peak"] / measured["peak"], predicted["peak"] / (measured["nvml"] - measured["context"])
        off |= not 0.98 <= by_torch <= 1.02 or not 0.98 <= by_nvml <= 1.02
        print(f"{entry:14s} {gib(predicted['peak']):8.3f}  {gib(measured['peak']):8.3f} {by_torch:9.4f}   {gib(measured['nvml'] - measured['context']):14.3f} {by_nvml:9.4f} "
              f"{gib(measured['nvml']):9.3f} {gib(measured['context']):9.3f} {gib(measured['reserved']):9.3f} {measured['ms']:9.2f}", flush=True)
    for entry in filter(None, o.too_large.split(",")):
        work, batch = entry.split(":")
        said = child("refuse", work, int(batch))
        off |= said["said"] is None or said["more"] > 0
        print(f"\n{entry}: {said['said'] or 'was run'}\n({said['more']} bytes were allocated for it)")
    sys.exit(1 if off else 0)


if __name__ == "__main__":
    main()
