"""An operation step by step: what it decides, what it tells, and what comes of steps that come too late or twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stormproof.errors import CircuitOpenError
from stormproof.resilience.admission import release
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.events import Fanout, Listener
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import GaveUp, Refusal, Retry, Verdict, Weight
from stormproof.resilience.policy import BulkheadPolicy, Policy, RateLimitPolicy, RetryPolicy
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Target
from stormproof.resilience.waiting import ThreadTurn

from .breakers import Chosen
from .helpers import FakeClient, Recorder, Trouble, World, asked_to_wait

LIMITED = Verdict(Weight.IGNORED, Retry.ALWAYS, "429", 429, rate_limited=True)  # without a hint


def steps(world: World) -> list[str]:
    assert isinstance(world.listener, Recorder)
    return world.listener.steps


def begun(world: World, **details: Any) -> Operation:
    """An operation whose first attempt runs."""
    operation = world.begin(**details)
    assert operation.admit(ThreadTurn) == 0.0
    return operation


def run(world: World, call: Call, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``Runner.call`` makes of a function, in the one way or the other."""

    async def function_async(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    if world.is_async:
        return asyncio.run(world.runner.call_async(call, function_async, *args, **kwargs))
    return world.runner.call(call, function, *args, **kwargs)


def _never() -> Any:
    raise AssertionError("it was refused")


def verdict(operation: Operation) -> Verdict | None:
    assert operation.attempt is not None
    return operation.attempt.verdict


class TestWhatCannotBeRead:
    def test_an_error_that_the_client_cannot_classify(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        operation, error = world.begin(), ZeroDivisionError()
        with pytest.raises(ZeroDivisionError) as raised:
            world.run(operation, error, "never")
        assert raised.value is error
        assert verdict(operation) == Verdict(Weight.IGNORED, Retry.NEVER, "ZeroDivisionError")
        assert (operation.error_type, operation.gave_up) == ("ZeroDivisionError", GaveUp.NOT_RETRYABLE)
        (record,) = caplog.records
        assert record.getMessage() == "stormproof could not classify ZeroDivisionError; it is not retried"
        assert record.exc_info
        assert record.exc_info[0] is LookupError

    def test_a_result(self, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        def response_facts(*_: Any) -> Facts:
            raise KeyError("usage")

        monkeypatch.setattr(world.client, "response_facts", response_facts)
        operation = world.begin()
        assert world.run(operation, "fine") == "fine"
        assert (operation.facts, operation.is_over, operation.error_type) == ({}, True, None)
        (record,) = caplog.records
        assert record.getMessage() == "stormproof could not read a result of openai"
        assert record.exc_info
        assert record.exc_info[0] is KeyError

    def test_an_interruption_has_its_name(self, world: World) -> None:
        world.choose(breaker={"slow_after": 2.0})
        operation = begun(world)
        operation.fail(KeyboardInterrupt())
        assert verdict(operation) == Verdict(Weight.IGNORED, error_type="KeyboardInterrupt")

    def test_patience_that_was_lost_late_is_a_timeout(self, world: World) -> None:
        world.choose(breaker={"slow_after": 2.0})
        operation = begun(world)
        world.clock.now += 2.5
        operation.fail(asyncio.CancelledError())
        assert verdict(operation) == Verdict(Weight.FAILURE, error_type="CancelledError", timed_out=True)

    def test_in_the_middle_of_an_answer_it_is_none_however_little_is_late(self, world: World) -> None:
        world.choose(breaker={"slow_after": 0.5})
        operation = begun(world, streaming=True)
        operation.item()
        operation.fail(asyncio.CancelledError())
        assert verdict(operation) == Verdict(Weight.IGNORED, error_type="CancelledError")


class Asked(FakeClient):
    """Notes what it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.results: list[Any] = []

    def is_open(self, call: Call, result: Any) -> bool:
        self.results.append(result)
        return False

    def response_facts(self, call: Call, result: Any) -> Facts:
        self.calls.append(call)
        return {}

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        self.calls.append(call)
        return super().refused_error(call, target, refusal)


class TestWhatTheClientIsAsked:
    @pytest.fixture
    def client(self, world: World) -> Asked:
        client = world.client = Asked()
        return client

    def test_of_a_result(self, world: World, client: Asked) -> None:
        operation, result = world.begin(), object()
        world.run(operation, result)
        assert client.results == [result]
        assert client.calls == [operation.call]

    def test_for_the_error_of_a_refused_call(self, world: World, client: Asked) -> None:
        world.target.force_open()
        operation = world.begin()
        with pytest.raises(CircuitOpenError):
            world.run(operation, "never")
        assert client.calls == [operation.call]

    def test_also_where_it_is_made_no_operation_of(
        self, world: World, client: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unwatched = World(world.clock, Fanout(), is_async=world.is_async, client=client)
        unwatched.target.force_open()
        monkeypatch.delattr(Runner, "begin")
        call = unwatched.call()
        with pytest.raises(CircuitOpenError):
            run(unwatched, call, _never)
        assert client.calls == [call]


def test_every_attempt_of_a_function_is_given_its_arguments(world: World) -> None:
    given: list[tuple[Any, ...]] = []

    def function(*args: Any, **kwargs: Any) -> str:
        given.append((args, kwargs))
        if len(given) < 3:
            raise Trouble
        return "fine"

    unwatched = World(world.clock, Fanout(), is_async=world.is_async)
    for runs in (world, unwatched):
        given.clear()
        assert run(runs, runs.call(), function, 1, two=2) == "fine"
        assert given == [((1,), {"two": 2})] * 3


def test_every_step_is_told_of_its_operation_and_its_attempt(world: World) -> None:
    told: list[tuple[str, Any, Any]] = []

    def hears(step: str) -> Callable[..., None]:
        def hear(_: Listener, operation: Operation, attempt: Attempt | None = None) -> None:
            told.append((step, operation, attempt))

        return hear

    names = ("operation_started", "attempt_started", "attempt_returned", "attempt_ended", "retry_scheduled",
             "operation_ended")  # fmt: skip
    world.runner.listeners.add(type("Hearing", (Listener,), {name: hears(name) for name in names})())
    operation, attempts = world.begin(), list[Attempt]()

    def fail(_: Operation, attempt: Attempt) -> None:
        attempts.append(attempt)
        raise Trouble

    def succeed(_: Operation, attempt: Attempt) -> None:
        attempts.append(attempt)

    world.run(operation, fail, succeed)
    first, second = attempts
    assert told == [
        ("operation_started", operation, None),
        *((step, operation, first) for step in ("attempt_started", "attempt_returned", "attempt_ended")),
        ("retry_scheduled", operation, first),
        *((step, operation, second) for step in ("attempt_started", "attempt_returned", "attempt_ended")),
        ("operation_ended", operation, None),
    ]


def test_a_fork_is_told(world: World) -> None:
    told: list[str] = []
    forked = type("Forked", (Listener,), {"after_fork": lambda _: told.append("forked")})
    world.runner.listeners.add(forked())
    world.runner.after_fork()
    assert told == ["forked"]


class TestWaits:
    def plan(self, world: World, *errors: Exception) -> list[float | None]:
        """The wait that is decided on after each of these errors."""
        world.policy = Policy(deadline=10**6, retry=RetryPolicy(attempts=9, jitter="none", base=1.0))
        operation = begun(world)
        waits: list[float | None] = []
        for error in errors:
            operation.fail(error)
            waits.append(operation.wait)
            world.clock.now += operation.wait or 0.0
            while wait := operation.admit(ThreadTurn):
                world.clock.now += wait
        operation.succeed()
        return waits

    def test_failures_and_rate_limits_each_have_a_row_of_their_own(self, world: World) -> None:
        limited, failed = Trouble(LIMITED), Trouble()
        assert self.plan(world, limited, limited, failed, failed, limited) == [1.0, 2.0, 1.0, 2.0, 4.0]

    def test_the_last_attempt_may_be_rate_limited(self, by_default: World) -> None:
        """It costs none: there is another."""
        by_default.policy = Policy(deadline=10**6)
        operation = by_default.begin()
        script = [Trouble(), Trouble(), Trouble(), asked_to_wait(1), "fine"]
        assert by_default.run(operation, *script) == "fine"
        assert operation.attempts == 5

    def test_there_may_be_none(self, world: World) -> None:
        world.target.rng = Chosen()
        world.target.rng.draw = 0.0
        operation = world.begin()
        world.run(operation, Trouble(), "fine")
        assert operation.attempt is not None
        assert (operation.attempt.delay, operation.attempt.delay_source) == (0.0, "backoff")
        assert operation.total_delay == 0.0

    def test_to_be_let_through_is_waited_for_by_each_attempt(self, world: World) -> None:
        world.policy = Policy(
            deadline=10**6,
            retry=RetryPolicy(jitter="none", base=0.25),
            rate_limit=RateLimitPolicy(rate=1.0, max_wait=100.0),
        )
        world.run(world.begin(), "fine")
        operation = world.begin()
        world.run(operation, Trouble(), "fine")
        assert operation.attempt is not None
        assert (operation.attempt.queued, operation.queued) == (0.75, 1.75)


class TestEnds:
    def test_once(self, world: World) -> None:
        world.choose(budget={"capacity": 10, "payback": 0.5})
        for _ in range(4):
            world.target.budget.withdraw()
        operation = begun(world)
        operation.succeed()
        operation.succeed()
        operation.close()
        assert steps(world) == ["operation", "attempt 1 initial", "ended well", "over well"]
        assert world.target.budget.share_left == 0.65  # paid back once

    def test_an_error_that_comes_after_it_is_none_of_its(self, world: World) -> None:
        operation = begun(world)
        operation.succeed()
        operation.fail(Trouble())
        assert (operation.error_type, operation.wait, operation.gave_up) == (None, None, None)
        assert steps(world)[-2:] == ["ended well", "over well"]

    def test_before_it_has_begun(self, world: World) -> None:
        operation = world.begin()
        operation.close()
        assert steps(world) == ["operation", "over well"]

    def test_a_slow_answer_is_counted_as_one(self, world: World) -> None:
        world.choose(breaker={"slow_after": 2.0})
        operation = begun(world)
        world.clock.now += 2.5
        operation.succeed()
        assert world.target.breaker.snapshot().window.slow_calls == 1

    def test_nothing_is_repeated_of_which_the_app_holds_the_beginning(self, world: World) -> None:
        """A stream that the client has given out, though no item has come."""
        operation = begun(world, streaming=True)
        operation.fail(Trouble(), final=True)
        assert (operation.wait, operation.gave_up, operation.error_type) == (None, GaveUp.STREAM_STARTED, "503")
        assert operation.is_over


class TestAbandoned:
    def test_while_it_waits_for_its_turn(self, world: World) -> None:
        world.choose(bulkhead=BulkheadPolicy(limit=1))
        inside, operation, full = begun(world), world.begin(), world.target.bulkhead
        assert full is not None
        assert operation.turn is None
        assert operation.admit(ThreadTurn) > 0.0
        assert full.queued == 1
        for _ in range(2):
            operation.abandon(GaveUp.CANCELLED, "CancelledError")
            assert operation.turn is None
        assert (operation.gave_up, operation.error_type) == (GaveUp.CANCELLED, "CancelledError")
        assert steps(world)[2:] == ["operation", "over CancelledError"]
        inside.succeed()
        assert (full.queued, full.in_flight, world.target.breaker.in_flight) == (0, 0, 0)

    def test_after_a_result_that_was_turned_down_it_was_still_cancelled(self, world: World) -> None:
        world.choose(retry={"on_result": lambda result: result == "poor"})
        operation = begun(world)
        assert operation.turns_down("poor")
        operation.abandon(GaveUp.CANCELLED, "CancelledError")
        assert (operation.error_type, operation.is_over) == ("CancelledError", True)


class TestRelease:
    @pytest.fixture
    def inside(self, world: World) -> Operation:
        world.choose(bulkhead=BulkheadPolicy(limit=2))
        return begun(world)

    def test_twice_does_no_harm(self, world: World, inside: Operation) -> None:
        other, attempt = begun(world), inside.attempt
        assert attempt is not None
        assert other.attempt is not None
        for _ in range(2):
            release(world.target, attempt, world.clock.now)
        assert (world.target.bulkhead.in_flight, world.target.breaker.in_flight) == (1, 1)  # type: ignore[union-attr]

    def test_of_what_was_the_parents_does_nothing(self, world: World, inside: Operation) -> None:
        target = world.target
        target.after_fork()
        inside.succeed()
        assert (target.bulkhead.in_flight, target.breaker.in_flight) == (0, 0)  # type: ignore[union-attr]
