"""make dist: the wheel, installed in an empty environment that has torch, is the whole product."""
import glob
import os
import re
import subprocess
import sys
import sysconfig
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SYSTEM = re.compile(r"^(linux-vdso|/lib64/ld-linux|lib(c|m|dl|pthread|rt|util|resolv)\.so)")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """(environment's bin/, package folder): no PYTHONPATH, no THUNDER_*, a HOME of its own."""
    build, place = os.environ.get("THUNDER_BUILD_DIR", os.path.join(ROOT, "build")), tmp_path_factory.mktemp("dist")
    made = subprocess.run([sys.executable, os.path.join(ROOT, "deploy", "dist.py"), build, str(place / "out")], capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True, timeout=120)
    site, = glob.glob(str(place / "venv" / "lib" / "python3*" / "site-packages"))
    with open(os.path.join(site, "torch.pth"), "w") as f:  # torch and protobuf from here
        f.write(sysconfig.get_paths()["purelib"] + "\n")
    wheel, = glob.glob(str(place / "out" / "*.whl"))
    subprocess.run([str(place / "venv" / "bin" / "pip"), "install", "-q", "--no-index", "--no-deps", wheel], check=True, timeout=120,
                   env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    yield str(place / "venv" / "bin"), os.path.join(site, "thunder")
    subprocess.run([str(place / "venv" / "bin" / "thunderctl"), "stop"], env=clean(place), capture_output=True, timeout=30)


def clean(place):
    os.makedirs(place / "home" / "run", mode=0o700, exist_ok=True)
    return {"HOME": str(place / "home"), "PATH": "/usr/bin:/bin", "TMPDIR": str(place / "home"), "THUNDER_RUNTIME_DIR": str(place / "home" / "run")}


def test_every_library_is_bundled_or_the_systems(installed):
    _, package = installed
    files = [os.path.join(at, f) for at, _, names in os.walk(package) for f in names]
    programs = [f for f in files if open(f, "rb").read(4) == b"\x7fELF"]
    assert len(programs) > 20
    outside = {}
    for path in programs:
        out = subprocess.run(["ldd", path], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True).stdout
        for line in out.splitlines():
            name, _, where = line.strip().partition(" => ")
            if name == "statically linked":  # ldd's words for a library that needs none
                continue
            if not SYSTEM.match(name.split()[0]) and not os.path.realpath(where.split(" (")[0]).startswith(os.path.realpath(package)):
                outside.setdefault(os.path.relpath(path, package), []).append(line.strip())
    assert not outside
    assert not [f for f in files if re.search(r"nvidia|cuda|cudnn|nccl|nvrtc", os.path.basename(f))], "NVIDIA's libraries are never bundled"
    assert {"LICENSE", "NOTICE"} <= set(os.listdir(os.path.join(package, "licenses"))) and len(os.listdir(os.path.join(package, "licenses"))) > 5


def test_two_ranks_from_the_wheel(installed, tmp_path):
    bin, package = installed
    hello = os.path.join(ROOT, "docs", "examples", "hello.py")
    done = subprocess.run([os.path.join(bin, "thunderrun"), "-n", "2", hello], env=clean(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (tmp_path / "where.py").write_text("import thunder, torch\nprint(thunder.__file__)\n"
                                       "m = torch.nn.Linear(4, 4)\ns = thunder.train_step(m, torch.optim.SGD(m.parameters(), lr=.1), torch.nn.functional.mse_loss, parallel='ddp')\n"
                                       "s(torch.ones(2, 4), torch.zeros(2, 4))\n"
                                       "maps = {l.split()[-1] for l in open('/proc/self/maps') if 'libmpi' in l or 'libpmix' in l or 'mca_' in l}\nprint(*maps)\n"
                                       "print(torch.compile(lambda a: a + 1, backend='thunder')(torch.ones(2)).tolist())")
    done = subprocess.run([os.path.join(bin, "thunderrun"), "-n", "2", "where.py"], env=clean(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    subprocess.run([os.path.join(bin, "thunderctl"), "stop"], env=clean(tmp_path), capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    loaded = [path for line in done.stdout.splitlines() for path in line.split() if path.endswith((".so", ".py")) or ".so." in path]
    assert len(loaded) > 6 and all(path.startswith(os.path.realpath(package)) for path in loaded), loaded
    assert done.stdout.count("[2.0, 2.0]") == 2


def test_gRPC_from_the_wheel(installed, tmp_path):
    bin, package = installed
    process = subprocess.Popen([os.path.join(bin, "thunderd"), "--listen", f"unix:{tmp_path}/s"], env=clean(tmp_path), stderr=subprocess.PIPE, text=True)
    try:
        end = time.time() + 20
        while time.time() < end and process.poll() is None and not os.path.exists(tmp_path / "s"):
            time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
        with open(f"/proc/{process.pid}/maps", encoding="utf-8") as f:
            maps = {line.split()[-1] for line in f if ".so" in line}
        libraries = {path for path in maps if not SYSTEM.match(os.path.basename(path)) and not path.endswith("/ld-linux-x86-64.so.2")}
        assert any("libgrpc.so" in path for path in libraries) and all(path.startswith(os.path.realpath(package)) for path in libraries), libraries
    finally:
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("program", ["thunderd", "thunderrun", "thunderctl", "thunderc"])
def test_programs_start(installed, program):
    bin, _ = installed
    done = subprocess.run([os.path.join(bin, program), "--version"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout), done.stderr
