"""Spans, metric points and log records as plain values, read from OTLP's protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

Attributes = Mapping[str, Any]

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUS_CODES = ("unset", "ok", "error")


@dataclass(frozen=True)
class Event:
    """Something that happened within a span."""

    name: str
    time_ns: int
    attributes: Attributes


@dataclass(frozen=True)
class Link:
    """A span's pointer to another one."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True)
class Span:
    """One span with its scope and resource; ids are in hex, `parent_id` is empty at the root."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    scope: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    status: str
    status_message: str
    resource: Attributes


@dataclass(frozen=True)
class Exemplar:
    """A measurement that was kept as an example, with the span in which it was made."""

    value: float
    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True)
class Point:
    """One data point of a metric.

    `value` is the number of a sum or gauge and the sum of a histogram; the count and the buckets are a
    histogram's.
    """

    name: str
    unit: str
    kind: str
    scope: str
    attributes: Attributes
    value: float
    count: int | None
    bounds: tuple[float, ...]
    buckets: tuple[int, ...]
    exemplars: tuple[Exemplar, ...]
    time_ns: int
    resource: Attributes


@dataclass(frozen=True)
class Log:
    """One log record; ids are in hex and empty outside any span."""

    event_name: str
    severity: str
    severity_number: int
    body: Any
    attributes: Attributes
    trace_id: str
    span_id: str
    scope: str
    time_ns: int
    resource: Attributes


def read_spans(body: bytes) -> Iterator[Span]:
    """Yield the spans of an export request."""
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            for span in scoped.spans:
                yield _span(span, scoped.scope.name, resource)


def read_points(body: bytes) -> Iterator[Point]:
    """Yield the data points of an export request."""
    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_metrics:
            for metric in scoped.metrics:
                yield from _points(metric, scoped.scope.name, resource)


def read_logs(body: bytes) -> Iterator[Log]:
    """Yield the log records of an export request."""
    for group in ExportLogsServiceRequest.FromString(body).resource_logs:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_logs:
            for record in scoped.log_records:
                yield _log(record, scoped.scope.name, resource)


def _span(span: trace_pb2.Span, scope: str, resource: Attributes) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=_KINDS[span.kind],
        scope=scope,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=tuple(Event(e.name, e.time_unix_nano, _attributes(e.attributes)) for e in span.events),
        links=tuple(Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links),
        status=_STATUS_CODES[span.status.code],
        status_message=span.status.message,
        resource=resource,
    )


def _points(metric: metrics_pb2.Metric, scope: str, resource: Attributes) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    for point in getattr(metric, kind).data_points:
        is_number = kind in ("sum", "gauge")
        yield Point(
            name=metric.name,
            unit=metric.unit,
            kind=kind,
            scope=scope,
            attributes=_attributes(point.attributes),
            value=_number(point) if is_number else point.sum,
            count=None if is_number else point.count,
            bounds=tuple(getattr(point, "explicit_bounds", ())),
            buckets=tuple(getattr(point, "bucket_counts", ())),
            exemplars=tuple(_exemplar(example) for example in getattr(point, "exemplars", ())),
            time_ns=point.time_unix_nano,
            resource=resource,
        )


def _exemplar(example: metrics_pb2.Exemplar) -> Exemplar:
    attributes = _attributes(example.filtered_attributes)
    return Exemplar(_number(example), example.trace_id.hex(), example.span_id.hex(), attributes)


def _number(point: metrics_pb2.NumberDataPoint | metrics_pb2.Exemplar) -> float:
    return point.as_int if point.WhichOneof("value") == "as_int" else point.as_double


def _log(record: LogRecord, scope: str, resource: Attributes) -> Log:
    return Log(
        event_name=record.event_name,
        severity=record.severity_text,
        severity_number=record.severity_number,
        body=_value(record.body),
        attributes=_attributes(record.attributes),
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
        scope=scope,
        time_ns=record.time_unix_nano or record.observed_time_unix_nano,
        resource=resource,
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
