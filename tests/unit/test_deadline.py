"""Nested deadlines: the nearest one wins, and none is left behind when its operation is over."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stormproof.resilience import deadline
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import GaveUp
from stormproof.resilience.policy import Policy, RetryPolicy

from .helpers import Recorder, Trouble, VirtualClock, World

OUTER, INNER = 10.0, 30.0


@pytest.fixture(autouse=True)
def nested(world: World) -> None:
    """``outer`` has ten seconds, ``inner`` thirty, ``urgent`` two; the retries wait for four."""
    for host, seconds in (("outer", OUTER), ("inner", INNER), ("urgent", 2.0)):
        world.policy = Policy(
            deadline=seconds, retry=RetryPolicy(attempts=9, backoff="constant", jitter="none", base=4)
        )
        world.begin(host=host)


def outer(world: World, *script: Any, **details: Any) -> Any:
    """What becomes of a call that others can be made in."""
    return world.run(world.begin(host="outer", nests=True, **details), *script)


def deadline_of(world: World, host: str = "inner") -> float:
    return world.begin(host=host).deadline


def test_alone_each_has_its_own(world: World) -> None:
    assert deadline_of(world, "inner") == world.clock.now + INNER
    assert deadline_of(world, "outer") == world.clock.now + OUTER


def test_inside_another_one_it_has_no_more_than_that(world: World) -> None:
    began = world.clock.now

    def later(*_: Any) -> float:
        world.clock.now += 3
        return deadline_of(world)

    assert outer(world, later) == began + OUTER


def test_the_nearest_wins_even_if_it_is_the_inner_one(world: World) -> None:
    assert outer(world, lambda *_: deadline_of(world, "urgent")) == world.clock.now + 2


def test_each_level_is_bounded_by_all_above_it(world: World) -> None:
    began = world.clock.now
    seen: list[float] = []

    def innermost(*_: Any) -> None:
        seen.append(deadline_of(world))

    async def send(*_: Any) -> None:
        innermost()

    async def middle_async(operation: Operation, attempt: Attempt) -> None:
        await world.runner.run_async(world.begin(host="inner", nests=True), send)

    async def top_async() -> None:
        await world.runner.run_async(world.begin(host="outer", nests=True), middle_async)

    def middle(operation: Operation, attempt: Attempt) -> None:
        world.runner.run(world.begin(host="inner", nests=True), innermost)

    if world.is_async:
        asyncio.run(top_async())
    else:
        world.runner.run(world.begin(host="outer", nests=True), middle)
    assert seen == [began + OUTER]


def test_nothing_waits_beyond_it(world: World) -> None:
    began = world.clock.now
    inner: list[Operation] = []

    def call_inside(*_: Any) -> None:
        operation = world.begin(host="inner")
        inner.append(operation)
        world.runner.run(operation, fail)

    def fail(*_: Any) -> None:
        raise Trouble

    with pytest.raises(Trouble):
        outer(world, call_inside, attempts=1)
    (operation,) = inner
    assert (operation.attempts, operation.gave_up) == (3, GaveUp.DEADLINE)
    assert world.clock.now == began + 8


def test_no_attempt_outlives_a_strict_one(world: World) -> None:
    """Its own policy would let it run for as long as the client pleases."""
    world.policy = Policy(deadline=5, strict_deadline=True)
    operation = world.begin(host="strict", nests=True)
    assert world.run(operation, lambda *_: world.begin(host="inner").attempt_timeout) == 5


def test_afterwards_it_is_gone(world: World) -> None:
    outer(world, "fine")
    assert deadline_of(world) == world.clock.now + INNER


@pytest.mark.parametrize("error", [Trouble(), KeyboardInterrupt(), asyncio.CancelledError()])
def test_after_an_error_too(world: World, error: BaseException) -> None:
    with pytest.raises(type(error)):
        outer(world, error, attempts=1)
    assert deadline._nearest.get() == deadline.UNBOUNDED
    assert deadline_of(world) == world.clock.now + INNER


def test_each_attempt_is_bounded_anew(world: World) -> None:
    began, seen = world.clock.now, []

    def fail(*_: Any) -> None:
        seen.append(deadline_of(world))
        raise Trouble

    with pytest.raises(Trouble):
        outer(world, fail, fail, fail, fail)
    assert seen == [began + OUTER] * 3


def test_what_is_waited_for_in_between_is_bounded_by_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener, or a task of the same loop that runs meanwhile, is not inside of the attempt."""
    seen: list[tuple[float, float]] = []

    class Listening(Recorder):
        def attempt_ended(self, operation: Operation, attempt: Attempt) -> None:
            seen.append(deadline._nearest.get())

    world.runner.listeners.add(Listening())
    outer(world, Trouble(), "fine")
    assert seen == [deadline.UNBOUNDED] * 2


def test_a_call_that_cannot_be_nested_in_bounds_none(world: World) -> None:
    operation = world.begin(host="outer", nests=False)
    assert world.run(operation, lambda *_: deadline_of(world)) == world.clock.now + INNER


class TestThreads:
    def test_a_new_thread_is_not_inside(self, world: World) -> None:
        found: list[float] = []

        def start(*_: Any) -> None:
            thread = threading.Thread(target=lambda: found.append(deadline_of(world)))
            thread.start()
            thread.join()

        outer(world, start)
        assert found == [world.clock.now + INNER]

    def test_unless_it_is_given_the_context(self, world: World) -> None:
        found: list[float] = []

        def start(*_: Any) -> None:
            context = contextvars.copy_context()
            thread = threading.Thread(target=lambda: found.append(context.run(deadline_of, world)))
            thread.start()
            thread.join()

        outer(world, start)
        assert found == [world.clock.now + OUTER]


class TestTasks:
    def test_a_task_made_inside_is_inside(self, clock: VirtualClock) -> None:
        world = World(clock, Recorder(), is_async=True)
        nest(world)

        async def later() -> float:
            return deadline_of(world)

        async def send(*_: Any) -> float:
            return await asyncio.create_task(later())

        async def main() -> tuple[float, float]:
            return await world.runner.run_async(world.begin(host="outer", nests=True), send), await later()

        assert asyncio.run(main()) == (clock.now + OUTER, clock.now + INNER)

    def test_two_tasks_do_not_see_each_others(self, clock: VirtualClock) -> None:
        world = World(clock, Recorder(), is_async=True)
        nest(world)

        async def main() -> list[float]:
            both = asyncio.Event()
            inside = 0

            async def send(*_: Any) -> float:
                nonlocal inside
                inside += 1
                if inside == 2:
                    both.set()
                await both.wait()
                return deadline_of(world)

            operations = [world.begin(host=host, nests=True) for host in ("outer", "urgent")]
            return list(await asyncio.gather(*(world.runner.run_async(operation, send) for operation in operations)))

        assert asyncio.run(main()) == [clock.now + OUTER, clock.now + 2]

    @pytest.mark.parametrize("short", [True, False])
    def test_a_coroutine_that_is_dropped_is_closed_in_another_context(self, clock: VirtualClock, short: bool) -> None:
        world = World(clock, Recorder(), is_async=True)
        nest(world)
        operation = world.begin(host="outer", nests=True)

        async def forever(*_: Any) -> None:
            await asyncio.sleep(0)

        if short:
            coroutine = world.runner.call_async(world.call(host="outer", nests=True), forever)
        else:
            coroutine = world.runner.run_async(operation, forever)
        contextvars.copy_context().run(coroutine.send, None)
        coroutine.close()
        assert deadline._nearest.get() == deadline.UNBOUNDED
        assert world.runner.targets.get("openai", "outer", 80).breaker.in_flight == 0


def nest(world: World) -> None:
    for host, seconds in (("outer", OUTER), ("inner", INNER), ("urgent", 2.0)):
        world.policy = Policy(deadline=seconds)
        world.begin(host=host)


class TestFunctions:
    """``Runner.call``: the short way of a call that succeeds at once and that nobody watches."""

    @pytest.fixture(params=[True, False], ids=["unwatched", "watched"])
    def run(self, request: pytest.FixtureRequest, world: World) -> Callable[..., Any]:
        if request.param:
            world.runner.listeners.discard(world.listener)  # type: ignore[arg-type]
            assert world.runner.listeners.is_idle

        def run(function: Callable[[], Any], **details: Any) -> Any:
            call = world.call(host="outer", **{"nests": True, **details})
            if not world.is_async:
                return world.runner.call(call, function)

            async def function_async() -> Any:
                return function()

            return asyncio.run(world.runner.call_async(call, function_async))

        return run

    def test_what_runs_inside_is_bounded(self, world: World, run: Callable[..., Any]) -> None:
        assert run(lambda: deadline_of(world)) == world.clock.now + OUTER
        assert run(lambda: deadline_of(world), nests=False) == world.clock.now + INNER
        assert deadline_of(world) == world.clock.now + INNER

    def test_also_in_its_retries(self, world: World, run: Callable[..., Any]) -> None:
        began, seen = world.clock.now, []

        def function() -> None:
            seen.append(deadline_of(world))
            raise Trouble

        with pytest.raises(Trouble):
            run(function)
        assert seen == [began + OUTER] * 3
        assert deadline._nearest.get() == deadline.UNBOUNDED

    def test_which_bound_none_where_it_cannot_be_nested_in(self, world: World, run: Callable[..., Any]) -> None:
        seen: list[tuple[float, float]] = []

        def function() -> None:
            seen.append(deadline._nearest.get())
            if len(seen) == 1:
                raise Trouble

        run(function, nests=False)
        assert seen == [deadline.UNBOUNDED] * 2

    def test_its_time_counts_from_its_beginning(self, world: World, run: Callable[..., Any]) -> None:
        seen: list[float] = []

        def function() -> None:
            seen.append(world.clock.now)
            world.clock.now += 6
            raise Trouble

        began = world.clock.now
        with pytest.raises(Trouble):
            run(function)
        assert seen == [began]  # 6 + 4 seconds are its ten

    def test_and_from_where_it_is_nested(self, world: World, run: Callable[..., Any]) -> None:
        """It fails the short way, and is made an operation of afterwards."""
        attempts: list[float] = []

        def function() -> None:
            attempts.append(world.clock.now)
            raise Trouble

        began = world.clock.now

        def inside() -> None:
            token = deadline.enter(began + 5, began + 5)
            try:
                run(function)
            finally:
                deadline.leave(token)

        with pytest.raises(Trouble):
            inside()
        assert attempts == [began, began + 4]


async def test_what_is_bounded_gets_what_it_was_to_get(world: World) -> None:
    operation, attempt = world.begin(), Attempt()
    assert deadline.bounding(lambda *given: given)(operation, attempt) == (operation, attempt)

    async def send(*given: Any) -> Any:
        return given

    assert await deadline.bounding_async(send)(operation, attempt) == (operation, attempt)


def test_a_deadline_that_is_over_leaves_a_client_a_moment(world: World, clock: VirtualClock) -> None:
    """0 would mean "no limit" to some."""
    world.policy = Policy(deadline=5, strict_deadline=True)
    operation = world.begin()
    clock.now += 9
    assert operation.attempt_timeout == 0.001
