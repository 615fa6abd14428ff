"""Splicing into a class: innermost, on every slot that shadows it, and out again by identity."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import wrapt

from stormproof.resilience.call import Call
from stormproof.resilience.operation import Operation
from stormproof.resilience.runner import Runner

#: What every wrapper of wrapt derives from; its name has changed with wrapt 2.
_PROXY: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)

_reported: set[str] = set()
_log = logging.getLogger("stormproof")

#: True inside a call that is already protected: an inner choke point then stands aside.
_protected: ContextVar[bool] = ContextVar("stormproof_protected", default=False)

#: ``wrapper(original, self, args, kwargs)``; a coroutine function where the original is one.
Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]


class Splices:
    """What one client has had spliced in, so that exactly this can be taken out."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def add(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        """Replace ``owner.name``, and every slot of a subclass that holds the same function, by ``wrapper``.

        ``owner`` is a class or a module. Raises AttributeError if it has no such function of its own.
        """
        original = _innermost(vars(owner)[name] if name in vars(owner) else getattr(owner, name))
        replacement = _bind(original, wrapper)
        for slot in _slots(owner):
            if name in vars(slot) and _innermost(vars(slot)[name]) is original:
                self._undo.append(_swap(slot, name, original, replacement))

    def remove(self) -> None:
        """Put everything back that is still in place."""
        while self._undo:
            self._undo.pop()()

    def __bool__(self) -> bool:
        return bool(self._undo)


def _bind(original: Callable[..., Any], wrapper: Wrapper) -> Callable[..., Any]:
    """A plain function in the original's place: a third of the cost of a wrapt wrapper."""
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            if _protected.get():
                return await original(self, *args, **kwargs)
            return await wrapper(original, self, args, kwargs)

        return call_async

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _protected.get():
            return original(self, *args, **kwargs)
        return wrapper(original, self, args, kwargs)

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
    try:
        call = describe(*args)
        return runner.begin(call) if runner.is_enabled(call) else None
    except Exception:
        _report_once(describe)
        return None


def harmless(step: Callable[..., Any], *args: Any, otherwise: Any) -> Any:
    """``step(*args)``, or ``otherwise``, logged once, if it fails."""
    try:
        return step(*args)
    except Exception:
        _report_once(step)
        return otherwise


def _report_once(step: Callable[..., Any]) -> None:
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


def _innermost(function: Any) -> Any:
    for wrapper in _wrappers(function):
        function = wrapper.__wrapped__
    return function


def _swap(slot: Any, name: str, old: Any, new: Any) -> Callable[[], None]:
    """Put ``new`` where ``old`` is, beneath whatever is wrapped around it. Returns what undoes it."""
    outer = list(_wrappers(vars(slot)[name]))
    if outer:
        outer[-1].__wrapped__ = new
    else:
        setattr(slot, name, new)

    def undo() -> None:
        current = list(_wrappers(vars(slot).get(name)))
        if current and current[-1].__wrapped__ is new:
            current[-1].__wrapped__ = old
        elif vars(slot).get(name) is new:
            setattr(slot, name, old)

    return undo
