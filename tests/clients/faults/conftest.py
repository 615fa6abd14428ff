"""stormproof, on for a whole module: to switch it on takes longer than a case of the table."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from qdrant_client import models

import stormproof
from stormproof import BreakerPolicy, Policy, RetryPolicy, install
from stormproof.demo.wire import WireServer
from stormproof.resilience.targets import Target
from stormproof.settings import SYSTEMS
from tests import contract
from tests.clients.drivers import COLLECTION
from tests.servers.qdrant_grpc import QdrantGrpc
from tests.unit.signals import Signals

from . import page
from .table import ATTEMPTS, ROWS
from .ways import WAYS

_NEVER_OPENS = BreakerPolicy(strategy="window", failures=None, failure_rate=None)
_ON = Policy(retry=RetryPolicy(attempts=ATTEMPTS, base=0.001), breaker=_NEVER_OPENS)
_OFF = Policy(enabled=False)


class Protection:
    """stormproof with the table's policy, or switched off; in either case with new targets."""

    def __init__(self) -> None:
        self.signals = Signals()
        self.violations: set[str] = set()  # of the contract

    def on(self, system: str) -> None:
        self._choose(system, _ON)

    def off(self, system: str) -> None:
        self._choose(system, _OFF)

    def target(self, system: str) -> Target:
        """The only one since it was switched on."""
        (target,) = (target for target in install.targets() if target.system == system)
        return target

    def _choose(self, system: str, policy: Policy) -> None:
        self.violations.update(contract.violations(self.signals))
        self.signals.clear()
        stormproof.instrument(**self.signals.providers, policies={system: policy})


@pytest.fixture(scope="module")
def protection() -> Iterator[Protection]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STORMPROOF_QUIET", "1")
        protection = Protection()
        stormproof.instrument(**protection.signals.providers)
    yield protection
    gc.collect()
    stormproof.instrument(policies={system: Policy() for system in SYSTEMS})
    stormproof.uninstrument()
    assert not protection.signals.open_spans, "a span was never ended"
    assert not protection.signals.ended_twice
    assert protection.violations == set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-faults", action="store_true", help="write docs/faults.md from what is seen")


@pytest.fixture(scope="session")
def upstreams(wires: Mapping[str, WireServer]) -> Iterator[Mapping[str, Any]]:
    """A healthy server for each client of the table."""
    with QdrantGrpc() as grpc:
        grpc.fill(COLLECTION, [models.PointStruct(id=1, vector=[0.1, 0.2, 0.3, 0.4])])
        yield {**{system: wire.url for system, wire in wires.items()}, "qdrant-grpc": grpc}


@pytest.fixture(scope="session")
def hold(pytestconfig: pytest.Config) -> Iterator[Callable[[page.Key, page.Cells], None]]:
    """Hold a case to what the page says of it; or note it, where the page is to be written."""
    if not pytestconfig.getoption("--write-faults", default=False):
        yield page.Page.read(WAYS).hold
        return
    seen: dict[page.Key, page.Cells] = {}
    yield seen.__setitem__
    page.write(seen, ROWS, WAYS)
