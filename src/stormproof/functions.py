"""Something put around a function of the user's own, whatever kind of function it is, without its kind changing.

A decorated coroutine function is one still, and so is a generator function; what they are given and give back, what is
sent and thrown into a generator, its return value and its type all stay as they were.
"""

from __future__ import annotations

import enum
import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Protocol


class Kind(enum.Enum):
    """What a function is, and so what calling it gives."""

    PLAIN = "plain"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


class Around(Protocol):
    """What is put around: one method a kind. ``function`` is bound already, if it is a method."""

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The result of a plain function."""

    async def run_async(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """That of a coroutine function."""

    def generate(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Generator[Any, Any, Any]:
        """The generator, at once: it begins at its first ``next()``."""

    def generate_async(self, function: Callable[..., Any], args: Any, kwargs: Any) -> AsyncGenerator[Any, Any]:
        """As :meth:`generate`."""


def kind_of(function: Any) -> Kind:
    """What a function is; of a ``partial`` what it is of, of another callable object its ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = getattr(type(function), "__call__", function)  # noqa: B004  # not whether: which
    if inspect.iscoroutinefunction(function):
        return Kind.COROUTINE
    if inspect.isgeneratorfunction(function):
        return Kind.GENERATOR
    return Kind.ASYNC_GENERATOR if inspect.isasyncgenfunction(function) else Kind.PLAIN


def name_of(function: Any) -> str:
    """The function's name with that of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    name: str = getattr(function, "__qualname__", None) or type(function).__qualname__
    return name.replace("<locals>.", "")


def decorated(function: Any, around: Around) -> Any:
    """The function with this around it. Class methods and static methods may be given as such."""
    if isinstance(function, (classmethod, staticmethod)):
        return type(function)(decorated(function.__func__, around))
    kind = kind_of(function)
    if kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
        return _generating(function, around.generate if kind is Kind.GENERATOR else around.generate_async)
    if kind is Kind.COROUTINE:

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await around.run_async(function, args, kwargs)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return around.run(function, args, kwargs)

    return call


def called(function: Any, around: Around, args: Any, kwargs: Any) -> Any:
    """What a call of the function gives, with this around it."""
    run = {
        Kind.PLAIN: around.run,
        Kind.COROUTINE: around.run_async,
        Kind.GENERATOR: around.generate,
        Kind.ASYNC_GENERATOR: around.generate_async,
    }
    return run[kind_of(function)](function, args, kwargs)


def _generating(function: Any, generate: Callable[..., Any]) -> Any:
    """A generator function that does something when it is called, which no function with a ``yield`` in it can."""
    return _wrapper_type()(function, lambda wrapped, _, args, kwargs: generate(wrapped, args, kwargs))


@functools.cache
def _wrapper_type() -> Any:
    import wrapt

    base: Any = wrapt.FunctionWrapper  # generic in its newer releases only

    class Generating(base):  # type: ignore[misc]
        def __reduce_ex__(self, protocol: object) -> str:
            """Pickled by name, as any function."""
            name: str = self.__qualname__
            return name

    return Generating


# -- generators ----------------------------------------------------------------------------------------------------


class Steps(Generator[Any, Any, Any]):
    """Takes every step of a generator; see ``step``. Handed to the app by :func:`handing_on`."""

    def step(self, advance: Callable[..., Any], *args: Any) -> Any:
        """Let the generator run to its next item: ``advance`` is its ``send`` or its ``throw``."""
        raise NotImplementedError

    def __init__(self, items: Generator[Any, Any, Any]) -> None:
        self.items = items

    def send(self, value: Any) -> Any:
        return self.step(self.items.send, value)

    def throw(self, *error: Any) -> Any:
        return self.step(self.items.throw, *error)

    def close(self) -> None:
        self.items.close()


class AsyncSteps(AsyncGenerator[Any, Any]):
    """As :class:`Steps`."""

    async def step(self, advance: Callable[..., Any], *args: Any) -> Any:
        """As :meth:`Steps.step`."""
        raise NotImplementedError

    def __init__(self, items: AsyncGenerator[Any, Any]) -> None:
        self.items = items

    def advance(self, value: Any = None) -> Any:
        """``items.asend``, of which the event loop is not told.

        It closes all generators that it knows of at its own end, in any order: this one is for us to close.
        """
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)
        try:
            return self.items.asend(value)
        finally:
            sys.set_asyncgen_hooks(*hooks)

    async def asend(self, value: Any) -> Any:
        return await self.step(self.advance, value)

    async def athrow(self, *error: Any) -> Any:
        return await self.step(self.items.athrow, *error)

    async def aclose(self) -> None:
        await self.items.aclose()


def handing_on(steps: Steps, function: Any) -> Generator[Any, Any, Any]:
    """A generator, as the function's own is one, of these steps."""

    def generator() -> Generator[Any, Any, Any]:
        return (yield from steps)

    made = generator()
    _name(made, function)
    return made


def handing_on_async(steps: AsyncSteps, function: Any) -> AsyncGenerator[Any, Any]:
    """As :func:`handing_on`."""

    async def generator() -> AsyncGenerator[Any, Any]:
        advance = steps.asend(None)
        while True:
            try:
                item = await advance
            except StopAsyncIteration:
                return
            try:
                received = yield item
            except GeneratorExit:
                await steps.aclose()
                raise
            except BaseException as error:
                advance = steps.athrow(error)
            else:
                advance = steps.asend(received)

    made = generator()
    _name(made, function)
    return made


def _name(generator: Any, function: Any) -> None:
    name = name_of(function)
    generator.__name__, generator.__qualname__ = name.rpartition(".")[2], getattr(function, "__qualname__", name)
