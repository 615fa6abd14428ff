"""Spans: who is whose child, what they are called, what they carry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from stormproof.errors import CircuitOpenError, RateLimitedError
from stormproof.resilience.breaker import State
from stormproof.resilience.events import Fanout
from stormproof.resilience.fallback import Fallback
from stormproof.resilience.outcome import SUCCESS, GaveUp
from stormproof.resilience.policy import Policy, RateLimitPolicy
from stormproof.telemetry import names
from stormproof.telemetry.http_hooks import mark_resend
from stormproof.telemetry.spans import Spans

from .helpers import (
    PERHAPS_DONE,
    REFUSED,
    TIMED_OUT,
    FakeClient,
    Trouble,
    VirtualClock,
    World,
    asked_to_wait,
    count,
)
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
        "resilience.target.name": "openai/localhost:80",
        "resilience.operation.name": "chat",
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
    assert get(attempts, "error.type") == ["503", "429", "ReadError", None]
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
            resilience__circuit_breaker__window__calls=2,
            resilience__circuit_breaker__window__failures=2,
            resilience__circuit_breaker__window__slow_calls=0,
            resilience__circuit_breaker__next_probe=5,
            resilience__circuit_breaker__rate=None,
            resilience__circuit_breaker__cause__trace_id=f"{tripping.context.trace_id:032x}",
        )
        assert opening.kind is SpanKind.INTERNAL
        (event,) = tripping.events
        assert event.name == "resilience.circuit_breaker.state_changed"
        assert event.attributes == opening.attributes
        assert signals.operations()[-1].attributes["resilience.circuit_breaker.state"] == "open"  # type: ignore[index]

    def test_a_refused_call_has_no_attempt_and_a_link_to_the_opening(self, told: World, signals: Signals) -> None:
        self.trip(told)
        (opening,) = signals.named("circuit_breaker open")
        with pytest.raises(CircuitOpenError):
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
        with pytest.raises(CircuitOpenError):
            told.run(told.begin())
        assert signals.named("circuit_breaker open") == []
        tripping = signals.named("attempt chat")[-1]
        assert [link.context for link in signals.operations()[-1].links] == [tripping.context]

    def test_a_change_by_hand_has_no_cause(self, told: World, signals: Signals) -> None:
        told.run(told.begin(), "fine")
        with signals.tracer_provider.get_tracer("app").start_as_current_span("who steers"):
            told.target.force_open()
        (forced,) = signals.named("circuit_breaker forced_open")
        assert is_child(forced, signals.named("who steers")[0])
        assert list(forced.links) == []
        assert has(
            forced,
            resilience__circuit_breaker__previous_state="closed",
            resilience__circuit_breaker__reason="forced_open",
            resilience__circuit_breaker__cause__trace_id=None,
            resilience__circuit_breaker__next_probe=None,
        )

    def test_a_call_refused_by_hand_does_not_blame_an_opening_long_over(self, told: World, signals: Signals) -> None:
        self.trip(told)
        told.clock.now += 5
        told.run(told.begin(), "fine")  # closed again
        told.target.force_open()
        with pytest.raises(CircuitOpenError):
            told.run(told.begin(), "never")
        (opening,), (forced,) = (signals.named(f"circuit_breaker {state}") for state in ("open", "forced_open"))
        linked = [link.context for link in signals.operations()[-1].links]
        assert opening.context not in linked
        assert linked == [forced.context]

    def test_the_last_error_knows_its_trace(self, told: World, signals: Signals) -> None:
        with pytest.raises(Trouble):
            told.run(told.begin(attempts=1), Trouble())
        error = told.target.last_error
        assert error is not None
        (attempt,) = signals.attempts()
        assert (error.type, error.trace_id) == ("503", f"{attempt.context.trace_id:032x}")


class TestByDefault:
    """The adaptive breaker."""

    @pytest.fixture(autouse=True)
    def adaptive(self, told: World) -> None:
        told.policy = Policy()

    def test_a_refused_call_links_to_the_opening(self, told: World, signals: Signals) -> None:
        for _ in range(15):
            with pytest.raises(Trouble):
                told.run(told.begin(attempts=1), Trouble())
        with pytest.raises(CircuitOpenError):
            told.run(told.begin(), "never")
        (opening,) = signals.named("circuit_breaker open")
        tripping = signals.named("attempt chat")[-1]
        assert is_child(opening, tripping)
        assert has(
            opening,
            resilience__circuit_breaker__reason="nothing_succeeds",
            resilience__circuit_breaker__window__calls=15,
            resilience__circuit_breaker__window__failures=15,
            resilience__circuit_breaker__cause__trace_id=f"{tripping.context.trace_id:032x}",
        )
        assert 0.25 <= attributes(opening)["resilience.circuit_breaker.next_probe"] <= 0.75
        refused = signals.operations()[-1]
        assert [link.context for link in refused.links] == [opening.context]
        assert has(refused, error__type="circuit_open", resilience__circuit_breaker__state="open")

    def test_half_open_is_paced_and_the_wait_is_told(self, told: World, signals: Signals) -> None:
        self.overload(told)
        (change,) = signals.named("circuit_breaker half_open")
        assert has(
            change,
            resilience__circuit_breaker__reason="overload",
            resilience__circuit_breaker__rate=0.25,
            resilience__circuit_breaker__window__calls=16,
            resilience__circuit_breaker__window__failures=15,
            resilience__circuit_breaker__next_probe=None,
        )
        signals.clear()
        told.run(told.begin(), "fine")
        (attempt,) = signals.attempts()
        (wait,) = told.clock.waits
        assert wait == pytest.approx(4)
        assert has(
            attempt,
            resilience__admission__delay=pytest.approx(wait),
            resilience__admission__source="breaker",
            resilience__attempt__type="initial",
            resilience__retry__delay=None,
        )
        assert has(
            signals.operation(),
            resilience__admission__delay=pytest.approx(wait),
            resilience__retry__total_delay=0,
            resilience__circuit_breaker__state="half_open",
        )

    def test_a_call_refused_while_half_open_links_to_what_slowed_it_down(self, told: World, signals: Signals) -> None:
        told.policy = Policy(deadline=3)
        self.overload(told)
        with pytest.raises(CircuitOpenError):
            told.run(told.begin(), "never")
        (change,) = signals.named("circuit_breaker half_open")
        assert [link.context for link in signals.operations()[-1].links] == [change.context]

    def test_a_retry_tells_both_its_waits(self, told: World, signals: Signals) -> None:
        """The backoff, chosen because an attempt failed, and the wait for a sign of life before it was sent."""
        told.clock.meanwhile = lambda: count(told.target, SUCCESS) if len(told.clock.waits) == 3 else None
        told.run(told.begin(), Trouble(TIMED_OUT), "fine")
        first, second = signals.attempts()
        backoff, *proof = told.clock.waits
        assert len(proof) == 2
        assert has(first, resilience__admission__source=None, resilience__retry__delay=None)
        assert has(
            second,
            resilience__retry__delay=backoff,
            resilience__retry__delay__source="backoff",
            resilience__admission__delay=pytest.approx(sum(proof)),
            resilience__admission__source="breaker",
        )

    def overload(self, told: World) -> None:
        told.run(told.begin(), "fine")
        for _ in range(15):
            with pytest.raises(Trouble):
                told.run(told.begin(attempts=1), Trouble())


class TestFallback:
    @pytest.mark.parametrize(
        ("fallback", "kind"),
        [(Fallback(value="plan b"), "value"), (Fallback(function=lambda _: "plan b"), "function")],
    )
    def test_the_call_is_no_error_and_says_what_it_got_instead(
        self, told: World, signals: Signals, fallback: Fallback, kind: str
    ) -> None:
        told.choose(fallback=fallback)
        assert told.run(told.begin(), *(Trouble() for _ in range(4))) == "plan b"
        operation = signals.operation()
        assert not failed(operation)
        assert has(operation, error__type=None, resilience__fallback__type=kind, resilience__retry__gave_up="attempts")
        assert all(failed(attempt) for attempt in signals.attempts())
        assert signals.open_spans == []

    def test_one_that_fails_too_is_the_calls_error(self, told: World, signals: Signals) -> None:
        def fails(_: Exception) -> None:
            raise KeyError("plan b")

        told.choose(fallback=Fallback(function=fails))
        with pytest.raises(KeyError):
            told.run(told.begin(attempts=1), Trouble())
        assert failed(signals.operation())
        assert has(signals.operation(), error__type="KeyError", resilience__fallback__type="function")
        assert signals.open_spans == []

    def test_another_endpoint_is_an_operation_of_its_own_inside(self, told: World, signals: Signals) -> None:
        told.choose(fallback=Fallback(endpoint="http://elsewhere:8080/v1"))
        assert told.run(told.begin(attempts=1), Trouble(), "fine") == "fine"
        here, there = signals.operations()
        assert is_child(there, here)
        assert has(here, server__address="localhost", resilience__fallback__type="endpoint", error__type=None)
        assert has(there, server__address="elsewhere", server__port=8080, resilience__fallback__type=None)
        (attempt,) = signals.attempts(there)
        assert has(attempt, server__address="elsewhere", resilience__attempt__number=1)
        assert not any(failed(span) for span in (here, there))

    def test_a_call_of_its_own_has_none(self, told: World, signals: Signals) -> None:
        told.choose(fallback=Fallback(value="plan b"))
        told.run(told.begin(), Trouble(), "fine")
        assert has(signals.operation(), resilience__fallback__type=None, resilience__retry__gave_up=None)


def test_a_wait_for_the_rate_limit_and_a_refusal_by_it(told: World, signals: Signals) -> None:
    told.choose(rate_limit=RateLimitPolicy(rate=2), deadline=0.4)
    told.run(told.begin(), "fine")
    with pytest.raises(RateLimitedError):
        told.run(told.begin(), "never")
    told.clock.now += 0.25
    told.run(told.begin(), "fine")
    first, refused, delayed = signals.operations()
    assert has(signals.attempts(first)[0], resilience__admission__delay=None, resilience__admission__source=None)
    assert signals.attempts(refused) == []
    assert failed(refused)
    assert has(refused, error__type="rate_limited", resilience__attempt__count=0)
    assert list(refused.links) == []
    assert has(
        signals.attempts(delayed)[0], resilience__admission__delay=0.25, resilience__admission__source="rate_limit"
    )


class TestNothingIsRecorded:
    def test_when_instrumentation_is_suppressed(self, told: World, signals: Signals) -> None:
        told.choose(retry={"attempts": 1}, breaker={"failures": 1})
        with suppress_instrumentation():
            with pytest.raises(Trouble):
                told.run(told.begin(), Trouble())
            with pytest.raises(CircuitOpenError):
                told.run(told.begin(), "never")
            told.clock.now += 2
            assert told.run(told.begin(), "fine") == "fine"
        assert signals.spans == []
        assert len(told.target.breaker.transitions) == 3
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
        origin = told.runner.capture()
    with tracer.start_as_current_span("late"):
        told.run(told.begin(**origin), "fine")
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
