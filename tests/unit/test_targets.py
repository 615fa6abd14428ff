"""The registry of targets: bounded, and never forgetting one that is in use or in trouble; and what a target tells."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest

from stormproof.resilience.breaker import Permit, State
from stormproof.resilience.events import Listener
from stormproof.resilience.outcome import SUCCESS, Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy, BulkheadPolicy, Policy, RateLimitPolicy
from stormproof.resilience.targets import LastError, Target, Targets
from stormproof.resilience.waiting import ThreadTurn

from .helpers import CLASSICAL, REFUSED, TIMED_OUT, Trouble, VirtualClock, World, asked_to_wait, at_once, count


@pytest.fixture
def targets(clock: VirtualClock) -> Targets:
    policies = {"openai": Policy(deadline=7, breaker=BreakerPolicy(**{**CLASSICAL, "failures": 1}))}
    return Targets(lambda system: policies.get(system, Policy()), clock, lambda *_: None, bound=3)


def names(targets: Targets) -> list[str]:
    return [target.name for target in targets]


def trip(target: Target) -> None:
    count(target)
    assert target.breaker.state is State.OPEN


class TestRegistry:
    def test_one_target_an_address_with_the_policy_of_its_system(self, targets: Targets) -> None:
        first = targets.get("openai", "a", 1)
        assert first is targets.get("openai", "a", 1)
        assert first is not targets.get("ollama", "a", 1)
        assert (first.name, first.policy.deadline, first.breaker.name) == ("openai/a:1", 7, "openai/a:1")
        assert targets.get("ollama", "a", 1).policy == Policy()

    def test_the_policy_chooses_the_strategy_and_the_limits(self, clock: VirtualClock) -> None:
        policies = {
            "openai": Policy(),
            "ollama": Policy(breaker=BreakerPolicy(strategy="window"), bulkhead=BulkheadPolicy(limit=2)),
            "qdrant": Policy(rate_limit=RateLimitPolicy(rate=5)),
        }
        targets = Targets(lambda system: policies[system], clock, lambda *_: None)
        openai, ollama, qdrant = (targets.get(system, "a", 1) for system in policies)
        assert [target.breaker.strategy for target in targets] == ["adaptive", "window", "adaptive"]
        assert (openai.bulkhead, openai.rate_limit, openai.is_limited) == (None, None, False)
        assert (ollama.bulkhead is not None, ollama.rate_limit, ollama.is_limited) == (True, None, True)
        assert (qdrant.bulkhead, qdrant.rate_limit is not None, qdrant.is_limited) == (None, True, True)

    def test_the_least_recently_used_idle_one_makes_room(self, clock: VirtualClock) -> None:
        world = World(clock, Listener())
        world.targets = world.runner.targets = Targets(lambda _: Policy(), clock, lambda *_: None, bound=3)
        for host in ("a", "b", "c", "a", "d"):
            clock.now += 1
            world.run(world.begin(host=host), "fine")
        assert names(world.targets) == ["openai/a:80", "openai/c:80", "openai/d:80"]

    def test_some_make_room_at_a_time(self, clock: VirtualClock) -> None:
        targets = Targets(lambda _: Policy(), clock, lambda *_: None, bound=100)
        for port in range(1, 102):
            clock.now += 1
            targets.get("openai", "a", port)
        assert names(targets) == [f"openai/a:{port}" for port in range(12, 102)]

    def test_one_that_is_open_or_in_use_is_kept(self, targets: Targets) -> None:
        trip(targets.get("openai", "a", 1))
        in_use = targets.get("openai", "a", 2)
        assert in_use.breaker.admit(Permit(), 1000.0) == 0
        for port in (3, 4, 5):
            targets.get("openai", "a", port)
        assert names(targets) == ["openai/a:1", "openai/a:2", "openai/a:5"]

    @pytest.mark.parametrize("steer", [Target.force_open, Target.disable])
    def test_one_that_is_steered_by_hand_is_kept(self, targets: Targets, steer: object) -> None:
        assert callable(steer)
        steer(targets.get("openai", "a", 1))
        for port in (2, 3, 4, 5):
            targets.get("openai", "a", port)
        assert "openai/a:1" in names(targets)

    def test_one_whose_breaker_is_switched_off_can_go(self, clock: VirtualClock) -> None:
        policy = Policy(breaker=BreakerPolicy(enabled=False))
        targets = Targets(lambda _: policy, clock, lambda *_: None, bound=1)
        for port in (1, 2, 3):
            targets.get("openai", "a", port)
        assert names(targets) == ["openai/a:3"]

    def test_when_none_can_go_the_new_ones_share_one(self, targets: Targets) -> None:
        for port in (1, 2, 3):
            trip(targets.get("openai", "a", port))
        shared = targets.get("openai", "a", 4)
        assert shared.name == "openai/_OTHER"
        assert targets.get("openai", "b", 5) is shared
        assert targets.get("qdrant", "b", 5).name == "qdrant/_OTHER"
        assert len(targets) == 3 + 2  # at most one more for each system

    def test_threads_agree_on_the_target(self, targets: Targets) -> None:
        found = at_once(20, lambda: targets.get("openai", "a", 1))
        assert len(set(map(id, found))) == 1

    def test_after_a_fork_nothing_is_known_and_no_lock_is_held(self, targets: Targets) -> None:
        trip(targets.get("openai", "a", 1))
        with targets._lock:
            targets.after_fork()
            assert targets.get("openai", "a", 1).breaker.state is State.CLOSED

    def test_a_system_can_be_forgotten(self, targets: Targets) -> None:
        openai, qdrant = targets.get("openai", "a", 1), targets.get("qdrant", "a", 1)
        targets.forget("openai")
        assert targets.get("openai", "a", 1) is not openai
        assert targets.get("qdrant", "a", 1) is qdrant


class TestSnapshot:
    def test_of_one_that_is_new(self, world: World) -> None:
        snapshot = world.target.snapshot()
        assert (snapshot.name, snapshot.system, snapshot.host, snapshot.port) == (
            "openai/localhost:80", "openai", "localhost", 80,
        )  # fmt: skip
        assert (snapshot.budget, snapshot.in_flight, snapshot.queued) == (1.0, 0, 0)
        assert (snapshot.last_error, snapshot.last_error_age) == (None, None)
        assert (snapshot.breaker.state, snapshot.breaker.reason) == (State.CLOSED, None)

    def test_of_one_that_has_worked(self, world: World) -> None:
        world.choose(retry={"attempts": 2}, budget={"capacity": 10}, breaker={"failures": 3})
        world.run(world.begin(), "fine")
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble(), Trouble())
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble(TIMED_OUT), "never")
        world.clock.now += 0.5
        snapshot = world.target.snapshot()
        assert snapshot.budget == 0.9
        assert snapshot.last_error == LastError("ReadTimeout", world.clock.now - 0.5, None)
        assert snapshot.last_error_age == 0.5
        breaker = snapshot.breaker
        assert (breaker.name, breaker.strategy, breaker.state) == (snapshot.name, "window", State.OPEN)
        assert (breaker.reason, breaker.in_state_for, breaker.next_probe) == ("consecutive_failures", 0.5, 1.5)
        assert breaker.calls == {"success": 1, "failure": 3, "ignored": 0, "rejected": 0}
        assert (breaker.rate, breaker.waiting, breaker.observe_only) == (None, 0, False)

    def test_counts_those_inside_and_those_in_the_queue(self, clock: VirtualClock) -> None:
        world = World(clock, Listener())
        world.choose(bulkhead=BulkheadPolicy(limit=1))

        def send(*_: object) -> None:
            assert world.target.bulkhead is not None
            assert world.target.bulkhead.queue(ThreadTurn())
            snapshot = world.target.snapshot()
            assert (snapshot.in_flight, snapshot.queued) == (1, 1)

        world.run(world.begin(), send)
        snapshot = world.target.snapshot()
        assert (snapshot.in_flight, snapshot.queued) == (0, 0)

    def test_cannot_be_changed(self, world: World) -> None:
        snapshot = world.target.snapshot()
        with pytest.raises(dataclasses.FrozenInstanceError):
            snapshot.budget = 0.0  # type: ignore[misc]


class TestLastError:
    def test_is_a_name_and_keeps_no_exception_alive(self, world: World) -> None:
        error = Trouble()
        gone = weakref.ref(error)
        with pytest.raises(Trouble):
            world.run(world.begin(attempts=1), error)
        del error
        gc.collect()
        assert gone() is None
        assert world.target.last_error == LastError("503", world.clock.now)
        assert {field.type for field in dataclasses.fields(LastError)} == {"str", "float", "str | None"}

    def test_is_the_newest(self, world: World) -> None:
        world.run(world.begin(), Trouble(), Trouble(TIMED_OUT), "fine")
        assert world.target.last_error == LastError("ReadTimeout", world.clock.now - world.clock.waits[1])

    def test_has_a_name_even_where_the_client_knows_none(self, world: World) -> None:
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble(Verdict(Weight.FAILURE)))
        assert world.target.last_error == LastError("_OTHER", world.clock.now)

    def test_is_none_that_says_nothing_of_the_target(self, world: World) -> None:
        for error in (Trouble(REFUSED), asked_to_wait(1)):
            with pytest.raises(Trouble):
                world.run(world.begin(attempts=1), error)
        assert world.target.last_error is None


class TestByHand:
    def test_reset_makes_it_as_new_but_for_what_was_counted(self, world: World) -> None:
        world.choose(retry={"attempts": 2}, budget={"capacity": 4}, breaker={"failures": 2})
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble(), Trouble())
        assert world.target.snapshot().budget == 0.75
        world.target.reset()
        snapshot = world.target.snapshot()
        assert (snapshot.breaker.state, snapshot.breaker.reason) == (State.CLOSED, "closed_by_hand")
        assert (snapshot.budget, snapshot.last_error) == (1.0, None)
        assert snapshot.breaker.calls["failure"] == 2
        count(world.target)  # the failures before are forgotten
        assert world.target.breaker.state is State.CLOSED

    def test_forced_open_refuses_until_closed(self, world: World) -> None:
        world.target.force_open()
        world.clock.now += 10_000
        with pytest.raises(ConnectionError):
            world.run(world.begin(), "never")
        world.target.close()
        assert world.run(world.begin(), "fine") == "fine"

    def test_disabled_lets_all_through_until_reset(self, world: World) -> None:
        world.target.disable()
        for _ in range(9):
            with pytest.raises(Trouble):
                world.run(world.begin(attempts=1), Trouble())
        assert world.target.snapshot().breaker.state is State.DISABLED
        world.target.reset()
        count(world.target, SUCCESS)
        assert world.target.snapshot().breaker.state is State.CLOSED
