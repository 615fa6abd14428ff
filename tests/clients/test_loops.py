"""Threads, several event loops in turn and at once, trio: one target, one budget, one breaker for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trio

from stormproof.demo.proxy import FaultProxy, hang, status
from tests.unit.signals import attributes, get

from .drivers import DRIVERS, Driver
from .shield import Shield, sent

ProxyOf = Callable[[str], FaultProxy]

every_async = pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver.is_async], ids=str)
every_way = pytest.mark.parametrize("driver", DRIVERS, ids=str)


def _by_trio(driver: Driver, url: str, **options: Any) -> Any:
    return trio.run(lambda: driver._use_async(url, driver.ask_async, **options))


# openai's own generators are left half-read by its stream, with us or without: trio warns of that, asyncio does not.
@pytest.mark.filterwarnings("ignore:.*openai._streaming.*:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Async generator 'openai._streaming:ResourceWarning")
@every_async
class TestTrio:
    def test_a_call_recovers(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [status(503), status(503)])
        answer = _by_trio(driver, proxy.url)
        assert answer == driver.call(proxy.url)
        first, second = shield.signals.operations()
        assert get([first, second], "resilience.attempt.count") == [3, 1]
        assert get(shield.signals.attempts(first), "resilience.attempt.number") == [1, 2, 3]

    def test_one_that_is_cancelled_ends_and_counts_for_nothing(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [hang()])

        async def cancelled() -> bool:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(driver._use_async, proxy.url, driver.ask_async)
                    assert await trio.to_thread.run_sync(proxy.wait_for, "POST", driver.path)
                    scope.cancel()
            return scope.cancelled_caught

        assert trio.run(cancelled)
        assert attributes(shield.signals.operation())["error.type"] == "Cancelled"
        breaker = shield.target(driver.system).breaker
        assert breaker.in_flight == 0
        assert breaker.calls["failure"] == 0


@every_async
class TestEventLoops:
    def test_one_after_the_other(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        """What was learnt in one loop is bound to no loop."""
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [status(503)] * 2)
        answers = [driver.call(proxy.url) for _ in range(3)]
        assert answers == [answers[0]] * 3
        assert get(shield.signals.operations(), "resilience.attempt.count") == [3, 1, 1]

    def test_at_once_in_threads(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [status(503), status(503)])

        async def some(client: Any) -> list[Any]:
            return list(await asyncio.gather(*(driver.ask_async(client) for _ in range(5))))

        with ThreadPoolExecutor(4) as pool:
            loops = [pool.submit(driver.use, proxy.url, some) for _ in range(4)]
            answers = [answer for loop in loops for answer in loop.result()]
        assert answers == [answers[0]] * 20
        counts = get(shield.signals.operations(), "resilience.attempt.count")
        assert len(counts) == 20
        assert sum(counts) == len(sent(proxy, driver)) == 22


@every_way
def test_threads_share_one_target(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    proxy = proxy_of(driver.system)
    proxy.plan("POST", driver.path, [status(503), status(503)])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: driver.call(proxy.url), range(24)))
    assert answers == [answers[0]] * 24
    counts = get(shield.signals.operations(), "resilience.attempt.count")
    assert sum(counts) == len(sent(proxy, driver)) == 26
    assert shield.target(driver.system).breaker.in_flight == 0
