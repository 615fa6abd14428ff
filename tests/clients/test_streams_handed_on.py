"""Streams that stall, that are taken over by another thread or task, and those whose reader goes away."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import openai
import pytest

from stormproof.demo.proxy import FaultProxy, drop, status
from tests.unit.signals import failed, has

from .drivers import MESSAGES, MODEL, STREAMING, Driver, OpenAI
from .shield import Shield
from .test_streams import ended_well, outcomes

ProxyOf = Callable[[str], FaultProxy]


class RawOpenAI(OpenAI):
    """Takes the raw response first, and has its stream made of that."""

    def __str__(self) -> str:
        return f"{super().__str__()}-raw"

    def start(self, client: Any) -> Any:
        answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, stream=True)
        return self._parsed(answer) if self.is_async else answer.parse()

    async def _parsed(self, answer: Any) -> Any:
        return (await answer).parse()


DRIVERS = [*STREAMING, RawOpenAI(is_async=False, streams=True), RawOpenAI(is_async=True, streams=True)]
SYNC = pytest.mark.parametrize("driver", [driver for driver in DRIVERS if not driver.is_async], ids=str)
ASYNC = pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver.is_async], ids=str)
EVERY = pytest.mark.parametrize("driver", DRIVERS, ids=str)


def in_a_thread(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a thread of its own, in a context of its own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


@EVERY
class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "error_type"),
        [(drop(after_chunks=2, then="hang"), {"ReadTimeout"}), (drop(after_chunks=2), {"ReadError"})],
        ids=["stalls", "drops"],
    )
    def test_on_the_way(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, fault: Any, error_type: set[str]
    ) -> None:
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [fault])
        with pytest.raises(Exception):  # noqa: B017  # each client's own, see the attempt's error.type
            driver.call(proxy.url, timeout=driver.timeout)
        gc.collect()
        assert outcomes(shield, driver) == {"failure": 1}
        (attempt,) = shield.signals.attempts()
        assert (attempt.attributes or {}).get("error.type") in error_type
        assert has(shield.signals.operation(), resilience__retry__gave_up="stream_started")

    def test_an_error_inside(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        error = '{"error": {"message": "overloaded", "code": "overloaded"}}'
        if driver.system == "openai":
            fault = status(200, {"content-type": "text/event-stream"}, f"data: {error}\n\n")
        else:
            fault = status(200, {"content-type": "application/x-ndjson"}, '{"error": "overloaded"}\n')
        proxy.plan("POST", driver.path, [fault])
        with pytest.raises(Exception, match="overloaded"):
            driver.call(proxy.url)
        gc.collect()
        assert outcomes(shield, driver) == {"failure": 1}
        assert failed(shield.signals.operation())


@SYNC
class TestThreads:
    def test_made_in_one_read_in_another_closed_in_a_third(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        def work(client: Any) -> None:
            stream = in_a_thread(lambda: driver.start(client))
            assert in_a_thread(lambda: next(iter(stream)))
            in_a_thread(stream.close)

        driver.use(proxy_of(driver.system).url, work)
        ended_well(shield, driver)

    def test_its_thread_dies(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(threading, "excepthook", lambda _: None)

        def work(client: Any) -> None:
            def die() -> None:
                stream = driver.start(client)
                next(iter(stream))
                raise ZeroDivisionError

            thread = threading.Thread(target=die)
            thread.start()
            thread.join()
            gc.collect()
            ended_well(shield, driver)

        driver.use(proxy_of(driver.system).url, work)

    def test_the_reader_is_interrupted(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        def read(stream: Any) -> None:
            for _ in stream:
                raise KeyboardInterrupt

        def work(client: Any) -> None:
            with pytest.raises(KeyboardInterrupt):
                read(driver.start(client))

        driver.use(proxy_of(driver.system).url, work)
        gc.collect()
        ended_well(shield, driver)

    def test_no_item_is_kept(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        def work(client: Any) -> None:
            stream = driver.start(client)
            for _ in range(3):
                item = next(stream)
                kept = reference(item)
                del item
                assert kept() is None
            stream.close()

        driver.use(proxy_of(driver.system).url, work)


@ASYNC
class TestTasks:
    def test_made_in_one_read_in_another_closed_in_a_third(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        async def work(client: Any) -> None:
            async def elsewhere(step: Any) -> Any:
                return await contextvars.Context().run(asyncio.create_task, step)

            stream = await elsewhere(start(driver, client))
            assert await elsewhere(first(stream))
            await elsewhere(close(stream))

        driver.use(proxy_of(driver.system).url, work)
        ended_well(shield, driver)

    def test_cancelled_while_the_next_item_does_not_come(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [drop(after_chunks=2, then="hang")])

        async def work(client: Any) -> None:
            stream = await driver.start(client)
            got_one = asyncio.Event()
            task = asyncio.create_task(exhaust(stream, got_one))
            await got_one.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        driver.use(proxy.url, work)
        gc.collect()
        assert outcomes(shield, driver) == {"ignored": 1}
        assert has(shield.signals.operation(), error__type="CancelledError")

    def test_no_item_is_kept(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        async def work(client: Any) -> None:
            stream = await driver.start(client)
            for _ in range(3):
                item = await stream.__anext__()
                kept = reference(item)
                del item
                assert kept() is None
            await close(stream)

        driver.use(proxy_of(driver.system).url, work)


class TestClosedByAnother:
    """Who closes a stream that someone else waits for has ended it: what that one then sees is not the server's."""

    def test_thread(self, shield: Shield, proxy_of: ProxyOf) -> None:
        driver = STREAMING[0]
        proxy = proxy_of("openai")
        proxy.plan("POST", driver.path, [drop(after_chunks=2, then="hang")])
        got_one = threading.Event()

        def read(stream: Any) -> None:
            with suppress(Exception):  # whatever comes of it
                for _ in stream:
                    got_one.set()

        with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none") as client:
            stream = driver.start(client)
            thread = threading.Thread(target=read, args=(stream,))
            thread.start()
            assert got_one.wait(10)
            stream.close()
            proxy.stop()
            thread.join(10)
            assert not thread.is_alive()
        ended_well(shield, driver)

    def test_task(self, shield: Shield, proxy_of: ProxyOf) -> None:
        driver = next(driver for driver in STREAMING if driver.is_async and driver.system == "openai")
        proxy = proxy_of("openai")
        proxy.plan("POST", driver.path, [drop(after_chunks=2, then="hang")])

        async def work(client: Any) -> None:
            stream = await driver.start(client)
            got_one = asyncio.Event()

            task = asyncio.create_task(exhaust(stream, got_one))
            await got_one.wait()
            await stream.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        driver.use(proxy.url, work)
        ended_well(shield, driver)


def reference(item: Any) -> Callable[[], Any]:
    """A weak one."""
    if isinstance(item, dict):
        pytest.skip("this version's items cannot be watched")
    return weakref.ref(item)


async def start(driver: Driver, client: Any) -> Any:
    return await driver.start(client)


async def first(stream: Any) -> Any:
    return await anext(aiter(stream))


async def exhaust(stream: Any, got_one: asyncio.Event) -> None:
    async for _ in stream:
        got_one.set()


async def close(stream: Any) -> None:
    await (stream.aclose() if hasattr(stream, "aclose") else stream.close())
