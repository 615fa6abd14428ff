"""Bulkhead, rate limit, timeout and deadline, through real clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import stormproof
from stormproof import (
    BulkheadFullError,
    BulkheadPolicy,
    Listener,
    Policy,
    RateLimitedError,
    RateLimitPolicy,
    RefusedError,
    RetryPolicy,
)
from stormproof.demo.proxy import FaultProxy, hang
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.operation import Operation
from tests.unit.limits import at_once
from tests.unit.signals import get, has

from .drivers import DRIVERS, Driver, every_way
from .shield import Shield, sent

ProxyOf = Callable[[str], FaultProxy]

#: Seconds. Far less than any client's own timeout, far more than a wait in these tests.
SOON = 20.0


class Watching(Listener):
    """When attempts began, and how many ran at once."""

    def __init__(self) -> None:
        self.started: list[float] = []
        self.running = self.most = 0
        self._lock = threading.Lock()

    def attempt_started(self, operation: Operation, attempt: Attempt) -> None:
        with self._lock:
            self.started.append(attempt.started)
            self.running += 1
            self.most = max(self.most, self.running)

    def attempt_returned(self, operation: Operation, attempt: Attempt) -> None:  # before the next one is let in
        with self._lock:
            self.running -= 1


@pytest.fixture
def watching(shield: Shield) -> Any:
    listener = Watching()
    stormproof.add_listener(listener)
    yield listener
    stormproof.remove_listener(listener)


def choose(system: str, **policy: Any) -> None:
    retry = RetryPolicy(base=0.001)
    stormproof.instrument(policies={system: Policy(**{"retry": retry, **policy})})


@every_way
class TestRefusals:
    """In the client's own words, and without a request on the wire."""

    def test_a_bulkhead_that_is_full(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        choose(driver.system, bulkhead=BulkheadPolicy(limit=1, queue=0))
        proxy = proxy_of(driver.system)
        driver.call(proxy.url)
        bulkhead = shield.target(driver.system).bulkhead
        assert bulkhead is not None
        bulkhead.enter()
        for expected in (*driver.circuit_errors, BulkheadFullError, RefusedError):
            with pytest.raises(expected, match="bulkhead full") as raised:
                driver.call(proxy.url)
        assert isinstance(raised.value, BulkheadFullError)
        assert raised.value.target == f"{driver.system}/127.0.0.1:{proxy.port}"
        bulkhead.leave()
        driver.call(proxy.url)
        assert len(sent(proxy, driver)) == 2
        refused = shield.signals.operations()[1]
        assert has(refused, error__type="bulkhead_full", resilience__attempt__count=0)
        assert bulkhead.in_flight == 0
        outcomes = shield.signals.values("resilience.bulkhead.calls", "resilience.bulkhead.outcome")
        assert outcomes == {"entered": 3, "queued": 0, "rejected": len(driver.circuit_errors) + 2}

    def test_a_rate_limit(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        choose(driver.system, rate_limit=RateLimitPolicy(rate=0.001, burst=1))
        proxy = proxy_of(driver.system)
        driver.call(proxy.url)
        for expected in (*driver.circuit_errors, RateLimitedError, RefusedError):
            with pytest.raises(expected, match="rate limited") as raised:
                driver.call(proxy.url)
        assert isinstance(raised.value, RateLimitedError)
        assert raised.value.target == f"{driver.system}/127.0.0.1:{proxy.port}"
        assert len(sent(proxy, driver)) == 1
        assert has(shield.signals.operations()[-1], error__type="rate_limited", resilience__attempt__count=0)
        outcomes = shield.signals.values("resilience.rate_limit.calls", "resilience.rate_limit.outcome")
        assert outcomes == {"passed": 1, "delayed": 0, "rejected": len(driver.circuit_errors) + 2}


@every_way
class TestTime:
    def test_a_timeout_cuts_each_attempt(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        choose(driver.system, timeout=0.2, retry=RetryPolicy(attempts=1))
        proxy, began = proxy_of(driver.system), time.monotonic()
        proxy.chance("POST", driver.path, hang(), 1)
        with pytest.raises(driver.connection_errors):
            driver.call(proxy.url)
        assert 0.2 <= time.monotonic() - began < SOON
        assert get(shield.signals.attempts(), "error.type") == ["ReadTimeout"]

    def test_a_deadline_that_was_chosen_cuts_the_attempt_that_would_outlive_it(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        choose(driver.system, deadline=0.3, strict_deadline=True)
        proxy, began = proxy_of(driver.system), time.monotonic()
        proxy.chance("POST", driver.path, hang(), 1)
        with pytest.raises(driver.connection_errors):
            driver.call(proxy.url)
        assert 0.3 <= time.monotonic() - began < SOON
        assert has(shield.signals.operation(), resilience__retry__gave_up="deadline")

    def test_the_nearer_of_the_two_holds(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        choose(driver.system, deadline=SOON, strict_deadline=True, timeout=0.2, retry=RetryPolicy(attempts=1))
        proxy, began = proxy_of(driver.system), time.monotonic()
        proxy.chance("POST", driver.path, hang(), 1)
        with pytest.raises(driver.connection_errors):
            driver.call(proxy.url)
        assert time.monotonic() - began < SOON

    def test_the_clients_own_timeout_holds_where_it_is_nearer(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        choose(driver.system, timeout=600.0, retry=RetryPolicy(attempts=1))
        proxy, began = proxy_of(driver.system), time.monotonic()
        proxy.chance("POST", driver.path, hang(), 1)
        with pytest.raises(driver.connection_errors):
            driver.call(proxy.url, timeout=driver.timeout)
        assert time.monotonic() - began < SOON


def test_threads_of_one_client_stand_in_the_queue(shield: Shield, proxy_of: ProxyOf, watching: Watching) -> None:
    driver = DRIVERS[0]
    choose("openai", bulkhead=BulkheadPolicy(limit=2, queue=10, max_wait=SOON))
    url = proxy_of("openai").url
    answers = driver.use(url, lambda client: at_once(6, lambda: driver.ask(client)))
    assert len(set(answers)) == 1
    assert watching.most <= 2
    bulkhead = shield.target("openai").bulkhead
    assert bulkhead is not None
    assert (bulkhead.calls["entered"], bulkhead.calls["rejected"], bulkhead.in_flight) == (6, 0, 0)


def test_tasks_of_one_client_stand_in_the_queue(shield: Shield, proxy_of: ProxyOf, watching: Watching) -> None:
    import asyncio

    driver = DRIVERS[2]
    choose("openai", bulkhead=BulkheadPolicy(limit=2, queue=10, max_wait=SOON))

    async def work(client: Any) -> list[Any]:
        return list(await asyncio.gather(*(driver.ask_async(client) for _ in range(6))))

    assert len(set(driver.use(proxy_of("openai").url, work))) == 1
    assert watching.most == 2
    bulkhead = shield.target("openai").bulkhead
    assert bulkhead is not None
    assert bulkhead.calls == {"entered": 6, "queued": 4, "rejected": 0}
    queued = [
        operation
        for operation in shield.signals.operations()
        if "resilience.admission.delay" in dict(operation.attributes or {})
    ]
    assert len(queued) == 4
    assert set(get(shield.signals.named("attempt chat"), "resilience.admission.source")) == {None, "bulkhead"}


@pytest.mark.parametrize("driver", [DRIVERS[0], DRIVERS[2], DRIVERS[8]], ids=str)
def test_a_rate_limit_spreads_calls(shield: Shield, proxy_of: ProxyOf, watching: Watching, driver: Driver) -> None:
    choose(driver.system, rate_limit=RateLimitPolicy(rate=50, burst=1))
    url = proxy_of(driver.system).url
    for _ in range(4):
        driver.call(url)
    first = watching.started[0]
    assert all(started - first >= n * 0.02 - 1e-6 for n, started in enumerate(watching.started))
    assert len(watching.started) == 4


@pytest.mark.parametrize("driver", [DRIVERS[1], DRIVERS[5]], ids=str)
def test_a_stream_keeps_its_place_until_it_is_read_or_closed(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    choose(driver.system, bulkhead=BulkheadPolicy(limit=1, queue=0))

    def work(client: Any) -> None:
        stream = driver.start(client)
        next(stream)
        bulkhead = shield.target(driver.system).bulkhead
        assert bulkhead is not None
        assert bulkhead.in_flight == 1
        with pytest.raises(BulkheadFullError):
            driver.ask(client)
        stream.close()
        assert bulkhead.in_flight == 0
        assert driver.ask(client)
        assert bulkhead.in_flight == 0

    driver.use(proxy_of(driver.system).url, work)
