"""The runner, sync and async alike: how many attempts, how long the waits, and why it gave up."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from stormproof.resilience.breaker import State
from stormproof.resilience.events import Fanout, Listener
from stormproof.resilience.outcome import GaveUp, Retry, Verdict, Weight
from stormproof.resilience.runner import Runner

from .helpers import FAILED, PERHAPS_DONE, REFUSED, Recorder, Refusal, Trouble, VirtualClock, World, asked_to_wait


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
        world.choose(retry={"attempts": 1000}, breaker={"failures": 10**6}, budget={"capacity": 10**6}, deadline=60)
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

    def test_another_caller_opens_it_while_this_one_waits(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.choose(breaker={"failures": 2, "open_for": 10**6})

        def trip() -> None:
            permit = world.target.breaker.acquire()
            assert permit is not None
            world.target.breaker.settle(permit, Weight.FAILURE)

        sleep = world.clock.sleep

        def sleep_while_it_trips(seconds: float) -> None:
            sleep(seconds)
            trip()

        monkeypatch.setattr(world.clock, "sleep", sleep_while_it_trips)
        monkeypatch.setattr("tenacity.nap.time.sleep", world.clock.sleep)
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
        with pytest.raises(Refusal, match="openai/localhost:80"):
            world.run(operation, "never")
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
        world.choose(breaker={"failures": 1, "open_for": 0.0}, retry={"base": 1})
        for _ in range(3):
            assert world.run(world.begin(), Trouble(), "fine") == "fine"
        assert others.steps.count("over well") == 3
        assert world.target.breaker.in_flight == 0
        assert [record.getMessage() for record in caplog.records] == [
            f"Broken failed on {event}; further failures are not logged"
        ]

    def test_one_whose_capture_raises_never_disturbs(self, clock: VirtualClock) -> None:
        broken = type("Broken", (Listener,), {"capture": _broken})()
        good = type("Good", (Listener,), {"capture": lambda _: "here"})()
        assert World(clock, Fanout(broken, good)).runner.capture() == "here"


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
    runner = Runner(world.targets, Recorder(), clock)
    assert runner.begin(world.call(client=world.client)).target is world.target
    assert runner.capture() is None


def test_a_verdict_without_a_name_still_ends_the_operation(world: World) -> None:
    operation = world.begin()
    with pytest.raises(Trouble):
        world.run(operation, Trouble(Verdict(Weight.SUCCESS, Retry.NEVER)))
    assert operation.is_over


def _broken(*_: Any) -> Any:
    raise RuntimeError("broken")
