"""Faulty kernels, one for each tool of compute-sanitizer, launched as libthunder launches its own: a cubin of NVRTC's, the driver's calls, directly
and as a node of a graph. A tool that does not report them has checked nothing (sanitize.py). Nothing here needs PyTorch."""
import ctypes
import glob
import os
import sys

THREADS = 64
KERNELS = {
    "memcheck": "x[n + threadIdx.x] = 1;",  # behind the end
    "initcheck": "y[threadIdx.x] = x[threadIdx.x];",  # nobody wrote x
    # From a warp to the other one.
    "racecheck": "__shared__ volatile float s[64]; s[threadIdx.x] = threadIdx.x; y[threadIdx.x] = s[63 - threadIdx.x];",
    "synccheck": "if (threadIdx.x % 32 < 16) __syncthreads(); y[threadIdx.x] = threadIdx.x;",  # half of each warp
}
NAMES = {way: f"th_kernel_planted_{way}" for way in ("launched", "graph")}


def source(tool):
    return "\n".join(f'extern "C" __global__ void {name}(float *x, float *y, int n) {{ {KERNELS[tool]} }}' for name in NAMES.values())


def library(names, folders):
    for path in [os.path.join(f, name) for name in names for f in folders] + names:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    raise OSError(f"none of {', '.join(names)} in {':'.join(folders) or 'a folder given'}, or where the loader looks")


def cubin(text, arch, folders):
    for builtins in sorted(path for f in folders for path in glob.glob(os.path.join(f, "libnvrtc-builtins.so.*"))):
        ctypes.CDLL(builtins)  # NVRTC asks for it by its name alone
    nvrtc = library(["libnvrtc.so.13", "libnvrtc.so.12"], folders)
    program, size = ctypes.c_void_p(), ctypes.c_size_t()

    def call(name, *arguments):
        result = getattr(nvrtc, "nvrtc" + name)(*arguments)
        if result:
            log = ctypes.create_string_buffer(1 << 16)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"nvrtc{name}: error {result}\n{log.value.decode()}")
    call("CreateProgram", ctypes.byref(program), text.encode(), b"planted.cu", 0, None, None)
    call("CompileProgram", program, 1, (ctypes.c_char_p * 1)(f"--gpu-architecture={arch}".encode()))
    call("GetCUBINSize", program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    call("GetCUBIN", program, data)
    call("DestroyProgram", ctypes.byref(program))
    return data.raw


class Driver:
    """The device's primary context, which is PyTorch's and libthunder's too."""

    def __init__(self, ordinal=0):
        self.cuda, device, self.context = library(["libcuda.so.1"], []), ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), ordinal)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self.call("cuCtxSetCurrent", self.context)
        capability = [ctypes.c_int(), ctypes.c_int()]
        for value, attribute in zip(capability, (75, 76)):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        self.arch = "sm_" + "".join(str(c.value) for c in capability)

    def call(self, name, *arguments):
        result = getattr(self.cuda, name)(*arguments)
        if result:
            raise RuntimeError(f"{name}: CUresult {result}")

    def made(self, name, *arguments):
        out = ctypes.c_void_p()
        self.call(name, ctypes.byref(out), *arguments)
        return out

    def allocate(self, size):
        return self.made("cuMemAlloc_v2", ctypes.c_size_t(size))

    def launch(self, module, name, stream, *arguments):
        held = [ctypes.c_void_p(a.value) if isinstance(a, ctypes.c_void_p) else ctypes.c_int(a) for a in arguments]
        given = (ctypes.c_void_p * len(held))(*(ctypes.addressof(a) for a in held))
        function = self.made("cuModuleGetFunction", module, name.encode())
        self.call("cuLaunchKernel", function, 1, 1, 1, THREADS, 1, 1, 0, stream, given, None)

    def replay(self, stream, record):
        """What `record` launches on the stream, as a graph, run once."""
        graph = ctypes.c_void_p()
        self.call("cuStreamBeginCapture_v2", stream, 1)  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        record()
        self.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        self.call("cuGraphLaunch", self.made("cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0)), stream)


def plant(tool, folders):
    """Both faults of the tool; what the driver says of them is not asked, since memcheck may end the context."""
    driver = Driver()
    module = driver.made("cuModuleLoadData", cubin(source(tool), driver.arch, folders))
    stream, size = driver.made("cuStreamCreate", 1), 4 * THREADS  # CU_STREAM_NON_BLOCKING
    for way, name in NAMES.items():
        x, y = driver.allocate(size), driver.allocate(size)

        def launch(name=name, x=x, y=y):
            driver.launch(module, name, stream, x, y, THREADS)
        try:
            driver.replay(stream, launch) if way == "graph" else launch()
            driver.call("cuStreamSynchronize", stream)
        except RuntimeError as error:
            print(f"planted, {way}: {error}", flush=True)


if __name__ == "__main__":
    plant(sys.argv[1], sys.argv[2].split(":") if len(sys.argv) > 2 else [])
