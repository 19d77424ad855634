"""Tests of the real daemon: each has runtime folder, cache and temporary folder of its own, and leaves nothing behind."""
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from thunder import daemon as client

BIN = os.environ.get("THUNDER_BIN", "")
PROGRAM = """
import sys, torch, thunder
def f(a):
    return (a * {factor}).sum()
c = thunder.compile(f, fullgraph=True)
print("result", float(c(torch.ones(4))))
print("origin", *thunder.compile_stats(c).compiles)
"""


class Place:
    def __init__(self, folder):
        self.folder = str(folder)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("THUNDER_") or k in ("THUNDER_BIN", "THUNDER_BUILD_DIR")}
        for name, sub in (("THUNDER_RUNTIME_DIR", "run"), ("THUNDER_CACHE_DIR", "cache"), ("TMPDIR", "tmp")):
            self.env[name] = os.path.join(self.folder, sub)
            os.makedirs(self.env[name], mode=0o700)
        self.env["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(self.folder, "inductor")  # PyTorch makes it in TMPDIR unless an earlier test of this process had it named

    def script(self, name, factor=2.0, text=PROGRAM):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(textwrap.dedent(text).format(factor=factor))
        return path

    def start(self, path, **env):
        return subprocess.Popen([sys.executable, path], env={**self.env, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, path, **env):
        """(exit code, output, errors) of a script."""
        process = self.start(path, **env)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def origin(self, path, **env):
        code, out, err = self.run(path, **env)
        assert code == 0, err
        return re.search(r"^origin (\w+)", out, re.M)[1]

    def ctl(self, *args):
        return subprocess.run([os.path.join(BIN, "thunderctl"), *args], env=self.env, capture_output=True, text=True, timeout=60)

    def number(self, pattern):
        """A number of `thunderctl status`."""
        return int(re.search(pattern, self.ctl("status").stdout)[1])

    def daemon(self):
        m = re.search(r"pid (\d+)", self.ctl("status").stdout)
        return int(m[1]) if m else None

    def processes(self):
        """Processes of this place: those that have its runtime folder in their environment."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    mine = f"THUNDER_RUNTIME_DIR={self.env['THUNDER_RUNTIME_DIR']}".encode() in f.read().split(b"\0")
                with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
                    state = f.read().rsplit(")", 1)[1].split()[0]
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    command = f.read().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if mine and state != "Z":
                found[int(pid)] = command
        return found

    def wait(self, condition, seconds=10):
        end = time.time() + seconds
        while not condition():
            assert time.time() < end, f"still not after {seconds} s; processes: {self.processes()}"
            time.sleep(0.05)

    def cache_files(self):
        return [os.path.join(at, f) for at, _, files in os.walk(self.env["THUNDER_CACHE_DIR"]) for f in files]

    def job(self, monkeypatch, n=4):
        """The bytes of a real CompileJob, as the client would send them; another one for another n."""
        import torch

        import thunder
        jobs = []
        torch.compiler.reset()  # or it gives a function up that was captured too often
        with monkeypatch.context() as m:
            m.setattr(client, "compile_job", lambda job, progress=None: jobs.append(job) or (_ for _ in ()).throw(client.DaemonError("kept")))
            with pytest.raises(Exception):
                thunder.compile(lambda a, b: torch.softmax(a @ b, -1).sum(0), fullgraph=True)(torch.ones(3, n), torch.ones(n, 5))
        return jobs[0]

    def large_result(self, monkeypatch, size):
        """(digest, bytes): a result of `size` bytes in the cache of a daemon that runs, as if a job had given it."""
        job = self.job(monkeypatch)
        ensure = [os.path.join(BIN, "thunderd"), "--ensure"]
        path = subprocess.run(ensure, env=self.env, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
        with monkeypatch.context() as m:
            m.setenv("THUNDER_SOCKET", path)
            client.compile_job(job)
        self.ctl("stop")
        self.wait(lambda: not self.processes())
        file, = self.cache_files()
        data = random.Random(size).randbytes(size)
        with open(file, "r+b") as f:  # header: magic, digest, check of all else, size, seconds (thunderd/cache.c)
            head = f.read(88)
            sized = size.to_bytes(8, "little") + head[80:]
            f.seek(0)
            f.write(head[:40] + hashlib.sha256(head[8:40] + sized + hashlib.sha256(data).digest()).digest() + sized + data)
            f.truncate()
        subprocess.run(ensure, env=self.env, check=True, capture_output=True, timeout=60)
        return client.digest(job), data

    def log(self):
        texts = []
        for at, _, files in os.walk(self.env["THUNDER_RUNTIME_DIR"]):
            texts += [open(os.path.join(at, f), encoding="utf-8", errors="replace").read() for f in files if f == "log"]
        return "".join(texts)


@pytest.fixture
def place(tmp_path):
    p = Place(tmp_path)
    yield p
    p.ctl("stop")
    try:
        p.wait(lambda: not p.processes(), 5)
    finally:
        for pid in p.processes():
            os.kill(pid, signal.SIGKILL)
    # the logs of a job that failed stay: its message names them
    assert not [f for f in os.listdir(p.env["TMPDIR"]) if not f.startswith("thunder-job-")], "temporary files were left behind"
