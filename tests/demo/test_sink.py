"""The sink passes on what it gets, and a collector may take traces alone."""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from stormproof.demo.sink import OtlpSink
from stormproof.demo.wire import Route

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SPAN = Span(name="one", trace_id=b"t" * 16, span_id=b"s" * 8)
_TRACES = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[_SPAN])])])


class TracesOnly(OtlpSink):
    """As Jaeger and Phoenix are."""

    def routes(self) -> Sequence[Route]:
        return [route for route in super().routes() if route.pattern.fullmatch("/v1/traces")]


def _send(sink: OtlpSink, path: str, body: bytes = b"") -> None:
    request = urllib.request.Request(sink.url + path, body, {"content-type": "application/x-protobuf"})
    with _opener.open(request, timeout=5) as response:
        assert response.status == 200


def test_who_takes_traces_alone_gets_all_of_them() -> None:
    with TracesOnly() as collector, OtlpSink(forward_to=collector.url) as sink:
        for _ in range(2):
            _send(sink, "/v1/logs")
            _send(sink, "/v1/metrics")
            _send(sink, "/v1/traces", _TRACES.SerializeToString())
        assert [span.name for span in collector.spans] == ["one", "one"]
    assert sink.refused == {"/v1/logs": 404, "/v1/metrics": 404}
    assert sink.forward_error is None


def test_who_is_gone_is_told_from_who_refuses() -> None:
    with OtlpSink() as collector:
        url = collector.url
    with OtlpSink(forward_to=url) as sink:
        _send(sink, "/v1/traces", _TRACES.SerializeToString())
    assert sink.forward_error is not None
    assert sink.refused == {}
    assert [span.name for span in sink.spans] == ["one"]
