"""The flaws of known breakers, each ruled out by a test of its own (DESIGN.md, "The breaker is ours, because…")."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stormproof.resilience import clock as clock_module
from stormproof.resilience.breaker import Breaker, State, StateChange
from stormproof.resilience.outcome import Weight
from stormproof.resilience.policy import BreakerPolicy

from .helpers import PERHAPS_DONE, Refusal, Trouble, VirtualClock, World


def make(clock: VirtualClock, on_change: Callable[[StateChange], Any] = lambda _: None, **knobs: Any) -> Breaker:
    return Breaker("b", BreakerPolicy(**knobs), clock, on_change)


def opened(clock: VirtualClock, **knobs: Any) -> Breaker:
    breaker = make(clock, **knobs)
    while breaker.state is State.CLOSED:
        permit = breaker.acquire()
        assert permit is not None
        breaker.settle(permit, Weight.FAILURE)
    return breaker


def at_once(threads: int, work: Callable[[], Any]) -> list[Any]:
    """What ``work`` returned in each of so many threads, all let go together."""
    barrier = threading.Barrier(threads)

    def run() -> Any:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(threads)]]


class TestLocks:
    def test_no_lock_is_held_over_the_call(self, world: World) -> None:
        def free(*_: Any) -> bool:
            taken = world.target.breaker._lock.acquire(blocking=False)
            world.target.breaker._lock.release()
            return taken

        assert world.run(world.begin(), free)

    def test_no_lock_is_held_while_a_change_is_told(self, clock: VirtualClock) -> None:
        def reenter(_: StateChange) -> None:
            assert breaker.acquire() is None

        breaker = make(clock, reenter, failures=1)
        permit = breaker.acquire()
        assert permit is not None
        breaker.settle(permit, Weight.FAILURE)
        assert breaker.calls["rejected"] == 1

    def test_eight_threads_lose_no_counts(self, clock: VirtualClock) -> None:
        breaker = make(clock, failures=10**9)
        weights = [Weight.SUCCESS, Weight.FAILURE, Weight.IGNORED] * 1000

        def work() -> None:
            for weight in weights:
                permit = breaker.acquire()
                assert permit is not None
                breaker.settle(permit, weight)

        at_once(8, work)
        assert breaker.calls == {"success": 8000, "failure": 8000, "ignored": 8000, "rejected": 0}
        assert breaker.in_flight == 0


class TestProbes:
    @pytest.mark.parametrize("probes", [1, 3])
    def test_of_200_callers_exactly_the_probes_get_through(self, clock: VirtualClock, probes: int) -> None:
        breaker = opened(clock, failures=1, open_for=2, probes=probes)
        clock.now += 2
        permits = at_once(200, breaker.acquire)
        assert sum(permit is not None for permit in permits) == probes
        assert breaker.calls["rejected"] == 200 - probes

    def test_a_hung_probe_does_not_block_recovery(self, clock: VirtualClock) -> None:
        breaker = opened(clock, failures=1, open_for=2)
        clock.now += 2
        hung = breaker.acquire()
        assert hung is not None
        assert breaker.acquire() is None
        clock.now += 2
        second = breaker.acquire()
        assert second is not None
        assert second.probe
        breaker.settle(second, Weight.SUCCESS)
        assert breaker.state is State.CLOSED
        breaker.settle(hung, Weight.FAILURE)  # comes back at last, from a time that is over
        assert breaker.state is State.CLOSED
        assert breaker.in_flight == 0

    def test_a_probe_that_comes_back_late_frees_no_place_but_its_own(self, clock: VirtualClock) -> None:
        breaker = opened(clock, failures=1, open_for=2, successes=2)
        clock.now += 2
        late = breaker.acquire()
        clock.now += 2
        assert breaker.acquire() is not None
        assert late is not None
        breaker.settle(late, Weight.IGNORED)
        assert breaker.acquire() is None  # the second one is still running

    def test_a_cancelled_probe_gives_its_place_to_the_next(self, clock: VirtualClock) -> None:
        breaker = opened(clock, failures=1, open_for=2)
        clock.now += 2
        probe = breaker.acquire()
        assert probe is not None
        breaker.settle(probe, Weight.IGNORED)
        assert breaker.state is State.HALF_OPEN
        assert breaker.acquire() is not None

    def test_a_success_begun_before_the_trip_does_not_close_it(self, clock: VirtualClock) -> None:
        breaker = make(clock, failures=1, open_for=2)
        slow, bad = breaker.acquire(), breaker.acquire()
        assert slow is not None
        assert bad is not None
        breaker.settle(bad, Weight.FAILURE)
        clock.now += 2
        assert breaker.acquire() is not None  # half-open now
        breaker.settle(slow, Weight.SUCCESS)
        assert breaker.state is State.HALF_OPEN

    def test_failures_apart_do_not_add_up(self, clock: VirtualClock) -> None:
        breaker = make(clock, failures=2)
        for weight in (Weight.FAILURE, Weight.SUCCESS, Weight.FAILURE, Weight.SUCCESS):
            permit = breaker.acquire()
            assert permit is not None
            breaker.settle(permit, weight)
        assert breaker.state is State.CLOSED

    def test_switched_off_it_only_counts(self, clock: VirtualClock) -> None:
        breaker = make(clock, enabled=False, failures=1)
        for _ in range(9):
            permit = breaker.acquire()
            assert permit is not None
            breaker.settle(permit, Weight.FAILURE)
        assert (breaker.state, breaker.calls["failure"]) == (State.DISABLED, 9)


class TestWhatCounts:
    @pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit(), SystemExit()])
    def test_a_cancelled_call_is_ignored_and_gives_its_permit_back(
        self, clock: VirtualClock, error: BaseException
    ) -> None:
        world = World(clock, listener=_nobody())
        with pytest.raises(type(error)) as raised:
            world.run(world.begin(), error)
        assert raised.value is error
        assert _calls(world) == {"ignored": 1}

    def test_a_cancelled_task_is_ignored_and_gives_its_permit_back(self, clock: VirtualClock) -> None:
        world = World(clock, listener=_nobody())

        async def main() -> None:
            started = asyncio.Event()

            async def hang(*_: Any) -> None:
                started.set()
                await asyncio.Event().wait()

            task = asyncio.create_task(world.runner.run_async(world.begin(), hang))
            await started.wait()
            assert world.target.breaker.in_flight == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert _calls(world) == {"ignored": 1}

    def test_a_classifier_that_raises_does_not_strand_the_permit(self, world: World) -> None:
        error = ZeroDivisionError("not one of the client's")
        with pytest.raises(ZeroDivisionError) as raised:
            world.run(world.begin(), error)
        assert raised.value is error
        assert _calls(world) == {"ignored": 1}

    def test_calls_of_coroutines_are_counted_when_they_end(self, world: World) -> None:
        world.choose(retry={"attempts": 1})
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble())
        world.run(world.begin(), "fine")
        assert _calls(world) == {"failure": 1, "success": 1}

    def test_a_stream_that_dies_midway_is_a_failure(self, clock: VirtualClock) -> None:
        world = World(clock, listener=_nobody())
        operation = world.begin(streaming=True)
        world.run(operation, object())
        operation.item()
        operation.fail(Trouble(PERHAPS_DONE), final=True)
        assert _calls(world) == {"failure": 1}

    @pytest.mark.parametrize(("items", "outcome"), [(0, "ignored"), (1, "success")])
    def test_a_consumer_that_stops_early_is_no_failure(self, clock: VirtualClock, items: int, outcome: str) -> None:
        world = World(clock, listener=_nobody())
        operation = world.begin(streaming=True)
        world.run(operation, object())
        for _ in range(items):
            operation.item()
        operation.close()
        assert _calls(world) == {outcome: 1}

    def test_the_wall_clock_has_no_say(self) -> None:
        assert clock_module.monotonic is time.monotonic


class TestMemory:
    def test_6000_rejections_do_not_chain_tracebacks(self, world: World) -> None:
        world.choose(retry={"attempts": 1}, breaker={"failures": 1, "open_for": 10**6})
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble())
        lengths = set()
        for number in range(6000 if not world.is_async else 60):
            with pytest.raises(Refusal) as refused:
                world.run(world.begin())
            if number % 30 == 29:
                assert refused.value.__context__ is None
                lengths.add(len(traceback.format_exception(refused.value)))
        assert len(lengths) == 1

    def test_no_error_is_kept_once_the_operation_has_ended(self, world: World) -> None:
        world.choose(retry={"attempts": 2}, breaker={"failures": 2})

        class Prompt:
            """Stands for what the failing frames hold."""

        held: list[weakref.ref[Any]] = []

        def fail(*_: Any) -> None:
            prompt = Prompt()
            error = Trouble()
            held.extend((weakref.ref(prompt), weakref.ref(error)))
            raise error

        operation = world.begin()
        with pytest.raises(Trouble) as raised:
            world.run(operation, fail, fail)
        assert operation.is_over
        assert world.target.breaker.state is State.OPEN
        del raised
        gc.collect()
        assert [reference() for reference in held] == [None] * 4


FORK = """
import os, threading
from stormproof import install
from stormproof.resilience import operation
from stormproof.resilience.breaker import State
from stormproof.resilience.outcome import Weight

runner = install._runner()
breaker = runner._targets.get("openai", "localhost", 80).breaker
while breaker.state is State.CLOSED:
    breaker.settle(breaker.acquire(), Weight.FAILURE)
breaker._lock.acquire()
runner._targets._lock.acquire()
holder = threading.Thread(target=install._lock.acquire)
holder.start()
holder.join()
children = []
for _ in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        new = runner._targets.get("openai", "localhost", 80).breaker
        fine = new.state is State.CLOSED and new.acquire() is not None
        install.current_settings()
        os.write(write, f"{fine} {operation._rng.random()}".encode())
        os._exit(0)
    children.append(os.read(read, 100).decode().split())
    os.wait()
assert [fine for fine, _ in children] == ["True", "True"], children
assert len({jitter for _, jitter in children}) == 2, "both children wait alike"
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_forked_child_starts_afresh_whatever_locks_were_held() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)


def _nobody() -> Any:
    from stormproof.resilience.events import Listener

    return Listener()


def _calls(world: World) -> dict[str, int]:
    """The outcomes that were counted, once nothing is in flight any more."""
    breaker = world.target.breaker
    assert breaker.in_flight == 0
    return {outcome: count for outcome, count in breaker.calls.items() if count}
