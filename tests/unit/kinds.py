"""The same function in each of its kinds, under one face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from stormproof.functions import Kind

Body = Callable[..., Any]

every_kind = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value.replace(" ", "_"))
generators = pytest.mark.parametrize(
    "kind", [Kind.GENERATOR, Kind.ASYNC_GENERATOR], ids=lambda kind: kind.value.replace(" ", "_")
)


def in_kind(kind: Kind, body: Body) -> Any:
    """A function of this kind with this body; a generator yields what the body returns, and then ``"more"``."""

    def plain(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **kwargs)

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return body(*args, **kwargs)

    def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield body(*args, **kwargs)
        yield "more"

    async def async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        yield body(*args, **kwargs)
        yield "more"

    made = {
        Kind.PLAIN: plain,
        Kind.COROUTINE: coroutine,
        Kind.GENERATOR: generator,
        Kind.ASYNC_GENERATOR: async_generator,
    }
    return made[kind]


def outcome(kind: Kind, called: Callable[[], Any]) -> Any:
    """What the body returned, by way of whatever ``called`` gives."""

    async def awaited() -> Any:
        return await called()

    async def listed() -> Any:
        return [item async for item in called()]

    if kind is Kind.PLAIN:
        return called()
    if kind is Kind.COROUTINE:
        return asyncio.run(awaited())
    first, *rest = list(called()) if kind is Kind.GENERATOR else asyncio.run(listed())
    assert rest == ["more"]
    return first


def step(kind: Kind, generator: Any, method: str = "send", *args: Any) -> Any:
    """One step of a generator. An asynchronous one is stepped without a loop, which would close it at its own end."""
    if kind is Kind.GENERATOR:
        return getattr(generator, method)(*args)
    stepping = getattr(generator, f"a{method}")(*args).__await__()
    while True:
        try:
            next(stepping)  # it waits for nothing but a turn
        except StopIteration as end:  # noqa: PERF203
            return end.value
