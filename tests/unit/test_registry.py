"""The registry: bounded, the least recently used idle target goes first, and what is known of each."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from stormproof.resilience.attempt import Attempt
from stormproof.resilience.breaker import Permit, State
from stormproof.resilience.events import Fanout
from stormproof.resilience.outcome import SUCCESS
from stormproof.resilience.policy import BreakerPolicy, BulkheadPolicy, Policy, RateLimitPolicy, RetryPolicy
from stormproof.resilience.targets import OVERFLOW, LastError, Target, Targets
from stormproof.telemetry.spans import Spans

from .helpers import FakeClient, Trouble, VirtualClock, World
from .limits import Place, at_once, wait_at
from .signals import Signals


def registry(clock: VirtualClock, bound: int = 3, policy: Policy | None = None) -> Targets:
    chosen = policy or Policy()
    return Targets(lambda _: chosen, clock, lambda *_: None, bound)


def use(targets: Targets, port: int, system: str = "openai") -> Target:
    """A call, a second later than the one before."""
    target = targets.get(system, "h", port)
    target._clock.now += 1  # type: ignore[attr-defined]
    target.last_used = target._clock()
    return target


def ports(targets: Targets) -> list[int]:
    return sorted(target.port for target in targets)


class TestNames:
    def test_one_an_address(self, clock: VirtualClock) -> None:
        targets = registry(clock)
        target = targets.get("openai", "h", 1)
        assert targets.get("openai", "h", 1) is target
        assert (target.name, target.system, target.host, target.port) == ("openai/h:1", "openai", "h", 1)
        assert target.breaker.name == "openai/h:1"
        others = [targets.get(*key) for key in (("openai", "h", 2), ("openai", "g", 1), ("ollama", "h", 1))]
        assert target not in others

    def test_each_has_the_policy_of_its_system(self, clock: VirtualClock) -> None:
        policies = {"openai": Policy(deadline=7)}
        targets = Targets(lambda system: policies.get(system, Policy()), clock, lambda *_: None)
        assert targets.get("openai", "h", 1).policy.deadline == 7
        assert targets.get("ollama", "h", 1).policy == Policy()

    def test_limits_are_there_if_they_are_chosen(self, clock: VirtualClock) -> None:
        bare = registry(clock).get("openai", "h", 1)
        assert (bare.bulkhead, bare.rate_limit, bare.is_limited, bare.is_simple) == (None, None, False, True)
        for policy in (Policy(bulkhead=BulkheadPolicy(limit=1)), Policy(rate_limit=RateLimitPolicy(rate=1))):
            limited = registry(clock, policy=policy).get("openai", "h", 1)
            assert (limited.is_limited, limited.is_simple) == (True, False)
        picky = registry(clock, policy=Policy(retry=RetryPolicy(on_result=bool))).get("openai", "h", 1)
        assert (picky.is_limited, picky.is_simple) == (False, False)

    @pytest.mark.parametrize("strategy", ["adaptive", "window"])
    def test_the_breaker_is_the_strategys(self, clock: VirtualClock, strategy: Any) -> None:
        policy = Policy(breaker=BreakerPolicy(strategy=strategy))
        assert registry(clock, policy=policy).get("openai", "h", 1).breaker.strategy == strategy


class TestRoom:
    def test_the_least_recently_used_goes_first(self, clock: VirtualClock) -> None:
        targets = registry(clock)
        for port in (1, 2, 3):
            use(targets, port)
        use(targets, 1)
        use(targets, 4)
        assert ports(targets) == [1, 3, 4]
        use(targets, 3)
        use(targets, 5)
        assert ports(targets) == [3, 4, 5]

    def test_one_that_was_never_used_counts_from_when_it_was_made(self, clock: VirtualClock) -> None:
        targets = registry(clock)
        use(targets, 1)
        targets.get("openai", "h", 2)
        use(targets, 3)
        use(targets, 1)
        use(targets, 4)
        assert ports(targets) == [1, 3, 4]

    def test_one_that_is_known_is_found_without_waiting_for_anybody(self, clock: VirtualClock) -> None:
        targets = registry(clock)
        target = targets.get("openai", "h", 1)
        targets._lock = None  # type: ignore[assignment]  # which nobody could take
        assert targets.get("openai", "h", 1) is target

    def test_a_thousand_are_kept_if_nothing_is_said(self, clock: VirtualClock) -> None:
        assert Targets(lambda _: Policy(), clock, lambda *_: None)._bound == 1000

    def test_a_call_is_a_use(self, world: World) -> None:
        world.targets._bound = 2
        for port in (1, 2, 1, 3):
            world.clock.now += 1
            world.run(world.begin(port=port), "fine")
        assert ports(world.targets) == [1, 3]

    def test_one_that_nobody_watches_too(self, clock: VirtualClock) -> None:
        world = World(clock, Fanout())
        world.targets._bound = 2
        for port in (1, 2, 1, 3):
            clock.now += 1
            world.runner.call(world.call(port=port), int)
        assert ports(world.targets) == [1, 3]

    @pytest.mark.parametrize(("bound", "gone"), [(3, 1), (9, 1), (10, 2), (20, 3), (35, 4)])
    def test_one_in_ten_goes_at_a_time(self, clock: VirtualClock, bound: int, gone: int) -> None:
        targets = registry(clock, bound)
        for port in range(bound):
            use(targets, port)
        assert len(targets) == bound
        use(targets, bound)
        assert ports(targets) == list(range(gone, bound + 1))

    def test_what_was_forgotten_begins_anew(self, clock: VirtualClock) -> None:
        targets = registry(clock, bound=1)
        first = use(targets, 1)
        use(targets, 2)
        assert use(targets, 1) is not first


class TestKept:
    """What would be lost if it were forgotten stays."""

    @pytest.fixture(
        params=[
            "busy",
            "open",
            "half-open",
            "forced open",
            "disabled",
            "in the queue",
            "in the line",
            "in the bulkhead",
        ]
    )
    def kept(self, request: pytest.FixtureRequest, clock: VirtualClock) -> Targets:
        breaker = BreakerPolicy(strategy="window", failures=1, open_jitter=0, open_for=1, successes=2)
        targets = registry(clock, 2, Policy(breaker=breaker, bulkhead=BulkheadPolicy(limit=1)))
        target = use(targets, 1)
        assert target.bulkhead is not None
        match request.param:
            case "busy":
                target.breaker.admit(Permit(), clock())
            case "open":
                trip(target)
            case "half-open":
                trip(target)
                clock.now += 1
                settle(target, SUCCESS)
                assert target.breaker.state is State.HALF_OPEN
            case "forced open":
                target.force_open()
            case "disabled":
                target.disable()
            case "in the queue":
                target.bulkhead._queue[Place()] = None
            case "in the line":
                target.breaker.waiting = 1
            case "in the bulkhead":
                target.breaker.enter(clock())
        return targets

    def test_it_stays(self, kept: Targets) -> None:
        for port in range(2, 6):
            use(kept, port)
        assert ports(kept) == [1, 5]

    def test_until_it_is_idle_again(self, kept: Targets) -> None:
        target = kept.get("openai", "h", 1)
        target.after_fork()
        use(kept, 2)
        use(kept, 3)
        assert ports(kept) == [2, 3]

    def test_a_breaker_that_is_switched_off_keeps_none(self, clock: VirtualClock) -> None:
        targets = registry(clock, 2, Policy(breaker=BreakerPolicy(enabled=False)))
        for port in range(5):
            use(targets, port)
        assert ports(targets) == [3, 4]

    def test_unless_someone_has_opened_it(self, clock: VirtualClock) -> None:
        targets = registry(clock, 2, Policy(breaker=BreakerPolicy(enabled=False)))
        use(targets, 0).force_open()
        use(targets, 1)
        use(targets, 2)
        assert ports(targets) == [0, 2]


class TestOverflow:
    def test_if_none_can_go_the_new_ones_share_one(self, clock: VirtualClock) -> None:
        targets = registry(clock, 2)
        for port in (1, 2):
            use(targets, port).force_open()
        shared = use(targets, 3)
        assert (shared.name, shared.host, shared.port) == ("openai/_OTHER", "_OTHER", 0)
        assert use(targets, 4) is shared
        assert use(targets, 4, "qdrant").name == "qdrant/_OTHER"
        assert len(targets) == 4
        assert OVERFLOW == "_OTHER"

    def test_it_is_not_what_makes_room(self, clock: VirtualClock) -> None:
        targets = registry(clock, 2)
        for port in (1, 2):
            use(targets, port).force_open()
        shared = use(targets, 3)
        targets.get("openai", "h", 1).close()
        assert len(targets) == 3
        assert use(targets, 5).name == "openai/h:5"  # in place of the first
        assert shared in list(targets)
        assert ports(targets) == [0, 2, 5]

    def test_those_that_are_known_stay_their_own(self, clock: VirtualClock) -> None:
        targets = registry(clock, 2)
        known = [use(targets, port) for port in (1, 2)]
        for target in known:
            target.force_open()
        use(targets, 3)
        assert [targets.get("openai", "h", port) for port in (1, 2)] == known


class TestSize:
    def test_a_hundred_thousand_names_leave_it_at_its_bound(self, clock: VirtualClock) -> None:
        targets = registry(clock, 1000)
        for port in range(100_000):
            targets.get("openai", "h", port)
            assert len(targets) <= 1000
        assert len(targets) >= 900
        assert targets.get("openai", "h", 99_999) in list(targets)

    @pytest.mark.parametrize("strategy", ["adaptive", "window"])
    def test_an_idle_one_is_small(self, clock: VirtualClock, strategy: Any) -> None:
        policy = Policy(breaker=BreakerPolicy(strategy=strategy))
        targets = registry(clock, 1000, policy)
        targets.get("openai", "h", 0)  # what all share is made with the first
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for port in range(1, 501):
                targets.get("openai", "h", port)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(targets) == 501
        assert (after - before) / 500 < 4096


class TestForget:
    def test_a_systems_targets_are_made_anew(self, clock: VirtualClock) -> None:
        policies = {"openai": Policy(deadline=1)}
        targets = Targets(lambda system: policies.get(system, Policy()), clock, lambda *_: None)
        old, other = targets.get("openai", "h", 1), targets.get("ollama", "h", 1)
        policies["openai"] = Policy(deadline=2)
        assert targets.get("openai", "h", 1) is old
        targets.forget("openai")
        assert [target.name for target in targets] == ["ollama/h:1"]
        assert targets.get("openai", "h", 1).policy.deadline == 2
        assert targets.get("ollama", "h", 1) is other

    def test_a_call_that_runs_ends_where_it_began(self, world: World) -> None:
        old = world.target

        def forget(*_: Any) -> str:
            world.targets.forget("openai")
            assert world.target is not old
            return "fine"

        assert world.run(world.begin(), forget) == "fine"
        assert (old.breaker.in_flight, old.breaker.calls["success"]) == (0, 1)
        assert world.target.breaker.calls["success"] == 0


def test_threads_agree_on_a_target(clock: VirtualClock) -> None:
    targets = registry(clock)
    assert len(set(map(id, at_once(20, lambda: targets.get("openai", "h", 1))))) == 1


def test_after_a_fork_nothing_is_known_and_no_lock_is_held(clock: VirtualClock) -> None:
    policy = Policy(bulkhead=BulkheadPolicy(limit=1), rate_limit=RateLimitPolicy(rate=1))
    targets = registry(clock, policy=policy)
    target = targets.get("openai", "h", 1)
    assert target.bulkhead is not None
    assert target.rate_limit is not None
    target.bulkhead.enter()
    target.rate_limit.reserve(clock(), 9.0)
    target.budget.withdraw()
    with targets._lock, target.bulkhead._lock, target.rate_limit._lock, target.budget._lock, target.breaker._lock:
        targets.after_fork()
        assert len(targets) == 0
        # The forking thread may be in the middle of a call to the old one.
        assert (target.bulkhead.in_flight, wait_at(target.rate_limit, clock(), 0.0)) == (0, 0.0)
        assert target.budget.share_left == 1.0
        assert target.breaker.snapshot().in_flight == 0
        assert targets.get("openai", "h", 1) is not target


# -- what is known of a target ----------------------------------------------------------------------------------------


class TestSnapshot:
    def test_of_one_that_was_never_used(self, clock: VirtualClock) -> None:
        target = registry(clock).get("openai", "h", 1)
        seen = target.snapshot()
        assert (seen.name, seen.system, seen.host, seen.port) == ("openai/h:1", "openai", "h", 1)
        assert (seen.budget, seen.in_flight, seen.queued) == (1.0, 0, 0)
        assert (seen.last_error, seen.last_error_age) == (None, None)
        assert seen.breaker == target.breaker.snapshot()
        assert (seen.breaker.state, seen.breaker.name) == (State.CLOSED, "openai/h:1")

    def test_of_one_that_is_busy(self, world: World) -> None:
        world.policy = Policy(bulkhead=BulkheadPolicy(limit=1))
        target = world.target

        def look(*_: Any) -> Any:
            assert target.bulkhead is not None
            target.bulkhead.queue(Place(alive=False))
            return target.snapshot()

        seen = world.run(world.begin(), look)
        assert (seen.in_flight, seen.queued, seen.breaker.in_flight) == (1, 1, 1)
        assert target.snapshot().in_flight == 0

    def test_of_one_that_has_failed(self, world: World) -> None:
        world.policy = Policy(retry=RetryPolicy(attempts=2, jitter="none", base=1))
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble(), Trouble())
        failed_at = world.clock.now
        world.clock.now += 7
        seen = world.target.snapshot()
        assert seen.last_error == LastError("503", failed_at)
        assert (seen.last_error_age, seen.budget) == (7.0, 0.998)
        assert (seen.breaker.calls["failure"], seen.breaker.window.failures) == (2, 2)

    def test_its_last_error_leads_to_the_trace(self, world: World) -> None:
        signals = Signals()
        spans = Spans(signals.tracer_provider, "1", breaker_spans=True)
        traced = World(world.clock, Fanout(spans), is_async=world.is_async, client=FakeClient())
        with pytest.raises(Trouble):
            traced.run(traced.begin(attempts=1), Trouble())
        (attempt,) = signals.attempts()
        assert attempt.context is not None
        error = traced.target.snapshot().last_error
        assert error is not None
        assert (error.type, error.trace_id) == ("503", f"{attempt.context.trace_id:032x}")

    def test_neither_the_error_nor_a_success_is_kept(self, world: World) -> None:
        with pytest.raises(Trouble):
            world.run(world.begin(attempts=1), Trouble())
        error = world.target.last_error
        assert isinstance(error, LastError)
        world.run(world.begin(), "fine")
        assert world.target.last_error is error  # what was last wrong, however long ago


class TestByHand:
    def test_open_close_disable(self, world: World) -> None:
        target = world.target
        for act, state in (
            (target.force_open, State.FORCED_OPEN),
            (target.disable, State.DISABLED),
            (target.close, State.CLOSED),
        ):
            act()
            assert target.breaker.state is state

    def test_reset_is_as_new_but_for_what_was_counted(self, world: World) -> None:
        world.policy = Policy(retry=RetryPolicy(attempts=2))
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble(), Trouble())
        target = world.target
        target.force_open()
        assert target.budget.share_left < 1
        target.reset()
        assert (target.breaker.state, target.budget.share_left, target.last_error) == (State.CLOSED, 1.0, None)
        assert target.breaker.calls["failure"] == 2

    def test_close_leaves_the_budget_as_it_is(self, world: World) -> None:
        world.target.budget.withdraw()
        world.target.close()
        assert world.target.budget.share_left < 1


def settle(target: Target, verdict: Any) -> None:
    permit = Attempt()
    assert target.breaker.admit(permit, target._clock()) == 0
    target.breaker.settle(permit, verdict, target._clock(), 0.0)


def trip(target: Target) -> None:
    settle(target, Trouble().verdict)
    assert target.breaker.state is State.OPEN
