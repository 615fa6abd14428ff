"""What a person sees of an outage in Jaeger: its page draws what these answers of its API say (``docs/views.md``)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ollama
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import stormproof
from collector.stack import Stack
from stormproof import BreakerPolicy, CircuitOpenError, Policy
from stormproof.demo.ollama_wire import OllamaWire
from stormproof.demo.proxy import FaultProxy, status
from tests.stack.readers import JaegerSpan, eventually, jaeger_spans
from tests.unit.signals import Signals

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

SERVICE = "outage"
QUESTION = [{"role": "user", "content": "What is a circuit breaker?"}]
PAGE = (Path(__file__).parents[2] / "docs" / "views.md").read_text()
SEARCHES = re.findall(r"^\| (.+?) \| (Tags|Operation) `(.+?)` \|", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def seen(stack: Stack) -> list[JaegerSpan]:
    """A call that recovers once the server allows it, one that fails, one that opens the breaker, one refused."""
    provider = TracerProvider(resource=Resource({"service.name": SERVICE}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{stack.otlp_http}/v1/traces")))
    policy = Policy(breaker=BreakerPolicy(strategy="window", failures=5))
    stormproof.instrument(**{**Signals().providers, "tracer_provider": provider}, policies={"ollama": policy})
    try:
        with OllamaWire() as wire, FaultProxy(wire.url) as proxy:
            slow_down = status(429, headers={"Retry-After": "1"})
            proxy.plan("POST", ".*/chat", [slow_down, None, *[status(503)] * 5])
            client = ollama.Client(host=proxy.url)
            try:
                _ask(client, provider)
            finally:
                client._client.close()
    finally:
        stormproof.uninstrument()
        provider.shutdown()
    return eventually(lambda: _all(stack))


def _ask(client: ollama.Client, provider: TracerProvider) -> None:
    client.chat("llama3.2", QUESTION)
    for _ in range(2):
        with pytest.raises(ollama.ResponseError):
            client.chat("llama3.2", QUESTION)
    with provider.get_tracer("app").start_as_current_span("summarise"), pytest.raises(CircuitOpenError):
        client.chat("llama3.2", QUESTION)


def _all(stack: Stack) -> list[JaegerSpan]:
    spans = jaeger_spans(stack.jaeger_url, SERVICE)
    assert "summarise" in [span.name for span in spans]  # which ended last
    return spans


def _named(spans: list[JaegerSpan], name: str) -> list[JaegerSpan]:
    return sorted((span for span in spans if span.name == name), key=lambda span: span.start)


def test_a_call_that_recovered_is_no_error_and_its_wait_is_a_gap(seen: list[JaegerSpan]) -> None:
    recovered = _named(seen, "chat llama3.2")[0]
    first, second = recovered.children
    assert "error" not in recovered.tags
    assert "resilience.retry.scheduled" in recovered.events
    assert (first.tags["error"], first.tags["error.type"]) == (True, "429")
    assert second.tags["resilience.retry.delay"] >= 1.0
    assert second.start - first.end >= 1_000_000  # µs
    assert recovered.end >= second.end


def test_the_opening_hangs_below_the_attempt_that_brought_it_about(seen: list[JaegerSpan]) -> None:
    [opening] = _named(seen, "circuit_breaker open")
    last = _named(seen, "attempt chat")[-1]
    assert opening.trace_id == last.trace_id
    assert opening.links == [last.id]  # Jaeger's page takes a reference inside the trace for the parent
    assert "resilience.circuit_breaker.state_changed" in last.events
    assert opening.tags["resilience.circuit_breaker.reason"] == "consecutive_failures"
    assert last.start <= opening.start <= opening.end <= last.end


def test_a_refused_call_is_an_error_without_attempts_that_refers_to_the_opening(seen: list[JaegerSpan]) -> None:
    [opening], refused = _named(seen, "circuit_breaker open"), _named(seen, "chat llama3.2")[-1]
    assert (refused.tags["error"], refused.tags["error.type"]) == (True, "circuit_open")
    assert refused.links == [opening.id]
    assert refused.children == []
    assert [span.id for span in _named(seen, "summarise")] == [refused.parent]


def test_jaeger_has_nothing_to_warn_of_and_knows_whose_spans_these_are(seen: list[JaegerSpan]) -> None:
    assert not [span.warnings for span in seen if span.warnings]
    assert {span.scope for span in seen} >= {"stormproof.ollama", "app"}


@pytest.mark.parametrize(("question", "field", "value"), SEARCHES, ids=[value for *_, value in SEARCHES])
def test_each_search_of_the_page_finds_what_it_says(
    seen: list[JaegerSpan], stack: Stack, question: str, field: str, value: str
) -> None:
    key, _, wanted = value.partition("=")
    search = {"operation": value} if field == "Operation" else {"tags": json.dumps({key: wanted})}
    found = {span.trace_id for span in jaeger_spans(stack.jaeger_url, SERVICE, **search)}
    matching = {
        s.trace_id for s in seen if (s.name == value if field == "Operation" else str(s.tags.get(key)) == wanted)
    }
    assert found == matching != set(), question


def test_there_are_searches() -> None:
    assert len(SEARCHES) >= 5
