"""What can go wrong, put up for one call: a server to call, how patiently, and how much of it got there."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import trustme

from stormproof.demo.proxy import Fault, FaultProxy
from tests.servers import rough
from tests.servers.qdrant_grpc import GrpcFault, QdrantGrpc

from .ways import Way

#: Seconds a client waits for what does not come; and for what comes at once, to be left waiting afterwards.
IMPATIENT = 0.06
_PATIENT_ENOUGH = 0.4
#: Seconds of gRPC's deadline, which the connection and the server's own turn are paid from, too: each must have come.
_GRPC_DEADLINE = 1.0
#: Bytes that no socket's buffers can take.
_TOO_MUCH = 6_000_000


@dataclass(frozen=True)
class Scene:
    """``reached``: how many requests, or at least beginnings of one, the server has seen."""

    url: str
    reached: Callable[[], int] = lambda: 0
    timeouts: Mapping[str, float] = field(default_factory=dict)
    size: int = 0


#: Puts a fault up for a way to call; ``upstream`` is a healthy server: its URL, or the server where it is gRPC's.
Situation = Callable[[Way, Any], AbstractContextManager[Scene]]


def on_the_wire(fault: Fault | Mapping[str, Fault], **timeouts: float) -> Situation:
    """Every request meets this fault; it may depend on the client."""

    @contextmanager
    def put_up(way: Way, upstream: Any) -> Iterator[Scene]:
        with FaultProxy(upstream) as proxy:
            proxy.chance("*", ".", fault if isinstance(fault, Fault) else fault[way.system], 1)
            yield Scene(proxy.url, lambda: proxy.count("*", "."), timeouts)

    return put_up


def at_once(fault: Fault | Mapping[str, Fault]) -> Situation:
    """What does not come has not come soon."""
    return on_the_wire(fault, read=IMPATIENT)


def in_the_middle(fault: Fault) -> Situation:
    """What begins well and then does not go on."""
    return on_the_wire(fault, read=_PATIENT_ENOUGH)


@contextmanager
def refused(way: Way, upstream: Any) -> Iterator[Scene]:
    with rough.Nobody() as nobody:
        yield Scene(nobody.url)


@contextmanager
def backlog_full(way: Way, upstream: Any) -> Iterator[Scene]:
    with rough.FullBacklog() as full:
        yield Scene(full.url, timeouts={"connect": IMPATIENT})


@contextmanager
def no_such_host(way: Way, upstream: Any) -> Iterator[Scene]:
    yield Scene("http://nothing.invalid")


def on_the_socket(treat: rough.Treatment) -> Situation:
    @contextmanager
    def put_up(way: Way, upstream: Any) -> Iterator[Scene]:
        with rough.RoughServer(treat) as server:
            yield Scene(server.url, lambda: server.connections)

    return put_up


def in_tls(treat: rough.Treatment) -> Situation:
    """What reaches the server is no request yet."""

    @contextmanager
    def put_up(way: Way, upstream: Any) -> Iterator[Scene]:
        with rough.RoughTLSServer(treat) as server:
            timeouts = {"connect": IMPATIENT} if treat is rough.say_nothing else {}
            yield Scene(server.url, timeouts=timeouts)

    return put_up


@contextmanager
def self_signed(way: Way, upstream: Any) -> Iterator[Scene]:
    with in_tls(rough.shake_hands(_unknown_authority()))(way, upstream) as scene:
        yield scene


@contextmanager
def never_read(way: Way, upstream: Any) -> Iterator[Scene]:
    with rough.RoughServer(rough.say_nothing, receive_buffer=4096) as server:
        yield Scene(server.url, lambda: server.connections, {"write": IMPATIENT}, _TOO_MUCH)


@contextmanager
def killed(way: Way, upstream: Any) -> Iterator[Scene]:
    with rough.ServerProcess() as process:
        process.kill_at_first_request()
        yield Scene(process.url, lambda: 1)


@contextmanager
def frozen(way: Way, upstream: Any) -> Iterator[Scene]:
    with rough.ServerProcess() as process:
        process.freeze()
        yield Scene(process.url, process.thaw_and_count, {"read": IMPATIENT})


def in_grpc(fault: GrpcFault) -> Situation:
    """Every call meets this fault."""

    @contextmanager
    def put_up(way: Way, upstream: QdrantGrpc) -> Iterator[Scene]:
        before = upstream.count()
        upstream.always("*", fault)
        try:
            timeouts = {} if fault.code else {"read": _GRPC_DEADLINE}
            yield Scene(f"http://{upstream.host}:{upstream.port}", lambda: upstream.count() - before, timeouts)
        finally:
            upstream.disarm()

    return put_up


@functools.cache
def _unknown_authority() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate: Any = trustme.CA().issue_cert("127.0.0.1")
    certificate.configure_cert(context)
    return context
