"""Fixtures of the unit tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stormproof.resilience.policy import Policy

from .helpers import Recorder, VirtualClock, World


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """A clock that every wait moves on: stamina's loops', and those for a turn."""
    clock = VirtualClock()
    monkeypatch.setattr("stormproof.resilience.waiting.pause", clock.sleep)
    monkeypatch.setattr("stormproof.resilience.waiting.pause_task", clock.sleep_async)
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=clock.sleep))
    monkeypatch.setattr("stamina._core._smart_sleep", clock.sleep_async)
    return clock


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest, clock: VirtualClock) -> World:
    """A runner on the virtual clock, once for each of the two ways to run a call."""
    return World(clock, Recorder(), is_async=request.param == "async")


@pytest.fixture
def by_default(world: World) -> World:
    """The world with the policy of those who have chosen nothing: the adaptive breaker."""
    world.policy = Policy()
    return world
