"""The real clients, over real sockets or over a transport that answers from memory.

The second is put in place of httpx's connection pool: all above it is the real thing, the place where the official
instrumentation makes its spans included. Only benchmarks may reach for that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from benchmarks.calls.paths import Path


class _Body:
    def __init__(self, chunks: tuple[bytes, ...]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk

    def close(self) -> None:
        """Nothing is held."""

    async def aclose(self) -> None:
        """Nothing is held."""


class _Answer:
    status = 200

    def __init__(self, path: Path) -> None:
        self.headers = headers(path)
        self.stream = _Body(path.answer)
        self.extensions = {"http_version": b"HTTP/1.1", "reason_phrase": b"OK"}


class Memory:
    """Answers at once; takes the place of httpcore's pool of connections."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def handle_request(self, _: Any) -> _Answer:
        return _Answer(self._path)

    async def handle_async_request(self, _: Any) -> _Answer:
        return _Answer(self._path)

    def close(self) -> None:
        """Nothing is held."""

    async def aclose(self) -> None:
        """Nothing is held."""


def headers(path: Path) -> list[tuple[bytes, bytes]]:
    """Of the answer, without those that say how long it is."""
    if not path.streams:
        kind = b"application/json"
    else:
        kind = b"text/event-stream" if path.system == "openai" else b"application/x-ndjson"
    return [(b"content-type", kind)]


def client(path: Path, url: str | None, *, is_async: bool) -> Any:
    """A client for this path, of the server at ``url``; None: of one in memory."""
    made = {"openai": _openai, "ollama": _ollama, "qdrant": _qdrant}[path.system](url or "http://localhost:1", is_async)
    if url is None:
        http_client(made)._transport._pool = Memory(path)
    return made


def _openai(url: str, is_async: bool) -> Any:
    import openai

    return (openai.AsyncOpenAI if is_async else openai.OpenAI)(api_key="none", base_url=f"{url}/v1")


def _ollama(url: str, is_async: bool) -> Any:
    import ollama

    return (ollama.AsyncClient if is_async else ollama.Client)(host=url)


def _qdrant(url: str, is_async: bool) -> Any:
    from qdrant_client import AsyncQdrantClient, QdrantClient

    make = AsyncQdrantClient if is_async else QdrantClient
    return make(url=url, check_compatibility=False)


def http_client(client: Any) -> Any:
    """The httpx client that it stands on."""
    if hasattr(client, "query_points"):
        client = client._client.openapi_client.client
        return getattr(client, "_client", None) or client._async_client
    return client._client
