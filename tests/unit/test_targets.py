"""The registry of targets: bounded, and never forgetting one that is in use or in trouble."""

from __future__ import annotations

import pytest

from stormproof.resilience.breaker import State
from stormproof.resilience.outcome import Weight
from stormproof.resilience.policy import BreakerPolicy, Policy
from stormproof.resilience.targets import Target, Targets

from .helpers import VirtualClock
from .test_breaker import at_once


@pytest.fixture
def targets(clock: VirtualClock) -> Targets:
    policies = {"openai": Policy(deadline=7, breaker=BreakerPolicy(failures=1))}
    return Targets(lambda system: policies.get(system, Policy()), clock, lambda *_: None, bound=3)


def names(targets: Targets) -> list[str]:
    return [target.name for target in targets]


def trip(target: Target) -> None:
    permit = target.breaker.acquire()
    assert permit is not None
    target.breaker.settle(permit, Weight.FAILURE)
    assert target.breaker.state is State.OPEN


def test_one_target_an_address_with_the_policy_of_its_system(targets: Targets) -> None:
    first = targets.get("openai", "a", 1)
    assert first is targets.get("openai", "a", 1)
    assert first is not targets.get("ollama", "a", 1)
    assert (first.name, first.policy.deadline, first.breaker.name) == ("openai/a:1", 7, "openai/a:1")
    assert targets.get("ollama", "a", 1).policy == Policy()


def test_the_longest_known_idle_one_makes_room(targets: Targets) -> None:
    for port in range(1, 6):
        targets.get("openai", "a", port)
    assert names(targets) == ["openai/a:3", "openai/a:4", "openai/a:5"]


def test_one_that_is_open_or_in_use_is_kept(targets: Targets) -> None:
    trip(targets.get("openai", "a", 1))
    in_use = targets.get("openai", "a", 2)
    assert in_use.breaker.acquire() is not None
    for port in (3, 4, 5):
        targets.get("openai", "a", port)
    assert names(targets) == ["openai/a:1", "openai/a:2", "openai/a:5"]


def test_when_none_can_go_the_new_ones_share_one(targets: Targets) -> None:
    for port in (1, 2, 3):
        trip(targets.get("openai", "a", port))
    shared = targets.get("openai", "a", 4)
    assert shared.name == "openai/_OTHER"
    assert targets.get("openai", "b", 5) is shared
    assert targets.get("qdrant", "b", 5).name == "qdrant/_OTHER"
    assert len(targets) == 3 + 2  # at most one more for each system


def test_threads_agree_on_the_target(targets: Targets) -> None:
    found = at_once(20, lambda: targets.get("openai", "a", 1))
    assert len(set(map(id, found))) == 1


def test_after_a_fork_nothing_is_known_and_no_lock_is_held(targets: Targets) -> None:
    trip(targets.get("openai", "a", 1))
    with targets._lock:
        targets.after_fork()
        assert targets.get("openai", "a", 1).breaker.state is State.CLOSED
