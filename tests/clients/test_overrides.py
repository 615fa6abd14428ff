"""``with stormproof.policy(...)`` around real calls of all three clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

import stormproof
from stormproof import Fallback
from stormproof.demo.proxy import FaultProxy, hang, status
from tests.unit.signals import has

from .drivers import DRIVERS, Driver, OpenAI, every_stream, every_way
from .shield import Shield, sent

ProxyOf = Callable[[str], FaultProxy]

asynchronous = pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver.is_async], ids=str)


def failing(proxy_of: ProxyOf, driver: Driver) -> FaultProxy:
    proxy = proxy_of(driver.system)
    proxy.chance("POST", driver.path, status(503), 1)
    return proxy


def attempts_of(proxy: FaultProxy, driver: Driver, **options: Any) -> int:
    """How often one call that fails is sent."""
    before = len(sent(proxy, driver))
    with pytest.raises(driver.status_error):
        driver.call(proxy.url, **options)
    return len(sent(proxy, driver)) - before


@every_way
class TestEveryWay:
    def test_attempts(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        found = []
        with stormproof.policy(attempts=1):
            found.append(attempts_of(failing(proxy_of, driver), driver))
            with stormproof.policy(driver.system, attempts=2):
                found.append(attempts_of(failing(proxy_of, driver), driver))
        found.append(attempts_of(failing(proxy_of, driver), driver))
        assert found == [1, 2, 4]

    def test_of_another_system(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        other = "ollama" if driver.system == "qdrant" else "qdrant"
        with stormproof.policy(other, attempts=1):
            assert attempts_of(failing(proxy_of, driver), driver) == 4

    def test_by_decorator(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = failing(proxy_of, driver)
        assert stormproof.policy(attempts=2)(attempts_of)(proxy, driver) == 2

    def test_off(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        with stormproof.policy(enabled=False):
            driver.call(proxy_of(driver.system).url)
        assert shield.signals.operations() == []

    def test_a_deadline_cuts_what_runs(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        proxy.chance("POST", driver.path, hang(), 1)
        began = time.monotonic()
        with stormproof.policy(deadline=0.3), pytest.raises(driver.connection_errors):
            driver.call(proxy.url)
        assert time.monotonic() - began < 5

    def test_a_fallback(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        def plan_b(error: Exception) -> None:
            raise LookupError("plan b") from error

        with stormproof.policy(attempts=1, fallback=Fallback(function=plan_b)), pytest.raises(LookupError):
            driver.call(failing(proxy_of, driver).url)
        assert has(shield.signals.operation(), resilience__fallback__type="function")


@every_stream
def test_a_stream_that_begins_later_has_what_was_in_force_at_the_call(
    shield: Shield, proxy_of: ProxyOf, driver: Driver
) -> None:
    proxy = failing(proxy_of, driver)

    def read(client: Any) -> None:
        with stormproof.policy(attempts=2):
            stream = driver.start(client)
        list(stream)

    async def read_async(client: Any) -> None:
        with stormproof.policy(attempts=2):
            stream = await driver.start(client)
        [item async for item in stream]

    with pytest.raises(driver.status_error):
        driver.use(proxy.url, read_async if driver.is_async else read)
    assert len(sent(proxy, driver)) == 2


@asynchronous
def test_tasks_have_their_own(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    proxies = {attempts: failing(proxy_of, driver) for attempts in (1, 2, 3)}

    async def one(attempts: int) -> None:
        client = driver.client(proxies[attempts].url)
        try:
            with stormproof.policy(attempts=attempts), pytest.raises(driver.status_error):
                await driver.ask_async(client)
        finally:
            await driver.close(client)

    async def all_at_once() -> None:
        await asyncio.gather(*(one(attempts) for attempts in proxies))

    asyncio.run(all_at_once())
    assert [len(sent(proxy, driver)) for proxy in proxies.values()] == [1, 2, 3]


@asynchronous
def test_under_trio(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    proxy = failing(proxy_of, driver)

    async def main() -> None:
        client = driver.client(proxy.url)
        try:
            with stormproof.policy(attempts=2), pytest.raises(driver.status_error):
                await driver.ask_async(client)
        finally:
            await driver.close(client)

    trio.run(main)
    assert len(sent(proxy, driver)) == 2


@pytest.mark.parametrize("is_async", [False, True])
class TestBesideMaxRetries:
    """The last word: what the request says, then a block, then the client, then settings."""

    def test_a_client_has_said_it_before(self, shield: Shield, proxy_of: ProxyOf, is_async: bool) -> None:
        driver = OpenAI(is_async=is_async)
        assert attempts_of(failing(proxy_of, driver), driver, max_retries=4) == 5
        with stormproof.policy(attempts=2):
            assert attempts_of(failing(proxy_of, driver), driver, max_retries=4) == 2
        with stormproof.policy(base=0.001):
            assert attempts_of(failing(proxy_of, driver), driver, max_retries=4) == 5

    def test_a_request_says_it_last(self, shield: Shield, proxy_of: ProxyOf, is_async: bool) -> None:
        driver = OpenAI(is_async=is_async)
        proxy = failing(proxy_of, driver)

        def post(client: Any) -> Any:
            return client.post("/chat/completions", body={}, cast_to=object, options={"max_retries": 2})

        async def post_async(client: Any) -> Any:
            return await post(client)

        with stormproof.policy(attempts=1), pytest.raises(driver.status_error):
            driver.use(proxy.url, post_async if is_async else post)
        assert len(sent(proxy, driver)) == 3
