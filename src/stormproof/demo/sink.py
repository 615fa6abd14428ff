"""A receiver for OTLP over http/protobuf that keeps what it gets, so that it can be asserted on or drawn.

It can pass each request on to a real collector as well. That is best effort: the first failure is
remembered in `forward_error` and ends the forwarding, so that a collector that is gone costs nothing more.
One that is there may take traces alone, as Jaeger and Phoenix do: what it refuses is remembered in `refused`.
"""

from __future__ import annotations

import gzip
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError

from stormproof.demo.otlp import Event, Exemplar, Link, Log, Point, Span, read_logs, read_points, read_spans
from stormproof.demo.wire import Request, Response, Route, WireError, WireServer, route

__all__ = ["Event", "Exemplar", "Link", "Log", "OtlpSink", "Point", "Span"]

_FORWARD_TIMEOUT = 2.0
_PROTOBUF = "application/x-protobuf"

T = TypeVar("T")
Item = TypeVar("Item", Span, Point, Log)


class OtlpSink(WireServer):
    """An OTLP endpoint on a local port: `url` goes into `OTEL_EXPORTER_OTLP_ENDPOINT`."""

    server_header = "stormproof-sink"

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, forward_to: str | None = None) -> None:
        super().__init__(host, port)
        self._forward_to = forward_to.rstrip("/") if forward_to else None
        self.forward_error: str | None = None
        self.refused: dict[str, int] = {}  # path → status
        # A proxy from the environment must not stand between us and a collector on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._changed = threading.Condition()
        self._spans: list[Span] = []
        self._points: list[Point] = []
        self._logs: list[Log] = []

    def routes(self) -> Sequence[Route]:
        """Return the three paths of OTLP."""
        return (
            route("POST", "/v1/traces", lambda request: self._receive(request, read_spans, self._spans)),
            route("POST", "/v1/metrics", lambda request: self._receive(request, read_points, self._points)),
            route("POST", "/v1/logs", lambda request: self._receive(request, read_logs, self._logs)),
        )

    @property
    def spans(self) -> list[Span]:
        """Every span so far, in the order of arrival."""
        with self._changed:
            return list(self._spans)

    @property
    def logs(self) -> list[Log]:
        """Every log record so far, in the order of arrival."""
        with self._changed:
            return list(self._logs)

    @property
    def metrics(self) -> dict[str, list[Point]]:
        """Every data point so far by the name of its metric; cumulative ones come anew with each export."""
        found: dict[str, list[Point]] = {}
        with self._changed:
            for point in self._points:
                found.setdefault(point.name, []).append(point)
        return found

    def latest(self, name: str) -> list[Point]:
        """Return the last data point for each set of attributes of a metric."""
        by_attributes = {repr(sorted(p.attributes.items())): p for p in self.metrics.get(name, [])}
        return list(by_attributes.values())

    def wait_for(self, predicate: Callable[[OtlpSink], T | None], timeout: float = 10.0) -> T:
        """Wait until the predicate gives something true of this sink, and return it.

        It is asked again whenever something arrives. Raises TimeoutError that says what was there instead.
        """
        with self._changed:
            result = self._changed.wait_for(lambda: predicate(self), timeout)
            if not result:
                raise TimeoutError(f"not seen within {timeout} s; what arrived: {self._summary()}")
            return result

    def clear(self) -> None:
        """Forget what arrived so far."""
        with self._changed:
            for items in (self._spans, self._points, self._logs):
                items.clear()

    def _summary(self) -> str:
        spans = ", ".join(span.name for span in self._spans)
        metrics = ", ".join(sorted({point.name for point in self._points}))
        logs = ", ".join(log.event_name or str(log.body) for log in self._logs)
        return f"spans [{spans}], metrics [{metrics}], logs [{logs}]"

    def _receive(self, request: Request, read: Callable[[bytes], Iterable[Item]], kept: list[Item]) -> Response:
        try:
            items = list(read(_decompressed(request)))
        except (DecodeError, OSError, EOFError, zlib.error) as error:
            raise WireError(400, f"not an OTLP protobuf message: {error}") from error
        with self._changed:
            kept.extend(items)
            self._changed.notify_all()
        self._forward(request)
        return Response(content_type=_PROTOBUF)

    def _forward(self, request: Request) -> None:
        if self._forward_to is None or self.forward_error is not None or request.path in self.refused:
            return
        kept = ("content-type", "content-encoding")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        onward = urllib.request.Request(self._forward_to + request.path, request.body, headers)  # noqa: S310
        try:
            with self._opener.open(onward, timeout=_FORWARD_TIMEOUT) as response:
                response.read()
        except urllib.error.HTTPError as error:
            self.refused[request.path] = error.code
        except OSError as error:
            self.forward_error = f"{type(error).__name__}: {error}"


def _decompressed(request: Request) -> bytes:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding == "gzip":
        return gzip.decompress(request.body)
    if encoding == "deflate":
        return zlib.decompress(request.body)
    return request.body
