"""Log records: one for each retry, one for giving up, one for each change of a breaker; each with its trace."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber

from stormproof.errors import CircuitOpenError
from stormproof.resilience.events import Fanout
from stormproof.resilience.fallback import Fallback
from stormproof.resilience.outcome import SUCCESS
from stormproof.resilience.policy import Policy
from stormproof.telemetry.logs import Logs
from stormproof.telemetry.spans import Spans

from .helpers import FakeClient, Trouble, World, count
from .signals import Signals

RETRY = "resilience.retry.scheduled"
CHANGED = "resilience.circuit_breaker.state_changed"


@pytest.fixture
def signals() -> Signals:
    return Signals()


def logging(world: World, signals: Signals, system: str = "openai") -> World:
    listeners = Spans(signals.tracer_provider, "1", breaker_spans=True), Logs(signals.logger_provider, "1")
    return World(world.clock, Fanout(*listeners), is_async=world.is_async, client=FakeClient(system))


def window(record: Any) -> tuple[Any, ...]:
    """calls, failures and slow calls."""
    name = "resilience.circuit_breaker.window"
    return tuple(record.attributes[f"{name}.{what}"] for what in ("calls", "failures", "slow_calls"))


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
    with pytest.raises(CircuitOpenError):
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
    assert window(opened) == (1, 1, 0)
    assert opened.attributes["resilience.circuit_breaker.cause.trace_id"] == f"{tripping.context.trace_id:032x}"
    refused = [record for record in signals.logs if record.attributes.get("error.type") == "circuit_open"]
    assert [record.trace_id for record in refused] == [signals.operations()[1].context.trace_id]


def test_changes_of_the_adaptive_breaker(world: World, signals: Signals) -> None:
    logged = logging(world, signals)
    logged.policy = Policy()
    count(logged.target, SUCCESS)
    for _ in range(15):
        with pytest.raises(Trouble):
            logged.run(logged.begin(attempts=1), Trouble())
    (slowed,) = [record for record in signals.logs if record.event_name == CHANGED]
    assert slowed.severity_number is SeverityNumber.WARN
    assert slowed.body == "circuit breaker of openai/localhost:80: closed → half_open (overload)"
    assert window(slowed) == (16, 15, 0)
    assert slowed.attributes["resilience.circuit_breaker.rate"] == 0.25
    tripping = signals.named("attempt chat")[-1]
    assert (slowed.trace_id, slowed.span_id) == (tripping.context.trace_id, tripping.context.span_id)
    assert slowed.attributes["resilience.circuit_breaker.cause.trace_id"] == f"{tripping.context.trace_id:032x}"


def test_changes_by_hand(world: World, signals: Signals) -> None:
    logged = logging(world, signals)
    with signals.tracer_provider.get_tracer("app").start_as_current_span("who steers") as span:
        logged.target.force_open()
        logged.target.disable()
        logged.target.close()
    assert [(record.severity_number.name, record.body.rpartition(": ")[2]) for record in signals.logs] == [
        ("ERROR", "closed → forced_open (forced_open)"),
        ("INFO", "forced_open → disabled (disabled)"),
        ("INFO", "disabled → closed (closed_by_hand)"),
    ]
    assert {record.span_id for record in signals.logs} == {span.get_span_context().span_id}
    assert not any("resilience.circuit_breaker.cause.trace_id" in record.attributes for record in signals.logs)


def test_a_call_that_falls_back_has_not_failed(world: World, signals: Signals) -> None:
    logged = logging(world, signals)
    logged.choose(retry={"attempts": 2}, fallback=Fallback(value="plan b"))
    assert logged.run(logged.begin(), Trouble(), Trouble()) == "plan b"
    assert [record.event_name for record in signals.logs] == [RETRY]
