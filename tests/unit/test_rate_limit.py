"""The rate limit: a burst, then exactly its rate; and calls that keep to it."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from stormproof.errors import RateLimitedError, RefusedError
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import GaveUp
from stormproof.resilience.policy import BulkheadPolicy, Policy, RateLimitPolicy, RetryPolicy
from stormproof.resilience.rate_limit import RateLimit

from .helpers import Recorder, Trouble, VirtualClock, World
from .limits import Place, at_once, wait_at

NOW = 1000.0


def rate_limit(rate: float = 4.0, burst: int = 1, max_wait: float = 5.0) -> RateLimit:
    return RateLimit(RateLimitPolicy(rate=rate, burst=burst, max_wait=max_wait))


def counts(limit: RateLimit) -> tuple[int, int, int]:
    return limit.calls["passed"], limit.calls["delayed"], limit.calls["rejected"]


class TestAlone:
    @pytest.mark.parametrize("burst", [1, 2, 5])
    def test_a_burst_at_once_and_then_the_rate(self, burst: int) -> None:
        limit = rate_limit(rate=4, burst=burst)
        waits = [wait_at(limit, NOW, math.inf) for _ in range(burst + 3)]
        assert waits == [0.0] * burst + [0.25, 0.5, 0.75]
        assert counts(limit) == (burst, 3, 0)

    def test_who_keeps_to_the_rate_never_waits(self) -> None:
        limit = rate_limit(rate=4)
        assert [wait_at(limit, NOW + n * 0.25, math.inf) for n in range(100)] == [0.0] * 100

    def test_who_is_a_little_faster_waits_a_little_longer_each_time(self) -> None:
        limit = rate_limit(rate=4)
        assert [wait_at(limit, NOW + n * 0.125, math.inf) for n in range(5)] == [0.0, 0.125, 0.25, 0.375, 0.5]

    def test_a_pause_saves_up_no_more_than_a_burst(self) -> None:
        limit = rate_limit(rate=4, burst=3)
        for _ in range(3):
            wait_at(limit, NOW, math.inf)
        waits = [wait_at(limit, NOW + 3600, math.inf) for _ in range(5)]
        assert waits == [0.0, 0.0, 0.0, 0.25, 0.5]

    def test_half_a_pause_saves_up_half(self) -> None:
        limit = rate_limit(rate=4, burst=4)
        for _ in range(4):
            wait_at(limit, NOW, math.inf)
        assert [wait_at(limit, NOW + 0.5, math.inf) for _ in range(3)] == [0.0, 0.0, 0.25]

    @pytest.mark.parametrize(("max_wait", "longest"), [(0.5, 9.0), (9.0, 0.5)])
    def test_a_wait_that_is_too_long_is_refused_and_costs_nothing(self, max_wait: float, longest: float) -> None:
        limit = rate_limit(rate=4, max_wait=max_wait)
        assert [wait_at(limit, NOW, longest) for _ in range(5)] == [0.0, 0.25, 0.5, None, None]
        assert counts(limit) == (1, 2, 2)
        assert wait_at(limit, NOW + 0.25, longest) == 0.5

    def test_who_has_no_time_at_all_may_still_pass(self) -> None:
        limit = rate_limit()
        assert [wait_at(limit, NOW, 0.0) for _ in range(2)] == [0.0, None]

    def test_after_a_fork_it_is_as_new(self) -> None:
        limit = rate_limit()
        wait_at(limit, NOW, math.inf)
        wait_at(limit, NOW, 0.0)
        with limit._lock:
            limit.after_fork()
            assert counts(limit) == (0, 0, 0)
            assert wait_at(limit, NOW, math.inf) == 0.0

    def test_a_place_is_given_back_once(self) -> None:
        limit = rate_limit(rate=4)
        place = limit.reserve(NOW, math.inf)
        assert place is not None
        limit.give_back(place)
        assert wait_at(limit, NOW, math.inf) == 0.0
        limit.give_back(place)  # it is another's now
        assert wait_at(limit, NOW, math.inf) == 0.25

    def test_what_the_parent_has_reserved_is_not_given_back_in_its_child(self) -> None:
        limit = rate_limit(rate=4)
        place = limit.reserve(NOW, math.inf)
        assert place is not None
        limit.after_fork()
        assert wait_at(limit, NOW, math.inf) == 0.0
        limit.give_back(place)
        assert wait_at(limit, NOW, math.inf) == 0.25

    def test_threads_share_it_exactly(self) -> None:
        limit = rate_limit(rate=4, burst=10, max_wait=1000)
        waits = at_once(8, lambda: [wait_at(limit, NOW, math.inf) for _ in range(25)])
        found = sorted(wait for part in waits for wait in part)
        assert found == [0.0] * 10 + [n * 0.25 for n in range(1, 191)]
        assert counts(limit) == (10, 190, 0)

    def test_an_interval_is_one_by_the_rate(self) -> None:
        slow = rate_limit(rate=0.5, max_wait=100)
        assert [wait_at(slow, NOW, math.inf) for _ in range(3)] == [0.0, 2.0, 4.0]


pauses = st.lists(st.one_of(st.just(0.0), st.floats(0.0, 3.0)), min_size=1, max_size=60)


@given(pauses=pauses, rate=st.floats(0.1, 50.0), burst=st.integers(1, 10), max_wait=st.floats(0.001, 100.0))
def test_never_more_than_the_burst_and_the_rate_in_any_window(
    pauses: list[float], rate: float, burst: int, max_wait: float
) -> None:
    limit, now, sent = rate_limit(rate, burst, max_wait), NOW, []
    for pause in pauses:
        now += pause
        wait = wait_at(limit, now, math.inf)
        if wait is not None:
            assert 0.0 <= wait <= max_wait
            sent.append(now + wait)
    assert_within(sent, rate, burst)
    assert counts(limit)[0] + counts(limit)[1] == len(sent)


@given(pauses=pauses, rate=st.floats(0.1, 50.0), burst=st.integers(1, 10), longest=st.floats(0.0, 3.0))
def test_and_never_less_than_it_allows(pauses: list[float], rate: float, burst: int, longest: float) -> None:
    """Refused is only who would otherwise have broken the limit: against a bucket that is counted in tokens."""
    limit, now, tokens = rate_limit(rate, burst, 100.0), NOW, float(burst)
    for pause in pauses:
        now += pause
        tokens = min(burst, tokens + pause * rate)
        needed = max(0.0, (1.0 - tokens) / rate)
        wait = wait_at(limit, now, longest)
        if wait is None:
            assert needed > longest - 1e-6
        else:
            assert wait == pytest.approx(needed, abs=1e-6)
            tokens -= 1.0


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.125, 0.25, 1.0]), st.one_of(st.none(), st.integers(0, 5))), max_size=30
    ),
    burst=st.integers(1, 4),
)
@example(steps=[(0.0, None), (0.0, None), (0.0, None), (0.0, 0), (0.0, None)], burst=1)  # another stands behind it
def test_nor_if_some_give_up_while_they_wait(steps: list[tuple[float, int | None]], burst: int) -> None:
    """Each step, after a pause: a call is made (None), or one of those that wait is cancelled."""
    clock = VirtualClock()
    world = World(clock, Recorder())
    limited(world, rate=4.0, burst=burst, max_wait=100.0, deadline=10**6)
    waiting: list[tuple[Operation, float]] = []
    sent = []
    for pause, cancelled in steps:
        clock.now += pause
        sent += [send_at for _, send_at in waiting if send_at <= clock.now]
        waiting = [(operation, send_at) for operation, send_at in waiting if send_at > clock.now]
        if cancelled is None:
            operation = world.begin()
            waiting.append((operation, clock.now + operation.admit(turnless)))
        elif cancelled < len(waiting) and waiting[cancelled][1] > clock.now:
            waiting.pop(cancelled)[0].abandon(GaveUp.CANCELLED, "CancelledError")
    assert_within(sorted(sent + [send_at for _, send_at in waiting]), 4.0, burst)


def test_what_would_have_come_back_by_itself_is_not_given_back(world: World, clock: VirtualClock) -> None:
    """A call waits for the bulkhead, past the time at which its token is there again, and is then refused."""
    limit = limited(world, rate=4.0, bulkhead=BulkheadPolicy(limit=1))
    full = world.target.bulkhead
    assert full is not None
    full.enter()
    late = world.begin()
    assert late.admit(Place) > 0
    clock.now += 1
    assert wait_at(limit, clock.now, math.inf) == 0.0
    late.abandon(GaveUp.CANCELLED, "CancelledError")
    assert wait_at(limit, clock.now, math.inf) == 0.25


def assert_within(sent: list[float], rate: float, burst: int) -> None:
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            allowed = burst + rate * (sent[last] - sent[first])
            assert last - first + 1 <= allowed * (1 + 1e-9) + 1e-6


# -- calls ------------------------------------------------------------------------------------------------------------


def limited(
    world: World, *, rate: float = 1.0, burst: int = 1, max_wait: float = 5.0, deadline: float = 30.0, **others: Any
) -> RateLimit:
    """The rate limit of the world's target."""
    world.policy = Policy(
        deadline=deadline,
        retry=RetryPolicy(jitter="none", base=0.25),
        rate_limit=RateLimitPolicy(rate=rate, burst=burst, max_wait=max_wait),
        **others,
    )
    found = world.target.rate_limit
    assert found is not None
    return found


class TestCalls:
    def test_without_a_rate_there_is_none(self, world: World) -> None:
        assert world.target.rate_limit is None

    def test_calls_are_spread(self, world: World) -> None:
        limit, began, started = limited(world, rate=4, burst=2), world.clock.now, []
        for _ in range(5):
            operation = world.begin()
            assert world.run(operation, "fine") == "fine"
            attempt = operation.attempt
            assert attempt is not None
            started.append((attempt.started - began, attempt.queued, attempt.queued_by))
        assert started == [(0, 0, None), (0, 0, None), *((n, 0.25, "rate_limit") for n in (0.25, 0.5, 0.75))]
        assert counts(limit) == (2, 3, 0)
        assert world.clock.waits == [0.25] * 3

    def test_the_wait_is_no_delay_of_a_retry(self, world: World) -> None:
        wait_at(limited(world), world.clock.now, math.inf)
        operation = world.begin()
        world.run(operation, "fine")
        assert (operation.queued, operation.total_delay) == (1.0, 0.0)

    def test_a_retry_reserves_anew(self, world: World) -> None:
        limit, began = limited(world, rate=1), world.clock.now
        operation = world.begin()
        assert world.run(operation, Trouble(), "fine") == "fine"
        attempt = operation.attempt
        assert attempt is not None
        assert (attempt.started - began, attempt.delay, attempt.queued) == (1.0, 0.25, 0.75)
        assert (operation.total_delay, operation.queued, counts(limit)) == (0.25, 0.75, (1, 1, 0))

    def test_who_would_wait_too_long_is_refused_at_once(self, world: World) -> None:
        limit, began = limited(world, rate=0.1, max_wait=5), world.clock.now
        wait_at(limit, began, math.inf)
        operation = world.begin()
        with pytest.raises(RateLimitedError) as raised:
            world.run(operation, "never")
        assert isinstance(raised.value, ConnectionError)  # the client's own kind
        assert isinstance(raised.value, RefusedError)
        assert str(raised.value) == (
            "rate limited: the call to openai/localhost:80 would have to wait too long, so it was not sent (stormproof)"
        )
        assert (world.clock.now, operation.attempts, operation.error_type) == (began, 0, "rate_limited")
        assert (operation.gave_up, operation.is_over, counts(limit)) == (None, True, (1, 0, 1))
        assert world.target.breaker.in_flight == 0
        assert isinstance(world.listener, Recorder)
        assert world.listener.steps == ["operation", "over rate_limited"]

    def test_who_has_not_enough_time_left_too(self, world: World) -> None:
        limit = limited(world, rate=0.25, max_wait=100, deadline=3)
        wait_at(limit, world.clock.now, math.inf)
        with pytest.raises(RateLimitedError):
            world.run(world.begin(), "never")
        limited_again = limited(world, rate=0.25, max_wait=100, deadline=4)
        assert limited_again is limit  # targets keep the policy they were made with
        assert wait_at(limit, world.clock.now, 4.0) == 4.0  # and what was refused cost nothing

    def test_a_retry_that_is_refused_gets_the_last_real_error(self, world: World) -> None:
        limited(world, rate=0.1, max_wait=5)
        operation, error = world.begin(), Trouble()
        with pytest.raises(Trouble) as raised:
            world.run(operation, error, "never")
        assert raised.value is error
        assert (operation.attempts, operation.gave_up, operation.error_type) == (1, GaveUp.RATE_LIMIT, "503")
        assert operation.is_over
        assert operation.error is None

    def test_who_is_refused_by_the_bulkhead_gives_its_slot_back(self, world: World) -> None:
        limit = limited(world, rate=1, bulkhead=BulkheadPolicy(limit=1, queue=0))
        full = world.target.bulkhead
        assert full is not None
        full.enter()
        for _ in range(3):
            with pytest.raises(RefusedError):
                world.run(world.begin(), "never")
        full.leave()
        began = world.clock.now
        assert world.run(world.begin(), "fine") == "fine"
        assert world.clock.now == began
        assert counts(limit) == (4, 0, 0)

    def test_the_rate_limit_is_asked_before_the_bulkhead(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who waits for the rate takes no place from those who could be sent now."""
        limit = limited(world, rate=1, bulkhead=BulkheadPolicy(limit=1))
        full, inside = world.target.bulkhead, []
        assert full is not None
        wait_at(limit, world.clock.now, math.inf)
        sleep = world.clock.sleep

        def look(seconds: float) -> None:
            inside.append(full.in_flight)
            sleep(seconds)

        async def look_async(seconds: float) -> None:
            look(seconds)

        monkeypatch.setattr("stormproof.resilience.waiting.pause", look)
        monkeypatch.setattr("stormproof.resilience.waiting.pause_task", look_async)
        assert world.run(world.begin(), lambda *_: full.in_flight) == 1
        assert inside == [0]

    def test_what_an_attempt_cost_is_spent_however_it_ends(self, world: World) -> None:
        limit = limited(world, rate=1)
        with pytest.raises(KeyboardInterrupt):
            world.run(world.begin(), KeyboardInterrupt())
        assert wait_at(limit, world.clock.now, math.inf) == 1.0

    def test_an_attempt_knows_when_to_be_sent_and_does_not_reserve_twice(self, world: World) -> None:
        """Woken early, it waits for the rest: what it has asked for stands."""
        limit = limited(world, rate=1)
        wait_at(limit, world.clock.now, math.inf)
        operation = world.begin()
        assert operation.admit(turnless) == 1.0
        world.clock.now += 0.25
        assert operation.admit(turnless) == 0.75
        world.clock.now += 0.75
        assert operation.admit(turnless) == 0.0
        assert operation.attempt is not None
        assert operation.attempt.queued == 1.0
        assert counts(limit) == (1, 1, 0)


def turnless() -> Any:
    raise AssertionError("nobody waits for a turn here")


class TestCancelled:
    def test_a_task_that_is_cancelled_gives_its_slot_back(
        self, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(clock, Recorder())
        limit = limited(world)
        wait_at(limit, clock.now, math.inf)
        operation = world.begin()

        async def never(operation: Operation, attempt: Attempt) -> None:
            raise AssertionError("it was cancelled before")

        async def main() -> None:
            waits = asyncio.Event()

            async def wait_for_ever(_: float) -> None:
                waits.set()
                await asyncio.Event().wait()

            monkeypatch.setattr("stormproof.resilience.waiting.pause_task", wait_for_ever)
            task = asyncio.create_task(world.runner.run_async(operation, never))
            await waits.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert (operation.gave_up, operation.error_type) == (GaveUp.CANCELLED, "CancelledError")
        assert (operation.is_over, world.target.breaker.in_flight) == (True, 0)
        assert wait_at(limit, clock.now, math.inf) == 1.0  # and not 2

    def test_one_that_is_interrupted_in_a_thread(self, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(clock, Recorder())
        limit = limited(world)
        wait_at(limit, clock.now, math.inf)

        def interrupt(_: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("stormproof.resilience.waiting.pause", interrupt)
        operation = world.begin()
        with pytest.raises(KeyboardInterrupt):
            world.run(operation, "never")
        assert (operation.gave_up, operation.error_type) == (GaveUp.CANCELLED, "KeyboardInterrupt")
        assert wait_at(limit, clock.now, math.inf) == 1.0
