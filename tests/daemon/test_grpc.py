"""thunderd --listen, spoken to by grpcio: what the unix socket answers, limits, refusals, leaving and ending."""
import concurrent.futures
import hashlib
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time

import grpc
import pytest
from calls import METHOD, Call, channel

from thunder import daemon as client
from thunder import wire

BIN = os.environ.get("THUNDER_BIN", "")
BUILD = client.build_id()
HELLO = dict(hello=wire.Hello(kind="test", pid=1))
pytestmark = pytest.mark.skipif(not os.path.exists(os.path.join(BIN, "..", "lib", "libthunder_grpc.so")), reason="this build has no libthunder_grpc.so")


def make_authority(folder, name, *people):
    """A certificate authority and, for each of `people`, a certificate it signed: {person: (ca, cert, key)} as PEM bytes."""
    os.makedirs(folder)

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True, timeout=60)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", f"/CN={name}")
    with open(os.path.join(folder, "names"), "w", encoding="utf-8") as f:
        f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    found = {}
    for person in people:
        openssl("req", *new, "-keyout", f"{person}.key", "-out", f"{person}.csr", "-subj", f"/CN={person}")
        openssl("x509", "-req", "-in", f"{person}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", f"{person}.pem")
        found[person] = tuple(open(os.path.join(folder, file), "rb").read() for file in ("ca.pem", f"{person}.pem", f"{person}.key"))
    return found


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    ours, foreign = make_authority(str(folder / "ours"), "ours", "node", "alice"), make_authority(str(folder / "foreign"), "foreign", "mallory")
    os.makedirs(folder / "tls")
    for name, text in zip(("ca.pem", "cert.pem", "key.pem"), ours["node"]):
        (folder / "tls" / name).write_bytes(text)
    return {**ours, **foreign, "tls-dir": str(folder / "tls")}


class Daemon:
    """A `thunderd --listen` of this place, on a unix socket and, with certificates, on a port of the loopback."""

    def __init__(self, place, certificates=None, **env):
        self.place, self.certificates, self.channels = place, certificates, []
        self.unix = os.path.join(place.folder, "grpc.sock")
        args = ["--listen", f"unix:{self.unix}"] + (["--listen", "127.0.0.1:0", "--tls-dir", certificates["tls-dir"]] if certificates else [])
        self.said = open(os.path.join(place.folder, "said"), "w+", encoding="utf-8")
        self.process = subprocess.Popen([os.path.join(BIN, "thunderd"), *args], env={**place.env, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.said)
        place.wait(lambda: self.process.poll() is not None or "listen " in place.ctl("status").stdout, 20)
        assert self.process.poll() is None, self.words()
        self.listens = re.findall(r"^listen\s+(\S+)$", place.ctl("status").stdout, re.M)

    def words(self):
        self.said.seek(0)
        return self.said.read()

    def channel(self, way="unix", options=()):
        if way == "unix":
            self.channels.append(channel(self.listens[0], None, options))
        else:
            self.channels.append(channel(self.listens[1], self.certificates["alice"], options))
        return self.channels[-1]

    def call(self, way="unix", **more):
        return Call(self.channel(way), BUILD, **more)

    def greeted(self, way="unix", **more):
        call = self.call(way, **more)
        call.greet()
        return call

    def alive(self):
        assert self.greeted().answers.is_active() and self.process.poll() is None

    def socket(self):
        return re.search(r"socket\s+(\S+)", self.place.ctl("status").stdout)[1]

    def memory(self):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as f:
            return int(re.search(r"VmRSS:\s+(\d+) kB", f.read())[1]) / 1024

    def end(self):
        for c in self.channels:
            c.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(5) == 0, self.words()
        finally:
            self.process.kill()
            self.process.wait()
            self.said.close()


@pytest.fixture
def listening(place, certificates):
    daemons = []

    def start(tls=False, **env):
        daemons.append(Daemon(place, certificates if tls else None, **env))
        return daemons[-1]
    yield start
    for d in daemons:
        d.end()


@pytest.fixture
def job(place, monkeypatch):
    return place.job(monkeypatch)


# ---- what the unix socket answers ----

@pytest.mark.quick
@pytest.mark.parametrize("way", ["unix", "tls"])
def test_the_same_as_over_the_own_socket(listening, place, monkeypatch, job, way):
    d = listening(tls=True)
    assert d.listens[0] == f"unix:{d.unix}" and re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", d.listens[1])
    call, digest = d.call(way), hashlib.sha256(job).digest()
    hello = call.greet()
    assert hello.pid == d.process.pid and hello.build == BUILD
    call.send(status=wire.Status())
    kind, status = call.receive()
    assert kind == "status_reply" and list(status.listen) == d.listens and status.connections == 1
    call.send(lookup=wire.Lookup(digest=digest))
    kind, error = call.receive()
    assert kind == "error" and error.code == grpc.StatusCode.NOT_FOUND.value[0]
    call.send_job(job)
    data, first = call.collect()
    assert first.origin == wire.Chunk.DESCRIPTOR.fields_by_name["origin"].enum_type.values_by_name["ORIGIN_COMPILED"].number and first.sha256 == hashlib.sha256(data).digest()
    call.send(lookup=wire.Lookup(digest=digest))
    again, first = call.collect()
    assert again == data and first.origin == 3
    call.half_close()
    assert call.end() == "OK"
    monkeypatch.setenv("THUNDER_SOCKET", d.socket())
    over_socket = client.compile_job(job)
    assert over_socket.data == data and over_socket.origin == "memory"


def test_dump_and_a_half_closed_call(listening, monkeypatch, job):
    """All requests at once and no more of them: the answers come, then OK."""
    d = listening()
    call = d.call()
    call.send(**HELLO)
    call.send(dump=wire.Dump(job_size=len(job)))
    call.send_bytes(job)
    call.half_close()
    assert call.receive()[0] == "hello_reply"
    text, _ = call.collect()
    assert call.end() == "OK"
    monkeypatch.setenv("THUNDER_SOCKET", d.socket())
    assert text.decode() == client.dump(job, b"") and "graph @0" in text.decode()
    call = d.call()
    call.half_close()
    assert call.end() == "FAILED_PRECONDITION" and "Hello" in call.answers.details()
    call = d.greeted()
    call.send(compile=wire.Compile(digest=hashlib.sha256(job).digest(), size=len(job)))
    call.half_close()
    assert call.end() == "INVALID_ARGUMENT" and "before the job" in call.answers.details()


def test_eight_calls_at_once(listening, place, monkeypatch):
    d = listening(tls=True)
    jobs = [place.job(monkeypatch, n) for n in (4, 5)]

    def one(i):
        call = d.greeted("tls" if i % 2 else "unix")
        call.send_job(jobs[i // 4])
        return call.collect()[0]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(8)))
    assert len(set(results[:4])) == 1 and len(set(results[4:])) == 1 and results[0] != results[4]
    assert place.number(r"compiles\s+(\d+) in") == 2


# ---- refusals ----

def test_what_the_own_socket_alone_may(listening, place):
    d = listening()
    call = d.greeted()
    for body in (dict(register_job=wire.RegisterJob(info=wire.JobInfo(job="x"))), dict(unregister_job=wire.UnregisterJob(job="x")), dict(cache_clear=wire.CacheClear()), dict(stop=wire.Stop())):
        call.send(**body)
        kind, error = call.receive()
        assert kind == "error" and error.code == grpc.StatusCode.PERMISSION_DENIED.value[0] and "own socket" in error.message
    call.send(list_jobs=wire.ListJobs())
    kind, jobs = call.receive()
    assert kind == "job_list" and not jobs.jobs
    assert d.process.poll() is None and place.number(r"refused (\d+)") == 4


def test_other_protocols_and_builds(listening, job):
    d = listening()
    call = d.call(protocol=99)
    call.send(**HELLO)
    kind, error = call.receive()
    assert kind == "error" and "99" in error.message and "protocol 1" in error.message
    assert call.end() == "FAILED_PRECONDITION" and "99" in call.answers.details()
    call = Call(d.channel(), "9.9.9-other")
    call.send(**HELLO)
    kind, error = call.receive()
    assert kind == "error" and "9.9.9-other" in error.message and BUILD in error.message
    assert call.end() == "FAILED_PRECONDITION"
    call = Call(d.channel(), "9.9.9-other")
    call.greet(any_build=True)
    call.send(status=wire.Status())
    assert call.receive()[0] == "status_reply"
    call.send_job(job)
    kind, error = call.receive()
    assert kind == "error" and "another build" in error.message


def test_messages_that_cannot_be_read(listening):
    d = listening(THUNDER_REQUEST_MAX="1000000")
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, os.urandom(5000), b"\x52\x7f"):
        call = d.call()
        call.raw(data)
        assert call.end() == "INVALID_ARGUMENT" and "readable" in call.answers.details()
    for data in (b"", wire.Envelope(protocol=1, build=BUILD, status=wire.Status()).SerializeToString()):
        call = d.call()
        call.raw(data)
        assert call.end() == "FAILED_PRECONDITION" and "Hello" in call.answers.details()
    call = d.greeted()
    call.raw(b"\0" * ((8 << 20) + 1))
    assert call.end() == "RESOURCE_EXHAUSTED" and str(8 << 20) in call.answers.details()
    call = d.greeted()
    call.send(compile=wire.Compile(digest=b"x" * 32, size=2_000_000))
    kind, error = call.receive()
    assert kind == "error" and "2000000" in error.message and call.end() == "RESOURCE_EXHAUSTED"
    call = d.greeted()
    call.send(hello_reply=wire.HelloReply())
    assert call.receive()[0] == "error" and call.end() == "INVALID_ARGUMENT"
    call = d.greeted()
    call.send(compile=wire.Compile(digest=b"x" * 32, size=100))
    call.send(lookup=wire.Lookup(digest=b"x" * 32))
    assert call.receive()[0] == "error" and call.end() == "FAILED_PRECONDITION"
    call = d.call(compression=grpc.Compression.Gzip)
    call.send(hello=wire.Hello(kind="x" * 100000))
    assert call.end() == "UNIMPLEMENTED"
    d.alive()


@pytest.mark.parametrize("method", ["/thunder.wire.Compiler/Other", "/thunder.wire.Other/Call", "/x", METHOD + "/"])
def test_unknown_methods(listening, method):
    d = listening()
    call = d.call(method=method)
    call.send(**HELLO)
    assert call.end() == "UNIMPLEMENTED" and METHOD in call.answers.details()
    d.alive()


@pytest.mark.quick
def test_who_is_not_let_in(listening, certificates, tmp_path):
    d = listening(tls=True)
    host, port = d.listens[1].split(":")
    ca, cert, key = certificates["alice"]
    _, foreign_cert, foreign_key = certificates["mallory"]
    own = make_authority(str(tmp_path / "self"), "alice")
    assert not own
    self_signed = [(tmp_path / "self" / name).read_bytes() for name in ("ca.pem", "ca.key")]
    ways = {"no certificate": (ca, None, None), "a foreign one": (ca, foreign_cert, foreign_key), "a self-signed one": (ca, *self_signed), "a server it does not trust": (certificates["mallory"][0], cert, key)}
    for why, tls in ways.items():
        with channel(d.listens[1], tls) as c:
            call = Call(c, BUILD, timeout=10)
            call.send(**HELLO)
            assert call.end() == "UNAVAILABLE", why
    with channel(d.listens[1]) as c:  # plaintext
        call = Call(c, BUILD, timeout=10)
        call.send(**HELLO)
        assert call.end() == "UNAVAILABLE"
    for data in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", os.urandom(300)):
        with socket.create_connection((host, int(port)), 10) as s:
            s.sendall(data)
            s.settimeout(10)
            try:
                while s.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    context = ssl.create_default_context(cadata=ca.decode())
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # a handshake that ends with the certificate
    with pytest.raises(ssl.SSLError), socket.create_connection((host, int(port)), 10) as s, context.wrap_socket(s, server_hostname="localhost") as t:
        t.recv(1)
    d.greeted("tls")
    assert d.words() == ""  # nobody fills the log from outside


def test_bounds_of_calls(listening, place):
    d = listening()
    one = d.channel()
    calls = [Call(one, BUILD) for _ in range(65)]
    for call in calls:
        call.send(**HELLO)
    for call in calls[:64]:
        assert call.receive()[0] == "hello_reply"
    assert place.number(r"now\s+(\d+) connections") == 65  # and thunderctl's
    waits = threading.Thread(target=calls[64].receive)
    waits.start()
    waits.join(0.5)
    assert waits.is_alive()  # the connection's share
    calls[0].answers.cancel()
    waits.join(10)
    assert not waits.is_alive()
    more = [Call(d.channel(), BUILD) for _ in range(256 - 64)]  # a connection each
    for call in more:
        call.greet()
    call = d.call()
    call.send(**HELLO)
    assert call.end() == "RESOURCE_EXHAUSTED"
    more[0].half_close()
    assert more[0].end() == "OK"
    d.alive()


# ---- waiting ----

def test_silent_callers_are_ended(listening, place, job):
    d = listening(THUNDER_CALL_TIMEOUT="1", THUNDER_FAILPOINTS="worker.compile=sleep:3000@1")
    start = time.time()
    compiles = d.greeted()
    compiles.send_job(job)
    silent, idle, half = d.call(), d.greeted(), d.greeted()
    half.send(compile=wire.Compile(digest=b"x" * 32, size=5))
    for call in (silent, idle, half):
        assert call.end() == "DEADLINE_EXCEEDED" and "THUNDER_CALL_TIMEOUT" in call.answers.details()
    assert time.time() - start < 2.9
    assert compiles.collect()[0]  # waits for us, not we for it
    assert time.time() - start > 2.9


def test_a_reader_that_does_not_read(listening, place, monkeypatch):
    """Eight of them cost the result once and a few messages each; the deadline ends them; requests without reading are held back."""
    digest, data = place.large_result(monkeypatch, 64 << 20)
    place.ctl("stop")
    place.wait(lambda: not place.processes())
    d = listening(tls=True, THUNDER_CALL_TIMEOUT="3")
    before = d.memory()
    readers = [d.greeted("tls" if i % 2 else "unix") for i in range(8)]
    for call in readers:
        call.send(lookup=wire.Lookup(digest=digest))
    flood = d.greeted()
    for _ in range(100000):
        flood.send(status=wire.Status())
    assert readers[0].collect()[0] == data
    most, end = 0, time.time() + 5
    while time.time() < end:
        most = max(most, d.memory())
        time.sleep(0.1)
    print(f"resident: {before:.0f} MB before, {most:.0f} MB at most")
    assert most < before + 64 + 60
    for call in readers[1:]:
        assert call.end() == "DEADLINE_EXCEEDED" and "took no answer" in call.answers.details()
    assert flood.end() == "DEADLINE_EXCEEDED" and "took no answer" in flood.answers.details()
    d.alive()


@pytest.mark.parametrize("how", ["cancel", "deadline", "channel", "message"])
def test_leaving_ends_the_worker(listening, place, job, how):
    d = listening(tls=True, THUNDER_FAILPOINTS="worker.compile=sleep:60000")
    call = d.greeted("tls", timeout=4 if how == "deadline" else 60)
    call.send_job(job)
    place.wait(lambda: place.ctl("status").stdout.count("1 compiles running") == 1, 20)
    worker, = (pid for pid, c in place.processes().items() if "--worker" in c)
    has = {pid: {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")} for pid in (worker, d.process.pid)}
    assert not any("anon_inode" in what for what in has[worker])  # nothing of gRPC's is inherited
    assert not {what for what in has[worker] if what.startswith("socket:")} & has[d.process.pid]
    if how == "cancel":
        call.answers.cancel()
    elif how == "channel":
        d.channels[-1].close()
    elif how == "message":
        call.send(cancel=wire.Cancel())
        kind, error = call.receive()
        assert kind == "error" and error.code == 1
    place.wait(lambda: "0 compiles running" in place.ctl("status").stdout and worker not in place.processes(), 10)
    assert place.number(r"cancelled (\d+)") == 1
    d.alive()


def test_a_caller_that_vanishes_ends_its_compile(listening, place, certificates, job):
    d = listening(tls=True, THUNDER_FAILPOINTS="worker.compile=sleep:60000")
    job_file = os.path.join(place.folder, "job")
    with open(job_file, "wb") as f:
        f.write(job)
    script = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from calls import Call, channel
call = Call(channel({d.listens[1]!r}, {certificates["alice"]!r}), {BUILD!r})
call.greet()
call.send_job(open({job_file!r}, "rb").read())
call.receive()
"""
    process = subprocess.Popen([sys.executable, "-c", script], env=place.env)
    try:
        place.wait(lambda: process.poll() is not None or "1 compiles running" in place.ctl("status").stdout, 30)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    place.wait(lambda: "0 compiles running" in place.ctl("status").stdout, 10)
    assert place.number(r"cancelled (\d+)") == 1
    d.alive()


# ---- starting and ending ----

@pytest.mark.parametrize("how", ["TERM", "stop"])
def test_the_end_does_not_wait_for_callers(listening, place, monkeypatch, how):
    digest, _ = place.large_result(monkeypatch, 16 << 20)
    place.ctl("stop")
    place.wait(lambda: not place.processes())
    d = listening(tls=True, THUNDER_FAILPOINTS="worker.compile=sleep:60000")
    calls = [d.greeted(way) for way in ("unix", "tls") for _ in range(3)]
    calls[1].send_job(place.job(monkeypatch, 5))
    calls[4].send_job(place.job(monkeypatch, 6))
    place.wait(lambda: re.search("[12] compiles running", place.ctl("status").stdout), 20)
    calls[2].send(lookup=wire.Lookup(digest=digest))  # and does not read
    calls[5].send(lookup=wire.Lookup(digest=digest))
    calls.append(d.call("tls"))
    host, port = d.listens[1].split(":")
    half = socket.create_connection((host, int(port)), 10)  # a handshake that never comes
    place.wait(lambda: place.number(r"hits\s+(\d+) memory") == 1, 20)  # the daemon has read the result, and is not busy
    start = time.time()
    if how == "TERM":
        d.process.send_signal(signal.SIGTERM)
    else:
        assert place.ctl("stop").returncode == 0
    assert d.process.wait(5) == 0
    took = time.time() - start
    print(f"ended in {took:.2f} s; {d.words()}")
    half.close()
    assert {call.end() for call in calls} <= {"UNAVAILABLE", "CANCELLED"}
    assert took < 2, took
    assert "ending" in calls[0].answers.details()
    assert not os.path.exists(d.unix) and not place.processes()


def test_the_socket_and_its_folder(listening, place):
    with open(os.path.join(place.folder, "grpc.sock"), "w", encoding="utf-8"):
        pass
    done = thunderd(place, "--listen", f"unix:{place.folder}/grpc.sock")
    assert done.returncode == 1 and "no socket" in done.stderr
    os.remove(os.path.join(place.folder, "grpc.sock"))
    left = socket.socket(socket.AF_UNIX)
    left.bind(os.path.join(place.folder, "grpc.sock"))
    left.close()  # a file that a killed daemon left
    d = listening()
    assert stat.S_IMODE(os.stat(d.unix).st_mode) == 0o600 and stat.S_ISSOCK(os.stat(d.unix).st_mode)
    d.alive()
    os.makedirs(os.path.join(place.folder, "open"))
    os.chmod(os.path.join(place.folder, "open"), 0o777)
    other = dict(THUNDER_RUNTIME_DIR=os.path.join(place.folder, "run2"))
    for path, message in ((f"{place.folder}/open/s", "alone may write"), (f"{place.folder}/none/s", "No such file"), (d.unix, "somebody listens"), (place.folder + "/" + "x" * 120, "107")):
        done = thunderd(place, "--listen", f"unix:{path}", **other)
        assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    d.alive()


def test_the_own_socket_that_cannot_be_made(place):
    """What listens already is closed again."""
    os.makedirs(place.ctl("socket").stdout.strip(), mode=0o700)  # a folder stands in its place
    os.chmod(os.path.dirname(place.ctl("socket").stdout.strip()), 0o700)
    done = thunderd(place, "--listen", f"unix:{place.folder}/s")
    assert done.returncode == 1 and "cannot listen on" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not os.path.exists(os.path.join(place.folder, "s"))


def thunderd(place, *args, **env):
    return subprocess.run([os.path.join(BIN, "thunderd"), *args], env={**place.env, **env}, capture_output=True, text=True, timeout=20)


def test_a_port_in_use(listening, place, certificates):
    d = listening(tls=True)
    other = dict(THUNDER_RUNTIME_DIR=os.path.join(place.folder, "run2"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        for address in (d.listens[1], f"127.0.0.1:{s.getsockname()[1]}"):
            done = thunderd(place, "--listen", address, "--tls-dir", certificates["tls-dir"], **other)
            assert done.returncode == 1 and address in done.stderr and "already in use" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    done = thunderd(place, "--listen", "127.0.0.1:0", "--tls-dir", certificates["tls-dir"])
    assert done.returncode == 1 and "serves" in done.stderr  # this scope's daemon is there
    assert not place.processes().keys() - {d.process.pid}


@pytest.mark.quick
def test_arguments(place, certificates, tmp_path):
    tls = certificates["tls-dir"]
    for args, message in (
            (["--listen", "127.0.0.1:0"], "--tls-dir"),
            (["--listen", "127.0.0.1", "--tls-dir", tls], "HOST:PORT"), (["--listen", ":7400", "--tls-dir", tls], "HOST:PORT"), (["--listen", "h:99999", "--tls-dir", tls], "HOST:PORT"),
            (["--listen", "::1:70", "--tls-dir", tls], "HOST:PORT"), (["--listen", "h:7x", "--tls-dir", tls], "HOST:PORT"),
            (["--listen", "203.0.113.7:0", "--tls-dir", tls], "assign requested address"), (["--listen", "no.such.host.invalid:0", "--tls-dir", tls], "no.such.host.invalid"),
            (["--ensure", "--listen", "unix:/tmp/x"], "--ensure"), (["--foreground", "--tls-dir", tls], "--listen")):
        done = thunderd(place, *args)
        assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1, (args, done.stderr)
    for args in (["--listen"], ["--listen", ""], ["--nosuch"], ["--ensure", "--foreground"], ["--tls-dir"]):
        assert thunderd(place, *args).returncode == 2
    files = {name: open(os.path.join(tls, name), "rb").read() for name in ("ca.pem", "cert.pem", "key.pem")}
    for name in files:
        for content, message in ((None, "No such file"), (b"", "empty"), (b"x", "PEM"), (b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n", "")):
            folder = tmp_path / f"{name}-{len(content or '')}{content is None}"
            folder.mkdir()
            for other, text in files.items():
                if other != name or content is not None:
                    (folder / other).write_bytes(content if other == name else text)
            done = thunderd(place, "--listen", "127.0.0.1:0", "--tls-dir", str(folder))
            assert done.returncode == 1 and message in done.stderr and str(folder) + ("/" + name if message else "") in done.stderr, (name, content, done.stderr)
            assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not place.processes()


@pytest.mark.quick
def test_the_library(place):
    done = thunderd(place, "--listen", f"unix:{place.folder}/s", THUNDER_GRPC_LIBRARY="/nonexistent/libthunder_grpc.so")
    assert done.returncode == 1 and "libgrpc29" in done.stderr and "/nonexistent" in done.stderr and "THUNDER_GRPC_LIBRARY" in done.stderr
    done = thunderd(place, "--listen", f"unix:{place.folder}/s", THUNDER_GRPC_LIBRARY=os.path.join(BIN, "..", "lib", "libthunder_mpi.so"))
    assert done.returncode == 1 and "build" in done.stderr
    alone = os.path.join(place.folder, "alone", "bin")  # a thunderd without the library near it
    os.makedirs(alone)
    os.link(os.path.join(BIN, "thunderd"), os.path.join(alone, "thunderd")) if os.stat(BIN).st_dev == os.stat(alone).st_dev else __import__("shutil").copy(os.path.join(BIN, "thunderd"), alone)
    done = subprocess.run([os.path.join(alone, "thunderd"), "--listen", f"unix:{place.folder}/s"], env=place.env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "libthunder_grpc.so" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.quick
def test_a_plain_daemon_has_no_grpc(place, capsys):
    ensured = thunderd(place, "--ensure")
    assert ensured.returncode == 0, ensured.stderr
    pid = place.daemon()
    with open(f"/proc/{pid}/maps", encoding="utf-8") as f:
        maps = f.read()
    assert "libuv" in maps and "libgrpc" not in maps and "libthunder_grpc" not in maps and "absl" not in maps
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        status = f.read()
    resident, threads = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, int(re.search(r"Threads:\s+(\d+)", status)[1])
    with capsys.disabled():
        print(f"\nthunderd without --listen: {resident:.1f} MB resident, {threads} threads")
    assert resident < 35
    assert "listen " not in place.ctl("status").stdout


def test_it_does_not_end_when_idle(listening, place):
    d = listening(THUNDER_IDLE_SECONDS="0.5")
    time.sleep(2)
    d.alive()
    print(f"thunderd with --listen: {d.memory():.1f} MB resident")
    assert "none, it listens" in place.ctl("status").stdout
    ensured = thunderd(place, "--ensure")
    assert ensured.returncode == 0 and ensured.stdout.strip() == d.socket()
