"""Splicing into a class: innermost, on every slot that shadows it, and out again by identity."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import wrapt

from stormproof.resilience.call import Call
from stormproof.resilience.operation import Operation
from stormproof.resilience.runner import Runner

#: What every wrapper of wrapt derives from; its name has changed with wrapt 2.
_PROXY: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)

#: The attribute of our replacement of a function: itself (decorators of others copy attributes) and what it replaces.
_REPLACES = "_stormproof_replaces"

_reported: set[str] = set()
_log = logging.getLogger("stormproof")

#: True inside a call that is already protected: an inner choke point then stands aside.
_protected: ContextVar[bool] = ContextVar("stormproof_protected", default=False)

#: ``wrapper(original, self, args, kwargs)``; a coroutine function where the original is one.
Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Splice:
    """``replacement`` in the place of ``owner.name``, and of every slot of a subclass that holds the same function."""

    owner: Any
    name: str
    original: Callable[..., Any]
    replacement: Callable[..., Any]

    def put_in(self) -> None:
        """Where the bare function is, or what an earlier splice has left: beneath whatever is wrapped around it."""
        self._put(self.replacement)

    def take_out(self) -> None:
        """Wherever it is by now: it may have been wrapped, and copied to a subclass."""
        self._put(self.original)

    @property
    def is_wrapped(self) -> bool:
        """Whether someone else is wrapped around the function."""
        return any(True for slot in self._own_slots() for _ in _wrappers(vars(slot)[self.name]))

    def _put(self, function: Callable[..., Any]) -> None:
        for slot in self._own_slots():
            wrappers = list(_wrappers(vars(slot)[self.name]))
            if wrappers:
                wrappers[-1].__wrapped__ = function
            else:
                setattr(slot, self.name, function)

    def _own_slots(self) -> list[Any]:
        return [slot for slot in _slots(self.owner) if _original(vars(slot).get(self.name)) is self.original]


class Splices:
    """What one client has had spliced in, so that exactly this can be taken out."""

    def __init__(self) -> None:
        self.splices: list[Splice] = []

    def add(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        """Replace ``owner.name``, and every slot of a subclass that holds the same function, by ``wrapper``.

        ``owner`` is a class or a module. Raises AttributeError if it has no such function of its own.
        """
        self.replace(owner, name, lambda original: _bind(original, wrapper))

    def replace(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """As :meth:`add`, by what ``make`` makes of the original: for functions that are called without a ``self``."""
        original = _original(vars(owner)[name] if name in vars(owner) else getattr(owner, name))
        replacement = make(original)
        setattr(replacement, _REPLACES, (replacement, original))
        splice = Splice(owner, name, original, replacement)
        splice.put_in()
        self.splices.append(splice)

    def renew(self) -> None:
        """Splice in again where someone has put the bare function back."""
        for splice in self.splices:
            splice.put_in()

    def remove(self) -> None:
        """Put everything back."""
        while self.splices:
            self.splices.pop().take_out()

    def __bool__(self) -> bool:
        return bool(self.splices)


def _bind(original: Callable[..., Any], wrapper: Wrapper) -> Callable[..., Any]:
    """A plain function in the original's place: a third of the cost of a wrapt wrapper."""
    return _bound_async(original, wrapper) if inspect.iscoroutinefunction(original) else _bound(original, wrapper)


def _bound(original: Callable[..., Any], wrapper: Wrapper) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _protected.get():
            return original(self, *args, **kwargs)
        return wrapper(original, self, args, kwargs)

    return call


def _bound_async(original: Callable[..., Any], wrapper: Wrapper) -> Callable[..., Any]:
    @functools.wraps(original)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _protected.get():
            return await original(self, *args, **kwargs)
        return await wrapper(original, self, args, kwargs)

    return call


class protecting:  # noqa: N801  # reads as the statement it is; a generator-based one costs ten times as much
    """Within this block, further choke points on the way to the network are passed straight through."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _protected.set(True)

    def __exit__(self, *_: object) -> None:
        _protected.reset(self._token)


def begin(runner: Runner, describe: Callable[..., Call], *args: Any) -> Operation | None:
    """The operation of the call that ``describe`` makes of its arguments; None, logged once, if that fails.

    Then, and where the policy has been switched off meanwhile, the original is to be called as it is.
    """
    if runner.listeners.late is not None:
        runner.listeners.look()
    try:
        call = describe(*args)
        return runner.begin(call) if runner.is_enabled(call) else None
    except Exception:
        report_once(describe)
        return None


def harmless(step: Callable[..., Any], *args: Any, otherwise: Any) -> Any:
    """``step(*args)``, or ``otherwise``, logged once, if it fails."""
    try:
        return step(*args)
    except Exception:
        report_once(step)
        return otherwise


def report_once(step: Callable[..., Any]) -> None:
    """Log that ``step`` fails, with the error that is handled now."""
    step = getattr(step, "func", step)  # what a partial stands for
    name = f"{step.__module__}.{step.__qualname__}"
    if name not in _reported:
        _reported.add(name)
        _log.warning("stormproof leaves calls alone where %s fails", name, exc_info=True)


def _slots(owner: Any) -> Iterator[Any]:
    yield owner
    if inspect.isclass(owner):
        for subclass in owner.__subclasses__():
            yield from _slots(subclass)


def _wrappers(function: Any) -> Iterator[Any]:
    """Other instrumentations' wrapt wrappers around a function, outermost first."""
    while isinstance(function, _PROXY):
        yield function
        function = function.__wrapped__


def _original(function: Any) -> Any:
    """The client's own function, beneath others' wrappers and what we have put in its place."""
    for wrapper in _wrappers(function):
        function = wrapper.__wrapped__
    replacement, original = getattr(function, _REPLACES, (None, None))
    return original if replacement is function else function
