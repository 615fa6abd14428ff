"""Generators under protection: begun at the first ``next()``, begun anew as long as nothing has come, settled once.

What the consumer throws in and gets back is no failure of the target, nor is his closing it early.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import Token
from typing import Any

from stormproof.clients.patching import begin
from stormproof.functions import AsyncSteps, Steps
from stormproof.resilience import deadline
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.call import Call
from stormproof.resilience.operation import Operation
from stormproof.resilience.runner import Runner

Make = Callable[[], Any]


class _Protected:
    """What the two have in common: an operation, and how a step is framed."""

    def __init__(self, runner: Runner, call: Call, make: Make) -> None:
        self._runner = runner
        self._call = call
        self._make: Make | None = make  # kept until the first item has come: it holds the arguments
        self._operation: Operation | None = None

    def _running(self) -> Operation | None:
        """The operation, if it goes on."""
        operation = self._operation
        return None if operation is None or operation.is_over else operation

    def _begin(self) -> Operation | None:
        return begin(self._runner, lambda: self._call)

    def _opened(self, operation: Operation) -> bool:
        """Take the operation that the app's items belong to; False if they are a fallback's value."""
        self._make = None
        self._operation = operation.live
        return not operation.live.is_over

    @staticmethod
    def _enter(operation: Operation) -> Token[tuple[float, float]]:
        operation.resumed()
        return deadline.enter(operation.deadline, operation.cut_at)

    @staticmethod
    def _leave(operation: Operation, token: Token[tuple[float, float]]) -> None:
        deadline.leave(token)
        operation.returned(operation.attempt)  # type: ignore[arg-type]  # it has one, as it has begun

    @staticmethod
    def _failed(operation: Operation, error: BaseException, thrown: tuple[Any, ...]) -> None:
        if any(error is part or type(error) is part for part in thrown):  # the consumer's own
            operation.close()
        else:
            operation.fail(error, final=True)


class ProtectedSteps(_Protected, Steps):
    """Of a generator function; ``make`` calls it."""

    def __init__(self, runner: Runner, call: Call, make: Make) -> None:
        _Protected.__init__(self, runner, call, make)
        Steps.__init__(self, make())

    def step(self, advance: Callable[..., Any], *args: Any) -> Any:
        if self._make is not None:
            return self._first()
        operation = self._running()
        if operation is None:
            return advance(*args)
        token = self._enter(operation)
        try:
            item = advance(*args)
        except BaseException as error:
            self._leave(operation, token)
            if isinstance(error, StopIteration):
                operation.succeed()
            else:
                self._failed(operation, error, args)
            raise
        self._leave(operation, token)
        operation.item()
        return item

    def _first(self) -> Any:
        operation, make = self._begin(), self._make
        if operation is None or make is None:
            self._make = None
            return next(self.items)

        def send(operation: Operation, attempt: Attempt) -> Any:
            if attempt.number > 1:
                self.items = make()
            try:
                return next(self.items), None
            except StopIteration as end:
                return None, end

        opened = self._runner.run(operation, send)
        if not self._opened(operation):
            self.items = _each(opened)
            return next(self.items)
        item, end = opened
        if end is not None:
            operation.live.succeed()
            raise StopIteration(end.value)
        operation.live.item()
        return item

    def close(self) -> None:
        operation = self._running()
        if operation is None:
            return super().close()
        token = self._enter(operation)
        try:
            super().close()
        except BaseException as error:
            self._leave(operation, token)
            self._failed(operation, error, ())
            raise
        self._leave(operation, token)
        return operation.close()


class ProtectedAsyncSteps(_Protected, AsyncSteps):
    """As :class:`ProtectedSteps`."""

    def __init__(self, runner: Runner, call: Call, make: Make) -> None:
        _Protected.__init__(self, runner, call, make)
        AsyncSteps.__init__(self, make())

    async def step(self, advance: Callable[..., Any], *args: Any) -> Any:
        if self._make is not None:
            return await self._first()
        operation = self._running()
        if operation is None:
            return await advance(*args)
        token = self._enter(operation)
        try:
            item = await advance(*args)
        except BaseException as error:
            self._leave(operation, token)
            if isinstance(error, StopAsyncIteration):
                operation.succeed()
            else:
                self._failed(operation, error, args)
            raise
        self._leave(operation, token)
        operation.item()
        return item

    async def _first(self) -> Any:
        operation, make = self._begin(), self._make
        if operation is None or make is None:
            self._make = None
            return await self.advance()

        async def send(operation: Operation, attempt: Attempt) -> Any:
            if attempt.number > 1:
                self.items = make()
            try:
                return await self.advance(), None
            except StopAsyncIteration as end:
                return None, end

        opened = await self._runner.run_async(operation, send)
        if not self._opened(operation):
            self.items = _each_async(opened)
            return await self.advance()
        item, end = opened
        if end is not None:
            operation.live.succeed()
            raise StopAsyncIteration
        operation.live.item()
        return item

    async def aclose(self) -> None:
        operation = self._running()
        if operation is None:
            return await super().aclose()
        token = self._enter(operation)
        try:
            await super().aclose()
        except BaseException as error:
            self._leave(operation, token)
            self._failed(operation, error, ())
            raise
        self._leave(operation, token)
        return operation.close()


def _each(items: Any) -> Generator[Any, Any, Any]:
    """A fallback's value as what the app expects to iterate over."""
    yield from items


async def _each_async(items: Any) -> AsyncGenerator[Any, Any]:
    """As :func:`_each`; an ordinary iterable will do."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
