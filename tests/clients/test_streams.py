"""However a stream comes to its end, its spans end with it, once, and its permit goes back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest

from stormproof.demo.proxy import FaultProxy, hang, status
from tests.unit.signals import attributes, failed, has

from .drivers import MESSAGES, STREAMING, Driver, every_stream
from .shield import Shield

ProxyOf = Callable[[str], FaultProxy]

SYNC = pytest.mark.parametrize("driver", [driver for driver in STREAMING if not driver.is_async], ids=str)
ASYNC = pytest.mark.parametrize("driver", [driver for driver in STREAMING if driver.is_async], ids=str)


def outcomes(shield: Shield, driver: Driver) -> dict[str, int]:
    calls = shield.target(driver.system).breaker.calls
    return {outcome: count for outcome, count in calls.items() if count}


def ended_well(shield: Shield, driver: Driver) -> None:
    """One operation with one attempt, both ended without an error; the breaker counts a success."""
    assert not failed(shield.signals.operation())
    (attempt,) = shield.signals.attempts()
    assert not failed(attempt)
    assert outcomes(shield, driver) == {"success": 1}


@every_stream
class TestTypes:
    def test_they_are_the_clients_own(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        def look(stream: Any) -> None:
            if driver.system == "openai":
                assert isinstance(stream, openai.AsyncStream if driver.is_async else openai.Stream)
                assert not stream.response.is_closed
            else:
                assert inspect.isasyncgen(stream) if driver.is_async else inspect.isgenerator(stream)

        async def work_async(client: Any) -> None:
            stream = await driver.start(client)
            look(stream)
            assert [part async for part in stream]

        def work(client: Any) -> None:
            stream = driver.start(client)
            look(stream)
            assert list(stream)

        driver.use(proxy_of(driver.system).url, work_async if driver.is_async else work)
        ended_well(shield, driver)

    def test_what_the_answer_tells_is_recorded(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        words = driver.call(proxy_of(driver.system).url)
        operation = shield.signals.operation()
        assert has(operation, gen_ai__provider__name=driver.system, gen_ai__operation__name="chat")
        assert attributes(operation)["gen_ai.response.model"].endswith("-stand-in")
        assert attributes(operation)["gen_ai.response.finish_reasons"] == ("stop",)
        assert attributes(operation)["gen_ai.response.time_to_first_chunk"] > 0
        assert len(words) > 3
        (per_chunk,) = shield.signals.points("gen_ai.client.operation.time_per_output_chunk")
        assert per_chunk.count == 1


@SYNC
class TestSync:
    @pytest.fixture
    def use(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> Callable[[Callable[[Any], Any]], Any]:
        return lambda work: driver.use(proxy_of(driver.system).url, work)

    def test_never_iterated(self, shield: Shield, use: Any, driver: Driver) -> None:
        def work(client: Any) -> None:
            stream = driver.start(client)
            getattr(stream, "close", lambda: None)()

        use(work)
        if driver.system == "ollama":  # nothing was sent
            assert shield.signals.spans == []
            return
        assert not failed(shield.signals.operation())
        assert outcomes(shield, driver) == {"ignored": 1}

    def test_never_iterated_and_dropped(self, shield: Shield, use: Any, driver: Driver) -> None:
        def work(client: Any) -> None:
            driver.start(client)
            gc.collect()
            assert len(shield.signals.operations()) == (driver.system == "openai")

        use(work)

    def test_closed_after_an_item(self, shield: Shield, use: Any, driver: Driver) -> None:
        def work(client: Any) -> None:
            stream = driver.start(client)
            next(iter(stream))
            stream.close()
            ended_well(shield, driver)
            stream.close()

        use(work)
        ended_well(shield, driver)

    def test_an_early_break_and_then_dropped(self, shield: Shield, use: Any, driver: Driver) -> None:
        def work(client: Any) -> None:
            stream = driver.start(client)
            for _ in stream:
                break
            del stream
            gc.collect()
            ended_well(shield, driver)

        use(work)

    def test_closed_by_a_with_block(self, shield: Shield, use: Any, driver: Driver) -> None:
        def work(client: Any) -> None:
            with contextlib.closing(driver.start(client)) as stream:
                next(iter(stream))
            ended_well(shield, driver)

        use(work)

    def test_the_apps_own_error_in_the_loop_is_not_the_servers(self, shield: Shield, use: Any, driver: Driver) -> None:
        def work(client: Any) -> None:
            stream = driver.start(client)

            def read() -> None:
                for _ in stream:
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                read()
            stream.close()

        use(work)
        ended_well(shield, driver)

    def test_read_to_the_end_and_asked_for_more(self, shield: Shield, use: Any, driver: Driver) -> None:
        def work(client: Any) -> None:
            stream = driver.start(client)
            assert list(stream)
            assert list(stream) == []
            stream.close()

        use(work)
        ended_well(shield, driver)

    def test_read_in_another_thread(self, shield: Shield, use: Any, driver: Driver) -> None:
        def work(client: Any) -> None:
            read: list[Any] = []
            with shield.signals.tracer_provider.get_tracer("app").start_as_current_span("app"):
                stream = driver.start(client)
                thread = threading.Thread(target=lambda: read.extend(stream))
                thread.start()
                thread.join()
            assert len(read) > 3

        use(work)
        ended_well(shield, driver)
        (app,) = shield.signals.named("app")
        operation = shield.signals.operation()
        assert operation.parent is not None
        assert operation.parent == app.context

    def test_spans_between_two_items_are_the_apps(self, shield: Shield, use: Any, driver: Driver) -> None:
        tracer = shield.signals.tracer_provider.get_tracer("app")

        def work(client: Any) -> None:
            for _ in driver.start(client):
                tracer.start_span("between").end()

        use(work)
        assert {span.parent for span in shield.signals.named("between")} == {None}


@ASYNC
class TestAsync:
    def run(self, proxy_of: ProxyOf, driver: Driver, work: Callable[[Any], Any]) -> None:
        driver.use(proxy_of(driver.system).url, work)
        gc.collect()

    def test_closed_after_an_item(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        async def work(client: Any) -> None:
            stream = await driver.start(client)
            await anext(aiter(stream))
            await (stream.aclose() if hasattr(stream, "aclose") else stream.close())
            ended_well(shield, driver)

        self.run(proxy_of, driver, work)
        ended_well(shield, driver)

    def test_an_early_break_and_then_dropped(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        async def work(client: Any) -> None:
            stream = await driver.start(client)
            async for _ in stream:
                break
            del stream
            gc.collect()

        self.run(proxy_of, driver, work)
        ended_well(shield, driver)

    def test_cancelled_while_it_waits_for_an_item(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        async def work(client: Any) -> None:
            got_one = asyncio.Event()

            async def read() -> None:
                async for _ in await driver.start(client):
                    got_one.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(read())
            await got_one.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        self.run(proxy_of, driver, work)
        assert outcomes(shield, driver) == {"success": 1}
        assert len(shield.signals.attempts()) == 1

    def test_cancelled_before_the_answer(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        proxy.chance("POST", driver.path, hang(), 1)

        async def work(client: Any) -> None:
            async def read() -> None:
                async for _ in await driver.start(client):
                    pass

            task = asyncio.create_task(read())
            await asyncio.to_thread(proxy.wait_for, "POST", driver.path)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        driver.use(proxy.url, work)
        assert outcomes(shield, driver) == {"ignored": 1}
        assert has(shield.signals.operation(), error__type="CancelledError", resilience__attempt__count=1)

    def test_many_at_once(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.again(BREAKER__ENABLED="false", RETRY__ATTEMPTS=10)
        proxy = proxy_of(driver.system)
        proxy.chance("POST", driver.path, status(503), 0.3, seed=1)

        async def work(client: Any) -> None:
            assert all(await asyncio.gather(*(driver.ask_async(client) for _ in range(10))))

        driver.use(proxy.url, work)
        operations = shield.signals.operations()
        assert len(operations) == 10
        assert sum(attributes(operation)["resilience.attempt.count"] for operation in operations) == len(
            proxy.exchanges
        )
        for operation in operations:
            attempts = shield.signals.attempts(operation)
            assert len(attempts) == attributes(operation)["resilience.attempt.count"]


class TestErrorEvents:
    """An error that the server sends inside a stream that began well."""

    def test_openai(self, shield: Shield, proxy_of: ProxyOf) -> None:
        proxy = proxy_of("openai")
        event = 'data: {"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}}\n\n'
        proxy.chance("POST", ".", status(200, {"content-type": "text/event-stream"}, event), 1)
        driver = STREAMING[0]
        with pytest.raises(openai.APIError, match="overloaded"):
            driver.call(proxy.url)
        assert len(proxy.exchanges) == 1
        assert outcomes(shield, driver) == {"failure": 1}
        assert has(shield.signals.operation(), resilience__retry__gave_up="not_retryable")

    def test_ollama(self, shield: Shield, proxy_of: ProxyOf) -> None:
        import ollama

        proxy = proxy_of("ollama")
        line = '{"error": "an error was encountered while running the model"}\n'
        proxy.chance("POST", ".", status(200, {"content-type": "application/x-ndjson"}, line), 1)
        driver = next(driver for driver in STREAMING if driver.system == "ollama")
        with pytest.raises(ollama.ResponseError, match="while running the model"):
            driver.call(proxy.url)
        assert len(proxy.exchanges) == 1
        assert outcomes(shield, driver) == {"failure": 1}
        assert has(shield.signals.operation(), error__type="ResponseError", resilience__retry__gave_up="not_retryable")


def test_a_helper_of_openai_that_closes_the_response_itself(shield: Shield, proxy_of: ProxyOf) -> None:
    driver = STREAMING[0]

    def work(client: Any) -> None:
        chat = client.chat.completions if hasattr(client.chat.completions, "stream") else client.beta.chat.completions
        with chat.stream(model="gpt-4o-mini", messages=MESSAGES) as stream:
            next(iter(stream))
        ended_well(shield, driver)

    driver.use(proxy_of("openai").url, work)
