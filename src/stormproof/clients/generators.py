"""Generators under protection: begun at the first ``next()``, begun anew as long as nothing has come, settled once.

What the consumer throws in and gets back is no failure of the target, nor is his closing it early.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from stormproof.clients.patching import begin
from stormproof.clients.streams import each_async
from stormproof.functions import AsyncSteps, Steps
from stormproof.resilience import deadline
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.call import Call
from stormproof.resilience.operation import Operation
from stormproof.resilience.runner import Runner

Make = Callable[[], Any]


class _Protected:
    """What the two have in common: an operation."""

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


class _Frame:
    """Around a step of the generator: it runs inside the operation, which ends with what ends the generator.

    ``thrown``: what the consumer throws in.
    """

    __slots__ = ("_operation", "_thrown", "_token")

    def __init__(self, operation: Operation, thrown: tuple[Any, ...] = ()) -> None:
        self._operation = operation
        self._thrown = thrown

    def __enter__(self) -> None:
        self._operation.resumed()
        self._token = deadline.enter(self._operation.deadline, self._operation.cut_at)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        operation = self._operation
        deadline.leave(self._token)
        operation.returned(operation.attempt)  # type: ignore[arg-type]  # it has one, as it has begun
        if error is None:
            return
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            operation.succeed()
        elif any(error is part or type(error) is part for part in self._thrown):  # the consumer's own
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
        with _Frame(operation, args):
            item = advance(*args)
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
        with _Frame(operation):
            super().close()
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
        with _Frame(operation, args):
            item = await advance(*args)
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
            self.items = each_async(opened)
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
        with _Frame(operation):
            await super().aclose()
        return operation.close()


def _each(items: Any) -> Generator[Any, Any, Any]:
    """A fallback's value as what the app expects to iterate over."""
    yield from items
