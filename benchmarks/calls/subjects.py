"""What is compared: each way to instrument and protect a call, as its own documentation sets it up.

All get the same SDK: spans and log records in batches, metrics read once a minute, everything dropped at the end.
None records prompts or answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.calls.floor import Floor
from benchmarks.calls.paths import Path
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

BARE, FLOOR, OURS, OURS_HTTP = "bare", "floor", "stormproof", "stormproof + http spans"
FLOOR_UNSAMPLED, OURS_UNSAMPLED, OURS_ALONE = "floor, sampled out", "stormproof, sampled out", "stormproof, no SDK"
HTTP = "httpx instrumentation"
ASSEMBLED, TRACELOOP = "tenacity + pybreaker", "traceloop"
A, B = f"{TRACELOOP} + {ASSEMBLED}", f"{TRACELOOP} + {ASSEMBLED} + httpx"

Guard = Callable[[Path, Callable[[], Any], bool], Callable[[], Any]]


def _as_it_is(_path: Path, call: Callable[[], Any], _is_async: bool) -> Callable[[], Any]:
    return call


@dataclass(frozen=True)
class Subject:
    """One row.

    Attributes:
        systems: whose clients it knows.
        instrument: called once in a process of its own, before the clients are imported.
        guard: makes of a call (of this path, async or not) one that is protected.
        sampled: whether its spans are recorded.
        has_sdk: whether there is an SDK at all.
    """

    systems: tuple[str, ...] = ("openai", "ollama", "qdrant")
    instrument: Callable[[], None] = lambda: None
    guard: Guard = _as_it_is
    sampled: bool = True
    has_sdk: bool = True


class _NoSpans(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class _NoLogs:
    def export(self, batch: Any) -> Any:
        return None

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


class _NoMetrics(MetricExporter):
    def export(self, metrics_data: Any, timeout_millis: float = 0, **kwargs: Any) -> MetricExportResult:
        return MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None: ...

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True


def set_up(subject: Subject) -> None:
    """The SDK, and then the subject."""
    if subject.has_sdk:
        provider = TracerProvider(sampler=ALWAYS_ON if subject.sampled else ALWAYS_OFF)
        provider.add_span_processor(BatchSpanProcessor(_NoSpans(), max_queue_size=1 << 16))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(_NoMetrics())]))
        logger_provider = LoggerProvider()
        logger_provider.add_log_record_processor(BatchLogRecordProcessor(_NoLogs()))  # type: ignore[arg-type]
        _logs.set_logger_provider(logger_provider)
    subject.instrument()


def _floor(path: Path, call: Callable[[], Any], is_async: bool) -> Callable[[], Any]:
    floor = Floor(path)
    if path.streams:
        return floor.guard_stream_async(call) if is_async else floor.guard_stream(call)
    return floor.guard_async(call) if is_async else floor.guard(call)


def _assembled(path: Path, call: Callable[[], Any], is_async: bool) -> Callable[[], Any]:
    """Tenacity around a breaker: pybreaker, and for coroutines, which it does not know, aiobreaker."""
    import aiobreaker
    import pybreaker
    from tenacity import retry, retry_if_not_exception_type, stop_after_attempt, wait_random_exponential

    errors = (pybreaker.CircuitBreakerError, aiobreaker.CircuitBreakerError)
    retried = retry(
        stop=stop_after_attempt(3),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        retry=retry_if_not_exception_type(errors),
        reraise=True,
    )
    if not is_async:
        return retried(pybreaker.CircuitBreaker(fail_max=5)(call))

    async def coroutine() -> Any:  # aiobreaker asks whether it is given one
        return await call()

    return retried(aiobreaker.CircuitBreaker(fail_max=5)(coroutine))


def _httpx() -> None:
    from opentelemetry.instrumentation import httpx

    for name in ("HTTPXClientInstrumentor", "HTTPX2ClientInstrumentor"):
        instrumentor = getattr(httpx, name, None)
        if instrumentor is not None:
            instrumentor().instrument(skip_dep_check=True)


def _traceloop() -> None:
    os.environ["TRACELOOP_TRACE_CONTENT"] = "false"
    from opentelemetry.instrumentation.ollama import OllamaInstrumentor
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor
    from opentelemetry.instrumentation.qdrant import QdrantInstrumentor

    for instrumentor in (OpenAIInstrumentor, OllamaInstrumentor, QdrantInstrumentor):
        instrumentor().instrument(skip_dep_check=True)


def _openinference() -> None:
    os.environ |= {"OPENINFERENCE_HIDE_INPUTS": "true", "OPENINFERENCE_HIDE_OUTPUTS": "true"}
    from openinference.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(skip_dep_check=True)


def _official() -> None:
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(skip_dep_check=True)


def _stormproof() -> None:
    import stormproof

    stormproof.instrument()


def _stormproof_without_http() -> None:
    os.environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "httpx,httpx2"
    _stormproof()


def _stormproof_alone() -> None:
    os.environ["OTEL_SDK_DISABLED"] = "true"
    _stormproof_without_http()


def _both(*steps: Callable[[], None]) -> Callable[[], None]:
    def instrument() -> None:
        for step in steps:
            step()

    return instrument


SUBJECTS = {
    BARE: Subject(),
    FLOOR: Subject(guard=_floor),
    OURS: Subject(instrument=_stormproof_without_http),
    OURS_HTTP: Subject(instrument=_stormproof),
    A: Subject(instrument=_traceloop, guard=_assembled),
    B: Subject(instrument=_both(_httpx, _traceloop), guard=_assembled),
    TRACELOOP: Subject(instrument=_traceloop),
    "openinference": Subject(("openai",), _openinference),
    "official genai-openai": Subject(("openai",), _official),
    HTTP: Subject(instrument=_httpx),
    ASSEMBLED: Subject(guard=_assembled),
    FLOOR_UNSAMPLED: Subject(guard=_floor, sampled=False),
    OURS_UNSAMPLED: Subject(instrument=_stormproof_without_http, sampled=False),
    OURS_ALONE: Subject(instrument=_stormproof_alone, has_sdk=False),
}
