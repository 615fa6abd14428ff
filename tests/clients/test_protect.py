"""Functions of the user's own over real sockets, with the faults that the proxy puts in their way."""

from __future__ import annotations

import asyncio
import contextvars
import json
import multiprocessing
import os
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
import trio
from opentelemetry.trace import SpanKind

import stormproof
from stormproof.demo.proxy import FaultProxy, hang, reset, reset_after, status
from tests.unit.signals import attributes, has, is_child

from .drivers import OpenAI
from .shield import Shield

ProxyOf = Callable[[str], FaultProxy]
PATH = "/api/tags"  # any question that the stand-in answers

_TIMEOUT = 1.0  # seconds; a busy machine answers later than one would think

jira = stormproof.protect("jira")


def names(answer: Any) -> list[str]:
    """What does not change from one answer to the next."""
    return [model["name"] for model in answer["models"]]


def by_httpx(url: str) -> Any:
    return names(httpx.get(url, timeout=_TIMEOUT).raise_for_status().json())


def by_requests(url: str) -> Any:
    answer = requests.get(url, timeout=_TIMEOUT)
    answer.raise_for_status()
    return names(answer.json())


def by_urllib(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            return names(json.load(answer))
    except urllib.error.HTTPError as error:
        error.close()
        raise


async def by_httpx_async(url: str) -> Any:
    async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
        return names((await client.get(url)).raise_for_status().json())


def items_by_httpx(url: str) -> Iterator[Any]:
    yield from by_httpx(url)


async def items_by_httpx_async(url: str) -> AsyncIterator[Any]:
    for item in await by_httpx_async(url):
        yield item


def ask(function: Any, url: str) -> Any:
    """What comes of a call, whichever kind of function it is."""

    async def collect(items: Any) -> Any:
        return [item async for item in items]

    found = function(url)
    if hasattr(found, "__await__"):
        return asyncio.run(awaited(found))
    if hasattr(found, "__anext__"):
        return asyncio.run(collect(found))
    return list(found) if hasattr(found, "__next__") else found


async def awaited(awaitable: Any) -> Any:
    return await awaitable


FUNCTIONS = [by_httpx, by_requests, by_urllib, by_httpx_async, items_by_httpx, items_by_httpx_async]
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)


@pytest.fixture
def proxy(proxy_of: ProxyOf) -> FaultProxy:
    return proxy_of("ollama")


@every_function
@pytest.mark.parametrize(
    "fault", [status(503), status(408), status(502), reset(), reset_after()],
    ids=["503", "408", "502", "reset", "reset_after"],
)  # fmt: skip
def test_it_survives(shield: Shield, proxy: FaultProxy, function: Any, fault: Any) -> None:
    expected = ask(function, proxy.url + PATH)
    shield.signals.clear()
    proxy.clear()
    proxy.plan("GET", PATH, [fault, fault])
    assert ask(jira(function), proxy.url + PATH) == expected
    assert proxy.count("GET", PATH) == 3
    assert len(shield.signals.attempts()) == 3
    assert has(shield.signals.operation(), resilience__attempt__count=3, error__type=None)


@every_function
@pytest.mark.parametrize(("fault", "attempts"), [(status(404), 1), (status(501), 1), (status(503), 4)])
def test_it_raises_what_the_bare_function_raises(
    shield: Shield, proxy: FaultProxy, function: Any, fault: Any, attempts: int
) -> None:
    proxy.chance("GET", PATH, fault, 1)
    with pytest.raises(Exception) as bare:
        ask(function, proxy.url + PATH)
    proxy.clear()
    with pytest.raises(type(bare.value)) as raised:
        ask(jira(function), proxy.url + PATH)
    assert str(raised.value) == str(bare.value)
    assert proxy.count("GET", PATH) == attempts


@every_function
@pytest.mark.parametrize(
    ("fault", "attempts"), [(reset_after(), 1), (hang(), 1), (status(502), 1), (status(503), 4)],
    ids=["reset_after", "hang", "502", "503"],
)  # fmt: skip
def test_what_may_have_been_carried_out_is_not_repeated(
    shield: Shield, proxy: FaultProxy, function: Any, fault: Any, attempts: int
) -> None:
    proxy.chance("GET", PATH, fault, 1)
    with pytest.raises(Exception):  # noqa: B017  # each library's own
        ask(stormproof.protect("jira", replay_safe=False)(function), proxy.url + PATH)
    assert proxy.count("GET", PATH) == attempts


@every_function
def test_nobody_listens(shield: Shield, function: Any) -> None:
    with socket.socket() as unheard:  # bound, and not listening: refused
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(Exception):  # noqa: B017
            ask(
                stormproof.protect("jira", replay_safe=False)(function), f"http://127.0.0.1:{unheard.getsockname()[1]}/"
            )
    assert len(shield.signals.attempts()) == 4


def test_under_trio(shield: Shield, proxy: FaultProxy) -> None:
    proxy.plan("GET", PATH, [status(503), reset()])
    assert trio.run(jira(by_httpx_async), proxy.url + PATH) == by_httpx(proxy.url + PATH)
    proxy.plan("GET", PATH, [status(503), reset()])

    async def collect() -> list[Any]:
        return [item async for item in jira(items_by_httpx_async)(proxy.url + PATH)]

    assert trio.run(collect) == list(items_by_httpx(proxy.url + PATH))


def test_the_servers_wish_is_heard(shield: Shield, proxy: FaultProxy) -> None:
    shield.again(BREAKER__STRATEGY="window")  # which does not pace what comes after a 429
    proxy.plan("GET", PATH, [status(429, {"Retry-After": "0.05"})])
    jira(by_httpx)(proxy.url + PATH)
    assert attributes(shield.signals.attempts()[1])["resilience.retry.delay.source"] == "server"


class TestTelemetry:
    def test_spans(self, shield: Shield, proxy: FaultProxy) -> None:
        proxy.plan("GET", PATH, [status(503)])
        jira(by_httpx)(proxy.url + PATH)
        operation = shield.signals.operation()
        assert (operation.name, operation.kind) == ("by_httpx", SpanKind.CLIENT)
        assert operation.instrumentation_scope is not None
        assert operation.instrumentation_scope.name == "stormproof.protect"
        assert {
            key: value for key, value in attributes(operation).items() if key != "resilience.retry.total_delay"
        } == {
            "resilience.target.name": "jira",
            "resilience.operation.name": "by_httpx",
            "resilience.attempt.count": 2,
            "resilience.circuit_breaker.name": "jira",
            "resilience.circuit_breaker.state": "closed",
        }
        attempts = shield.signals.attempts()
        assert [span.name for span in attempts] == ["attempt by_httpx"] * 2
        assert has(attempts[0], http__response__status_code=503, error__type="503")
        assert all(not key.startswith(("gen_ai", "db.", "server.")) for span in attempts for key in attributes(span))

    def test_metrics_and_logs(self, shield: Shield, proxy: FaultProxy) -> None:
        proxy.chance("GET", PATH, status(503), 1)
        with pytest.raises(httpx.HTTPStatusError):
            jira(by_httpx)(proxy.url + PATH)
        signals = shield.signals
        by_name = ("resilience.target.name", "resilience.operation.name", "error.type")
        assert signals.values("resilience.operations", *by_name) == {("jira", "by_httpx", "503"): 1}
        by_type = (*by_name, "resilience.attempt.type")
        assert signals.values("resilience.attempt.duration", *by_type) == {
            ("jira", "by_httpx", "503", "initial"): 1,
            ("jira", "by_httpx", "503", "retry"): 3,
        }
        assert [name for name in signals.collect() if name.startswith(("gen_ai", "db."))] == []
        assert [record.event_name for record in signals.logs] == [
            *["resilience.retry.scheduled"] * 3, "resilience.operation.exception"
        ]  # fmt: skip

    def test_what_a_generator_does_later_belongs_to_its_attempt(self, shield: Shield, proxy: FaultProxy) -> None:
        tracer = shield.signals.tracer_provider.get_tracer("app")

        @jira
        def pages() -> Iterator[Any]:
            for _ in range(2):
                with tracer.start_as_current_span("page"):
                    answer = by_httpx(proxy.url + PATH)
                yield answer

        with tracer.start_as_current_span("caller"):
            generator = pages()
        for _ in generator:
            tracer.start_span("consumer").end()
        operation = shield.signals.operation()
        (attempt,) = shield.signals.attempts()
        (caller,) = shield.signals.named("caller")
        assert is_child(operation, caller)
        assert [is_child(span, attempt) for span in shield.signals.named("page")] == [True, True]
        assert [span.parent for span in shield.signals.named("consumer")] == [None, None]
        assert "gen_ai.response.time_to_first_chunk" not in attributes(operation)


class TestWithClients:
    def test_a_client_inside_is_not_multiplied(self, shield: Shield, proxy_of: ProxyOf) -> None:
        driver, proxy = OpenAI(is_async=False), proxy_of("openai")
        proxy.chance("POST", driver.path, status(503), 1)
        with pytest.raises(driver.status_error) as raised:
            jira(driver.call)(proxy.url)
        assert proxy.count("POST", driver.path) == 4
        assert "_stormproof_gave_up" not in vars(raised.value)
        outer, inner = shield.signals.operations()
        assert has(outer, resilience__retry__gave_up="nested", resilience__attempt__count=1)
        assert has(inner, resilience__retry__gave_up="attempts", resilience__attempt__count=4)
        assert is_child(inner, shield.signals.attempts(outer)[0])

    def test_without_retries_of_its_own_the_outer_one_repeats(self, shield: Shield, proxy_of: ProxyOf) -> None:
        driver, proxy = OpenAI(is_async=False), proxy_of("openai")
        proxy.plan("POST", driver.path, [status(503), status(503)])
        assert jira(driver.call)(proxy.url, max_retries=0)
        assert proxy.count("POST", driver.path) == 3


class TestWithoutInstrument:
    def test_before_and_after(self, shield: Shield, proxy: FaultProxy) -> None:
        protected = jira(by_httpx)
        shield.off()
        for _ in range(2):
            proxy.plan("GET", PATH, [status(503)])
            assert protected(proxy.url + PATH)
        assert stormproof.breakers["jira"].breaker.calls["success"] == 2
        assert shield.signals.operations() == []
        shield.on()  # and its providers are told, although the function was called before
        assert protected(proxy.url + PATH)
        assert len(shield.signals.operations()) == 1

    def test_a_task_of_its_own_context(self, shield: Shield, proxy: FaultProxy) -> None:
        assert contextvars.Context().run(jira(by_httpx), proxy.url + PATH)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking where there are threads, as is the point
def test_a_forked_child_begins_afresh(shield: Shield, proxy: FaultProxy) -> None:
    protected = jira(by_httpx)
    protected(proxy.url + PATH)
    stormproof.breakers["jira"].force_open()
    fork = multiprocessing.get_context("fork")
    receiving, sending = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: sending.send(bool(protected(proxy.url + PATH))))
    child.start()
    assert receiving.poll(20)
    assert receiving.recv()
    child.join(20)
    assert child.exitcode == 0
