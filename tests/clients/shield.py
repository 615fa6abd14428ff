"""stormproof as the tests of the clients switch it on, and what it emitted."""

from __future__ import annotations

from typing import Any

import pytest

import stormproof
from stormproof import install
from stormproof.demo.proxy import Exchange, FaultProxy
from stormproof.resilience.targets import Target
from tests.unit.signals import Signals

from .drivers import Driver


class Shield:
    """Instruments with in-memory providers; settings are those of the environment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.signals = Signals()
        self.expected_complaints: list[str] = []

    def set(self, name: str, value: object) -> None:
        self._monkeypatch.setenv(name, str(value))

    def on(self) -> None:
        stormproof.instrument(**self.signals.providers)

    def off(self) -> None:
        stormproof.uninstrument()

    def again(self, **settings: object) -> None:
        """Switched off and on, with more settings: ``RETRY__ATTEMPTS=2``."""
        for name, value in settings.items():
            self.set(f"STORMPROOF__{name}", value)
        self.off()
        self.signals.clear()
        self.on()

    def targets(self) -> list[Target]:
        """The targets of this process so far."""
        return install.targets()

    def target(self, system: str) -> Target:
        (target,) = (target for target in self.targets() if target.system == system)
        return target


def sent(proxy: FaultProxy, driver: Driver) -> list[Exchange]:
    """The requests of the driver's call that were seen on the wire."""
    return [exchange for exchange in proxy.exchanges if exchange.path == driver.path]


def types_of(value: Any) -> Any:
    """The types of a result and of its parts."""
    return [type(part) for part in value] if isinstance(value, list) else type(value)
