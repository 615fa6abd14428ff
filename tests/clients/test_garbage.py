"""What a call of ours held is free as soon as it is over: nothing of it waits for the garbage collector.

A cycle would keep answers and connections alive until it runs, which may be in another thread.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import stormproof
from stormproof.demo.proxy import FaultProxy, status

from .drivers import Driver, every_stream, every_way
from .shield import Shield

ProxyOf = Callable[[str], FaultProxy]

HOUSE = Path(stormproof.__file__).parent
#: The stand-ins run in this process, too.
DEMO = HOUSE / "demo"


def is_ours(thing: Any) -> bool:
    """Whether it is of a class of ours or of OpenTelemetry's, or a function or a running piece of our code."""
    if type(thing).__module__.startswith(("stormproof", "opentelemetry")):
        return not type(thing).__module__.startswith("stormproof.demo")
    code = next((getattr(thing, name) for name in ("__code__", "f_code", "cr_code") if hasattr(thing, name)), None)
    return code is not None and HOUSE in (file := Path(code.co_filename)).parents and DEMO not in file.parents


@contextmanager
def collected(found: list[Any]) -> Iterator[None]:
    """``found``: what of ours was left inside for the collector."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [str(thing) for thing in gc.garbage if is_ours(thing)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def ask(driver: Driver, client: Any, *, leave: bool) -> None:
    with suppress(*driver.connection_errors, driver.status_error, *driver.circuit_errors):
        answer = driver.start(client)
        if driver.streams:
            for _ in answer:
                if leave:
                    answer.close()
                    break


async def ask_async(driver: Driver, client: Any, *, leave: bool) -> None:
    with suppress(*driver.connection_errors, driver.status_error, *driver.circuit_errors):
        answer = await driver.start(client)
        if driver.streams:
            async for _ in answer:
                if leave:
                    await (answer.aclose if hasattr(answer, "aclose") else answer.close)()
                    break


def garbage(driver: Driver, url: str, *, leave: bool = False) -> list[str]:
    """What is left of two calls, in words."""
    found: list[str] = []

    def work(client: Any) -> None:
        with collected(found):
            for _ in range(2):
                ask(driver, client, leave=leave)

    async def work_async(client: Any) -> None:
        with collected(found):
            for _ in range(2):
                await ask_async(driver, client, leave=leave)
            for _ in range(20):  # the client's generators are closed by tasks
                await asyncio.sleep(0)

    driver.use(url, work_async if driver.is_async else work)
    return found


@every_way
def test_of_whole_answers(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    assert garbage(driver, proxy_of(driver.system).url) == []


@every_stream
def test_of_streams_left_early(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    if sys.version_info < (3, 11) and str(driver) == "ollama-sync-stream":
        pytest.skip("3.10's contextlib keeps what ended a with block in a cycle, and that one is the client's own")
    assert garbage(driver, proxy_of(driver.system).url, leave=True) == []


@every_way
@pytest.mark.parametrize("times", [1, 20], ids=["once", "always"])
@pytest.mark.parametrize("code", [400, 503])
def test_of_failures(shield: Shield, proxy_of: ProxyOf, driver: Driver, code: int, times: int) -> None:
    proxy = proxy_of(driver.system)
    proxy.plan("POST", driver.path, [status(code)] * times)
    left = garbage(driver, proxy.url)
    if code == 503:  # stamina's loop is a cycle; it may hold the operation, but no traceback
        left = [thing for thing in left if thing.startswith("<frame")]
    assert left == []
