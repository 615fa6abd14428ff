"""The bulkhead: so many inside, the others in one queue, first come, first served; and calls that go through it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stormproof.errors import BulkheadFullError, RefusedError
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.bulkhead import Bulkhead
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import GaveUp
from stormproof.resilience.policy import BulkheadPolicy, Policy, RetryPolicy
from stormproof.resilience.waiting import TaskTurn, ThreadTurn

from .helpers import Recorder, Trouble, VirtualClock, World
from .limits import LONG, Agenda, Crew, Gate, Place, Queued, at_once, bulkhead


def counts(bulkhead: Bulkhead) -> tuple[int, int, int]:
    return bulkhead.calls["entered"], bulkhead.calls["queued"], bulkhead.calls["rejected"]


class TestAlone:
    @pytest.mark.parametrize("limit", [1, 2, 7])
    def test_so_many_may_enter(self, limit: int) -> None:
        full = bulkhead(limit)
        assert [full.enter() for _ in range(limit + 2)] == [True] * limit + [False] * 2
        assert (full.in_flight, full.queued, counts(full)) == (limit, 0, (limit, 0, 0))

    def test_who_leaves_makes_room(self) -> None:
        one = bulkhead()
        assert one.enter()
        one.leave()
        assert one.in_flight == 0
        assert one.enter()
        assert counts(one) == (2, 0, 0)

    @pytest.mark.parametrize("queue", [0, 1, 3])
    def test_the_queue_is_bounded(self, queue: int) -> None:
        full = bulkhead(queue=queue)
        full.enter()
        assert [full.queue(Place(n)) for n in range(queue + 2)] == [True] * queue + [False] * 2
        assert (full.queued, counts(full)) == (queue, (1, queue, 2))

    def test_first_come_first_served(self) -> None:
        full, places = bulkhead(), [Place(n) for n in range(3)]
        full.enter()
        for place in places:
            full.queue(place)
        for served in range(3):
            assert [place.given for place in places] == [n < served for n in range(3)]
            full.leave()
            assert (full.in_flight, full.queued) == (1, 2 - served)
        full.leave()
        assert (full.in_flight, counts(full)) == (0, (4, 3, 0))

    def test_nobody_passes_those_who_wait(self) -> None:
        """Not even where a place is free that none of them has been given."""
        full, place = bulkhead(limit=2), Place()
        full.enter()
        full.enter()
        full.queue(place)
        full._policy = BulkheadPolicy(limit=3)  # such a moment, which no caller can bring about
        assert not full.enter()
        full.leave()
        assert place.given

    def test_who_comes_to_the_queue_when_there_is_room_is_inside_at_once(self) -> None:
        free, place = bulkhead(queue=0), Place()
        assert free.queue(place)
        assert place.given
        assert (free.in_flight, free.queued, counts(free)) == (1, 0, (1, 0, 0))

    def test_who_withdraws_gives_its_place_up(self) -> None:
        full, first, second = bulkhead(queue=2), Place(1), Place(2)
        full.enter()
        full.queue(first)
        full.queue(second)
        assert full.withdraw(first)
        assert not full.withdraw(first)
        assert (full.queued, counts(full)) == (1, (1, 2, 0))
        assert full.queue(Place(3))
        full.leave()
        assert (first.given, second.given) == (False, True)

    def test_waiting_too_long_is_a_rejection(self) -> None:
        full, place = bulkhead(), Place()
        full.enter()
        full.queue(place)
        assert full.withdraw(place, waited_too_long=True)
        assert not full.withdraw(place, waited_too_long=True)
        assert counts(full) == (1, 1, 1)

    def test_who_was_given_the_turn_cannot_withdraw(self) -> None:
        full, place = bulkhead(), Place()
        full.enter()
        full.queue(place)
        full.leave()
        assert not full.withdraw(place, waited_too_long=True)
        assert (full.in_flight, counts(full)) == (1, (2, 1, 0))

    def test_those_who_are_gone_are_passed_over(self) -> None:
        full = bulkhead()
        gone, alive, last = Place(alive=False), Place(), Place()
        full.enter()
        for place in (gone, Place(alive=False), alive, last):
            full.queue(place)
        full.leave()
        assert (alive.given, last.given) == (True, False)
        assert (full.in_flight, full.queued, counts(full)) == (1, 1, (2, 4, 0))

    def test_if_all_are_gone_there_is_room(self) -> None:
        full = bulkhead()
        full.enter()
        full.queue(Place(alive=False))
        full.leave()
        assert (full.in_flight, full.queued) == (0, 0)
        assert full.enter()

    def test_after_a_fork_it_is_as_new(self) -> None:
        full = bulkhead()
        full.enter()
        full.queue(Place())
        with full._lock:
            full.after_fork()
            assert (full.in_flight, full.queued, counts(full)) == (0, 0, (0, 0, 0))
            assert full.enter()

    def test_threads_never_get_in_beyond_the_limit(self) -> None:
        full = bulkhead(limit=5)
        assert sorted(at_once(12, full.enter)) == [False] * 7 + [True] * 5


# -- calls ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def agenda(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> Agenda:
    return Agenda(clock, monkeypatch)


def limited(
    world: World, *, limit: int = 1, queue: int = 100, max_wait: float = 5.0, deadline: float = 30.0, attempts: int = 4
) -> Bulkhead:
    """The bulkhead of the world's target."""
    world.policy = Policy(
        deadline=deadline,
        retry=RetryPolicy(attempts=attempts, jitter="none"),
        bulkhead=BulkheadPolicy(limit=limit, queue=queue, max_wait=max_wait),
    )
    found = world.target.bulkhead
    assert found is not None
    return found


class TestCalls:
    def test_without_a_limit_there_is_none(self, world: World) -> None:
        assert world.target.bulkhead is None
        assert not world.target.is_limited

    def test_a_call_is_inside_while_it_runs(self, world: World) -> None:
        full, seen = limited(world), []

        def look(operation: Operation, attempt: Attempt) -> str:
            seen.append((full.in_flight, attempt.is_inside, attempt.queued, attempt.queued_by))
            return "fine"

        assert world.run(world.begin(), look) == "fine"
        assert seen == [(1, True, 0.0, None)]
        assert (full.in_flight, counts(full)) == (0, (1, 0, 0))

    @pytest.mark.parametrize("error", [Trouble(), KeyboardInterrupt(), asyncio.CancelledError()])
    def test_it_leaves_however_it_ends(self, world: World, error: BaseException) -> None:
        full = limited(world, attempts=1)
        with pytest.raises(type(error)):
            world.run(world.begin(), error)
        assert (full.in_flight, world.target.breaker.in_flight) == (0, 0)

    def test_it_is_outside_between_two_attempts(
        self, world: World, monkeypatch: pytest.MonkeyPatch, clock: VirtualClock
    ) -> None:
        full, seen = limited(world), []
        sleep = clock.sleep

        def look(seconds: float) -> None:
            seen.append(full.in_flight)
            sleep(seconds)

        monkeypatch.setattr(clock, "sleep", look)
        monkeypatch.setattr("tenacity.nap.time.sleep", look)
        assert world.run(world.begin(), Trouble(), Trouble(), "fine") == "fine"
        assert seen == [0, 0]
        assert counts(full) == (3, 0, 0)

    def test_a_stream_stays_inside_until_it_ends(self, world: World) -> None:
        full = limited(world)
        operation = world.begin(streaming=True)
        world.run(operation, "stream")
        assert full.in_flight == 1
        operation.succeed()
        operation.close()
        assert full.in_flight == 0

    def test_it_waits_for_its_turn(self, world: World, agenda: Agenda) -> None:
        full = limited(world)
        full.enter()
        agenda.after(2, full.leave)
        operation, began = world.begin(), world.clock.now
        assert world.run(operation, "fine") == "fine"
        attempt = operation.attempt
        assert attempt is not None
        assert (attempt.queued, attempt.queued_by, operation.queued) == (2.0, "bulkhead", 2.0)
        assert attempt.started == operation.ended == began + 2
        assert (full.in_flight, full.queued, counts(full)) == (0, 0, (2, 1, 0))
        assert operation.total_delay == 0  # that is for what follows a failure

    def test_the_wait_is_the_policys(self, world: World, agenda: Agenda) -> None:
        full = limited(world, max_wait=5)
        full.enter()
        operation, began = world.begin(), world.clock.now
        with pytest.raises(BulkheadFullError):
            world.run(operation, "never")
        assert world.clock.now == began + 5
        assert (operation.attempts, operation.error_type, operation.is_over) == (0, "bulkhead_full", True)
        assert (full.in_flight, full.queued, counts(full)) == (1, 0, (1, 1, 1))

    def test_or_the_deadline_if_that_is_nearer(self, world: World, agenda: Agenda) -> None:
        full = limited(world, max_wait=5, deadline=3)
        full.enter()
        began = world.clock.now
        with pytest.raises(BulkheadFullError):
            world.run(world.begin(), "never")
        assert world.clock.now == began + 3

    @pytest.mark.parametrize("queue", [0, 2])
    def test_a_full_queue_refuses_at_once(self, world: World, queue: int) -> None:
        full = limited(world, queue=queue)
        full.enter()
        for _ in range(queue):
            full.queue(Place())
        operation = world.begin()
        with pytest.raises(BulkheadFullError) as raised:
            world.run(operation, "never")
        assert isinstance(raised.value, ConnectionError)  # the client's own kind
        assert isinstance(raised.value, RefusedError)
        assert str(raised.value) == (
            "bulkhead full: too many calls to openai/localhost:80 are in flight, so this one was not sent (stormproof)"
        )
        assert world.clock.waits == []
        assert (operation.attempts, operation.attempt, operation.gave_up) == (0, None, None)
        assert world.target.breaker.in_flight == 0
        assert world.target.breaker.calls["ignored"] == 1  # it had the breaker's permit, which says nothing of it
        assert isinstance(world.listener, Recorder)
        assert world.listener.steps == ["operation", "over bulkhead_full"]

    def test_a_retry_that_is_refused_gets_the_last_real_error(self, world: World) -> None:
        full = limited(world, queue=0)

        def fail(*_: Any) -> None:
            full.in_flight += 1  # another has its place as soon as this one has left
            raise Trouble

        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, fail, "never")
        assert (operation.attempts, operation.gave_up, operation.error_type) == (1, GaveUp.BULKHEAD, "503")
        assert operation.is_over
        assert operation.error is None
        assert world.target.breaker.in_flight == 0

    def test_a_refusal_is_not_retried(self, world: World) -> None:
        limited(world, queue=0).enter()
        with pytest.raises(BulkheadFullError):
            world.run(world.begin(), "never")
        assert world.target.budget.share_left == 1.0

    def test_a_turn_that_comes_with_the_last_moment_counts(self, world: World, agenda: Agenda) -> None:
        """Given between the end of the wait and the look at it: then its owner is inside, and uses it."""
        full = limited(world, max_wait=5)
        full.enter()
        agenda.after(5, full.leave)
        assert world.run(world.begin(), "fine") == "fine"
        assert (full.in_flight, counts(full)) == (0, (2, 1, 0))

    def test_a_turn_given_while_its_owner_withdraws_counts(
        self, world: World, agenda: Agenda, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = limited(world, max_wait=5)
        full.enter()
        withdraw = full.withdraw

        def too_late(turn: Any, *, waited_too_long: bool = False) -> bool:
            full.leave()
            return withdraw(turn, waited_too_long=waited_too_long)

        monkeypatch.setattr(full, "withdraw", too_late)
        operation = world.begin()
        assert world.run(operation, "fine") == "fine"
        assert (full.in_flight, full.queued, counts(full)) == (0, 0, (2, 1, 0))
        assert operation.queued == 5

    def test_a_function_that_nobody_watches_goes_through_it_too(self, world: World) -> None:
        full = limited(world, queue=0)
        world.runner.listeners.discard(world.listener)  # type: ignore[arg-type]
        seen: list[int] = []

        def function() -> None:
            seen.append(full.in_flight)

        async def function_async() -> None:
            function()

        def call() -> None:
            if world.is_async:
                asyncio.run(world.runner.call_async(world.call(), function_async))
            else:
                world.runner.call(world.call(), function)

        call()
        full.enter()
        with pytest.raises(BulkheadFullError):
            call()
        assert seen == [1]

    def test_each_target_has_its_own(self, world: World) -> None:
        limited(world, queue=0).enter()
        assert world.run(world.begin(host="elsewhere"), "fine") == "fine"


# -- real threads and loops -------------------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.join()


@pytest.fixture
def real(clock: VirtualClock) -> World:
    """Waits for turns are real here; the clock stands still."""
    return World(clock, Recorder())


class TestOneQueue:
    """Threads, and tasks of two loops, wait for the same place."""

    def test_first_come_first_served(
        self, real: World, gate: Gate, crew: Crew, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = limited(real, max_wait=LONG, deadline=10**6)
        queued = Queued(full, monkeypatch)

        def in_thread(name: str) -> object:
            return real.runner.run(real.begin(), lambda *_: gate.hold(name))

        def in_loop(name: str) -> object:
            return asyncio.run(real.runner.run_async(real.begin(), lambda *_: gate.hold_async(name)))

        order = ["thread 1", "loop 1", "thread 2", "loop 2", "thread 3"]
        for waiting, name in enumerate(order):
            crew.start(name, lambda name=name: (in_loop if "loop" in name else in_thread)(name))  # type: ignore[misc]
            if waiting == 0:
                gate.await_entered(name)
            queued.await_length(waiting)
        for inside, name in enumerate(order):
            gate.await_entered(*order[: inside + 1])
            assert full.in_flight == 1
            gate.let_go(name)
        assert crew.join() == {name: name for name in order}
        assert (full.in_flight, full.queued, counts(full)) == (0, 0, (5, 4, 0))

    def test_tasks_of_one_loop(self, real: World) -> None:
        full = limited(real, limit=2, deadline=10**6)
        entered: list[int] = []

        async def main() -> list[object]:
            go = [asyncio.Event() for _ in range(6)]

            async def send(operation: Operation, attempt: Attempt) -> int:
                number: int = operation.call.own["number"]
                entered.append(number)
                assert full.in_flight <= 2
                await go[number].wait()
                return number

            tasks = [asyncio.create_task(real.runner.run_async(real.begin(own={"number": n}), send)) for n in range(6)]
            for number in range(6):
                await until(lambda number=number: number in entered)
                go[number].set()
            return [await task for task in tasks]

        assert asyncio.run(main()) == list(range(6))
        assert entered == list(range(6))
        assert (full.in_flight, full.queued, counts(full)) == (0, 0, (6, 4, 0))


async def until(condition: Any) -> None:
    """Let the other tasks run until it holds; it depends on nothing but them."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to hold")


class TestCancelled:
    @staticmethod
    async def never(operation: Operation, attempt: Attempt) -> None:
        raise AssertionError("it was cancelled before")

    def test_a_task_that_is_cancelled_gives_its_place_up(self, real: World) -> None:
        full = limited(real, deadline=10**6)

        async def main() -> None:
            full.enter()
            operation = real.begin()
            task = asyncio.create_task(real.runner.run_async(operation, self.never))
            await until(lambda: full.queued == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (operation.is_over, operation.gave_up) == (True, GaveUp.CANCELLED)
            assert (operation.error_type, operation.attempts) == ("CancelledError", 0)

        asyncio.run(main())
        assert (full.in_flight, full.queued, counts(full)) == (1, 0, (1, 1, 0))
        assert real.target.breaker.in_flight == 0

    def test_one_that_was_given_the_turn_meanwhile_hands_it_on(self, real: World) -> None:
        full = limited(real, deadline=10**6)

        async def main() -> None:
            async def send(*_: Any) -> str:
                return "fine"

            full.enter()
            first = asyncio.create_task(real.runner.run_async(real.begin(), self.never))
            await until(lambda: full.queued == 1)
            second = asyncio.create_task(real.runner.run_async(real.begin(), send))
            await until(lambda: full.queued == 2)
            full.leave()  # the first has the turn, but has not run since
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await second == "fine"

        asyncio.run(main())
        assert (full.in_flight, full.queued, counts(full)) == (0, 0, (3, 2, 0))

    def test_one_that_is_interrupted_in_a_thread(self, real: World, monkeypatch: pytest.MonkeyPatch) -> None:
        full = limited(real)

        def interrupt(self: ThreadTurn, seconds: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(ThreadTurn, "wait", interrupt)
        full.enter()
        operation = real.begin()
        with pytest.raises(KeyboardInterrupt):
            real.run(operation, "never")
        assert (operation.gave_up, operation.error_type) == (GaveUp.CANCELLED, "KeyboardInterrupt")
        assert (full.in_flight, full.queued, real.target.breaker.in_flight) == (1, 0, 0)

    def test_one_whose_loop_is_closed_is_passed_over(self, real: World) -> None:
        full, coroutine, loop = self.left_waiting(real)
        alive = Place()
        full.queue(alive)
        loop.close()
        full.leave()
        assert alive.given
        assert (full.in_flight, full.queued, counts(full)) == (1, 0, (2, 2, 0))
        coroutine.close()  # as the collector does in the end: it was never inside, and has nothing to give back
        assert (full.in_flight, counts(full)) == (1, (2, 2, 0))
        assert real.target.breaker.in_flight == 0

    def test_one_whose_loop_is_closed_and_who_is_dropped_leaves_the_queue(self, real: World) -> None:
        full, coroutine, loop = self.left_waiting(real)
        loop.close()
        coroutine.close()
        assert (full.in_flight, full.queued, real.target.breaker.in_flight) == (1, 0, 0)
        full.leave()
        assert full.in_flight == 0

    def left_waiting(self, world: World) -> tuple[Bulkhead, Any, asyncio.AbstractEventLoop]:
        """A bulkhead with somebody inside, and a task in its queue that its loop has stopped to run."""
        full = limited(world, deadline=10**6)
        full.enter()
        loop = asyncio.new_event_loop()
        coroutine = world.runner.run_async(world.begin(), self.never)
        task = loop.create_task(coroutine)
        loop.run_until_complete(asyncio.wait([task], timeout=0))
        assert full.queued == 1
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that it is destroyed is what this is about
        return full, coroutine, loop


class TestTrio:
    def test_tasks_of_trio_stand_in_the_same_queue(
        self, real: World, gate: Gate, crew: Crew, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import trio

        full = limited(real, max_wait=LONG, deadline=10**6)
        queued = Queued(full, monkeypatch)

        async def send(*_: Any) -> object:
            return await trio.to_thread.run_sync(gate.hold, "trio")

        crew.start("first", lambda: real.runner.run(real.begin(), lambda *_: gate.hold("first")))
        gate.await_entered("first")
        crew.start("trio", lambda: trio.run(real.runner.run_async, real.begin(), send))
        queued.await_length(1)
        crew.start("last", lambda: real.runner.run(real.begin(), lambda *_: gate.hold("last")))
        queued.await_length(2)
        for entered in (["first"], ["first", "trio"], ["first", "trio", "last"]):
            gate.await_entered(*entered)
            gate.let_go(entered[-1])
        assert crew.join() == {name: name for name in ("first", "trio", "last")}
        assert (full.in_flight, full.queued) == (0, 0)

    def test_a_task_of_trio_that_is_cancelled_gives_its_place_up(self, real: World) -> None:
        import trio

        full = limited(real, deadline=10**6)
        full.enter()
        operation = real.begin()

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(real.runner.run_async, operation, TestCancelled.never)
                while not full.queued:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

        trio.run(main)
        assert (operation.is_over, operation.gave_up, operation.error_type) == (True, GaveUp.CANCELLED, "Cancelled")
        assert (full.in_flight, full.queued, real.target.breaker.in_flight) == (1, 0, 0)

    def test_one_whose_run_is_over_is_passed_over(self) -> None:
        import trio

        async def main() -> TaskTurn:
            return TaskTurn()

        full, alive = bulkhead(), Place()
        full.enter()
        full.queue(trio.run(main))
        full.queue(alive)
        full.leave()
        assert alive.given
        assert full.in_flight == 1


def test_a_turn_is_of_the_callers_kind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread waits as a thread, a task as a task: the other kind would block the loop, or not wait at all."""
    full, kinds = limited(world), []
    full.enter()

    def wait(turn: object, seconds: float) -> None:
        kinds.append((type(turn), seconds))
        full.leave()

    async def wait_async(turn: object, seconds: float) -> None:
        wait(turn, seconds)

    monkeypatch.setattr(ThreadTurn, "wait", wait)
    monkeypatch.setattr(TaskTurn, "wait", wait_async)
    assert world.run(world.begin(), "fine") == "fine"
    assert kinds == [(TaskTurn if world.is_async else ThreadTurn, 5.0)]


def test_many_threads_lose_no_place(real: World) -> None:
    full = limited(real, limit=3, max_wait=LONG, deadline=10**6)
    inside, most, lock = 0, 0, threading.Lock()

    def send(*_: Any) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1

    def work() -> None:
        for _ in range(30):
            real.runner.run(real.begin(), send)

    at_once(8, work)
    assert 1 <= most <= 3
    assert (full.in_flight, full.queued) == (0, 0)
    assert (full.calls["entered"], full.calls["rejected"]) == (240, 0)
