"""What an asynchronous call by gRPC returns: it begins at once, is awaited, asked and cancelled as grpc's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import grpc
import grpc.aio


class ProtectedCall(grpc.aio.UnaryUnaryCall):  # type: ignore[misc]
    """Stands in for grpc's call: the answer is the protected call's, what else is asked is the latest attempt's."""

    def __init__(self, run: Callable[[ProtectedCall], Awaitable[Any]]) -> None:
        self._attempt: Any = None
        self._task: asyncio.Future[Any] = asyncio.ensure_future(run(self))
        self._task.add_done_callback(_look_at)

    def follow(self, attempt: Any) -> Any:
        """This is the latest attempt."""
        self._attempt = attempt
        return attempt

    def __await__(self) -> Generator[Any, None, Any]:
        return self._task.__await__()

    def cancel(self) -> bool:
        return self._task.cancel()

    def cancelled(self) -> bool:
        return self._task.cancelled()

    def done(self) -> bool:
        return self._task.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._task.add_done_callback(lambda _: callback(self))

    def time_remaining(self) -> float | None:
        return None if self._attempt is None else self._attempt.time_remaining()

    async def wait_for_connection(self) -> None:
        await self._task

    async def initial_metadata(self) -> Any:
        return await self._told("initial_metadata", grpc.aio.Metadata())

    async def trailing_metadata(self) -> Any:
        return await self._told("trailing_metadata", grpc.aio.Metadata())

    async def code(self) -> Any:
        return await self._told("code", grpc.StatusCode.CANCELLED)

    async def details(self) -> Any:
        return await self._told("details", "Locally cancelled by application!")

    async def debug_error_string(self) -> Any:
        return await self._told("debug_error_string", "")

    async def _told(self, what: str, when_cancelled: Any) -> Any:
        await asyncio.wait([self._task])
        if self._task.cancelled():
            return when_cancelled
        error = self._task.exception()
        if isinstance(error, grpc.aio.AioRpcError):
            return getattr(error, what)()
        return when_cancelled if self._attempt is None else await getattr(self._attempt, what)()


def _look_at(task: asyncio.Future[Any]) -> None:
    """A call that nobody awaits fails in silence, as grpc's own does; a task would complain of it."""
    if not task.cancelled():
        task.exception()
