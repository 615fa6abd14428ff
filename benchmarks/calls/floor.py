"""What a careful person would write by hand around a call, and no more: the floor that everything is compared with.

Two spans, one histogram, one counter, a loop for retries, a breaker's check; with the attributes that the semantic
conventions require of such a call. No budget, no deadline, no half-open state, no reading of errors.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.calls.paths import Path
from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

_ATTEMPTS = 3
_MOST_FAILURES = 5


class Breaker:
    """Opens after so many failures in a row."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0

    def check(self) -> None:
        with self._lock:
            if self._failures >= _MOST_FAILURES:
                raise RuntimeError("open")

    def count(self, *, failed: bool) -> None:
        with self._lock:
            self._failures = self._failures + 1 if failed else 0


class Floor:
    """Guards the calls of one path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tracer = trace.get_tracer("floor")
        meter = metrics.get_meter("floor")
        is_database = path.system == "qdrant"
        self._duration = meter.create_histogram("operation.duration", "s")
        self._attempts = meter.create_counter("attempts")
        self._breaker = Breaker()
        kind = "db" if is_database else "gen_ai"
        self._attributes = {
            f"{kind}.{'system' if is_database else 'provider'}.name": path.system,
            f"{kind}.operation.name": path.operation,
            "db.collection.name" if is_database else "gen_ai.request.model": path.subject,
            "server.address": "localhost",
        }

    def guard(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """Of a whole answer."""

        def guarded() -> Any:
            with self._operation() as span:
                for number in range(1, _ATTEMPTS + 1):
                    try:
                        with self._attempt(number):
                            result = call()
                    except Exception:  # noqa: PERF203  # a loop for retries
                        if number == _ATTEMPTS:
                            raise
                        time.sleep(0.1 * number)
                    else:
                        self._read(span, result)
                        return result
            return None

        return guarded

    def guard_async(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """As :meth:`guard`."""

        async def guarded() -> Any:
            with self._operation() as span:
                for number in range(1, _ATTEMPTS + 1):
                    try:
                        with self._attempt(number):
                            result = await call()
                    except Exception:  # noqa: PERF203
                        if number == _ATTEMPTS:
                            raise
                        await asyncio.sleep(0.1 * number)
                    else:
                        self._read(span, result)
                        return result
            return None

        return guarded

    def guard_stream(self, call: Callable[[], Any]) -> Callable[[], Iterator[Any]]:
        """Of one that is read item by item."""

        def guarded() -> Iterator[Any]:
            with self._operation() as span, self._attempt(1):
                for item in call():
                    yield item
                self._read(span, item)

        return guarded

    def guard_stream_async(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """As :meth:`guard_stream`."""

        async def items() -> AsyncIterator[Any]:
            with self._operation() as span, self._attempt(1):
                async for item in await call():
                    yield item
                self._read(span, item)

        async def guarded() -> AsyncIterator[Any]:
            return items()

        return guarded

    @contextmanager
    def _operation(self) -> Iterator[Span]:
        start = time.perf_counter()
        name = f"{self._path.operation} {self._path.subject}"
        with self._tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=self._attributes) as span:
            yield span
            self._duration.record(time.perf_counter() - start, self._attributes)

    @contextmanager
    def _attempt(self, number: int) -> Iterator[None]:
        self._breaker.check()
        attributes: dict[str, str | int] = {**self._attributes, "attempt": number}
        with self._tracer.start_as_current_span(f"attempt {self._path.operation}", attributes=attributes) as span:
            try:
                yield
            except Exception as error:
                self._breaker.count(failed=True)
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise
            self._breaker.count(failed=False)
            self._attempts.add(1, self._attributes)

    def _read(self, span: Span, result: Any) -> None:
        if self._path.system == "qdrant" or not span.is_recording():
            return
        usage = getattr(result, "usage", None)
        if usage is not None:
            span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", getattr(usage, "completion_tokens", 0))
        if getattr(result, "model", None):
            span.set_attribute("gen_ai.response.model", result.model)
