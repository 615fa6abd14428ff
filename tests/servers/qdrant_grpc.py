"""Qdrant's gRPC wire over qdrant-client's own local engine, with faults.

The wire is real: a server of grpcio's on a port of its own, Qdrant's services and messages, real status codes and
trailing metadata. The engine is not the server's: it is the local mode that ships in qdrant-client. What it cannot do
(snapshots, shard keys, cluster) is answered with an empty success. What is shown about the wire holds for Qdrant; what
is shown about search proves nothing about the server.

How it is used::

    with QdrantGrpc() as server:
        server.fill("docs", [models.PointStruct(...)])              # without a call
        client = server.client()                                    # or server.client(is_async=True, timeout=1)
        server.plan("Points/Count", [abort("UNAVAILABLE"), None])   # the next calls of this method, in order
        server.always("*", abort("RESOURCE_EXHAUSTED", trailing={"retry-after": "1"}))   # all calls that come
        client.count("docs")
        assert server.count("Points/Count") == 2                    # calls that reached the server
        server.calls[0].metadata, .request, .time_remaining, .fault
        server.wait_for("Points/Count")                             # until one has come, for another thread
        server.disarm()                                             # no faults from here on

Methods are named as on the wire, without the package: ``Points/Query``, ``Collections/Get``, ``Snapshots/Create``,
``Qdrant/HealthCheck``; ``*`` is every one. Plans go before ``always``. The faults are :func:`abort` and :func:`hang`;
``abort(code, after=True)`` lets the engine carry the request out first, so that its answer is lost. ``server.stop()``
leaves nobody to listen on ``server.port``.
"""

from __future__ import annotations

import inspect
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.instrumentation.utils import suppress_instrumentation
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client import grpc as wire
from typing_extensions import Self

from .qdrant_grpc_engine import Engine

_SERVICES = [name for name in ("Points", "Collections", "Snapshots", "Qdrant") if hasattr(wire, f"{name}Servicer")]
_WORKERS = 16


@dataclass(frozen=True)
class GrpcFault:
    """One thing to do to a call; made by the functions below. Without a code, it hangs."""

    code: grpc.StatusCode | None = None
    details: str = ""
    trailing: Mapping[str, str] = field(default_factory=dict)
    after: bool = False


def abort(
    code: str, details: str = "injected", trailing: Mapping[str, str] | None = None, *, after: bool = False
) -> GrpcFault:
    """End the call with this code (``"UNAVAILABLE"``); ``after`` it was carried out."""
    return GrpcFault(grpc.StatusCode[code], details, trailing or {}, after)


def hang() -> GrpcFault:
    """Never answer; ends when the client gives up or the server stops."""
    return GrpcFault()


@dataclass
class GrpcCall:
    """One call as the server saw it."""

    method: str
    request: Any
    metadata: dict[str, str]
    time_remaining: float | None  # of the client's deadline, when it came
    started: float
    fault: GrpcFault | None


class QdrantGrpc:
    """Serves from ``with`` to the end of its block; safe to arm and to read from any thread."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.calls: list[GrpcCall] = []
        self.port = 0
        self._plans: dict[str, deque[GrpcFault | None]] = {}
        self._always: dict[str, GrpcFault] = {}
        self._changed = threading.Condition()
        self._engine_lock = threading.Lock()
        self._stopping = threading.Event()
        self._hanging: set[threading.Event] = set()
        self._operation_ids = itertools.count(1)

    # -- life ----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with suppress_instrumentation():
            self._engine = Engine()
        self._pool = ThreadPoolExecutor(_WORKERS)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        for service in _SERVICES:
            add = getattr(wire, f"add_{service}Servicer_to_server")
            add(self._servicer(service), self._server)
        self.port = self._server.add_insecure_port(f"{self.host}:0")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._engine.close()

    def stop(self) -> None:
        """Stop at once: calls that run are cut, and nobody listens on the port any longer. Twice does no harm."""
        self._stopping.set()
        with self._changed:
            for event in self._hanging:
                event.set()
        self._server.stop(None).wait()
        self._pool.shutdown()

    def client(self, *, is_async: bool = False, **options: Any) -> Any:
        """A client that prefers gRPC, and does not ask for the server's version."""
        make = AsyncQdrantClient if is_async else QdrantClient
        if "check_compatibility" in inspect.signature(make).parameters:
            options.setdefault("check_compatibility", False)
        return make(host=self.host, grpc_port=self.port, prefer_grpc=True, **options)

    def fill(self, collection: str, points: list[models.PointStruct]) -> None:
        """A collection with these points, whose vectors have four dimensions, made without a call."""
        with self._engine_lock, suppress_instrumentation():
            vectors = models.VectorParams(size=4, distance=models.Distance.DOT)
            self._engine.client.create_collection(collection, vectors_config=vectors)
            self._engine.client.upsert(collection, points)

    # -- faults --------------------------------------------------------------------------------------------------------

    def plan(self, method: str, faults: Iterable[GrpcFault | None]) -> None:
        """Do these to the next calls of the method in order (None lets one pass), then none."""
        with self._changed:
            self._plans.setdefault(method, deque()).extend(faults)

    def always(self, method: str, fault: GrpcFault) -> None:
        """Do this to every call of the method that comes."""
        with self._changed:
            self._always[method] = fault

    def disarm(self) -> None:
        """No faults from here on."""
        with self._changed:
            self._plans.clear()
            self._always.clear()

    # -- what was seen -------------------------------------------------------------------------------------------------

    def count(self, method: str = "*") -> int:
        """How many calls of the method have come."""
        with self._changed:
            return sum(method in ("*", call.method) for call in self.calls)

    def wait_for(self, method: str, count: int = 1, timeout: float = 30.0) -> bool:
        """Wait until so many calls of the method have come; False if they have not within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: sum(method in ("*", call.method) for call in self.calls) >= count, timeout
            )

    # -- serving -------------------------------------------------------------------------------------------------------

    def _servicer(self, service: str) -> Any:
        base = getattr(wire, f"{service}Servicer")
        methods = {name: self._method(f"{service}/{name}") for name in vars(base) if not name.startswith("_")}
        return type(f"{service}Servicer", (base,), methods)()

    def _method(self, method: str) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
        def handle(_: Any, request: Any, context: grpc.ServicerContext) -> Any:
            return self._handle(method, request, context)

        return handle

    def _handle(self, method: str, request: Any, context: Any) -> Any:
        call = GrpcCall(
            method=method,
            request=request,
            metadata={key: value for key, value in context.invocation_metadata() if isinstance(value, str)},
            time_remaining=context.time_remaining(),
            started=time.monotonic(),
            fault=None,
        )
        with self._changed:
            fault = call.fault = self._next_fault(method)
            self.calls.append(call)
            self._changed.notify_all()
        if fault is None:
            return self._carry_out(method, request, context)
        if fault.code is None:
            self._hang(context)
            context.abort(grpc.StatusCode.CANCELLED, "the server stops")
        if fault.after:
            self._carry_out(method, request, context)
        context.set_trailing_metadata(tuple(fault.trailing.items()))
        context.abort(fault.code, fault.details)
        raise AssertionError("abort raises")

    def _next_fault(self, method: str) -> GrpcFault | None:
        for name in (method, "*"):
            if self._plans.get(name):
                return self._plans[name].popleft()
        return self._always.get(method, self._always.get("*"))

    def _hang(self, context: Any) -> None:
        over = threading.Event()
        with self._changed:
            self._hanging.add(over)
        if context.add_callback(over.set) and not self._stopping.is_set():
            over.wait()
        with self._changed:
            self._hanging.discard(over)

    def _carry_out(self, method: str, request: Any, context: Any) -> Any:
        """Have the engine do it; its failures become Qdrant's."""
        try:
            with self._engine_lock, suppress_instrumentation():
                return self._engine.answer(method, request, next(self._operation_ids))
        except NotImplementedError as error:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))
        except Exception as error:
            code = "NOT_FOUND" if "not found" in str(error).lower() else "INVALID_ARGUMENT"
            code = "ALREADY_EXISTS" if "already exists" in str(error) else code
            context.abort(grpc.StatusCode[code], f"Wrong input: {error}")
        raise AssertionError("abort raises")
