"""Whose span the operation is: which spans of others are taken for a call, once, and what is added to them."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from stormproof.resilience.events import Fanout
from stormproof.telemetry import names
from stormproof.telemetry.metrics import Metrics
from stormproof.telemetry.owners import OWNERS
from stormproof.telemetry.spans import Spans

from .helpers import FAILED, FakeClient, Trouble, VirtualClock, World
from .signals import Signals, attributes

TRACELOOP = "opentelemetry.instrumentation.openai.v1"
OPENINFERENCE = "openinference.instrumentation.openai"


@pytest.fixture
def signals() -> Signals:
    return Signals()


def told(clock: VirtualClock, signals: Signals, system: str = "openai") -> World:
    listeners = Spans(signals.tracer_provider, "1", breaker_spans=True), Metrics(signals.meter_provider, "1", ())
    return World(clock, Fanout(*listeners), is_async=False, client=FakeClient(system))


def another(signals: Signals, scope: str, name: str = "theirs", **given: Any) -> Any:
    """A span of another instrumentation, current."""
    return trace.get_tracer(scope, tracer_provider=signals.tracer_provider).start_as_current_span(name, **given)


def names_of(signals: Signals) -> list[str]:
    return sorted(span.name for span in signals.operations())


@pytest.mark.parametrize("scope", OWNERS)
def test_theirs_is_annotated_and_ours_is_not_made(clock: VirtualClock, signals: Signals, scope: str) -> None:
    world = told(clock, signals, OWNERS[scope].system)
    with another(signals, scope):
        world.run(world.begin(), Trouble(), "done")
    operation = signals.operation()
    assert operation.name == "theirs"
    assert [span.name for span in signals.attempts()] == ["attempt chat", "attempt chat"]
    assert attributes(operation)[names.ATTEMPT_COUNT] == 2
    assert [event.name for event in operation.events] == [names.RETRY_SCHEDULED]
    assert operation.status.status_code is StatusCode.UNSET


def test_what_they_say_stays(clock: VirtualClock, signals: Signals) -> None:
    world = told(clock, signals)
    given = {names.GEN_AI_OPERATION: "theirs", names.GEN_AI_RESPONSE_MODEL: "theirs"}
    with another(signals, TRACELOOP, attributes=given):
        world.run(world.begin(facts={"model": "m"}), {"response_model": "ours", "response_id": "r1"})
    found = attributes(signals.operation())
    assert [found[name] for name in given] == ["theirs", "theirs"]
    assert (found[names.GEN_AI_REQUEST_MODEL], found["gen_ai.response.id"]) == ("m", "r1")


def test_a_failure_is_told_but_the_status_is_theirs(clock: VirtualClock, signals: Signals) -> None:
    world = told(clock, signals)
    with another(signals, OPENINFERENCE), pytest.raises(Trouble):
        world.run(world.begin(), *[Trouble()] * 9)
    operation = signals.operation()
    assert attributes(operation)[names.ERROR_TYPE] == FAILED.error_type
    assert attributes(operation)[names.RETRY_GAVE_UP] == "attempts"
    assert operation.status.status_code is StatusCode.UNSET


class TestNotTheirs:
    def test_a_second_call_below_the_same_span(self, clock: VirtualClock, signals: Signals) -> None:
        world = told(clock, signals)
        with another(signals, TRACELOOP):
            for _ in range(3):
                world.run(world.begin(), "done")
        assert names_of(signals) == ["chat", "chat", "theirs"]

    @pytest.mark.parametrize(
        ("scope", "name", "system"),
        [
            ("the.app", "theirs", "openai"),
            ("opentelemetry.instrumentation.langchain", "theirs", "openai"),
            (TRACELOOP, "theirs", "ollama"),
            (TRACELOOP, "openai.assistant.run", "openai"),
            ("opentelemetry.instrumentation.qdrant", "qdrant.upload_points", "qdrant"),
        ],
    )
    def test_another_scope_another_client_and_a_span_of_several_requests(
        self, clock: VirtualClock, signals: Signals, scope: str, name: str, system: str
    ) -> None:
        world = told(clock, signals, system)
        with another(signals, scope, name) as theirs:
            world.run(world.begin(), "done")
        operation = signals.operation()
        assert operation.name == "chat"
        assert operation.parent is not None
        assert operation.parent.span_id == theirs.get_span_context().span_id

    def test_one_that_has_ended(self, clock: VirtualClock, signals: Signals) -> None:
        world = told(clock, signals)
        with another(signals, TRACELOOP, end_on_exit=False) as theirs:
            theirs.end()
            world.run(world.begin(), "done")
        assert names_of(signals) == ["chat"]


def test_one_that_ends_before_the_call_has_all_that_was_known(
    clock: VirtualClock, signals: Signals, caplog: pytest.LogCaptureFixture
) -> None:
    world = told(clock, signals)
    with another(signals, TRACELOOP, end_on_exit=False) as theirs:
        operation = world.begin(streaming=True)
        operation.admit(lambda: None)  # type: ignore[arg-type,return-value]
        operation.returned(operation.attempt)  # type: ignore[arg-type]
        theirs.end()
    operation.item()
    operation.succeed({"input_tokens": 3})
    found = attributes(signals.operation())
    assert found[names.ATTEMPT_COUNT] == 1
    assert found[names.BREAKER_STATE] == "closed"
    assert signals.open_spans == []
    assert caplog.records == []  # the SDK warns of attributes that come too late


class TestMetrics:
    @pytest.mark.parametrize("scope", OWNERS)
    def test_what_they_record_is_not_recorded_again(self, clock: VirtualClock, signals: Signals, scope: str) -> None:
        owner = OWNERS[scope]
        world = told(clock, signals, owner.system)
        with another(signals, scope):
            world.run(world.begin(facts={"model": "m"}), {"input_tokens": 3})
        assert not owner.metrics & set(signals.collect())
        assert len(signals.points(names.OPERATIONS)) == 1

    @pytest.mark.parametrize(
        ("scope", "name", "system"),
        [
            (TRACELOOP, "openai.completion", "openai"),
            (OPENINFERENCE, "theirs", "openai"),
        ],
    )
    def test_what_they_do_not_is(
        self, clock: VirtualClock, signals: Signals, scope: str, name: str, system: str
    ) -> None:
        world = told(clock, signals, system)
        with another(signals, scope, name):
            world.run(world.begin(), {"input_tokens": 3})
        recorded = signals.collect()
        assert [point.count for point in recorded[names.GEN_AI_DURATION]] == [1]
        assert names.GEN_AI_TOKENS in recorded

    def test_a_failure_that_they_do_not_record_is(self, clock: VirtualClock, signals: Signals) -> None:
        world = told(clock, signals, "ollama")
        with another(signals, "opentelemetry.instrumentation.ollama"), pytest.raises(Trouble):
            world.run(world.begin(), *[Trouble()] * 9)
        assert [point.count for point in signals.points(names.GEN_AI_DURATION)] == [1]
