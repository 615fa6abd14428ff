"""Metrics: their values, their attributes, and what keeps them few."""

from __future__ import annotations

from typing import Any

import pytest

from stormproof.errors import BulkheadFullError, CircuitOpenError, RateLimitedError
from stormproof.resilience.breaker import Permit, State
from stormproof.resilience.events import Fanout
from stormproof.resilience.fallback import Fallback
from stormproof.resilience.outcome import SUCCESS
from stormproof.resilience.policy import BulkheadPolicy, Policy, RateLimitPolicy
from stormproof.resilience.waiting import ThreadTurn
from stormproof.telemetry import metrics as metrics_module
from stormproof.telemetry import names
from stormproof.telemetry.metrics import Metrics
from stormproof.telemetry.spans import Spans

from .helpers import FakeClient, Trouble, VirtualClock, World, asked_to_wait, count
from .signals import Signals

SERVER = {"server.address": "localhost", "server.port": 80}
TARGET = "openai/localhost:80"
CHAT = {**SERVER, "gen_ai.provider.name": "openai", "gen_ai.operation.name": "chat"}


@pytest.fixture
def signals() -> Signals:
    return Signals()


@pytest.fixture
def measured(world: World, signals: Signals) -> World:
    return with_metrics(world, signals)


def with_metrics(world: World, signals: Signals, system: str = "openai") -> World:
    fanout = Fanout()
    measured = World(world.clock, fanout, is_async=world.is_async, client=FakeClient(system))
    fanout.add(
        Spans(signals.tracer_provider, "1", breaker_spans=True), Metrics(signals.meter_provider, "1", measured.targets)
    )
    return measured


def taking(clock: Any, seconds: float, outcome: Any) -> Any:
    def send(*_: Any) -> Any:
        clock.now += seconds
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return send


def test_each_attempt_and_the_whole_operation_once(measured: World, signals: Signals) -> None:
    failure, success = taking(measured.clock, 2, Trouble()), taking(measured.clock, 3, {"input_tokens": 7})
    measured.run(measured.begin(facts={"model": "m"}), failure, success)
    attempts = {p.attributes["resilience.attempt.type"]: p for p in signals.points("resilience.attempt.duration")}
    assert {kind: (p.sum, p.count) for kind, p in attempts.items()} == {"initial": (2, 1), "retry": (3, 1)}
    assert dict(attempts["initial"].attributes) == {**CHAT, "resilience.attempt.type": "initial", "error.type": "503"}
    assert dict(attempts["retry"].attributes) == {**CHAT, "resilience.attempt.type": "retry"}
    (duration,) = signals.points("gen_ai.client.operation.duration")
    assert duration.sum == pytest.approx(5 + measured.clock.waits[0])
    assert dict(duration.attributes) == {**CHAT, "gen_ai.request.model": "m"}
    (delay,) = signals.points("resilience.retry.delay")
    assert (delay.sum, delay.attributes["resilience.retry.delay.source"]) == (measured.clock.waits[0], "backoff")
    assert signals.points("db.client.operation.duration") == []


def test_tokens_and_chunks(measured: World, signals: Signals) -> None:
    operation = measured.begin(streaming=True, facts={"model": "m"})
    measured.run(operation, object())
    for pause in (0.5, 1, 2):
        measured.clock.now += pause
        operation.item()
    operation.succeed({"input_tokens": 7, "output_tokens": 8, "response_model": "m-1"})
    tokens = {p.attributes["gen_ai.token.type"]: p.sum for p in signals.points("gen_ai.client.token.usage")}
    assert tokens == {"input": 7, "output": 8}
    (first,) = signals.points("gen_ai.client.operation.time_to_first_chunk")
    (each,) = signals.points("gen_ai.client.operation.time_per_output_chunk")
    assert (first.sum, each.sum) == (0.5, 1.5)
    assert dict(first.attributes) == {**CHAT, "gen_ai.request.model": "m", "gen_ai.response.model": "m-1"}


def test_a_database_has_its_own_duration(world: World, signals: Signals) -> None:
    measured = with_metrics(world, signals, "qdrant")
    operation = measured.begin(operation="search", facts={"collection": "docs"})
    with pytest.raises(Trouble):
        measured.run(operation, *(Trouble() for _ in range(4)))
    (duration,) = signals.points("db.client.operation.duration")
    assert dict(duration.attributes) == {
        **SERVER,
        "db.system.name": "qdrant",
        "db.operation.name": "search",
        "db.collection.name": "docs",
        "error.type": "503",
    }
    assert signals.points("gen_ai.client.operation.duration") == []


def test_buckets_are_the_agreed_ones(measured: World, signals: Signals) -> None:
    measured.run(measured.begin(), Trouble(), "fine")
    for name, bounds in (
        ("resilience.attempt.duration", names.ATTEMPT_BUCKETS),
        ("resilience.retry.delay", names.ATTEMPT_BUCKETS),
        ("gen_ai.client.operation.duration", names.GEN_AI_DURATION_BUCKETS),
    ):
        assert signals.points(name)[0].explicit_bounds == bounds


def test_operations_are_counted_by_outcome_and_attempts(measured: World, signals: Signals) -> None:
    measured.choose(retry={"attempts": 12, "base": 0.001}, breaker={"failures": 1000})
    measured.run(measured.begin(), "fine")
    measured.run(measured.begin(), "fine")
    measured.run(measured.begin(), Trouble(), "fine")
    with pytest.raises(Trouble):
        measured.run(measured.begin(), *(Trouble() for _ in range(12)))
    counts = signals.values("resilience.operations", "error.type", "resilience.attempt.count")
    assert counts == {(None, "1"): 2, (None, "2"): 1, ("503", "9+"): 1}


def test_series_are_bounded(measured: World, signals: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MOST_SERIES", 3)
    for number in range(10):
        measured.run(measured.begin(operation=f"operation {number}"), "fine")
    points = signals.points("resilience.operations")
    assert sum(point.value for point in points) == 10
    assert [point.value for point in points if "otel.metric.overflow" in point.attributes] == [7]
    assert len(points) == 4


def test_fallbacks_are_bounded_though_targets_come_and_go(
    measured: World, signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "MOST_SERIES", 3)
    measured.choose(fallback=Fallback(value="plan b"))
    for number in range(10):
        measured.run(measured.begin(host=f"host-{number}", attempts=1), Trouble())
    points = signals.points("resilience.fallback.calls")
    assert [point.value for point in points if "otel.metric.overflow" in point.attributes] == [7]
    assert len(points) == 4


def test_the_breaker_is_read_when_asked(measured: World, signals: Signals) -> None:
    measured.choose(retry={"attempts": 1}, breaker={"failures": 1, "open_for": 5})
    with pytest.raises(Trouble):
        measured.run(measured.begin(), Trouble())
    with pytest.raises(CircuitOpenError):
        measured.run(measured.begin())
    states = signals.values("resilience.circuit_breaker.status", "resilience.circuit_breaker.state")
    assert states == {"closed": 0, "open": 1, "half_open": 0, "forced_open": 0, "disabled": 0}
    calls = signals.values("resilience.circuit_breaker.calls", "resilience.circuit_breaker.outcome")
    assert calls == {"success": 0, "failure": 1, "ignored": 0, "rejected": 1}
    measured.clock.now += 5
    measured.run(measured.begin(), "fine")
    transitions = signals.values(
        "resilience.circuit_breaker.transitions",
        "resilience.circuit_breaker.name",
        "resilience.circuit_breaker.previous_state",
        "resilience.circuit_breaker.state",
    )
    assert transitions == {
        (TARGET, "closed", "open"): 1,
        (TARGET, "open", "half_open"): 1,
        (TARGET, "half_open", "closed"): 1,
    }
    assert signals.points("resilience.circuit_breaker.rate") == []
    assert signals.values("resilience.circuit_breaker.queue", "resilience.circuit_breaker.name") == {TARGET: 0}


def test_states_set_by_hand_are_read_too(measured: World, signals: Signals) -> None:
    for steer, state in ((measured.target.force_open, "forced_open"), (measured.target.disable, "disabled")):
        steer()
        states = signals.values("resilience.circuit_breaker.status", "resilience.circuit_breaker.state")
        assert [name for name, value in states.items() if value] == [state]


def test_the_pace_and_those_who_wait_for_it(measured: World, signals: Signals) -> None:
    measured.policy = Policy()
    breaker = measured.target.breaker
    count(measured.target, SUCCESS)
    assert signals.points("resilience.circuit_breaker.rate") == []
    for _ in range(15):
        count(measured.target)
    assert breaker.state is State.HALF_OPEN
    rate, queue = "resilience.circuit_breaker.rate", "resilience.circuit_breaker.queue"
    by_name = "resilience.circuit_breaker.name"
    assert signals.values(rate, by_name) == {TARGET: 0.25}
    assert signals.values(queue, by_name) == {TARGET: 0}
    next_slot, in_line = Permit(), Permit()
    assert breaker.admit(next_slot, measured.clock()) == pytest.approx(4)
    assert breaker.admit(in_line, measured.clock()) <= 1  # to ask again: its slot is too far ahead to be reserved
    assert signals.values(queue, by_name) == {TARGET: 1}
    breaker.withdraw(in_line)
    assert signals.values(queue, by_name) == {TARGET: 0}


def test_the_bulkhead_is_read_when_asked(clock: VirtualClock, signals: Signals) -> None:
    measured = with_metrics(World(clock, Fanout()), signals)
    measured.choose(bulkhead=BulkheadPolicy(limit=1, queue=1))
    names_of = ("in_flight", "queue")
    turn = ThreadTurn()

    def look() -> dict[str, Any]:
        return {name: signals.values(f"resilience.bulkhead.{name}", "resilience.target.name") for name in names_of}

    def send(*_: Any) -> str:
        assert measured.target.bulkhead is not None
        assert measured.target.bulkhead.queue(turn)
        with pytest.raises(BulkheadFullError):
            measured.run(measured.begin(), "never")
        assert look() == {"in_flight": {TARGET: 1}, "queue": {TARGET: 1}}
        return "fine"

    measured.run(measured.begin(), send)
    assert turn.given
    assert look() == {"in_flight": {TARGET: 1}, "queue": {TARGET: 0}}  # who waited is inside now
    calls = signals.values("resilience.bulkhead.calls", "resilience.target.name", "resilience.bulkhead.outcome")
    assert calls == {(TARGET, "entered"): 2, (TARGET, "queued"): 1, (TARGET, "rejected"): 1}
    assert ("bulkhead_full", "0") in signals.values("resilience.operations", "error.type", "resilience.attempt.count")


def test_the_rate_limit_is_read_when_asked(measured: World, signals: Signals) -> None:
    measured.choose(rate_limit=RateLimitPolicy(rate=2), deadline=0.4)
    measured.run(measured.begin(), "fine")
    with pytest.raises(RateLimitedError):
        measured.run(measured.begin(), "never")
    measured.clock.now += 0.25
    measured.run(measured.begin(), "fine")
    assert measured.clock.waits == [0.25]
    calls = signals.values("resilience.rate_limit.calls", "resilience.target.name", "resilience.rate_limit.outcome")
    assert calls == {(TARGET, "passed"): 1, (TARGET, "delayed"): 1, (TARGET, "rejected"): 1}


def test_targets_without_limits_have_no_series_for_them(measured: World, signals: Signals) -> None:
    measured.run(measured.begin(), "fine")
    assert not [name for name in signals.collect() if name.startswith(("resilience.bulkhead", "resilience.rate_limit"))]


@pytest.mark.parametrize(
    ("fallback", "kind"),
    [
        (Fallback(value="plan b"), "value"),
        (Fallback(function=lambda _: "plan b"), "function"),
        (Fallback(endpoint="http://elsewhere"), "endpoint"),
    ],
)
def test_fallbacks_are_counted_by_type(measured: World, signals: Signals, fallback: Fallback, kind: str) -> None:
    measured.choose(fallback=fallback)
    assert measured.run(measured.begin(attempts=1), Trouble(), "plan b") == "plan b"
    assert fallbacks(signals) == {(TARGET, kind, "success"): 1}
    counts = signals.values("resilience.operations", "error.type", "server.address")
    assert counts == {(None, "localhost"): 1, **({(None, "elsewhere"): 1} if kind == "endpoint" else {})}


def test_a_fallback_that_fails_is_counted_as_such(measured: World, signals: Signals) -> None:
    measured.choose(fallback=Fallback(endpoint="http://elsewhere"))
    with pytest.raises(Trouble):
        measured.run(measured.begin(attempts=1), Trouble(), Trouble(), Trouble(), Trouble(), Trouble())
    assert fallbacks(signals) == {(TARGET, "endpoint", "failure"): 1}


def test_calls_that_need_no_fallback_count_none(measured: World, signals: Signals) -> None:
    measured.choose(fallback=Fallback(value="plan b"))
    measured.run(measured.begin(), Trouble(), "fine")
    assert fallbacks(signals) == {}


def fallbacks(signals: Signals) -> dict[Any, Any]:
    return signals.values(
        "resilience.fallback.calls", "resilience.target.name", "resilience.fallback.type", "resilience.fallback.outcome"
    )


def test_the_budget_is_read_when_asked(measured: World, signals: Signals) -> None:
    measured.choose(budget={"capacity": 10, "payback": 0})
    measured.run(measured.begin(), asked_to_wait(1), "fine")
    assert signals.values("resilience.retry.budget", "resilience.target.name") == {TARGET: 0.9}


def test_exemplars_lead_to_the_trace(measured: World, signals: Signals) -> None:
    measured.run(measured.begin(), "fine")
    points = signals.collect()
    for metric, span in (
        ("resilience.attempt.duration", signals.attempts()[0]),
        ("gen_ai.client.operation.duration", signals.operation()),
    ):
        ((exemplar,),) = [point.exemplars for point in points[metric]]
        assert (exemplar.trace_id, exemplar.span_id) == (span.context.trace_id, span.context.span_id)
