"""A foreign client of thunderd's gRPC service: grpcio, the descriptor set, and nothing else of ours."""
import hashlib
import os
import queue

import grpc

from thunder import wire

METHOD = "/thunder.wire.Compiler/Call"
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)


def channel(address, tls=None, options=()):
    """`tls`: (ca, cert, key), PEM bytes."""
    options = [OWN_CONNECTION, *options]
    if tls is None:
        return grpc.insecure_channel(address, options)
    ca, cert, key = tls
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options)


class Call:
    """Requests by send, answers by receive; `raw` sends bytes as they are."""

    def __init__(self, channel, build, method=METHOD, timeout=60, protocol=1, **more):
        self.build, self.protocol, self.waits = build, protocol, queue.Queue()
        stub = channel.stream_stream(method, lambda m: m if isinstance(m, bytes) else m.SerializeToString(), wire.Envelope.FromString)
        self.answers = stub(iter(self.waits.get, None), timeout=timeout, **more)

    def raw(self, data):
        self.waits.put(data)

    def send(self, **body):
        e = wire.Envelope(protocol=self.protocol, build=self.build)
        for name, message in body.items():
            getattr(e, name).CopyFrom(message)
            getattr(e, name).SetInParent()
        self.waits.put(e)

    def send_bytes(self, data, part=0):
        for at in range(0, len(data), 1 << 20):
            piece = data[at:at + (1 << 20)]
            self.send(chunk=wire.Chunk(offset=at, total=len(data), bytes=piece, last=at + len(piece) == len(data), part=part))

    def send_job(self, job, **more):
        self.send(compile=wire.Compile(digest=hashlib.sha256(job).digest(), size=len(job), **more))
        self.send_bytes(job)

    def half_close(self):
        self.waits.put(None)

    def receive(self):
        """The next message but Progress: (kind, message)."""
        while True:
            e = next(self.answers)
            kind = e.WhichOneof("body")
            if kind != "progress":
                return kind, getattr(e, kind)

    def collect(self):
        """Chunk+: (bytes, first chunk)."""
        pieces = []
        while not pieces or not pieces[-1].last:
            kind, message = self.receive()
            assert kind == "chunk", message
            pieces.append(message)
        return b"".join(p.bytes for p in pieces), pieces[0]

    def greet(self, **more):
        self.send(hello=wire.Hello(kind="test", pid=os.getpid(), **more))
        kind, message = self.receive()
        assert kind == "hello_reply", message
        return message

    def end(self):
        """The call's status, after what else is answered."""
        try:
            for _ in self.answers:
                pass
        except grpc.RpcError as error:
            assert error is self.answers or error.code() == self.answers.code()
        return self.answers.code().name
