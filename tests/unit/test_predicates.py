"""The user's own word on what is retried: predicates on errors and on results, and calls that must not be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stamina

from stormproof.resilience.fallback import Fallback
from stormproof.resilience.outcome import GaveUp, Retry, Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy, BudgetPolicy, BulkheadPolicy, Policy, RetryPolicy

from .helpers import FAILED, PERHAPS_DONE, REFUSED, Recorder, Trouble, World
from .limits import Asked


@pytest.fixture(autouse=True)
def stamina_as_it_was() -> Iterator[None]:
    yield
    stamina.set_active(True)
    stamina.set_testing(False)


def choose(
    world: World,
    *,
    on: Callable[[Exception], bool | None] | None = None,
    on_result: Callable[[Any], bool] | None = None,
    attempts: int = 4,
    deadline: float = 10**6,
    capacity: int = 100,
    **others: Any,
) -> None:
    world.policy = Policy(
        deadline=deadline,
        retry=RetryPolicy(attempts=attempts, jitter="none", base=1, on=on, on_result=on_result),
        budget=BudgetPolicy(capacity=capacity),
        **others,
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "stormproof"]


NOT_HEARD = "a predicate of the policy of openai/localhost:80 failed; it is not heard"


class TestErrors:
    @pytest.mark.parametrize(
        ("verdict", "answer", "attempts", "reason"),
        [
            (FAILED, None, 4, GaveUp.ATTEMPTS),
            (FAILED, True, 4, GaveUp.ATTEMPTS),
            (FAILED, False, 1, GaveUp.NOT_RETRYABLE),
            (REFUSED, None, 1, GaveUp.NOT_RETRYABLE),
            (REFUSED, True, 4, GaveUp.ATTEMPTS),
            (REFUSED, False, 1, GaveUp.NOT_RETRYABLE),
        ],
    )
    def test_its_word_is_last_and_none_leaves_it_to_the_client(
        self, world: World, verdict: Verdict, answer: bool | None, attempts: int, reason: GaveUp
    ) -> None:
        asked = Asked(answer)
        choose(world, on=asked)
        operation, errors = world.begin(), [Trouble(verdict) for _ in range(9)]
        with pytest.raises(Trouble) as raised:
            world.run(operation, *errors)
        assert raised.value is errors[attempts - 1]
        assert (operation.attempts, operation.gave_up) == (attempts, reason)
        assert asked.about == errors[:attempts]

    @pytest.mark.parametrize(("answer", "attempts"), [(True, 4), (None, 1)])
    def test_a_call_that_must_not_be_repeated_is_only_if_it_is_asked_for(
        self, world: World, answer: bool | None, attempts: int
    ) -> None:
        choose(world, on=lambda _: answer)
        operation = world.begin(replay_safe=False)
        with pytest.raises(Trouble):
            world.run(operation, *(Trouble(PERHAPS_DONE) for _ in range(9)))
        assert operation.attempts == attempts
        assert operation.gave_up is (GaveUp.ATTEMPTS if answer else GaveUp.NOT_REPLAY_SAFE)

    def test_only_the_retry_is_its_business(self, world: World) -> None:
        """The breaker counts the error as it is, and its name stays."""
        choose(world, on=lambda _: False)
        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, Trouble())
        assert operation.error_type == "503"
        assert world.target.breaker.calls["failure"] == 1
        assert operation.attempt is not None
        assert operation.attempt.verdict == Verdict(Weight.FAILURE, Retry.NEVER, "503", 503)

    def test_it_is_asked_of_errors_that_no_client_knows(self, world: World) -> None:
        choose(world, on=lambda error: isinstance(error, OSError))
        assert world.run(world.begin(), OSError(), OSError(), "fine") == "fine"
        with pytest.raises(ZeroDivisionError):
            world.run(world.begin(), ZeroDivisionError(), "never")

    def test_a_cancellation_is_none_of_its_business(self, world: World) -> None:
        asked = Asked(True)
        choose(world, on=asked)
        with pytest.raises(asyncio.CancelledError):
            world.run(world.begin(), asyncio.CancelledError(), "never")
        assert asked.about == []

    def test_one_that_raises_is_logged_once_and_not_heard(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        choose(world, on=Asked(RuntimeError("broken")))
        for _ in range(2):
            assert world.run(world.begin(), Trouble(), Trouble(), "fine") == "fine"
        assert warnings(caplog) == [NOT_HEARD]
        (record,) = caplog.records
        assert record.exc_info
        assert str(record.exc_info[1]) == "broken"

    def test_one_that_raises_changes_nothing(self, world: World) -> None:
        choose(world, on=Asked(RuntimeError("broken")))
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble(REFUSED), "never")
        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, *(Trouble() for _ in range(9)))
        assert operation.attempts == 4


class TestResults:
    def test_a_good_one_is_handed_out_at_once(self, world: World) -> None:
        asked, result = Asked(False), object()
        choose(world, on_result=asked)
        assert world.run(world.begin(), result) is result
        assert asked.about == [result]
        assert world.clock.waits == []

    def test_it_is_tried_until_one_is_good(self, world: World) -> None:
        choose(world, on_result=lambda result: result == "poor")
        operation = world.begin()
        assert world.run(operation, "poor", "poor", "good", "never") == "good"
        assert (operation.attempts, operation.gave_up, operation.error_type) == (3, None, None)
        assert world.clock.waits == [1, 2]
        assert isinstance(world.listener, Recorder)
        assert world.listener.steps == [
            "operation",
            "attempt 1 initial", "returned", "ended unwanted_result", "retry",
            "attempt 2 retry", "returned", "ended unwanted_result", "retry",
            "attempt 3 retry", "returned", "ended well", "over well",
        ]  # fmt: skip

    def test_the_server_is_well_all_the_same(self, world: World) -> None:
        choose(world, on_result=lambda result: result == "poor")
        world.run(world.begin(), "poor", "good")
        calls = world.target.breaker.calls
        assert (calls["success"], calls["failure"], calls["ignored"]) == (1, 0, 1)
        assert world.target.last_error is None
        assert world.target.breaker.in_flight == 0

    def test_each_costs_a_token_and_the_good_one_pays_back(self, world: World) -> None:
        choose(world, on_result=lambda result: result == "poor", capacity=10)
        world.run(world.begin(), "poor", "poor", "good")
        assert world.target.budget.share_left == 0.85

    @pytest.mark.parametrize(
        ("limits", "attempts", "reason"),
        [
            ({"attempts": 3}, 3, GaveUp.ATTEMPTS),
            ({"attempts": 1}, 1, GaveUp.ATTEMPTS),
            ({"capacity": 2}, 3, GaveUp.BUDGET),
            ({"deadline": 3}, 2, GaveUp.DEADLINE),
        ],
    )
    def test_the_last_one_is_handed_out_whatever_it_is(
        self, world: World, limits: dict[str, Any], attempts: int, reason: GaveUp
    ) -> None:
        results = [["poor", n] for n in range(9)]
        choose(world, on_result=lambda _: True, **limits)
        operation = world.begin()
        assert world.run(operation, *results) is results[attempts - 1]
        assert (operation.attempts, operation.gave_up) == (attempts, reason)
        assert (operation.error_type, operation.is_over, operation.error) == (None, True, None)
        assert world.target.breaker.calls["success"] == 1  # a result is a result

    def test_what_it_tells_is_kept(self, world: World) -> None:
        choose(world, on_result=lambda result: result["input_tokens"] < 2)
        operation = world.begin()
        world.run(operation, {"input_tokens": 1}, {"input_tokens": 2})
        assert operation.facts == {"input_tokens": 2}

    def test_a_failure_in_between_is_one(self, world: World) -> None:
        choose(world, on_result=lambda result: result == "poor", attempts=3)
        operation, error = world.begin(), Trouble()
        with pytest.raises(Trouble) as raised:
            world.run(operation, "poor", "poor", error)
        assert raised.value is error
        assert operation.error_type == "503"

    def test_a_call_that_must_not_be_repeated_is_not(self, world: World) -> None:
        choose(world, on_result=lambda _: True)
        operation = world.begin(replay_safe=False)
        assert world.run(operation, "poor", "never") == "poor"
        assert (operation.attempts, operation.gave_up) == (1, GaveUp.NOT_REPLAY_SAFE)

    def test_a_stream_is_no_result(self, world: World) -> None:
        asked = Asked(True)
        choose(world, on_result=asked)
        operation = world.begin(streaming=True)
        assert world.run(operation, "stream") == "stream"
        assert (asked.about, operation.is_over) == ([], False)
        operation.succeed()

    def test_one_that_raises_is_logged_once_and_every_result_is_good(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        choose(world, on_result=Asked(RuntimeError("broken")))
        for _ in range(2):
            assert world.run(world.begin(), "poor", "never") == "poor"
        assert warnings(caplog) == [NOT_HEARD]

    def test_switched_off_it_is_handed_out_as_it_is(self, world: World) -> None:
        stamina.set_active(False)
        choose(world, on_result=lambda _: True)
        operation = world.begin()
        assert world.run(operation, "poor", "never") == "poor"
        assert (operation.attempts, operation.gave_up, operation.is_over) == (1, GaveUp.INACTIVE, True)

    def test_in_staminas_test_mode_too(self, world: World) -> None:
        stamina.set_testing(True, attempts=2)
        choose(world, on_result=lambda _: True)
        operation = world.begin()
        assert world.run(operation, "poor", "still poor", "never") == "still poor"
        assert (operation.attempts, operation.gave_up, operation.is_over) == (2, GaveUp.INACTIVE, True)

    @pytest.mark.parametrize("testing", [True, False])
    def test_a_result_that_is_handed_out_is_no_error(self, world: World, testing: bool) -> None:
        """Whatever kept it from being tried again: the app has it, so telemetry must not call it a failure."""
        if testing:
            stamina.set_testing(True)
        else:
            stamina.set_active(False)
        choose(world, on_result=lambda _: True)
        operation = world.begin()
        assert world.run(operation, "poor", "never") == "poor"
        assert operation.error_type is None

    def test_nor_if_a_limit_refuses_the_next_attempt(self, world: World) -> None:
        operation = self.refused_at_its_retry(world)
        assert (operation.attempts, operation.gave_up, operation.is_over) == (1, GaveUp.BULKHEAD, True)
        assert operation.error_type is None

    def test_then_there_is_nothing_to_fall_back_from(self, world: World) -> None:
        operation = self.refused_at_its_retry(world, fallback=Fallback(value="never"))
        assert (operation.is_over, operation.fallback_type) == (True, None)

    def refused_at_its_retry(self, world: World, **others: Any) -> Any:
        """An operation with a poor result, which found the bulkhead full when it was to try again."""
        choose(world, on_result=lambda _: True, bulkhead=BulkheadPolicy(limit=1, queue=0), **others)
        full = world.target.bulkhead
        assert full is not None

        def poor(*_: Any) -> str:
            full.in_flight += 1  # another has its place as soon as this one has left
            return "poor"

        operation = world.begin()
        assert world.run(operation, poor, "never") == "poor"
        return operation

    def test_no_result_is_kept_alive(self, world: World) -> None:
        choose(world, on_result=lambda result: result == ["poor"])
        operation = world.begin()
        world.run(operation, ["poor"], ["good"])
        assert operation.error is None


@pytest.mark.parametrize(
    ("verdict", "attempts"), [(PERHAPS_DONE, 1), (FAILED, 4), (Verdict(Weight.IGNORED, Retry.IF_REPLAY_SAFE), 1)]
)
def test_a_call_that_must_not_be_repeated_is_only_if_it_surely_was_not_carried_out(
    world: World, verdict: Verdict, attempts: int
) -> None:
    choose(world)
    operation = world.begin(replay_safe=False)
    with pytest.raises(Trouble):
        world.run(operation, *(Trouble(verdict) for _ in range(9)))
    assert operation.attempts == attempts


def test_the_calls_own_number_bounds_results_too(world: World) -> None:
    choose(world, on_result=lambda _: True, breaker=BreakerPolicy(enabled=False))
    operation = world.begin(attempts=2)
    assert world.run(operation, 1, 2, 3) == 2
    assert operation.gave_up is GaveUp.ATTEMPTS
