"""Talks to thunderd (proto/daemon.proto): one unix-socket connection per call, nothing kept between calls.

A daemon that does not answer is started through `thunderd --ensure`. Ctrl-C while waiting sends Cancel and is a
KeyboardInterrupt at once.
"""
import contextlib
import hashlib
import os
import socket
import struct
import subprocess

from . import device, paths, wire
from .errors import CompileError, DaemonError

PROTOCOL = 1
_FRAME_MAX = 8 << 20
_CHUNK = 1 << 20
_QUIET_SECONDS = 900  # longest silence of a daemon that is compiling
_CODES = ("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
          "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
          "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED")


class RemoteError(Exception):
    """An Error message of the daemon."""

    def __init__(self, message):
        super().__init__(message.message)
        self.code = _CODES[message.code] if message.code < len(_CODES) else str(message.code)
        self.text, self.op, self.graph, self.detail = message.message, message.op, message.graph, message.detail


class _Gone(Exception):
    """The connection ended before the daemon said hello, or there is no daemon."""


class Result:
    """What a compile gave: serialized Executable, where it came from ("compiled", "memory", "disk", ...), seconds."""

    def __init__(self, data, origin, seconds):
        self.data, self.origin, self.seconds = data, origin, seconds


_ORIGINS = ("unknown", "compiled", "joined", "memory", "disk")


def digest(job):
    return hashlib.sha256(job).digest()


def build_id():
    """The build the package belongs to: the text of `build-id` beside thunderd; empty when there is none."""
    thunderd = paths.program("thunderd")
    if thunderd is None:
        return ""
    try:
        with open(os.path.join(os.path.dirname(os.path.realpath(thunderd)), "build-id")) as f:
            return f.read().strip("\n")
    except OSError:
        return ""


def _link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


def cache_dir():
    for variable, rest in (("THUNDER_CACHE_DIR", ""), ("XDG_CACHE_HOME", "/thunder"), ("HOME", "/.cache/thunder")):
        if os.environ.get(variable):
            return os.environ[variable] + rest
    return f"/tmp/thunder-{os.geteuid()}/cache"


def socket_path():
    """Where this environment's daemon listens (rule: proto/daemon.proto, SOCKET)."""
    if os.environ.get("THUNDER_SOCKET"):
        return os.environ["THUNDER_SOCKET"]
    uid = os.geteuid()
    runtime = os.environ.get("THUNDER_RUNTIME_DIR") or f"/tmp/thunder-{uid}"
    text = (f"thunder-scope-1\nuid={uid}\nhost={socket.gethostname()}\nbuild={build_id()}\n"
            f"slurm={os.environ.get('SLURM_JOB_ID', '')}\npid_ns={_link('/proc/self/ns/pid')}\n"
            f"mnt_ns={_link('/proc/self/ns/mnt')}\ncache={cache_dir()}\n")
    return os.path.join(runtime, hashlib.sha256(text.encode()).hexdigest()[:16], "socket")


def _start():
    """Starts a daemon unless there is one; returns its socket."""
    thunderd = paths.program("thunderd")
    if thunderd is None:
        raise DaemonError("thunderd was not found: not in $THUNDER_BIN, not beside the package, not in PATH")
    environment = dict(os.environ)
    environment.setdefault("THUNDER_CUDA_LIBS", device.library_folders())
    done = subprocess.run([thunderd, "--ensure"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise DaemonError(f"thunderd could not be started: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip().split("\n")[-1]


class _Connection:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(_QUIET_SECONDS)
        self.frame = wire.Envelope(protocol=PROTOCOL, build=build_id(), job=os.environ.get("THUNDER_JOB_ID", ""),
                                   rank=int(os.environ.get("RANK", -1)) if os.environ.get("THUNDER_JOB_ID") else -1,
                                   host=socket.gethostname(), epoch=int(os.environ.get("THUNDER_RESTART_COUNT", 0) or 0))
        self.greeted = False
        try:
            self.socket.connect(path)
            self.send(hello=wire.Hello(kind="rank", pid=os.getpid()))
        except (FileNotFoundError, ConnectionRefusedError, BrokenPipeError, ConnectionResetError) as error:
            self.socket.close()
            raise _Gone() from error

    def send(self, **body):
        envelope = wire.Envelope()
        envelope.CopyFrom(self.frame)
        for name, message in body.items():
            getattr(envelope, name).CopyFrom(message)
            getattr(envelope, name).SetInParent()
        data = envelope.SerializeToString()
        try:
            self.socket.sendall(struct.pack("<I", len(data)) + data)
        except (BrokenPipeError, ConnectionResetError):
            while self.greeted:  # its last words are an Error, or there are none and this is a DaemonError
                self.receive()
            raise

    def send_bytes(self, data, part=0):
        for offset in range(0, max(len(data), 1), _CHUNK):
            piece = data[offset:offset + _CHUNK]
            self.send(chunk=wire.Chunk(offset=offset, total=len(data), bytes=piece, last=offset + len(piece) >= len(data), part=part))

    def _exactly(self, n):
        pieces = []
        while n:
            piece = self.socket.recv(min(n, 1 << 20))
            if not piece:
                if not self.greeted:
                    raise _Gone()
                raise DaemonError("thunderd ended while it was waited for")
            pieces.append(piece)
            n -= len(piece)
        return b"".join(pieces)

    def receive(self):
        try:
            size, = struct.unpack("<I", self._exactly(4))
            if not 0 < size <= _FRAME_MAX:
                raise DaemonError(f"thunderd sent a frame of {size} bytes, at most {_FRAME_MAX} are legal")
            envelope = wire.Envelope.FromString(self._exactly(size))
        except TimeoutError:
            raise DaemonError(f"thunderd was silent for {_QUIET_SECONDS} s") from None
        except ConnectionResetError:
            if not self.greeted:
                raise _Gone() from None
            raise DaemonError("thunderd ended while it was waited for") from None
        kind = envelope.WhichOneof("body")
        if kind == "error":
            raise RemoteError(envelope.error)
        return kind, getattr(envelope, kind) if kind else None

    def greet(self):
        kind, reply = self.receive()
        if kind != "hello_reply":
            raise DaemonError(f"thunderd answered hello with {kind}")
        self.greeted = True
        return reply

    def collect(self, progress):
        """Progress*, Chunk+: (bytes, first chunk)."""
        pieces, first = [], None
        while True:
            kind, message = self.receive()
            if kind == "progress":
                if progress:
                    progress(message.stage, message.done, message.total)
                continue
            if kind != "chunk":
                raise DaemonError(f"thunderd sent {kind} where chunks were expected")
            first = first or message
            pieces.append(message.bytes)
            if message.last:
                data = b"".join(pieces)
                if first.sha256 and hashlib.sha256(data).digest() != first.sha256:
                    raise DaemonError("what thunderd sent does not have the checksum it named")
                return data, first


@contextlib.contextmanager
def _connected():
    """A greeted connection; starts the daemon when there is none. Interrupts cancel the request under way."""
    connection, path = None, socket_path()
    for attempt in range(4):
        try:
            connection = _Connection(path)
            try:
                connection.greet()
            except BaseException:
                connection.socket.close()
                raise
            break
        except _Gone:
            if attempt == 3:
                raise DaemonError(f"thunderd at {path} does not answer") from None
            path = _start()
    try:
        yield connection
    except KeyboardInterrupt:
        with contextlib.suppress(OSError, DaemonError, RemoteError):
            connection.socket.settimeout(0.2)
            connection.send(cancel=wire.Cancel())
        raise
    finally:
        connection.socket.close()


def compile_job(job, progress=None):
    """Serialized CompileJob in, Result out: looked up by digest first, sent when unknown."""
    key = digest(job)
    with _connected() as c:
        try:
            c.send(lookup=wire.Lookup(digest=key))
            data, first = c.collect(progress)
        except RemoteError as error:
            if error.code != "NOT_FOUND":
                raise
            c.send(compile=wire.Compile(digest=key, size=len(job)))
            c.send_bytes(job)
            data, first = c.collect(progress)
        return Result(data, _ORIGINS[first.origin], first.compile_seconds)


def dump(job, names, last_pass=None):
    """The traces of a job as text, after `last_pass` or after every pass."""
    with _connected() as c:
        request = wire.Dump(job_size=len(job), names_size=len(names))
        if last_pass:
            setattr(request, "pass", last_pass)
        c.send(dump=request)
        c.send_bytes(job, 0)
        if names:
            c.send_bytes(names, 1)
        return c.collect(None)[0].decode()


def compile_error(error, encoded):
    """A daemon's error as an exception for the user, with the line of the program the operator comes from."""
    if isinstance(error, RemoteError):
        known = encoded is not None and 0 <= error.op < len(encoded.operators)
        made = CompileError(error.text, error.code, encoded.source(error.op) if known else None, error.detail)
        if known:
            made.operator, made.node = encoded.operators[error.op]
        return made
    return error
