"""Log records: one for each retry, one for giving up, one for each change of a breaker; each with its trace."""

from __future__ import annotations

import pytest
from opentelemetry._logs import SeverityNumber

from stormproof.resilience.events import Fanout
from stormproof.telemetry.logs import Logs
from stormproof.telemetry.spans import Spans

from .helpers import FakeClient, Refusal, Trouble, World
from .signals import Signals

RETRY = "resilience.retry.scheduled"
CHANGED = "resilience.circuit_breaker.state_changed"


@pytest.fixture
def signals() -> Signals:
    return Signals()


def logging(world: World, signals: Signals, system: str = "openai") -> World:
    listeners = Spans(signals.tracer_provider, "1", breaker_spans=True), Logs(signals.logger_provider, "1")
    return World(world.clock, Fanout(*listeners), is_async=world.is_async, client=FakeClient(system))


def test_a_healthy_call_logs_nothing(world: World, signals: Signals) -> None:
    logged = logging(world, signals)
    logged.run(logged.begin(), "fine")
    assert signals.logs == []


@pytest.mark.parametrize(
    ("system", "event"),
    [("openai", "gen_ai.client.operation.exception"), ("qdrant", "db.client.operation.exception")],
)
def test_each_retry_and_then_giving_up(world: World, signals: Signals, system: str, event: str) -> None:
    logged = logging(world, signals, system)
    with pytest.raises(Trouble):
        logged.run(logged.begin(), *(Trouble() for _ in range(4)))
    assert [record.event_name for record in signals.logs] == [RETRY] * 3 + [event]
    assert [record.severity_number for record in signals.logs] == [SeverityNumber.INFO] * 3 + [SeverityNumber.WARN]
    attempts, operation = signals.attempts(), signals.operation()
    spans = [*attempts[:3], operation]
    for record, span in zip(signals.logs, spans, strict=True):
        assert (record.trace_id, record.span_id) == (span.context.trace_id, span.context.span_id)
        assert record.timestamp
    first, last = signals.logs[0], signals.logs[-1]
    assert first.body.startswith("attempt 1 of chat failed; next in ")
    assert {key: first.attributes[key] for key in ("resilience.attempt.number", "resilience.retry.delay")} == {
        "resilience.attempt.number": 1,
        "resilience.retry.delay": logged.clock.waits[0],
    }
    assert last.body == "chat failed after 4 attempts: 503"
    assert last.attributes["resilience.attempt.count"] == 4
    assert last.attributes["resilience.retry.gave_up"] == "attempts"
    assert last.attributes["exception.type"] == last.attributes["error.type"] == "503"


def test_the_breakers_changes(world: World, signals: Signals) -> None:
    logged = logging(world, signals)
    logged.choose(retry={"attempts": 1}, breaker={"failures": 1, "open_for": 5})
    with pytest.raises(Trouble):
        logged.run(logged.begin(), Trouble())
    with pytest.raises(Refusal):
        logged.run(logged.begin())
    logged.clock.now += 5
    logged.run(logged.begin(), "fine")
    changes = [record for record in signals.logs if record.event_name == CHANGED]
    assert [record.severity_number.name for record in changes] == ["ERROR", "WARN", "INFO"]
    opened = changes[0]
    tripping = signals.attempts(signals.operations()[0])[0]
    assert opened.body == "circuit breaker of openai/localhost:80: closed → open (consecutive_failures)"
    assert (opened.trace_id, opened.span_id) == (tripping.context.trace_id, tripping.context.span_id)
    assert opened.attributes["resilience.circuit_breaker.next_probe"] == 5
    assert opened.attributes["resilience.circuit_breaker.calls.failure"] == 1
    assert opened.attributes["resilience.circuit_breaker.cause.trace_id"] == f"{tripping.context.trace_id:032x}"
    refused = [record for record in signals.logs if record.attributes.get("error.type") == "circuit_open"]
    assert [record.trace_id for record in refused] == [signals.operations()[1].context.trace_id]
