"""Spans: who is whose child, what they are called, what they carry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from stormproof.resilience.breaker import State
from stormproof.resilience.events import Fanout
from stormproof.resilience.outcome import GaveUp
from stormproof.telemetry import names
from stormproof.telemetry.http import mark_resend
from stormproof.telemetry.spans import Spans

from .helpers import PERHAPS_DONE, REFUSED, FakeClient, Refusal, Trouble, VirtualClock, World, asked_to_wait
from .signals import Signals, attributes, failed, get, has, is_child


@pytest.fixture
def signals() -> Signals:
    return Signals()


@pytest.fixture
def told(world: World, signals: Signals) -> World:
    """The world, with spans."""
    return with_spans(world, signals)


def with_spans(world: World, signals: Signals, *, breaker_spans: bool = True, system: str = "openai") -> World:
    spans = Spans(signals.tracer_provider, "1.2.3", breaker_spans=breaker_spans)
    return World(world.clock, Fanout(spans), is_async=world.is_async, client=FakeClient(system))


def test_one_call_is_an_operation_with_one_attempt(told: World, signals: Signals) -> None:
    facts = {"model": "gpt-4o-mini", "provider": "openai", "temperature": 0.5, "nobody knows": 1}
    result = {"response_id": "r1", "input_tokens": 3, "output_tokens": 4, "finish_reasons": ["stop"]}
    told.run(told.begin(subject="gpt-4o-mini", facts=facts), result)
    operation, attempt = signals.spans
    assert (operation.name, operation.kind, operation.parent) == ("chat gpt-4o-mini", SpanKind.CLIENT, None)
    assert (attempt.name, attempt.kind) == ("attempt chat", SpanKind.INTERNAL)
    assert is_child(attempt, operation)
    assert dict(attributes(operation)) == {
        "server.address": "localhost",
        "server.port": 80,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.id": "r1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "resilience.attempt.count": 1,
        "resilience.retry.total_delay": 0.0,
        "resilience.circuit_breaker.name": "openai/localhost:80",
        "resilience.circuit_breaker.state": "closed",
    }
    assert dict(attributes(attempt)) == {
        "server.address": "localhost",
        "server.port": 80,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "resilience.attempt.number": 1,
        "resilience.attempt.type": "initial",
    }
    for span in (operation, attempt):
        assert span.instrumentation_scope is not None
        assert (span.instrumentation_scope.name, span.instrumentation_scope.version) == ("stormproof.openai", "1.2.3")
        assert span.instrumentation_scope.schema_url == names.SCHEMA_URL


def test_a_database_has_the_databases_attributes(world: World, signals: Signals) -> None:
    told = with_spans(world, signals, system="qdrant")
    told.run(told.begin(operation="upsert", subject="docs", facts={"collection": "docs"}), Trouble(), None)
    operation, first, _ = signals.spans
    assert operation.name == "upsert docs"
    assert has(operation, db__system__name="qdrant", db__operation__name="upsert", db__collection__name="docs")
    assert has(first, http__response__status_code=503, db__response__status_code="503", error__type="503")
    assert not any(name.startswith("gen_ai") for span in signals.spans for name in attributes(span))


def test_a_call_without_a_subject_is_named_by_its_operation(told: World, signals: Signals) -> None:
    told.run(told.begin(operation="get models"), None)
    assert signals.operation().name == "get models"


def test_attempts_are_children_in_order_and_a_recovered_call_is_no_error(told: World, signals: Signals) -> None:
    told.run(told.begin(), Trouble(), asked_to_wait(2), Trouble(PERHAPS_DONE), "fine")
    operation, attempts = signals.operation(), signals.attempts()
    assert get(attempts, "resilience.attempt.number") == [1, 2, 3, 4]
    assert get(attempts, "resilience.attempt.type") == ["initial", "retry", "retry", "retry"]
    assert get(attempts, "resilience.retry.delay.source") == [None, "backoff", "server", "backoff"]
    assert get(attempts, "resilience.retry.delay")[1:] == told.clock.waits
    assert get(attempts, "error.type") == ["503", "429", "ReadTimeout", None]
    assert get(attempts, "http.response.status_code") == [503, 429, None, None]
    assert [failed(span) for span in attempts] == [True, True, True, False]
    assert not failed(operation)
    assert has(operation, error__type=None, resilience__attempt__count=4, resilience__retry__gave_up=None)
    assert attributes(operation)["resilience.retry.total_delay"] == pytest.approx(sum(told.clock.waits))
    assert len({span.context.trace_id for span in signals.spans}) == 1


def test_each_scheduled_retry_is_an_event_of_the_operation(told: World, signals: Signals) -> None:
    told.run(told.begin(), Trouble(), asked_to_wait(2), "fine")
    events = signals.operation().events
    assert [event.name for event in events] == ["resilience.retry.scheduled"] * 2
    assert [dict(event.attributes or {}) for event in events] == [
        {
            "resilience.attempt.number": number,
            "resilience.retry.delay": told.clock.waits[number - 1],
            "resilience.retry.delay.source": source,
            "error.type": error,
        }
        for number, source, error in ((1, "backoff", "503"), (2, "server", "429"))
    ]


def test_a_call_that_fails_is_an_error_and_says_why_it_gave_up(told: World, signals: Signals) -> None:
    with pytest.raises(Trouble):
        told.run(told.begin(), Trouble(), Trouble(REFUSED))
    operation = signals.operation()
    assert (operation.status.status_code, operation.status.description) == (StatusCode.ERROR, "404")
    assert has(operation, error__type="404", resilience__retry__gave_up=GaveUp.NOT_RETRYABLE.value)


def test_what_the_client_does_is_inside_the_attempt(told: World, signals: Signals) -> None:
    tracer = signals.tracer_provider.get_tracer("httpx")

    def send(_: Any, attempt: Any) -> None:
        with tracer.start_as_current_span("POST") as span:
            mark_resend(span, None)
            if attempt.number == 1:
                raise Trouble

    with tracer.start_as_current_span("app"):
        told.run(told.begin(), send, send)
        assert trace.get_current_span().name == "app"  # type: ignore[attr-defined]
    (app,) = signals.named("app")
    assert is_child(signals.operation(), app)
    for attempt, post in zip(signals.attempts(), signals.named("POST"), strict=True):
        assert is_child(post, attempt)
    assert get(signals.named("POST"), "http.request.resend_count") == [None, 1]


def test_the_context_is_the_apps_own_again_while_waiting_and_after(
    told: World, signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    sleep = told.clock.sleep

    def look_and_sleep(seconds: float) -> None:
        seen.append(trace.get_current_span())
        sleep(seconds)

    monkeypatch.setattr(told.clock, "sleep", look_and_sleep)
    monkeypatch.setattr("tenacity.nap.time.sleep", look_and_sleep)
    with pytest.raises(Trouble):
        told.run(told.begin(), *(Trouble() for _ in range(4)))
    assert len(seen) == 3
    assert all(span is trace.INVALID_SPAN for span in [*seen, trace.get_current_span()])


class TestBreaker:
    def trip(self, told: World) -> None:
        told.choose(retry={"attempts": 1}, breaker={"failures": 2, "open_for": 5})
        for _ in range(2):
            with pytest.raises(Trouble):
                told.run(told.begin(), Trouble())

    def test_a_change_is_a_span_linked_to_the_attempt_that_tripped_it(self, told: World, signals: Signals) -> None:
        self.trip(told)
        (opening,) = signals.named("circuit_breaker open")
        tripping = signals.named("attempt chat")[-1]
        assert is_child(opening, tripping)
        assert [link.context for link in opening.links] == [tripping.context]
        assert has(
            opening,
            resilience__circuit_breaker__name="openai/localhost:80",
            resilience__circuit_breaker__state="open",
            resilience__circuit_breaker__previous_state="closed",
            resilience__circuit_breaker__reason="consecutive_failures",
            resilience__circuit_breaker__consecutive_failures=2,
            resilience__circuit_breaker__next_probe=5,
            resilience__circuit_breaker__calls__failure=2,
        )
        assert opening.kind is SpanKind.INTERNAL
        (event,) = tripping.events
        assert event.name == "resilience.circuit_breaker.state_changed"
        assert signals.operations()[-1].attributes["resilience.circuit_breaker.state"] == "open"  # type: ignore[index]

    def test_a_refused_call_has_no_attempt_and_a_link_to_the_opening(self, told: World, signals: Signals) -> None:
        self.trip(told)
        (opening,) = signals.named("circuit_breaker open")
        with pytest.raises(Refusal):
            told.run(told.begin())
        refused = signals.operations()[-1]
        assert signals.children(refused) == []
        assert failed(refused)
        assert has(refused, error__type="circuit_open", resilience__attempt__count=0)
        assert [link.context for link in refused.links] == [opening.context]

    def test_recovery_is_seen_too(self, told: World, signals: Signals) -> None:
        self.trip(told)
        told.clock.now += 5
        told.run(told.begin(), "fine")
        (half_open,) = signals.named("circuit_breaker half_open")
        (closing,) = signals.named("circuit_breaker closed")
        probe = signals.named("attempt chat")[-1]
        assert has(probe, resilience__attempt__type="probe")
        assert [link.context for link in closing.links] == [probe.context]
        assert has(closing, resilience__circuit_breaker__reason="probes_succeeded")
        assert has(half_open, resilience__circuit_breaker__reason="probe_due")

    def test_the_spans_can_be_switched_off(self, world: World, signals: Signals) -> None:
        told = with_spans(world, signals, breaker_spans=False)
        self.trip(told)
        with pytest.raises(Refusal):
            told.run(told.begin())
        assert signals.named("circuit_breaker open") == []
        tripping = signals.named("attempt chat")[-1]
        assert [link.context for link in signals.operations()[-1].links] == [tripping.context]


class TestNothingIsRecorded:
    def test_when_instrumentation_is_suppressed(self, told: World, signals: Signals) -> None:
        told.choose(breaker={"failures": 1, "open_for": 0.0})
        with suppress_instrumentation():
            assert told.run(told.begin(), Trouble(), "fine") == "fine"
        assert signals.spans == []
        assert told.target.breaker.state is State.CLOSED

    def test_when_the_trace_is_not_sampled(self, world: World) -> None:
        signals = Signals(ALWAYS_OFF)
        told = with_spans(world, signals)
        kept: list[Any] = []

        def send(operation: Any, attempt: Any) -> str:
            kept.append((operation.span, attempt.span, trace.get_current_span()))
            return "fine"

        told.run(told.begin(), send)
        ((span, attempt_span, current),) = kept
        assert attempt_span is None
        assert current is span  # so that its decision reaches the server
        assert signals.spans == []

    def test_without_an_sdk(self, world: World) -> None:
        told = World(world.clock, Fanout(Spans(None, "1", breaker_spans=True)), is_async=world.is_async)
        assert told.run(told.begin(), Trouble(), "fine") == "fine"


def test_the_parent_may_be_one_captured_earlier(clock: VirtualClock, signals: Signals) -> None:
    told = with_spans(World(clock, Fanout()), signals)
    tracer = signals.tracer_provider.get_tracer("app")
    with tracer.start_as_current_span("early"):
        parent = told.runner.capture()
    with tracer.start_as_current_span("late"):
        told.run(told.begin(parent=parent), "fine")
    assert is_child(signals.operation(), signals.named("early")[0])


def test_a_sampled_parent_elsewhere_is_followed(told: World, signals: Signals) -> None:
    remote = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with trace.use_span(NonRecordingSpan(remote)):
        told.run(told.begin(), "fine")
    operation = signals.operation()
    assert operation.parent == remote


def test_a_stream_tells_when_its_first_chunk_came(clock: VirtualClock, signals: Signals) -> None:
    told = with_spans(World(clock, Fanout()), signals)
    operation = told.begin(streaming=True)
    told.run(operation, object())
    assert signals.spans == []
    clock.now += 0.25
    operation.item()
    clock.now += 1
    operation.item()
    operation.succeed({"output_tokens": 2})
    assert has(signals.operation(), gen_ai__response__time_to_first_chunk=0.25, gen_ai__usage__output_tokens=2)
    (attempt,) = signals.attempts()
    assert not failed(attempt)


def test_tasks_that_run_together_do_not_mix(clock: VirtualClock, signals: Signals) -> None:
    told = with_spans(World(clock, Fanout()), signals)
    told.choose(breaker={"failures": 1000})

    async def call(number: int) -> None:
        async def send(operation: Any, attempt: Any) -> None:
            await asyncio.sleep(0)
            with signals.tracer_provider.get_tracer("httpx").start_as_current_span(f"POST {number}"):
                await asyncio.sleep(0)
                if attempt.number == 1:
                    raise Trouble

        await told.runner.run_async(told.begin(subject=str(number)), send)

    async def main() -> None:
        await asyncio.gather(*map(call, range(20)))

    asyncio.run(main())
    for operation in signals.operations():
        number = operation.name.split()[1]
        posts = [post for attempt in signals.attempts(operation) for post in signals.children(attempt)]
        assert [post.name for post in posts] == [f"POST {number}"] * 2
