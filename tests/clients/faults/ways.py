"""The ways to call: each client, synchronous or not, whole or streamed, with what a fault needs of it."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
from qdrant_client import models

from tests.clients.drivers import COLLECTION, DRIVERS, MODEL, Driver, Qdrant

#: Seconds for whatever is not meant to time out.
_PATIENT = 20.0


@dataclass(frozen=True)
class Answer:
    """What the app got: an error, or none; and how many items of a stream before."""

    error: Exception | None
    items: int


class Way:
    """One client in one of its ways to call."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.client = self.system = driver.system
        self.path = driver.path
        self.streams = driver.streams
        self.kind = "stream" if driver.streams else "whole"
        self.name = f"{'async' if driver.is_async else 'sync'}{' stream' if driver.streams else ''}"

    def __str__(self) -> str:
        return str(self.driver)

    def call(self, url: str, timeouts: Mapping[str, float], size: int, **options: Any) -> Answer:
        """Make the call and read its answer to the end. ``timeouts`` by phase, ``size`` of the prompt in bytes."""
        timeout = {"connect": _PATIENT, "read": _PATIENT, "write": _PATIENT, "pool": _PATIENT, **timeouts}
        items = 0

        def work(client: Any) -> None:
            nonlocal items
            answer = self._start(client, timeout, size)
            for _ in answer if self.streams else ():
                items += 1

        async def work_async(client: Any) -> None:
            nonlocal items
            answer = await self._start(client, timeout, size)
            if self.streams:
                async for _ in answer:
                    items += 1

        try:
            work_of = work_async if self.driver.is_async else work
            self.driver.use(url, work_of, **_CLIENTS[self.system](self.driver, timeout), **options)
        except Exception as error:
            return Answer(error, items)
        return Answer(None, items)

    def _start(self, client: Any, timeout: dict[str, float], size: int) -> Any:
        return _STARTS[self.system](self.driver, client, timeout, "two? " + "x" * size)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Made once: to read the machine's certificates takes longer than a call."""
    return ssl.create_default_context()


def _openai_client(driver: Driver, timeout: dict[str, float]) -> dict[str, Any]:
    make = openai.DefaultAsyncHttpxClient if driver.is_async else openai.DefaultHttpxClient
    http_client: Any = make(verify=_certificates())
    return {"http_client": http_client, "timeout": openai.Timeout(**timeout)}


def _ollama_client(driver: Driver, timeout: dict[str, float]) -> dict[str, Any]:
    return {"verify": _certificates(), "timeout": httpx.Timeout(**timeout)}


def _qdrant_client(driver: Driver, timeout: dict[str, float]) -> dict[str, Any]:
    return {"verify": _certificates()}


def _start_openai(driver: Driver, client: Any, timeout: dict[str, float], text: str) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=messages, stream=driver.streams)


def _start_ollama(driver: Driver, client: Any, timeout: dict[str, float], text: str) -> Any:
    return client.chat("tiny", [{"role": "user", "content": text}], stream=driver.streams)


def _start_qdrant(driver: Driver, client: Any, timeout: dict[str, float], text: str) -> Any:
    api = client.http.client
    http = api._async_client if driver.is_async else api._client
    http.timeout = httpx.Timeout(**timeout)  # as a setting it knows whole seconds only
    condition = models.FieldCondition(key="text", match=models.MatchValue(value=text))
    return client.count(COLLECTION, count_filter=models.Filter(must=[condition]))


_CLIENTS = {"openai": _openai_client, "ollama": _ollama_client, "qdrant": _qdrant_client}
_STARTS = {"openai": _start_openai, "ollama": _start_ollama, "qdrant": _start_qdrant}


class GrpcWay(Way):
    """qdrant-client by gRPC; it has one timeout, for the whole call."""

    def __init__(self, *, is_async: bool) -> None:
        super().__init__(Qdrant(is_async=is_async))
        self.client = "qdrant-grpc"

    def __str__(self) -> str:
        return f"{self.client}-{self.name}"

    def call(self, url: str, timeouts: Mapping[str, float], size: int, **options: Any) -> Answer:
        address = urlsplit(url)

        def work(client: Any) -> Any:
            client._client._timeout = timeouts.get("read", _PATIENT)  # as a setting it knows whole seconds only
            return client.count(COLLECTION)

        async def work_async(client: Any) -> None:
            await work(client)

        places = {"host": address.hostname, "grpc_port": address.port, "prefer_grpc": True, "https": False}
        try:
            self.driver.use(None, work_async if self.driver.is_async else work, **places)  # type: ignore[arg-type]
        except Exception as error:
            return Answer(error, 0)
        return Answer(None, 0)


WAYS = [*map(Way, DRIVERS), GrpcWay(is_async=False), GrpcWay(is_async=True)]
