"""Readers of streams: they hand every item on and settle the operation once, however the stream ends.

Class-based and without any context attached between two items: exhaustion, an error, ``close``, an early ``break``,
garbage collection and never being iterated all end the operation.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from stormproof.clients.patching import harmless
from stormproof.resilience.operation import Operation

#: Takes what an item tells into ``operation.facts``. Must not keep the item; if it fails, the app has the item still.
Observe = Callable[[Operation, Any], None]


#: What ``retry`` returns for the first item of a stream that has none.
EXHAUSTED = object()


class _Reader:
    def __init__(self, operation: Operation, observe: Observe) -> None:
        self._operation = operation
        self._observe = observe
        #: While a step runs, the client may close the response before its error gets here: the step decides.
        self.stepping = False

    def closed(self) -> None:
        """The response was closed by someone: the end, unless a step is running."""
        if not self.stepping:
            self._operation.close()

    def __del__(self) -> None:
        with suppress(Exception):  # at interpreter exit nothing is left to report with
            self._operation.close()

    def _took(self, item: Any) -> Any:
        self._operation.item()
        harmless(self._observe, self._operation, item, otherwise=None)
        return item


class Reader(_Reader):
    """Stands in for the iterator of a synchronous stream.

    ``retry`` is called when the stream fails before its first item and a retry was decided on; it returns the first
    item of a new stream (or ``EXHAUSTED``) and that stream's iterator.
    """

    def __init__(
        self,
        operation: Operation,
        iterator: Iterator[Any],
        observe: Observe,
        retry: Callable[[], tuple[Any, Iterator[Any]]],
    ) -> None:
        super().__init__(operation, observe)
        self._iterator = iterator
        self._retry = retry

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Any:
        self.stepping = True
        try:
            return self._took(self._step())
        except StopIteration:
            self._operation.succeed()
            raise
        finally:
            self.stepping = False

    def _step(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except BaseException as error:
            self._operation.fail(error)
            if self._operation.wait is None:
                raise
        item, self._iterator = self._retry()
        if item is EXHAUSTED:
            raise StopIteration
        return item

    def close(self) -> None:
        """Close the stream, as ``generator.close``."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()
        self.closed()


class AsyncReader(_Reader):
    """As :class:`Reader`, for asynchronous streams."""

    def __init__(
        self,
        operation: Operation,
        iterator: AsyncIterator[Any],
        observe: Observe,
        retry: Callable[[], Awaitable[tuple[Any, AsyncIterator[Any]]]],
    ) -> None:
        super().__init__(operation, observe)
        self._iterator = iterator
        self._retry = retry

    def __aiter__(self) -> AsyncReader:
        return self

    async def __anext__(self) -> Any:
        self.stepping = True
        try:
            return self._took(await self._step())
        except StopAsyncIteration:
            self._operation.succeed()
            raise
        finally:
            self.stepping = False

    async def _step(self) -> Any:
        try:
            return await self._iterator.__anext__()
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self._operation.fail(error)
            if self._operation.wait is None:
                raise
        item, self._iterator = await self._retry()
        if item is EXHAUSTED:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Close the stream, as ``async_generator.aclose``."""
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()
        self.closed()


def watch_response(response: Any, operation: Operation) -> None:
    """End the operation with an open httpx response that the app reads by itself (raw and streamed responses).

    Its own ``iter_raw`` and ``close`` are shadowed on this one object; its type stays what it is. One that is dropped
    unread ends it too.
    """
    own, watch = vars(response), _Watch(operation)
    if hasattr(response.stream, "__aiter__") and not hasattr(response.stream, "__iter__"):
        own["aiter_raw"] = watch.reading_async(response.aiter_raw)
        own["aclose"] = then_async(response.aclose, watch.closed)
    else:
        own["iter_raw"] = watch.reading(response.iter_raw)
        own["close"] = then(response.close, watch.closed)
    weakref.finalize(response, operation.close)


def then(function: Callable[[], Any], after: Callable[[], None]) -> Callable[[], Any]:
    """``function`` followed by ``after``, whether it raises or not."""

    def both() -> Any:
        try:
            return function()
        finally:
            after()

    return both


def then_async(function: Callable[[], Awaitable[Any]], after: Callable[[], None]) -> Callable[[], Awaitable[Any]]:
    """As :func:`then`."""

    async def both() -> Any:
        try:
            return await function()
        finally:
            after()

    return both


class _Watch:
    """Settles the operation of a response that is read in raw chunks."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        #: As in :class:`_Reader`: httpx2 closes a response before its error, or its end, gets here.
        self._stepping = False

    def closed(self) -> None:
        if not self._stepping:
            self._operation.close()

    def reading(self, read: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
        def read_watched(*args: Any, **kwargs: Any) -> Iterator[bytes]:
            chunks = read(*args, **kwargs)
            while (chunk := self._step(chunks)) is not EXHAUSTED:
                yield chunk

        return read_watched

    def reading_async(self, read: Callable[..., AsyncIterator[bytes]]) -> Callable[..., AsyncIterator[bytes]]:
        async def read_watched(*args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
            chunks = read(*args, **kwargs)
            while (chunk := await self._step_async(chunks)) is not EXHAUSTED:
                yield chunk

        return read_watched

    def _step(self, chunks: Iterator[bytes]) -> Any:
        self._stepping = True
        try:
            return self._took(next(chunks, EXHAUSTED))
        except BaseException as error:
            self._operation.fail(error, final=True)
            raise
        finally:
            self._stepping = False

    async def _step_async(self, chunks: AsyncIterator[bytes]) -> Any:
        self._stepping = True
        try:
            return self._took(await anext(chunks, EXHAUSTED))
        except BaseException as error:
            self._operation.fail(error, final=True)
            raise
        finally:
            self._stepping = False

    def _took(self, chunk: Any) -> Any:
        if chunk is EXHAUSTED:
            self._operation.succeed()
        else:
            self._operation.item()
        return chunk
