"""Readers of streams: they hand every item on and settle the operation once, however the stream ends.

Class-based and without any context attached between two items: exhaustion, an error, ``close``, an early ``break``,
garbage collection and never being iterated all end the operation.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from stormproof.clients.patching import harmless, report_once
from stormproof.resilience.call import Facts
from stormproof.resilience.operation import Operation

#: Takes what an item tells into ``operation.facts``. Must not keep the item; if it fails, the app has the item still.
#: None where items tell nothing: bytes.
Observe = Callable[[Operation, Any], None]

#: What ``retry`` returns for the first item of a stream that has none.
EXHAUSTED = object()


#: Whose step runs in this thread or task, if any does.
_stepping: ContextVar[Any] = ContextVar("stormproof_stepping", default=None)


class _Step:
    """While it runs, the client may close the response before its error, or its end, gets to the reader."""

    __slots__ = ("_outer", "_reader")

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        self._outer = _stepping.get()
        _stepping.set(self._reader)

    def __exit__(self, *_: object) -> None:
        _stepping.set(self._outer)  # not by a token: it may be refused, and then the app would get our error


class _Reader:
    def __init__(self, operation: Operation, observe: Observe | None) -> None:
        self._operation = operation
        self._observe = None if operation.listeners.is_idle else observe

    def closed(self) -> None:
        """The response is being closed: by a step of ours, which then decides what that means, or by the app."""
        if _stepping.get() is not self:
            self._operation.close()

    def __del__(self) -> None:
        with suppress(Exception):  # at interpreter exit nothing is left to report with
            self._operation.close()

    def took(self, item: Any) -> Any:
        """Note the item, and hand it on."""
        operation, observe = self._operation, self._observe
        operation.item()
        if observe is not None:
            try:
                observe(operation, item)
            except Exception:
                report_once(observe)
        return item


class Reader(_Reader):
    """Stands in for the iterator of a synchronous stream.

    ``retry`` is called when the stream fails before its first item and a retry was decided on; it returns the first
    item of a new stream (or ``EXHAUSTED``) and that stream's iterator. Without it, nothing is repeated.
    """

    def __init__(
        self,
        operation: Operation,
        iterator: Iterator[Any],
        observe: Observe | None,
        retry: Callable[[], tuple[Any, Iterator[Any]]] | None = None,
    ) -> None:
        super().__init__(operation, observe)
        self._iterator = iterator
        self._retry = retry

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Any:
        outer = _stepping.get()  # a _Step, spelled out: it would cost as much as all else here
        _stepping.set(self)
        try:
            try:
                return self.took(next(self._iterator))
            except StopIteration:
                self._operation.succeed()
                raise
            except BaseException as error:
                self._operation.fail(error, final=self._retry is None)
                if self._operation.wait is None or self._retry is None:
                    raise
            return self.took(self._reopened(self._retry))  # outside of the handler: its error has nothing to do with it
        finally:
            _stepping.set(outer)
            self._retry = None  # it holds the stream, which holds this reader

    def _reopened(self, retry: Callable[[], tuple[Any, Iterator[Any]]]) -> Any:
        item, self._iterator = retry()
        if item is EXHAUSTED:
            self._operation.succeed()
            raise StopIteration
        return item

    def close(self) -> None:
        """Close the stream, as ``generator.close``."""
        self.closed()
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


class AsyncReader(_Reader):
    """As :class:`Reader`, for asynchronous streams."""

    def __init__(
        self,
        operation: Operation,
        iterator: AsyncIterator[Any],
        observe: Observe | None,
        retry: Callable[[], Awaitable[tuple[Any, AsyncIterator[Any]]]] | None = None,
    ) -> None:
        super().__init__(operation, observe)
        self._iterator = iterator
        self._retry = retry

    def __aiter__(self) -> AsyncReader:
        return self

    async def __anext__(self) -> Any:
        outer = _stepping.get()
        _stepping.set(self)
        try:
            try:
                return self.took(await self._iterator.__anext__())
            except StopAsyncIteration:
                self._operation.succeed()
                raise
            except BaseException as error:
                self._operation.fail(error, final=self._retry is None)
                if self._operation.wait is None or self._retry is None:
                    raise
            return self.took(await self._reopened(self._retry))
        finally:
            _stepping.set(outer)
            self._retry = None  # it holds the stream, which holds this reader

    async def _reopened(self, retry: Callable[[], Awaitable[tuple[Any, AsyncIterator[Any]]]]) -> Any:
        item, self._iterator = await retry()
        if item is EXHAUSTED:
            self._operation.succeed()
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Close the stream, as ``async_generator.aclose``."""
        self.closed()
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()


async def each_async(items: Any) -> AsyncGenerator[Any, None]:
    """The items of either kind of iterable: the value of an asynchronous stream's fallback may be any."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def watch_close(response: Any, closed: Callable[[], None], **others: Any) -> None:
    """Tell ``closed`` before the response is closed, by a step of ours or behind our back by client or app.

    Before: a thread that reads meanwhile sees an error, which is not the server's. The method is shadowed on this
    one object, whose type stays what it is; ``others`` of its methods with it. Shadows hold what holds them, so they go
    when it is closed: nothing is left for the garbage collector.
    """
    name = "aclose" if _is_async(response) else "close"
    own, shadows, close = vars(response), others, getattr(response, name)

    def tell() -> None:
        with suppress(KeyError):  # there are no more; another thread may be closing it, too
            while True:
                shadowed, shadow = shadows.popitem()
                if own.get(shadowed) is shadow:
                    del own[shadowed]
        closed()

    def both() -> Any:
        tell()
        return close()

    async def both_async() -> Any:
        tell()
        return await close()

    shadows[name] = both_async if name == "aclose" else both
    own.update(shadows)


def _is_async(response: Any) -> bool:
    return hasattr(response.stream, "__aiter__") and not hasattr(response.stream, "__iter__")


def watch_response(response: Any, operation: Operation, facts: Callable[[Any], Facts]) -> Watch:
    """End the operation with an open httpx response that the app reads by itself (raw and streamed responses).

    One that is dropped unread ends it, too. ``facts``: what a response that was read whole tells.
    """
    watch = Watch(operation, facts)
    if _is_async(response):
        read = {"aread": watch.whole_async(response), "aiter_raw": watch.parts_async(response.aiter_raw)}
    else:
        read = {"read": watch.whole(response), "iter_raw": watch.parts(response.iter_raw)}
    watch_close(response, watch.closed, **read)
    weakref.finalize(response, operation.close)
    return watch


class Watch:
    """Has the operation of a response settled by who reads it first: whole, in raw parts, or as a stream of items."""

    def __init__(self, operation: Operation, facts: Callable[[Any], Facts]) -> None:
        self._operation = operation
        self._facts = facts
        self._reader: _Reader | None = None

    def closed(self) -> None:
        if self._reader is None:
            self._operation.close()
        else:
            self._reader.closed()

    def items(self, iterator: Any, observe: Observe) -> Any:
        """The items that the client makes of the response, watched."""
        if self._operation.is_over or isinstance(iterator, _Reader):
            return iterator
        reader: Reader | AsyncReader
        if hasattr(iterator, "__anext__"):
            reader = AsyncReader(self._operation, iterator, observe)
        else:
            reader = Reader(self._operation, iterator, observe)
        self._reader = reader
        return reader

    def parts(self, read: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
        def read_watched(*args: Any, **kwargs: Any) -> Iterator[bytes]:
            chunks = read(*args, **kwargs)
            if self._reader is None:
                chunks = self._reader = Reader(self._operation, chunks, None)
            yield from chunks

        return read_watched

    def parts_async(self, read: Callable[..., AsyncIterator[bytes]]) -> Callable[..., AsyncIterator[bytes]]:
        async def read_watched(*args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
            chunks = read(*args, **kwargs)
            if self._reader is None:
                chunks = self._reader = AsyncReader(self._operation, chunks, None)
            with suppress(StopAsyncIteration):
                while True:
                    yield await chunks.__anext__()  # no name holds it until the next one is there

        return read_watched

    def whole(self, response: Any) -> Callable[[], Any]:
        read = response.read

        def read_watched() -> Any:
            if self._reader is not None:
                return read()
            self._reader = _Reader(self._operation, None)
            with _Step(self._reader):
                try:
                    content = read()
                except BaseException as error:
                    self._operation.fail(error, final=True)
                    raise
            self._operation.succeed(harmless(self._facts, response, otherwise=None))
            return content

        return read_watched

    def whole_async(self, response: Any) -> Callable[[], Awaitable[Any]]:
        read = response.aread

        async def read_watched() -> Any:
            if self._reader is not None:
                return await read()
            self._reader = _Reader(self._operation, None)
            with _Step(self._reader):
                try:
                    content = await read()
                except BaseException as error:
                    self._operation.fail(error, final=True)
                    raise
            self._operation.succeed(harmless(self._facts, response, otherwise=None))
            return content

        return read_watched
