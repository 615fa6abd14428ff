"""Fixtures of the unit tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from .helpers import Recorder, VirtualClock, World


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """A clock that the waits of stamina's loops move on."""
    clock = VirtualClock()
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=clock.sleep))
    monkeypatch.setattr("stamina._core._smart_sleep", clock.sleep_async)
    return clock


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest, clock: VirtualClock) -> World:
    """A runner on the virtual clock, once for each of the two ways to run a call."""
    return World(clock, Recorder(), is_async=request.param == "async")
