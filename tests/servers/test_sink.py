"""The OTLP sink, fed by the SDK's real exporters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from stormproof.demo.sink import OtlpSink

RESOURCE = Resource({"service.name": "sink-test"})


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        yield sink


@pytest.fixture
def tracers(sink: OtlpSink) -> Iterator[TracerProvider]:
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{sink.url}/v1/traces")))
    yield provider
    provider.shutdown()


def test_spans(sink: OtlpSink, tracers: TracerProvider) -> None:
    tracer = tracers.get_tracer("scope")
    with tracer.start_as_current_span("parent") as parent:
        span = tracer.start_span(
            "child",
            kind=trace.SpanKind.CLIENT,
            attributes={"n": 1, "list": ["a", "b"], "yes": True},
            links=[trace.Link(parent.get_span_context(), {"why": "test"})],
        )
        span.add_event("retry", {"wait": 0.5})
        span.set_status(trace.StatusCode.ERROR, "broke")
        span.end()
    child, root = sink.wait_for(lambda s: s.spans if len(s.spans) == 2 else None)
    assert (root.name, root.parent_id, root.kind, root.status) == ("parent", "", "internal", "unset")
    assert (child.trace_id, child.parent_id) == (root.trace_id, root.span_id)
    assert child.trace_id == f"{parent.get_span_context().trace_id:032x}"
    assert child.attributes == {"n": 1, "list": ["a", "b"], "yes": True}
    assert (child.kind, child.status, child.status_message) == ("client", "error", "broke")
    assert (child.scope, child.resource["service.name"]) == ("scope", "sink-test")
    assert [(event.name, event.attributes) for event in child.events] == [("retry", {"wait": 0.5})]
    assert [(link.span_id, link.attributes) for link in child.links] == [(root.span_id, {"why": "test"})]
    assert root.start_ns <= child.start_ns <= child.end_ns <= root.end_ns


def test_metrics(sink: OtlpSink, tracers: TracerProvider) -> None:
    exporter = OTLPMetricExporter(f"{sink.url}/v1/metrics", compression=Compression.Gzip)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], resource=RESOURCE)
    meter = provider.get_meter("scope")
    with tracers.get_tracer("scope").start_as_current_span("measured") as span:
        meter.create_counter("calls").add(2, {"system": "openai"})
        histogram = meter.create_histogram("wait", "s")
        for value in (0.5, 1.5):
            histogram.record(value)
    meter.create_gauge("state").set(0.5)
    provider.force_flush()
    provider.shutdown()

    found = sink.wait_for(lambda s: s.metrics if len(s.metrics) == 3 else None)
    (calls,) = sink.latest("calls")
    assert (calls.kind, calls.value, calls.attributes) == ("sum", 2, {"system": "openai"})
    (wait,) = sink.latest("wait")
    assert (wait.kind, wait.unit, wait.value, wait.count, sum(wait.buckets)) == ("histogram", "s", 2.0, 2, 2)
    assert len(wait.bounds) == len(wait.buckets) - 1
    # The SDK sends an exemplar once, with the first export, and the shutdown has made a second one.
    exemplar = found["wait"][0].exemplars[-1]
    assert (exemplar.value, exemplar.span_id) == (1.5, f"{span.get_span_context().span_id:016x}")
    assert (found["state"][0].kind, found["state"][0].value) == ("gauge", 0.5)
    assert len(found["calls"]) == 2


def test_logs(sink: OtlpSink, tracers: TracerProvider) -> None:
    provider = LoggerProvider(resource=RESOURCE)
    provider.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(f"{sink.url}/v1/logs")))
    with tracers.get_tracer("scope").start_as_current_span("logged") as span:
        provider.get_logger("scope").emit(
            event_name="breaker.opened",
            body={"failures": 3},
            severity_text="WARN",
            attributes={"target": "qdrant"},
        )
    provider.shutdown()
    (record,) = sink.wait_for(lambda s: s.logs)
    assert (record.event_name, record.severity, record.body) == ("breaker.opened", "WARN", {"failures": 3})
    assert (record.attributes, record.scope) == ({"target": "qdrant"}, "scope")
    assert record.trace_id == f"{span.get_span_context().trace_id:032x}"
    assert record.span_id == f"{span.get_span_context().span_id:016x}"


def test_waiting_in_vain_says_what_was_there(sink: OtlpSink, tracers: TracerProvider) -> None:
    tracers.get_tracer("scope").start_span("lonely").end()
    with pytest.raises(TimeoutError, match=r"spans \[lonely\], metrics \[\], logs \[\]"):
        sink.wait_for(lambda s: len(s.spans) > 1, timeout=0.1)
    sink.clear()
    assert (sink.spans, sink.metrics, sink.logs) == ([], {}, [])


def test_what_is_no_otlp_is_refused(sink: OtlpSink) -> None:
    for headers in ({}, {"content-encoding": "gzip"}):
        assert httpx.post(f"{sink.url}/v1/traces", content=b"\xff", headers=headers).status_code == 400


class TestForwarding:
    def export(self, sink: OtlpSink, **options: Any) -> None:
        exporter = OTLPSpanExporter(f"{sink.url}/v1/traces", **options)
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        provider.get_tracer("scope").start_span("passed on").end()
        provider.shutdown()

    def test_passes_each_request_on(self, sink: OtlpSink) -> None:
        with OtlpSink(forward_to=sink.url) as first:
            self.export(first, compression=Compression.Gzip)
            assert first.forward_error is None
        assert [span.name for span in sink.spans] == ["passed on"]

    def test_a_collector_that_is_gone_is_noticed_once(self, caplog: pytest.LogCaptureFixture) -> None:
        with OtlpSink() as gone:
            nowhere = gone.url
        with OtlpSink(forward_to=nowhere) as first, caplog.at_level(logging.WARNING):
            self.export(first)
            assert "refused" in str(first.forward_error)
            self.export(first)
            assert len(first.spans) == 2
        assert caplog.records == []
