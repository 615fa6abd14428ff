"""In-memory providers of the three signals, and short ways to look at what they got."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import StatusCode


class Signals:
    """Everything that was emitted; give the providers to whoever emits."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._spans = InMemorySpanExporter()
        self._ledger = Ledger()
        self.tracer_provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer_provider.add_span_processor(self._ledger)
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self._logs: Any = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self._logs))

    @property
    def providers(self) -> dict[str, Any]:
        names = ("tracer_provider", "meter_provider", "logger_provider")
        return {name: getattr(self, name) for name in names}

    # -- spans -------------------------------------------------------------------------------------------------------

    @property
    def spans(self) -> list[ReadableSpan]:
        """Every ended span, in the order in which they began."""
        return sorted(self._spans.get_finished_spans(), key=lambda span: span.start_time or 0)

    @property
    def ended(self) -> list[ReadableSpan]:
        """Every ended span, in the order in which they ended."""
        return list(self._spans.get_finished_spans())

    def clear(self) -> None:
        self._spans.clear()
        self._logs.clear()

    @property
    def open_spans(self) -> list[str]:
        """The names of the spans that have begun and not ended."""
        return list(self._ledger.open.values())

    @property
    def ended_twice(self) -> list[str]:
        return self._ledger.ended_twice

    def named(self, *names: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name in names]

    def operations(self) -> list[ReadableSpan]:
        return [span for span in self.spans if "resilience.attempt.count" in attributes(span)]

    def operation(self) -> ReadableSpan:
        """The only one."""
        (operation,) = self.operations()
        return operation

    def attempts(self, operation: ReadableSpan | None = None) -> list[ReadableSpan]:
        """The attempts of an operation, of the only one by default."""
        children = self.children(operation or self.operation())
        return [span for span in children if span.name.startswith("attempt ")]

    def children(self, parent: ReadableSpan) -> list[ReadableSpan]:
        return [span for span in self.spans if is_child(span, parent)]

    # -- the others --------------------------------------------------------------------------------------------------

    def metrics(self) -> list[tuple[str, Any]]:
        """Every metric with its data points now, and its scope. Exemplars come but once."""
        data = self._reader.get_metrics_data()
        return [
            (scope.scope.name, metric)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def collect(self) -> dict[str, list[Any]]:
        """The data points of each metric now."""
        return {metric.name: list(metric.data.data_points) for _, metric in self.metrics()}

    def points(self, name: str) -> list[Any]:
        """The data points of one metric; none if it was never recorded."""
        return self.collect().get(name, [])

    def values(self, name: str, *keys: str) -> dict[Any, Any]:
        """value (of a histogram: count) by the values of these attributes."""
        return {
            tuple((point.attributes or {}).get(key) for key in keys)
            if len(keys) > 1
            else point.attributes.get(*keys): (point.value if hasattr(point, "value") else point.count)
            for point in self.points(name)
        }

    @property
    def logs(self) -> list[Any]:
        return [log for _, log in self.scoped_logs()]

    def scoped_logs(self) -> list[tuple[str, Any]]:
        """Every log record, and its scope."""
        return [(data.instrumentation_scope.name, data.log_record) for data in self._logs.get_finished_logs()]

    def scopes(self) -> list[Any]:
        """The instrumentation scopes of everything so far."""
        data = self._reader.get_metrics_data()
        metrics = [
            scope.scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics
        ]
        logs = [data.instrumentation_scope for data in self._logs.get_finished_logs()]
        return [*(span.instrumentation_scope for span in self.ended), *metrics, *logs]


class Ledger(SpanProcessor):
    """Whether each span that began has ended, and only once."""

    def __init__(self) -> None:
        self.open: dict[int, str] = {}
        self.ended_twice: list[str] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.open[span.context.span_id] = span.name

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or self.open.pop(span.context.span_id, None) is None:
            self.ended_twice.append(span.name)


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether ``parent`` is the direct parent, in the same trace."""
    context = parent.context
    return (
        span.parent is not None
        and context is not None
        and (span.parent.trace_id, span.parent.span_id) == (context.trace_id, context.span_id)
    )


def failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR


def get(spans: Iterable[ReadableSpan], key: str) -> list[Any]:
    """The values of one attribute."""
    return [attributes(span).get(key) for span in spans]


def has(span: ReadableSpan, **expected: Any) -> bool:
    """Whether a span has these attributes; ``__`` stands for a dot. Fails with what it has instead."""
    found = {name.replace("__", "."): attributes(span).get(name.replace("__", ".")) for name in expected}
    assert found == {name.replace("__", "."): value for name, value in expected.items()}
    return True
