"""Each client in each of its ways to call (sync or async, whole or streamed), under one face."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import httpx
import ollama
import openai
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

MODEL = "gpt-4o-mini"
MESSAGES: list[Any] = [{"role": "user", "content": "Context: One two three four.\n\nQuestion: two?"}]
COLLECTION = "docs"


class Driver:
    """Makes one call, always the same, and gives its result back in a form that can be compared."""

    system: str
    operation = "chat"
    subject = MODEL
    path: str
    status_error: type[Exception]
    connection_errors: tuple[type[Exception], ...]
    circuit_errors: tuple[type[Exception], ...]
    timeout = 0.3

    def __init__(self, *, is_async: bool, streams: bool = False) -> None:
        self.is_async = is_async
        self.streams = streams

    def __str__(self) -> str:
        return f"{self.system}-{'async' if self.is_async else 'sync'}{'-stream' if self.streams else ''}"

    def call(self, url: str, **options: Any) -> Any:
        """One whole call by a new client, made with these options; a stream is read to its end."""
        return self.use(url, self.ask if not self.is_async else self.ask_async, **options)

    def use(self, url: str, work: Callable[[Any], Any], **options: Any) -> Any:
        """What ``work`` (a coroutine function for an async client) makes of a new client."""
        if self.is_async:
            return asyncio.run(self._use_async(url, work, **options))
        client = self.client(url, **options)
        try:
            return work(client)
        finally:
            self.close(client)

    async def _use_async(self, url: str, work: Callable[[Any], Any], **options: Any) -> Any:
        client = self.client(url, **options)
        try:
            return await work(client)
        finally:
            await self.close(client)

    def ask(self, client: Any) -> Any:
        answer = self.start(client)
        return [self.text(part) for part in answer] if self.streams else self.text(answer)

    async def ask_async(self, client: Any) -> Any:
        answer = await self.start(client)
        return [self.text(part) async for part in answer] if self.streams else self.text(answer)

    # -- what differs ------------------------------------------------------------------------------------------------

    def client(self, url: str, **options: Any) -> Any:
        raise NotImplementedError

    def close(self, client: Any) -> Any:
        return client.close()

    def start(self, client: Any) -> Any:
        """The call itself; what the client returns."""
        raise NotImplementedError

    def text(self, answer: Any) -> Any:
        """What is compared."""
        raise NotImplementedError


class OpenAI(Driver):
    system = "openai"
    path = "/v1/chat/completions"
    status_error = openai.InternalServerError
    connection_errors = (openai.APIConnectionError,)
    circuit_errors = (openai.APIConnectionError, openai.APIError, openai.OpenAIError)

    def client(self, url: str, **options: Any) -> Any:
        make = openai.AsyncOpenAI if self.is_async else openai.OpenAI
        return make(**{"base_url": f"{url}/v1", "api_key": "none", **options})

    def start(self, client: Any) -> Any:
        return client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=self.streams)

    def text(self, answer: Any) -> Any:
        choice = answer.choices[0]
        return (choice.delta if self.streams else choice.message).content


class Ollama(Driver):
    system = "ollama"
    path = "/api/chat"
    subject = "tiny"
    status_error = ollama.ResponseError
    connection_errors = (ConnectionError, httpx.TransportError)
    circuit_errors = (ollama.ResponseError, ConnectionError)

    def client(self, url: str, **options: Any) -> Any:
        return (ollama.AsyncClient if self.is_async else ollama.Client)(host=url, **options)

    def close(self, client: Any) -> Any:
        return client._client.aclose() if self.is_async else client._client.close()

    def start(self, client: Any) -> Any:
        return client.chat("tiny", MESSAGES, stream=self.streams)

    def text(self, answer: Any) -> Any:
        return answer["message"]["content"]


class Qdrant(Driver):
    system = "qdrant"
    operation = "count"
    subject = COLLECTION
    path = f"/collections/{COLLECTION}/points/count"
    status_error = UnexpectedResponse
    connection_errors = (ResponseHandlingException,)
    circuit_errors = (ResponseHandlingException,)
    timeout = 1  # it knows whole seconds only

    def client(self, url: str, **options: Any) -> Any:
        return quiet_qdrant(url, is_async=self.is_async, **options)

    def start(self, client: Any) -> Any:
        return client.count(COLLECTION)

    def text(self, answer: Any) -> Any:
        return answer


def quiet_qdrant(url: str, *, is_async: bool = False, **options: Any) -> Any:
    """A client that does not ask for the server's version, which it does from a thread of its own."""
    make = AsyncQdrantClient if is_async else QdrantClient
    if "check_compatibility" in inspect.signature(make).parameters:
        options.setdefault("check_compatibility", False)
    return make(url=url, **options)


DRIVERS = [
    *(OpenAI(is_async=is_async, streams=streams) for is_async in (False, True) for streams in (False, True)),
    *(Ollama(is_async=is_async, streams=streams) for is_async in (False, True) for streams in (False, True)),
    *(Qdrant(is_async=is_async) for is_async in (False, True)),
]
STREAMING = [driver for driver in DRIVERS if driver.streams]

one_of_each = pytest.mark.parametrize("driver", [DRIVERS[0], DRIVERS[4], DRIVERS[8]], ids=str)
every_way = pytest.mark.parametrize("driver", DRIVERS, ids=str)
every_stream = pytest.mark.parametrize("driver", STREAMING, ids=str)
