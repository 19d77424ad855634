"""Where a region runs: the device of its tensors, the target that a compile for it is asked for, and its random numbers."""
import contextlib
import functools
import glob
import importlib.metadata
import os
import platform

import torch

from . import wire


def of(arguments):
    """The device of a call: that of its tensors on cuda, else the cpu."""
    for value in arguments:
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            return value.device
    return torch.device("cpu")


@functools.cache
def _cpu_arch():
    """The CPU's level as a target names it; never -march=native."""
    if platform.machine() == "aarch64":
        return "aarch64"
    try:
        with open("/proc/cpuinfo") as f:
            flags = next((line for line in f if line.startswith("flags")), "").split()
    except OSError:
        flags = []
    v4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
    return "x86-64-v4" if v4 <= set(flags) else "x86-64-v3"


@functools.cache
def _cuda(index):
    p = torch.cuda.get_device_properties(index)
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    libraries = [f"cuda={torch.version.cuda}"] + ([f"cudnn={cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}"] if cudnn else [])
    return wire.Target(name="cuda", arch=f"sm_{p.major}{p.minor}", memory=p.total_memory, library=sorted(libraries), sms=p.multi_processor_count,
                       shared=getattr(p, "shared_memory_per_block_optin", 0), l2=getattr(p, "L2_cache_size", 0))


# GPUs that can be compiled for without one: arch, multiprocessors, shared memory that a block may have, L2 cache, memory (bytes)
GPUS = {"a100": ("sm_80", 108, 166912, 41943040, 85_000_000_000), "h100": ("sm_90", 132, 232448, 52428800, 85_000_000_000),
        "h200": ("sm_90", 132, 232448, 62914560, 150_000_000_000), "b200": ("sm_100", 148, 232448, 132644864, 191_000_000_000)}
CUDNN = "9.19.0"  # what PyTorch for CUDA 13 brings
_instead = None  # a target that is compiled for instead of the device's own


@contextlib.contextmanager
def compiling_for(gpu):
    """While it lasts, compiles for tensors on the cpu or on meta are for the GPU of this name (GPUS), with the libraries that this environment has."""
    global _instead
    arch, sms, shared, l2, memory = GPUS[gpu]
    before, _instead = _instead, wire.Target(name="cuda", arch=arch, memory=memory, library=_libraries(), sms=sms, shared=shared, l2=l2)
    try:
        yield
    finally:
        _instead = before


def compiles_ahead():
    """Inside of `compiling_for`: what is compiled now is not run here, so tensors may be on meta."""
    return _instead is not None


def _libraries():
    cudnn = None
    for name in ("nvidia-cudnn-cu13", "nvidia-cudnn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            cudnn = cudnn or ".".join(importlib.metadata.version(name).split(".")[:3])
    return [f"cudnn={cudnn or CUDNN}"]


def target(device):
    """What a compile for the device is for."""
    if _instead is not None and device.type in ("cpu", "meta"):
        return _instead
    forced = os.environ.get("THUNDER_TARGET")  # tests: "cuda:simt", CUDA's kernels run by the host; "cuda:sm_90:cudnn=9.19.0", compiled only
    if forced and device.type == "cpu":
        name, arch, *libraries = forced.split(":")
        return wire.Target(name=name, arch=arch, threads=torch.get_num_threads(), library=libraries, sms=132, shared=232448, l2=52428800, memory=85017493504)
    if device.type == "cuda":
        return _cuda(torch.cuda.current_device() if device.index is None else device.index)
    return wire.Target(name="cpu", arch=_cpu_arch(), threads=torch.get_num_threads())


def library_folders():
    """Where this environment's wheels of NVIDIA's libraries are: NVRTC and cuDNN for the daemon's compile workers."""
    site = os.path.dirname(os.path.dirname(torch.__file__))
    return ":".join(sorted(glob.glob(os.path.join(site, "nvidia", "*", "lib"))))


def draw(device):
    """(seed, offset) of a call's random numbers, from PyTorch's generator of the device: torch.manual_seed reproduces what a plan draws."""
    if device.type != "cuda":
        return torch.empty((), dtype=torch.int64).random_(), 0
    generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    seed, offset = generator.initial_seed(), generator.get_offset()
    generator.set_offset(offset + 4)  # PyTorch's offsets are multiples of 4
    return seed - (1 << 64) if seed >= 1 << 63 else seed, offset
