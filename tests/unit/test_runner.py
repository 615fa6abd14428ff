"""The runner, sync and async alike: how many attempts, how long the waits, and why it gave up."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stormproof.errors import BulkheadFullError, CircuitOpenError
from stormproof.resilience.breaker import State
from stormproof.resilience.call import Call
from stormproof.resilience.events import Fanout, Listener
from stormproof.resilience.fallback import Fallback
from stormproof.resilience.outcome import SUCCESS, GaveUp, Retry, Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy, BulkheadPolicy, Policy, RateLimitPolicy, RetryPolicy
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Targets
from stormproof.resilience.waiting import ThreadTurn

from .helpers import (
    CLASSICAL,
    FAILED,
    PERHAPS_DONE,
    REFUSED,
    TIMED_OUT,
    FakeClient,
    Recorder,
    Trouble,
    VirtualClock,
    World,
    asked_to_wait,
    count,
)
from .limits import Agenda


class TestHappyPath:
    def test_the_result_is_the_clients_own_object(self, world: World) -> None:
        result, operation = object(), world.begin()
        assert world.run(operation, result) is result
        assert (operation.attempts, operation.total_delay, operation.error_type, operation.gave_up) == (
            1,
            0,
            None,
            None,
        )
        assert operation.is_over
        assert world.clock.waits == []

    def test_the_steps_are_told_in_order(self, world: World) -> None:
        assert isinstance(world.listener, Recorder)
        world.run(world.begin(), Trouble(), "fine")
        assert world.listener.steps == [
            "operation", "attempt 1 initial", "returned", "ended 503", "retry",
            "attempt 2 retry", "returned", "ended well", "over well",
        ]  # fmt: skip

    def test_what_the_result_tells_is_kept(self, world: World) -> None:
        operation = world.begin()
        world.run(operation, {"input_tokens": 3})
        assert operation.facts == {"input_tokens": 3}

    def test_a_result_that_cannot_be_read_is_given_back_all_the_same(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(world.client), "response_facts", _broken)
        assert world.run(world.begin(), "fine") == "fine"
        assert world.target.breaker.in_flight == 0


class TestAttempts:
    @pytest.mark.parametrize("attempts", [1, 2, 4, 9])
    def test_exactly_the_policys_number(self, world: World, attempts: int) -> None:
        world.choose(retry={"attempts": attempts}, breaker={"failures": 1000}, deadline=10**6)
        operation, errors = world.begin(), [Trouble() for _ in range(20)]
        with pytest.raises(Trouble) as raised:
            world.run(operation, *errors)
        assert raised.value is errors[attempts - 1]
        assert (operation.attempts, operation.gave_up) == (attempts, GaveUp.ATTEMPTS)
        assert len(world.clock.waits) == attempts - 1
        assert operation.total_delay == pytest.approx(sum(world.clock.waits))

    @pytest.mark.parametrize("own", [1, 6])
    def test_the_callers_own_number_wins(self, world: World, own: int) -> None:
        world.choose(breaker={"failures": 1000}, deadline=10**6)
        operation = world.begin(attempts=own)
        with pytest.raises(Trouble):
            world.run(operation, *(Trouble() for _ in range(20)))
        assert operation.attempts == own

    @pytest.mark.parametrize(
        ("verdict", "replay_safe", "attempts", "reason"),
        [
            (REFUSED, True, 1, GaveUp.NOT_RETRYABLE),
            (PERHAPS_DONE, False, 1, GaveUp.NOT_REPLAY_SAFE),
            (PERHAPS_DONE, True, 4, GaveUp.ATTEMPTS),
            (FAILED, False, 4, GaveUp.ATTEMPTS),
        ],
    )
    def test_why_there_was_no_other(
        self, world: World, verdict: Verdict, replay_safe: bool, attempts: int, reason: GaveUp
    ) -> None:
        operation = world.begin(replay_safe=replay_safe)
        with pytest.raises(Trouble):
            world.run(operation, *(Trouble(verdict) for _ in range(9)))
        assert (operation.attempts, operation.gave_up, operation.error_type) == (attempts, reason, verdict.error_type)

    def test_attempts_know_their_wait_and_its_source(self, world: World) -> None:
        seen: list[tuple[int, str, str | None]] = []

        def look(outcome: Any) -> Any:
            def play(_: Any, attempt: Any) -> str:
                seen.append((attempt.number, attempt.type, attempt.delay_source))
                assert attempt.delay == (world.clock.waits[-1] if attempt.number > 1 else 0)
                if isinstance(outcome, Exception):
                    raise outcome
                return "fine"

            return play

        world.run(world.begin(), look(Trouble()), look(asked_to_wait(1)), look("fine"))
        assert seen == [(1, "initial", None), (2, "retry", "backoff"), (3, "retry", "server")]


class TestWaits:
    def test_backoff_is_bounded_by_base_and_cap(self, world: World) -> None:
        world.choose(retry={"attempts": 9, "base": 1, "cap": 4}, breaker={"failures": 1000}, deadline=10**6)
        with pytest.raises(Trouble):
            world.run(world.begin(), *(Trouble() for _ in range(9)))
        for wait, bound in zip(world.clock.waits, [1, 2, 4, 4, 4, 4, 4, 4], strict=True):
            assert 0 <= wait <= bound

    def test_a_hint_is_waited_out_with_jitter_on_top(self, world: World) -> None:
        world.choose(retry={"base": 0.5})
        world.run(world.begin(), asked_to_wait(7), "fine")
        (wait,) = world.clock.waits
        assert 7 <= wait <= 7.5

    def test_a_hint_of_nothing_is_no_hint(self, world: World) -> None:
        operation = world.begin()
        world.run(operation, asked_to_wait(0), "fine")
        assert operation.attempt is not None
        assert operation.attempt.delay_source == "backoff"

    def test_a_hint_beyond_the_deadline_ends_it_at_once_with_the_real_error(self, world: World) -> None:
        world.choose(deadline=30)
        operation, error = world.begin(), asked_to_wait(31)
        with pytest.raises(Trouble) as raised:
            world.run(operation, error, "never")
        assert raised.value is error
        assert (world.clock.waits, operation.attempts, operation.gave_up) == ([], 1, GaveUp.HINT_TOO_LONG)

    def test_no_wait_goes_beyond_the_deadline(self, world: World) -> None:
        world.choose(retry={"attempts": 1000}, breaker={"failures": 1001}, budget={"capacity": 1001}, deadline=60)
        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, *(Trouble() for _ in range(1000)))
        assert operation.gave_up is GaveUp.DEADLINE
        assert operation.ended - operation.started < 60

    def test_time_spent_in_attempts_counts_for_the_deadline(self, world: World) -> None:
        world.choose(deadline=10)

        def slow(*_: Any) -> None:
            world.clock.now += 10
            raise Trouble

        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, slow, "never")
        assert (operation.attempts, operation.gave_up) == (1, GaveUp.DEADLINE)

    def test_a_strict_deadline_bounds_each_attempt(self, world: World) -> None:
        world.choose(deadline=10, strict_deadline=True, timeout=8)
        limits: list[float | None] = []

        def slow(operation: Any, _: Any) -> None:
            limits.append(operation.attempt_timeout)
            world.clock.now += 4
            raise Trouble

        with pytest.raises(Trouble):
            world.run(world.begin(), slow, slow, slow, slow)
        assert limits[0] == 8
        assert limits[1] is not None
        assert 0 < limits[1] <= 6

    def test_a_default_deadline_bounds_no_attempt(self, world: World) -> None:
        assert world.begin().attempt_timeout is None
        world.choose(timeout=3)
        assert world.begin(host="other").attempt_timeout == 3


class TestBreaker:
    def test_it_opens_between_two_attempts_and_the_last_real_error_is_raised(self, world: World) -> None:
        world.choose(retry={"attempts": 9}, breaker={"failures": 3})
        operation, errors = world.begin(), [Trouble() for _ in range(9)]
        with pytest.raises(Trouble) as raised:
            world.run(operation, *errors)
        assert raised.value is errors[2]
        assert (operation.attempts, operation.gave_up, operation.error_type) == (3, GaveUp.BREAKER, "503")

    def test_another_caller_opens_it_while_this_one_waits(self, world: World) -> None:
        world.choose(breaker={"failures": 2, "open_for": 10**6})
        world.clock.meanwhile = lambda: count(world.target)
        operation, error = world.begin(), Trouble()
        with pytest.raises(Trouble) as raised:
            world.run(operation, error, "never")
        assert raised.value is error
        assert (operation.attempts, operation.gave_up, operation.error_type) == (1, GaveUp.BREAKER, "503")

    def test_a_refused_call_gets_the_clients_circuit_open_error_and_no_attempt(self, world: World) -> None:
        world.choose(retry={"attempts": 1}, breaker={"failures": 1})
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble())
        operation = world.begin()
        with pytest.raises(CircuitOpenError, match="openai/localhost:80") as raised:
            world.run(operation, "never")
        assert isinstance(raised.value, ConnectionError)  # which the client's callers catch
        assert (operation.attempts, operation.attempt, operation.error_type) == (0, None, "circuit_open")

    def test_the_first_call_after_a_while_is_the_probe(self, world: World) -> None:
        world.choose(retry={"attempts": 1}, breaker={"failures": 1, "open_for": 5})
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble())
        world.clock.now += 5
        operation = world.begin()
        world.run(operation, "fine")
        assert operation.attempt is not None
        assert operation.attempt.type == "probe"
        assert world.target.breaker.state is State.CLOSED


class TestByDefault:
    """The adaptive breaker, as a caller meets it."""

    def test_a_429_costs_no_attempt_and_no_token(self, by_default: World) -> None:
        by_default.policy = Policy(deadline=10_000)
        operation = by_default.begin()
        assert by_default.run(operation, *(asked_to_wait(1) for _ in range(10)), "fine") == "fine"
        assert (operation.attempts, by_default.target.budget.share_left) == (11, 1.0)

    def test_as_many_failures_as_ever_fit_beside_the_429s(self, by_default: World) -> None:
        by_default.policy = Policy(deadline=10_000)
        script = [asked_to_wait(1), Trouble(), asked_to_wait(1), Trouble(), asked_to_wait(1), Trouble(), "fine"]
        assert by_default.run(by_default.begin(), *script) == "fine"
        operation = by_default.begin()
        with pytest.raises(Trouble):
            by_default.run(operation, *(asked_to_wait(1) for _ in range(3)), *(Trouble() for _ in range(9)))
        assert (operation.attempts, operation.gave_up) == (3 + 4, GaveUp.ATTEMPTS)

    def test_the_deadline_ends_the_429s(self, by_default: World) -> None:
        operation, errors = by_default.begin(), [asked_to_wait(1) for _ in range(99)]
        with pytest.raises(Trouble) as raised:
            by_default.run(operation, *errors)
        assert operation.attempts > by_default.policy.retry.attempts
        assert raised.value is errors[operation.attempts - 1]
        assert operation.gave_up in (GaveUp.BREAKER, GaveUp.HINT_TOO_LONG)
        assert operation.ended - operation.started < by_default.policy.deadline

    def test_a_callers_own_number_counts_429s_too(self, by_default: World) -> None:
        operation = by_default.begin(attempts=2)
        with pytest.raises(Trouble):
            by_default.run(operation, *(asked_to_wait(1) for _ in range(9)))
        assert (operation.attempts, operation.gave_up) == (2, GaveUp.ATTEMPTS)

    def test_retries_stop_before_calls_do(self, by_default: World) -> None:
        """Low health gates the retries first: what they would add is what hurts a struggling server most."""
        by_default.policy = Policy(retry=RetryPolicy(attempts=99), deadline=10_000)
        operation, errors = by_default.begin(), [Trouble() for _ in range(99)]
        with pytest.raises(Trouble) as raised:
            by_default.run(operation, *errors)
        assert raised.value is errors[4]
        assert (operation.attempts, operation.gave_up, operation.error_type) == (5, GaveUp.BREAKER, "503")
        assert by_default.target.breaker.state is State.CLOSED
        operation = by_default.begin()
        with pytest.raises(Trouble):
            by_default.run(operation, Trouble(), "never")
        assert (operation.attempts, operation.gave_up) == (1, GaveUp.BREAKER)

    def test_it_opens_when_nothing_succeeds_and_a_probe_ends_that(self, by_default: World) -> None:
        calls = 0
        while by_default.target.breaker.state is State.CLOSED:
            calls += 1
            with pytest.raises(Trouble):
                by_default.run(by_default.begin(attempts=1), Trouble())
        assert calls == 15
        assert by_default.target.breaker.snapshot().reason == "nothing_succeeds"
        operation = by_default.begin()
        with pytest.raises(CircuitOpenError):
            by_default.run(operation, "never")
        assert (operation.attempts, operation.error_type, by_default.clock.waits) == (0, "circuit_open", [])
        by_default.clock.now += 0.75  # the first probe is due after 0.25 to 0.75 s
        probe = by_default.begin()
        assert by_default.run(probe, "fine") == "fine"
        assert probe.attempt is not None
        assert probe.attempt.type == "probe"
        snapshot = by_default.target.breaker.snapshot()
        assert (snapshot.state, snapshot.reason) == (State.HALF_OPEN, "probe_succeeded")

    def test_a_paced_call_waits_for_its_slot(self, by_default: World) -> None:
        pace(by_default)
        operation = by_default.begin()
        assert by_default.run(operation, "fine") == "fine"
        assert operation.attempt is not None
        assert (operation.attempt.queued_by, operation.attempt.type) == ("breaker", "initial")
        assert by_default.clock.waits == [pytest.approx(4)]  # a quarter of a call a second
        assert operation.queued == operation.attempt.queued == pytest.approx(4)
        assert (operation.attempts, operation.total_delay, operation.attempt.delay) == (1, 0, 0)

    def test_a_call_that_would_wait_beyond_its_deadline_is_refused_at_once(self, by_default: World) -> None:
        by_default.policy = Policy(deadline=3)
        pace(by_default)
        operation = by_default.begin()
        with pytest.raises(CircuitOpenError):
            by_default.run(operation, "never")
        assert (operation.attempts, operation.error_type, by_default.clock.waits) == (0, "circuit_open", [])
        assert by_default.target.breaker.waiting == by_default.target.breaker.in_flight == 0

    def test_after_a_timeout_it_is_not_sent_again_without_a_sign_of_life(self, by_default: World) -> None:
        operation, error = by_default.begin(), Trouble(TIMED_OUT)
        with pytest.raises(Trouble) as raised:
            by_default.run(operation, error, "never")
        assert raised.value is error
        assert (operation.attempts, operation.gave_up, operation.error_type) == (1, GaveUp.BREAKER, "ReadTimeout")
        assert 10 <= operation.ended - operation.started < 11
        assert by_default.target.breaker.in_flight == 0

    def test_a_success_of_another_caller_is_the_sign_of_life(self, by_default: World) -> None:
        by_default.clock.meanwhile = lambda: count(by_default.target, SUCCESS)
        operation = by_default.begin()
        assert by_default.run(operation, Trouble(TIMED_OUT), "fine") == "fine"
        assert (operation.attempts, operation.gave_up) == (2, None)

    def test_observing_only_it_neither_refuses_nor_delays(self, by_default: World) -> None:
        by_default.policy = replace(Policy(), breaker=replace(by_default.policy.breaker, observe_only=True))
        for _ in range(15):
            with pytest.raises(Trouble):
                by_default.run(by_default.begin(attempts=1), Trouble())
        assert by_default.target.breaker.state is State.OPEN
        assert by_default.run(by_default.begin(), "fine") == "fine"
        assert by_default.clock.waits == []


class TestTheShortWay:
    """``Runner.call``: a call that nobody watches is made an operation of only once it has failed."""

    def test_a_success_is_no_operation(self, unwatched: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Runner, "begin", _broken)
        seen: list[Any] = []
        result = object()

        def function(*args: Any, **kwargs: Any) -> object:
            seen.append((args, kwargs, unwatched.target.breaker.in_flight))
            return result

        assert call(unwatched, function, 1, 2, three=3) is result
        assert seen == [((1, 2), {"three": 3}, 1)]
        snapshot = unwatched.target.snapshot()
        assert (snapshot.in_flight, snapshot.breaker.calls["success"]) == (0, 1)

    @pytest.mark.parametrize(
        "policy",
        [
            Policy(breaker=BreakerPolicy(**{**CLASSICAL, "failures": 3})),
            Policy(),
            Policy(fallback=Fallback(value="plan b")),
            Policy(retry=RetryPolicy(on=lambda _: False)),
            Policy(bulkhead=BulkheadPolicy(limit=1)),
        ],
        ids=["window", "adaptive", "fallback", "on", "bulkhead"],
    )
    @pytest.mark.parametrize(
        "script",
        [
            ["fine"],
            [Trouble(), "fine"],
            [Trouble(), Trouble(TIMED_OUT), "fine"],
            [Trouble() for _ in range(9)],
            [Trouble(REFUSED)],
            [asked_to_wait(1), asked_to_wait(2), "fine"],
            [KeyboardInterrupt()],
            [Trouble(), KeyboardInterrupt()],
        ],
        ids=lambda script: " ".join(str(outcome) or "interrupted" for outcome in script),
    )
    def test_it_leads_where_the_long_way_does(self, unwatched: World, policy: Policy, script: list[Any]) -> None:
        policy = replace(policy, retry=replace(policy.retry, jitter="none"))
        found = []
        for recorders in ([], [Recorder()]):  # watched, it is the long way
            world = World(unwatched.clock, Fanout(*recorders), is_async=unwatched.is_async, policy=policy)
            for _ in range(3):  # what the first leaves behind decides on the others
                outcomes = iter(script)
                try:
                    ending = call(world, lambda: _play(next(outcomes)))  # noqa: B023
                except BaseException as error:
                    ending = error if error in script else str(error)  # a refusal is made anew
                snapshot = world.target.snapshot()
                error_type = snapshot.last_error.type if snapshot.last_error is not None else None
                found.append((ending, error_type, snapshot.budget, snapshot.in_flight, snapshot.breaker.calls,
                              snapshot.breaker.state))  # fmt: skip
        assert found[:3] == found[3:]

    def test_the_error_is_the_last_unchained_and_nothing_refers_to_it(self, unwatched: World) -> None:
        errors = [Trouble() for _ in range(4)]
        outcomes = iter(errors)
        with pytest.raises(Trouble) as raised:
            call(unwatched, lambda: _play(next(outcomes)))
        assert raised.value is errors[3]
        assert [(error.__cause__, error.__context__) for error in errors] == [(None, None)] * 4

    def test_it_is_not_taken_while_something_is_wrong(self, unwatched: World) -> None:
        for _ in range(5):
            count(unwatched.target)
        with pytest.raises(CircuitOpenError):
            call(unwatched, _broken)
        unwatched.clock.now += 2
        assert call(unwatched, lambda: "fine") == "fine"
        assert unwatched.target.breaker.state is State.CLOSED

    def test_a_success_that_began_before_a_change_tells_nothing_of_the_state_after_it(self, unwatched: World) -> None:
        def function() -> str:
            for _ in range(5):
                count(unwatched.target)
            unwatched.clock.now += 2
            return "fine"

        assert call(unwatched, function) == "fine"
        assert (unwatched.target.breaker.state, unwatched.target.breaker.in_flight) == (State.OPEN, 0)

    def test_a_success_pays_back(self, unwatched: World) -> None:
        unwatched.choose(budget={"capacity": 10})
        outcomes = iter([Trouble(), "fine", "fine"])
        call(unwatched, lambda: _play(next(outcomes)))
        assert unwatched.target.budget.share_left == 0.95
        call(unwatched, lambda: _play(next(outcomes)))
        assert unwatched.target.budget.share_left == 1.0

    def test_a_target_in_use_is_not_forgotten(self, unwatched: World) -> None:
        unwatched.clock.now += 5
        call(unwatched, lambda: "fine")
        assert unwatched.target.last_used == unwatched.clock.now

    def test_whoever_watches_hears_all_of_it(self, world: World) -> None:
        assert isinstance(world.listener, Recorder)
        outcomes = iter([Trouble(), "fine"])
        call(world, lambda: _play(next(outcomes)))
        assert world.listener.steps == [
            "operation", "attempt 1 initial", "returned", "ended 503", "retry",
            "attempt 2 retry", "returned", "ended well", "over well",
        ]  # fmt: skip

    def test_one_who_only_hears_of_breakers_keeps_nobody_from_it(
        self, unwatched: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unwatched.runner.listeners.add(type("Alarm", (Listener,), {"breaker_changed": lambda *_: None})())
        monkeypatch.setattr(Runner, "begin", _broken)
        assert call(unwatched, lambda: "fine") == "fine"


@pytest.fixture
def unwatched(world: World) -> World:
    """The world without a listener."""
    return World(world.clock, Fanout(), is_async=world.is_async)


def call(world: World, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``Runner.call`` makes of a function, in the one way or the other."""

    async def function_async(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args, **kwargs)

    if world.is_async:
        return asyncio.run(world.runner.call_async(world.call(), function_async, *args, **kwargs))
    return world.runner.call(world.call(), function, *args, **kwargs)


def _play(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def pace(world: World) -> None:
    """Bring the adaptive breaker to its lowest pace, by an overload: something has succeeded, then nothing does."""
    count(world.target, SUCCESS)
    for _ in range(15):
        count(world.target)
    snapshot = world.target.breaker.snapshot()
    assert (snapshot.state, snapshot.reason) == (State.HALF_OPEN, "overload")


def test_an_empty_budget_ends_the_retries_of_all(world: World) -> None:
    world.choose(budget={"capacity": 3, "payback": 1}, breaker={"failures": 1000}, deadline=10**6)
    with pytest.raises(Trouble):
        world.run(world.begin(), *(Trouble() for _ in range(9)))
    operation = world.begin()
    with pytest.raises(Trouble):
        world.run(operation, Trouble(), "never")
    assert (operation.attempts, operation.gave_up) == (1, GaveUp.BUDGET)
    world.run(world.begin(), "fine")  # pays one token back
    assert world.run(world.begin(), Trouble(), "fine") == "fine"


class TestErrors:
    def test_the_error_is_the_clients_own_unchanged(self, world: World) -> None:
        cause, context = ValueError("cause"), KeyError("context")
        error = Trouble()
        error.__cause__, error.__context__ = cause, context
        with pytest.raises(Trouble) as raised:
            world.run(world.begin(), Trouble(), Trouble(), Trouble(), error)
        assert raised.value is error
        assert (error.__cause__, error.__context__) == (cause, context)
        assert getattr(error, "__notes__", []) == []

    @pytest.mark.parametrize("attempts", [1, 4])
    def test_it_is_not_chained_to_those_before_it(self, world: World, attempts: int) -> None:
        errors = [Trouble() for _ in range(attempts)]
        with pytest.raises(Trouble):
            world.run(world.begin(attempts=attempts), *errors)
        assert [(error.__cause__, error.__context__, error.__suppress_context__) for error in errors] == [
            (None, None, False)
        ] * attempts

    def test_its_traceback_leads_to_where_it_was_raised(self, world: World) -> None:
        def fails_here(*_: Any) -> None:
            raise Trouble

        with pytest.raises(Trouble) as raised:
            world.run(world.begin(), *[fails_here] * 4)
        frames = traceback.extract_tb(raised.value.__traceback__)
        assert frames[-1].name == "fails_here"


class TestListeners:
    @pytest.mark.parametrize(
        "event",
        [
            "operation_started",
            "attempt_started",
            "attempt_returned",
            "attempt_ended",
            "retry_scheduled",
            "operation_ended",
            "breaker_changed",
        ],
    )
    def test_one_that_raises_never_disturbs_and_is_reported_once(
        self, clock: VirtualClock, caplog: pytest.LogCaptureFixture, event: str
    ) -> None:
        broken = type("Broken", (Listener,), {event: _broken})()
        others = Recorder()
        world = World(clock, Fanout(broken, others))
        world.choose(breaker={"failures": 2})
        for _ in range(3):
            assert world.run(world.begin(), Trouble(), "fine") == "fine"
            for _ in range(2):
                with pytest.raises(Trouble):
                    world.run(world.begin(attempts=1), Trouble())
            assert world.target.breaker.state is State.OPEN
            clock.now += 2
            assert world.run(world.begin(), "fine") == "fine"
        assert (others.steps.count("over well"), others.steps.count("over 503")) == (6, 6)
        assert (world.target.breaker.state, world.target.breaker.in_flight) == (State.CLOSED, 0)
        assert [record.getMessage() for record in caplog.records] == [
            f"Broken failed on {event}; further failures are not logged"
        ]

    def test_one_whose_capture_raises_never_disturbs(
        self, clock: VirtualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = type("Broken", (Listener,), {"capture": _broken})()
        good = type("Good", (Listener,), {"capture": lambda _: "here"})()
        assert World(clock, Fanout(broken, good)).runner.capture()["parent"] == "here"
        (record,) = caplog.records
        assert record.getMessage() == "Broken failed on capture; further failures are not logged"
        assert record.exc_info

    def test_a_call_is_as_enabled_as_its_system(self, clock: VirtualClock) -> None:
        targets = Targets(lambda system: Policy(enabled=system == "ollama"), clock, Fanout().breaker_changed)
        runner = Runner(targets, Fanout(), clock)
        on, off = (Call(FakeClient(system), "chat", "h", 1) for system in ("ollama", "openai"))
        assert (runner.is_enabled(on), runner.is_enabled(off)) == (True, False)
        assert [target.name for target in targets] == ["ollama/h:1", "openai/h:1"]

    def test_only_those_who_want_to_hear_of_a_step_are_called(self) -> None:
        """A step that nobody listens to is an empty tuple."""
        fanout = Fanout(type("Deaf", (Listener,), {})(), type("Ends", (Listener,), {"operation_ended": _broken})())
        steps = ("operation_started", "attempt_started", "attempt_returned", "attempt_ended", "retry_scheduled",
                 "first_chunk", "operation_ended")  # fmt: skip
        assert {step: len(getattr(fanout, step)) for step in steps} == {
            **dict.fromkeys(steps, 0),
            "operation_ended": 1,
        }

    def test_they_come_and_go_while_calls_are_made(self, world: World) -> None:
        assert isinstance(world.listener, Recorder)
        stays, goes = world.listener, Recorder()
        world.runner.listeners.add(goes)
        world.run(world.begin(), "fine")
        world.runner.listeners.discard(goes)
        world.runner.listeners.discard(goes)  # a second time is no error
        world.run(world.begin(), "fine")
        assert (stays.steps.count("over well"), goes.steps.count("over well")) == (2, 1)


def test_cancelled_while_waiting(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(clock, Recorder(), is_async=True)

    async def main() -> None:
        waiting = asyncio.Event()

        async def wait_for_ever(_: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

        monkeypatch.setattr("stamina._core._smart_sleep", wait_for_ever)

        async def fail(*_: Any) -> None:
            raise Trouble

        operation = world.begin()
        task = asyncio.create_task(world.runner.run_async(operation, fail))
        await waiting.wait()
        assert not operation.is_over
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (operation.is_over, operation.attempts) == (True, 1)
        assert (operation.gave_up, operation.error_type) == (GaveUp.CANCELLED, "CancelledError")
        assert operation.error is None

    asyncio.run(main())
    assert world.target.breaker.in_flight == 0


def test_interrupted_while_waiting(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(clock, Recorder())

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tenacity.nap.time.sleep", interrupt)
    operation = world.begin()
    with pytest.raises(KeyboardInterrupt):
        world.run(operation, Trouble(), "never")
    assert (operation.gave_up, operation.error_type) == (GaveUp.CANCELLED, "KeyboardInterrupt")


def test_a_runner_is_made_of_its_parts_alone(clock: VirtualClock) -> None:
    world = World(clock, Recorder())
    runner = Runner(world.targets, Fanout(Recorder()), clock)
    assert runner.begin(world.call(client=world.client)).target is world.target
    assert runner.capture() == {"parent": None, "layers": ()}


def test_a_verdict_without_a_name_still_ends_the_operation(world: World) -> None:
    operation = world.begin()
    with pytest.raises(Trouble):
        world.run(operation, Trouble(Verdict(Weight.SUCCESS, Retry.NEVER)))
    assert operation.is_over


def _broken(*_: Any) -> Any:
    raise RuntimeError("broken")


def test_who_stops_reading_before_anything_came_says_nothing_of_the_server(world: World) -> None:
    operation = world.begin(streaming=True)
    world.run(operation, "a stream")
    operation.close()
    assert operation.attempt is not None
    assert operation.attempt.verdict == Verdict(Weight.IGNORED)


@pytest.mark.parametrize(("items", "weight"), [(0, Weight.FAILURE), (1, Weight.IGNORED)])
def test_patience_lost_in_the_middle_of_an_answer_is_nobodys_fault(world: World, items: int, weight: Weight) -> None:
    """It is the server's while nothing has come for so long."""
    world.choose(breaker={"slow_after": 2.0})
    operation = world.begin(streaming=True)
    world.run(operation, "a stream")
    for _ in range(items):
        operation.item()
    world.clock.now += 3
    operation.fail(asyncio.CancelledError())
    assert operation.attempt is not None
    assert operation.attempt.verdict is not None
    assert operation.attempt.verdict.weight is weight


def test_who_has_waited_for_the_rate_stands_in_the_queue_of_the_bulkhead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    Agenda(world.clock, monkeypatch)
    world.policy = Policy(
        bulkhead=BulkheadPolicy(limit=1, max_wait=2.0), rate_limit=RateLimitPolicy(rate=1.0, max_wait=5.0)
    )
    inside = world.begin()
    assert inside.admit(ThreadTurn) == 0
    with pytest.raises(BulkheadFullError):
        world.run(world.begin(), "never")
    inside.succeed()
    assert world.target.bulkhead is not None
    assert (world.target.bulkhead.in_flight, world.target.breaker.in_flight) == (0, 0)
