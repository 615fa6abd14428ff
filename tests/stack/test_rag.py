"""The main job, end to end: a RAG program rides through faults, and every attempt is seen at the far end.

Real Ollama (its ``/v1`` for the OpenAI client), Qdrant's real wire, the real collector, Jaeger and Prometheus.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from collector.stack import Stack
from stormproof.demo.proxy import FaultProxy, hang, reset, status
from stormproof.demo.qdrant_wire import QdrantWire
from tests.servers.ollama import TINY, RealOllama
from tests.stack.readers import JaegerSpan, eventually, jaeger_spans, log_records, prometheus

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

RAG = Path(__file__).parents[2] / "examples" / "rag.py"
LAUNCHER = Path(sys.executable).parent / "opentelemetry-instrument"
# Ollama on two busy cores embeds some hundred characters a second.
QUESTIONS, PASSAGES, LONGEST = 4, 8, 80
HTTP_SCOPE = "opentelemetry.instrumentation.httpx"


@dataclass
class Run:
    """One run of the program: what it printed, what the proxies saw, what Jaeger shows of it."""

    service: str
    output: str
    errors: str
    exit_code: int
    proxies: dict[str, FaultProxy]
    spans: list[JaegerSpan]

    @property
    def operations(self) -> list[JaegerSpan]:
        return [span for span in self.spans if "resilience.attempt.count" in span.tags]

    def of(self, system: str) -> list[JaegerSpan]:
        return [span for span in self.operations if span.scope == f"stormproof.{system}"]

    def sent(self, span: JaegerSpan) -> int:
        """How many requests with this operation's HTTP spans as their parent the proxies saw on the wire."""
        ids = {http.id for attempt in span.children for http in attempt.children}
        return sum(
            exchange.headers.get("traceparent", "--").split("-")[2] in ids
            for proxy in self.proxies.values()
            for exchange in proxy.exchanges
        )


def _as_it_is(tmp_path: Path) -> list[str]:
    return [str(LAUNCHER), sys.executable, str(RAG)]


def _with_first_line(line: str) -> Callable[[Path], list[str]]:
    def command(tmp_path: Path) -> list[str]:
        program = tmp_path / "rag.py"
        source = RAG.read_text().replace("from __future__ import annotations\n", "")
        program.write_text(f"{line}\n{source}")
        return [sys.executable, str(program)]

    return command


WAYS_IN = {
    "opentelemetry-instrument": _as_it_is,
    "import-stormproof.auto": _with_first_line("import stormproof.auto"),
    "stormproof.instrument": _with_first_line("import stormproof; stormproof.instrument()"),
}


@pytest.fixture(params=WAYS_IN, scope="module")
def run(
    request: pytest.FixtureRequest, stack: Stack, ollama: RealOllama, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    service = f"rag-{request.param}"
    with ExitStack() as parts:
        upstreams = {"openai": ollama.url, "ollama": ollama.url, "qdrant": parts.enter_context(QdrantWire()).url}
        proxies = {system: parts.enter_context(FaultProxy(url)) for system, url in upstreams.items()}
        _arm(proxies)
        environment = {
            **os.environ,
            "OTEL_SERVICE_NAME": service,
            "OTEL_EXPORTER_OTLP_ENDPOINT": stack.otlp_http,
            "OPENAI_BASE_URL": f"{proxies['openai'].url}/v1",
            "OPENAI_API_KEY": "secret-key",
            "OLLAMA_HOST": proxies["ollama"].url,
            "QDRANT_URL": proxies["qdrant"].url,
            "RAG_EMBEDDING_MODEL": TINY,
            "RAG_CHAT_MODEL": TINY,
            # A frozen server costs this much of an attempt. The default breaker would not repeat it: this program has
            # one caller, and too few successes before the first search. The classical one does.
            "STORMPROOF_QDRANT__TIMEOUT": "1s",
            "STORMPROOF_QDRANT__BREAKER__STRATEGY": "window",
        }
        ways = WAYS_IN[request.param]
        arguments = ["--questions", str(QUESTIONS), "--passages", str(PASSAGES), "--longest", str(LONGEST)]
        done = subprocess.run(
            [*ways(tmp_path_factory.mktemp("app")), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        spans = eventually(lambda: _complete(stack, service, proxies))
        yield Run(service, done.stdout, done.stderr, done.returncode, proxies, spans)


def _arm(proxies: dict[str, FaultProxy]) -> None:
    proxies["openai"].plan("POST", r".*/embeddings", [status(503), status(503), None, reset()])
    proxies["ollama"].plan(
        "POST", r".*/chat", [status(503), None, status(429, headers={"Retry-After": "1"}), None, reset(), reset()]
    )
    proxies["qdrant"].plan("PUT", r".*/points", [reset(), None, status(503)])
    proxies["qdrant"].plan(
        "POST", r".*/query", [hang(), None, status(429, headers={"Retry-After": "1"}), None, status(503)]
    )


def _complete(stack: Stack, service: str, proxies: dict[str, FaultProxy]) -> list[JaegerSpan]:
    """All spans, once there is an HTTP span for each request that the proxies saw."""
    spans = jaeger_spans(stack.jaeger_url, service)
    sent = sum("traceparent" in exchange.headers for proxy in proxies.values() for exchange in proxy.exchanges)
    assert sum(span.scope == HTTP_SCOPE for span in spans) >= sent > 0
    return spans


def test_no_call_of_the_application_failed(run: Run) -> None:
    assert run.exit_code == 0, run.errors
    assert f"{PASSAGES} of {PASSAGES}" in run.output
    assert f"{QUESTIONS} of {QUESTIONS}" in run.output
    assert not [span.name for span in run.operations if "error" in span.tags]


def test_every_fault_was_met(run: Run) -> None:
    faults = [exchange.fault for proxy in run.proxies.values() for exchange in proxy.exchanges if exchange.fault]
    assert {fault.split("(")[0].split(" ")[0] for fault in faults} >= {"status", "reset", "hang"}
    assert sum(int(span.tags["resilience.attempt.count"]) > 1 for span in run.operations) >= len(faults) - 3


def test_each_operation_stands_once_with_its_attempts_in_order(run: Run) -> None:
    assert len(run.of("ollama")) == QUESTIONS
    assert [span.name for span in run.of("qdrant")].count("query_points python_docstrings") == QUESTIONS
    for operation in run.operations:
        attempts = [child for child in operation.children if child.name.startswith("attempt ")]
        assert operation.parent is None
        assert operation.tags["span.kind"] == "client"
        assert [a.tags["resilience.attempt.number"] for a in attempts] == list(range(1, len(attempts) + 1))
        assert all(a.end <= b.start for a, b in pairwise(attempts))
        assert operation.tags["resilience.attempt.count"] == len(attempts)
        assert [a.tags["resilience.attempt.type"] for a in attempts] == ["initial", *["retry"] * (len(attempts) - 1)]
        assert all("error" in attempt.tags for attempt in attempts[:-1])


def test_each_attempt_has_its_http_span_inside(run: Run) -> None:
    for operation in run.operations:
        for attempt in operation.children:
            [http] = attempt.children
            assert http.scope == HTTP_SCOPE
            assert attempt.start <= http.start
            resent = attempt.tags["resilience.attempt.number"] - 1
            assert http.tags.get("http.request.resend_count", 0) == resent


def test_attempts_are_what_went_over_the_wire(run: Run) -> None:
    for operation in run.operations:
        assert run.sent(operation) == operation.tags["resilience.attempt.count"], operation.name


def test_official_attributes(run: Run) -> None:
    for system in ("openai", "ollama"):
        for span in run.of(system):
            assert span.tags["gen_ai.provider.name"] == system
            assert span.tags["gen_ai.request.model"] == TINY
            assert span.tags["gen_ai.usage.input_tokens"] > 0
            assert span.tags["gen_ai.operation.name"] == ("embeddings" if system == "openai" else "chat")
            assert span.name == f"{span.tags['gen_ai.operation.name']} {TINY}"
    for span in run.of("qdrant"):
        assert span.tags["db.system.name"] == "qdrant"
        assert span.name.startswith(span.tags["db.operation.name"])
    for span in run.operations:
        assert span.tags["server.address"] == "127.0.0.1"
        assert span.tags["server.port"] == run.proxies[span.scope.removeprefix("stormproof.")].port
        assert span.process["telemetry.distro.name"] == "stormproof"


def test_the_wait_that_the_server_asked_for_was_kept(run: Run) -> None:
    attempts = [attempt for operation in run.operations for attempt in operation.children]
    asked = [a for a in attempts if a.tags.get("resilience.retry.delay.source") == "server"]
    assert asked
    assert all(attempt.tags["resilience.retry.delay"] >= 1.0 for attempt in asked)


def test_prometheus_has_the_attempt_and_breaker_series(run: Run, stack: Stack) -> None:
    job = f'{{job="{run.service}"}}'

    def look() -> None:
        counted = prometheus(stack.prometheus_url, f"sum(resilience_attempt_duration_seconds_count{job})")
        attempts = sum(int(span.tags["resilience.attempt.count"]) for span in run.operations)
        assert [value for _, value in counted] == [attempts]
        operations = prometheus(stack.prometheus_url, f"sum(resilience_operations_total{job})")
        assert [value for _, value in operations] == [len(run.operations)]
        states = prometheus(stack.prometheus_url, f"resilience_circuit_breaker_status{job} == 1")
        breakers = {
            labels["resilience_circuit_breaker_name"]: labels["resilience_circuit_breaker_state"]
            for labels, _ in states
        }
        # Whoever was told to slow down by a 429 is paced for a while; the classical breaker knows nothing of that.
        states_of = {"openai": "closed", "ollama": "half_open", "qdrant": "closed"}
        expected = {f"{system}/127.0.0.1:{proxy.port}": states_of[system] for system, proxy in run.proxies.items()}
        assert breakers == expected

    eventually(look)


def test_the_collector_has_log_records_of_the_same_traces(run: Run, stack: Stack) -> None:
    traces = {span.trace_id for span in run.operations if int(span.tags["resilience.attempt.count"]) > 1}

    def look() -> None:
        records = [record for record in log_records(stack.logs_file) if record["service"] == run.service]
        scheduled = [record for record in records if record.get("eventName") == "resilience.retry.scheduled"]
        assert {record["traceId"] for record in scheduled} == traces

    eventually(look)


def test_secrets_go_nowhere(run: Run, stack: Stack) -> None:
    told = f"{[span.tags for span in run.spans]} {stack.logs_file.read_text()} {run.errors}"
    assert "secret-key" not in told
