"""Crashes, limits and bad input: one clear error, or none; the daemon lives on and nothing is left behind."""
import concurrent.futures
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import time

import pytest

from thunder import daemon as client
from thunder import wire


def test_eight_at_once_start_one_daemon(place):
    script = place.script("a.py")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        origins = list(pool.map(lambda _: place.origin(script), range(8)))
    assert origins.count("compiled") == 1, origins
    assert sum("thunderd" in c for c in place.processes().values()) == 1


def test_socket_and_environment(place):
    place.origin(place.script("a.py"), SECRET_OF_THE_CALLER="42", THUNDER_CUDA_LIBS="/nonexistent")
    pid = place.daemon()
    path = re.search(r"socket\s+(\S+)", place.ctl("status").stdout)[1]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with open(f"/proc/{pid}/environ", "rb") as f:
        environment = f.read().split(b"\0")
    assert b"SECRET_OF_THE_CALLER=42" not in environment and b"THUNDER_CUDA_LIBS=/nonexistent" in environment
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    for fd in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        assert not target.startswith(("pipe:", "/dev/pts", "/dev/tty")) or "thunder" in target or target.startswith("pipe:") and int(fd) > 2


def test_idle_exit(place):
    place.origin(place.script("a.py"), THUNDER_IDLE_SECONDS="1")
    place.wait(lambda: not place.processes(), 10)
    assert place.origin(place.script("a.py")) == "disk"


@pytest.mark.parametrize("action, message", [("kill", "signal 9"), ("exit:3", "exit code 3")])
def test_a_worker_that_dies_fails_its_request_alone(place, action, message):
    assert place.origin(place.script("a.py"), THUNDER_WORKERS="1", THUNDER_FAILPOINTS=f"worker.compile={action}@2") == "compiled"
    code, out, err = place.run(place.script("b.py", factor=3.0))  # the second compile of the same worker
    assert code == 1 and message in err and "compile worker" in err
    assert place.origin(place.script("c.py", factor=4.0)) == "compiled"
    assert place.number(r"workers crashed (\d+)") == 1


def test_workers_that_never_start(place):
    code, out, err = place.run(place.script("a.py"), THUNDER_FAILPOINTS="worker.start=exit:7")
    assert code == 1 and "before they are ready" in err and "exit code 7" in err


def test_a_compile_that_runs_away_is_ended(place):
    start = time.time()
    code, out, err = place.run(place.script("a.py"), THUNDER_FAILPOINTS="worker.compile=sleep:60000@1", THUNDER_COMPILE_TIMEOUT="1")
    assert code == 1 and "longer than 1 s" in err and "THUNDER_COMPILE_TIMEOUT" in err and time.time() - start < 30


def test_a_compiler_that_hangs_is_ended_with_its_worker(place):
    slow = os.path.join(place.folder, "slow-cc")
    with open(slow, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nsleep 300\n")
    os.chmod(slow, 0o755)
    code, out, err = place.run(place.script("a.py"), THUNDER_CC=slow, THUNDER_COMPILE_TIMEOUT="2")
    assert code == 1 and "longer than 2 s" in err
    place.wait(lambda: not any("slow-cc" in c or "sleep" in c for c in place.processes().values()), 5)


def test_no_compiler(place):
    code, out, err = place.run(place.script("a.py"), THUNDER_CC="/nonexistent/cc")
    assert code == 1 and "/nonexistent/cc" in err and "install gcc or clang" in err
    place.ctl("stop")
    broken = os.path.join(place.folder, "broken-cc")
    with open(broken, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\necho 'ran out of steam' >&2; exit 1\n")
    os.chmod(broken, 0o755)
    code, out, err = place.run(place.script("a.py"), THUNDER_CC=broken)
    assert code == 1 and "ran out of steam" in err


def test_memory_limit(place):
    code, out, err = place.run(place.script("a.py"), THUNDER_COMPILE_MEMORY="200000")
    assert code == 1 and ("memory" in err or "compile worker" in err)


@pytest.mark.parametrize("point", ["daemon.listening", "cache.rename"])
def test_a_daemon_killed_at_a_fail_point(place, point):
    script = place.script("a.py")
    code, out, err = place.run(script, THUNDER_FAILPOINTS=f"{point}=kill@1")
    if code:
        assert "thunderd" in err and err.strip().splitlines()[-1].startswith("thunder."), err
    place.ctl("stop")
    place.wait(lambda: not any("thunderd" in c for c in place.processes().values()), 5)
    assert place.origin(script) in ("compiled", "disk")
    assert not [f for f in place.cache_files() if os.path.basename(f).startswith(".")] or point == "cache.rename"


def test_a_daemon_killed_between_calls(place):
    script = place.script("a.py", text='''
        import os, signal, sys, torch, thunder
        from thunder import daemon
        c = thunder.compile(lambda a: (a * {factor}).sum(), fullgraph=True)
        c(torch.ones(4))
        with daemon._connected() as connection:
            pid = int.from_bytes(__import__("socket").socket.getsockopt(connection.socket, 1, 17, 12)[:4], "little")
        os.kill(pid, signal.SIGKILL)
        d = thunder.compile(lambda a: (a * {factor} + 1).sum(), fullgraph=True)
        assert float(d(torch.ones(4))) == 12.0
        print("origin", *thunder.compile_stats(d).compiles)
        ''')
    assert place.origin(script) == "compiled"


def test_stop_and_status_without_a_daemon(place):
    assert "no daemon" in place.ctl("status").stdout + place.ctl("status").stderr
    assert place.ctl("stop").returncode == 0
    assert place.ctl("nosuch").returncode == 2


# ---- the protocol ----

@pytest.mark.parametrize("command, first", [
    ("thunderctl", "thunderctl: a command is missing"), ("thunderctl nope", 'thunderctl: there is no command "nope"'),
    ("thunderctl cache drop", 'thunderctl: cache: there is no "drop"; want nothing or "clear"'),
    ("thunderctl cache clear more", 'thunderctl: cache takes no "more"'), ("thunderctl status extra", 'thunderctl: status takes no "extra"'),
    ("thunderctl --version x", 'thunderctl: --version takes no "x"'), ("thunderc", "thunderc: a FILE is missing"),
    ("thunderc a.tir b.tir", 'thunderc: want one FILE, not "b.tir" too'), ("thunderrun", "thunderrun: a PROGRAM is missing"),
    ("thunderrun -n 100000 a.py", "thunderrun: -n 100000: want a number of ranks from 1 to 4096, or cpu")])
def test_wrong_use_is_named_first(place, command, first):
    program, *args = command.split()
    done = subprocess.run([os.path.join(os.environ.get("THUNDER_BIN", ""), program), *args], env=place.env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.split("\n")[0] == first, done.stderr


@pytest.mark.parametrize("name, text, message", [
    ("a.tir", 'graph @0 "main"\n  %0 : f32[4] user', 'line 2: expected "{", found "%0 : f32[4] "'),
    ("a.tir", 'graph @0 "main" {\n  %0 : f32[4\n] user', "line 3: expected"), ("a.tir", "graph @0 \x01", """line 1: expected '"', found "\\x01\""""),
    ("a.tir", 'graph @0 "main"', 'line 1: expected "{", found the end of the text'),
    ("a.txt", 'graph @0 "main" {', "a.txt is no saved job (a CompileJob, as THUNDER_DUMP leaves it); a trace as text is read from a file whose name ends in .tir")])
def test_thunderc_says_what_it_cannot_read(place, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)

    def said(**more):
        done = subprocess.run([os.path.join(os.environ.get("THUNDER_BIN", ""), "thunderc"), name], cwd=tmp_path, env={**place.env, **more},
                              capture_output=True, text=True, timeout=30)
        assert done.returncode == 1 and done.stdout == ""
        return done.stderr
    assert said().startswith(f"thunderc: INVALID_ARGUMENT: {message}") and said().count("\n") == 1 and ".c:" not in said()
    assert re.search(r"debug: said at \w+\.c:\d+", said(THUNDER_LOG="debug"))


def connect(place):
    path = re.search(r"socket\s+(\S+)", place.ctl("status").stdout)[1]
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    s.connect(path)
    return s


def frame(**body):
    e = wire.Envelope(protocol=client.PROTOCOL, build=client.build_id())
    for name, message in body.items():
        getattr(e, name).CopyFrom(message)
        getattr(e, name).SetInParent()
    data = e.SerializeToString()
    return struct.pack("<I", len(data)) + data


def answer(s):
    def exactly(n):
        data = b""
        while len(data) < n:
            piece = s.recv(n - len(data))
            if not piece:
                return None
            data += piece
        return data
    head = exactly(4)
    if head is None:
        return None
    return wire.Envelope.FromString(exactly(struct.unpack("<I", head)[0]))


HELLO = dict(hello=wire.Hello(kind="rank", pid=1))


def alive(place):
    s = connect(place)
    s.sendall(frame(**HELLO))
    assert answer(s).WhichOneof("body") == "hello_reply"
    return s


@pytest.fixture
def running(place):
    place.origin(place.script("a.py"), THUNDER_REQUEST_MAX="1000000")
    yield place
    alive(place)
    assert place.number(r"pid (\d+)")


def test_garbage_and_half_frames(running):
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\x7f", struct.pack("<I", 10) + b"abc", b"\0\0\0\0", os.urandom(5000)):
        s = connect(running)
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        e = answer(s)
        assert e is None or e.WhichOneof("body") == "error"
        s.close()
    silent = connect(running)
    silent.sendall(b"\x05")
    alive(running)  # others are served meanwhile
    silent.close()


def test_wrong_protocol_version(running):
    s = connect(running)
    e = wire.Envelope(protocol=99, build="x")
    e.hello.SetInParent()
    data = e.SerializeToString()
    s.sendall(struct.pack("<I", len(data)) + data)
    e = answer(s)
    assert e.WhichOneof("body") == "error" and "99" in e.error.message and str(client.PROTOCOL) in e.error.message


def test_oversized_request(running):
    s = alive(running)
    s.sendall(frame(compile=wire.Compile(digest=b"x" * 32, size=2_000_000)))
    e = answer(s)
    assert e.WhichOneof("body") == "error" and "2000000" in e.error.message and "THUNDER_REQUEST_MAX" in e.error.message


def test_wrong_digest_and_bad_jobs(running):
    import hashlib
    s = alive(running)
    s.sendall(frame(compile=wire.Compile(digest=b"x" * 32, size=4)) + frame(chunk=wire.Chunk(offset=0, total=4, bytes=b"abcd", last=True)))
    assert "digest" in answer(s).error.message
    for data in (b"abcd", b"\x08\x01", b"\x08\x07", os.urandom(1000)):
        s = alive(running)
        s.sendall(frame(compile=wire.Compile(digest=hashlib.sha256(data).digest(), size=len(data))) +
                  frame(chunk=wire.Chunk(offset=0, total=len(data), bytes=data, last=True)))
        e = answer(s)
        while e.WhichOneof("body") == "progress":
            e = answer(s)
        assert e.WhichOneof("body") == "error" and e.error.message


def test_truncated_and_flipped_traces(running, monkeypatch):
    """A real job, damaged in 200 places: an error or a result, never a crash of the worker."""
    import hashlib
    import random

    import torch

    import thunder
    jobs = []
    monkeypatch.setattr(client, "compile_job", lambda job, progress=None: jobs.append(job) or (_ for _ in ()).throw(client.DaemonError("kept")))
    with pytest.raises(Exception):
        thunder.compile(lambda a, b: torch.softmax(a @ b, -1).sum(0), fullgraph=True)(torch.ones(3, 4), torch.ones(4, 5))
    job, rng = jobs[0], random.Random(7)
    before = running.number(r"workers crashed (\d+)")
    for i in range(200):
        data = bytearray(job)
        if i % 4 == 0:
            data = data[:rng.randrange(1, len(data))]
        else:
            for _ in range(rng.choice((1, 1, 2, 8))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        data = bytes(data)
        s = alive(running)
        s.sendall(frame(compile=wire.Compile(digest=hashlib.sha256(data).digest(), size=len(data), no_cache=True)) +
                  frame(chunk=wire.Chunk(offset=0, total=len(data), bytes=data, last=True)))
        e = answer(s)
        while e.WhichOneof("body") == "progress":
            e = answer(s)
        assert e.WhichOneof("body") in ("error", "chunk")
        if e.WhichOneof("body") == "error":
            assert e.error.message and "worker" not in e.error.message, f"damage {i} (seed 7): {e.error.message}"
        s.close()
    assert running.number(r"workers crashed (\d+)") == before


def test_a_client_that_leaves_ends_its_compile(place):
    process = place.start(place.script("a.py"), THUNDER_FAILPOINTS="worker.compile=sleep:60000")
    place.wait(lambda: any("--worker" in c for c in place.processes().values()), 60)
    place.wait(lambda: place.ctl("status").stdout.count("1 compiles running") == 1, 20)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    place.wait(lambda: "0 compiles running" in place.ctl("status").stdout, 10)
    assert place.number(r"cancelled (\d+)") == 1


def test_an_interrupt_during_a_compile(place):
    """Ctrl-C: a KeyboardInterrupt at once, where the function was called; the compile is given up and the process can go on."""
    script = place.script("interrupted.py", text="""
        import time, torch, thunder
        c = thunder.compile(lambda a: a * 2.0)
        try:
            c(torch.ones(4))
        except KeyboardInterrupt:
            print("interrupted at", time.time(), flush=True)
        print("again", c(torch.ones(4)).tolist())
        """)
    process = place.start(script, THUNDER_FAILPOINTS="worker.compile=sleep:4000")
    place.wait(lambda: "1 compiles running" in place.ctl("status").stdout, 60)
    sent = time.time()
    process.send_signal(signal.SIGINT)
    place.wait(lambda: place.number(r"cancelled (\d+)") == 1, 5)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert float(re.search(r"interrupted at (\S+)", out)[1]) - sent < 1.0
    assert "again [2.0, 2.0, 2.0, 2.0]" in out


def test_readers_that_do_not_read(place, monkeypatch):
    """Their answers wait in the cache's one copy, requests they pile up wait in the socket, and the daemon ends without them."""
    digest, data = place.large_result(monkeypatch, 64 << 20)
    readers = [alive(place) for _ in range(8)]
    for s in readers:
        s.sendall(frame(lookup=wire.Lookup(digest=digest)))
    for s in readers:  # the first byte of each
        assert s.recv(1, socket.MSG_PEEK)
    flood = alive(place)
    flood.settimeout(2)
    with pytest.raises(TimeoutError):
        for _ in range(200):
            flood.sendall(frame(status=wire.Status()) * 1000)
    assert place.number(r"scope, (\d+)\.") < 64 + 50
    pieces = []
    while not pieces or not pieces[-1].last:
        pieces.append(answer(readers[3]).chunk)
    assert b"".join(p.bytes for p in pieces) == data
    start, daemon = time.time(), place.daemon()
    assert place.ctl("stop").returncode == 0
    place.wait(lambda: daemon not in place.processes(), 5)
    assert time.time() - start < 3


def test_a_cancelled_answer_ends(place, monkeypatch):
    digest, data = place.large_result(monkeypatch, 16 << 20)
    s = alive(place)
    s.sendall(frame(lookup=wire.Lookup(digest=digest)) + frame(cancel=wire.Cancel()) + frame(status=wire.Status()))
    said = [answer(s).WhichOneof("body") for _ in range(4)]
    assert said[-1] == "status_reply" and said[-2] == "error" and set(said[:-2]) == {"chunk"}, said


@pytest.mark.quick
@pytest.mark.parametrize("last_words", [None, "the job has 300 bytes, at most 200 are accepted"])
def test_a_daemon_that_ends_while_a_job_is_sent(tmp_path, monkeypatch, last_words):
    """One clear error, its last words where it had some, and no BrokenPipeError."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    monkeypatch.setenv("THUNDER_SOCKET", str(tmp_path / "socket"))

    def serve():
        s, _ = listener.accept()
        answer(s)
        s.sendall(frame(hello_reply=wire.HelloReply(protocol=1)))
        answer(s)
        s.shutdown(socket.SHUT_RD)  # what the client sends from now on is an EPIPE
        s.sendall(frame(error=wire.Error(code=5, message="the digest is not known")))
        if last_words:
            s.sendall(frame(error=wire.Error(code=8, message=last_words)))
        s.close()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        with pytest.raises(client.RemoteError if last_words else client.DaemonError, match=last_words or "thunderd ended while it was waited for"):
            client.compile_job(b"x" * 300)
        served.result()
    listener.close()


def test_jobs_are_known_to_daemons_that_come_later(place):
    """A job started without a daemon, and one whose daemon is killed: the job goes on and the next daemon lists it."""
    script = place.script("job.py", text="""
        import time
        time.sleep(60)
        """)
    import subprocess
    run = subprocess.Popen([os.path.join(os.environ["THUNDER_BIN"], "thunderrun"), "-n", "2", script], env=place.env,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        place.wait(lambda: sum(script in c and "thunder" not in c.split()[0] for c in place.processes().values()) >= 2, 20)
        assert place.daemon() is None
        place.origin(place.script("a.py"))
        place.wait(lambda: "job.py" in place.ctl("ls").stdout, 5)
        first = place.daemon()
        os.kill(first, signal.SIGKILL)
        place.wait(lambda: first not in place.processes(), 5)
        assert run.poll() is None
        place.origin(place.script("b.py", factor=3.0))
        assert place.daemon() != first
        place.wait(lambda: "job.py" in place.ctl("ls").stdout, 5)
    finally:
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=20)
    place.wait(lambda: "job.py" not in place.ctl("ls").stdout, 5)
