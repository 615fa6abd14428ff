"""Nested deadlines: an operation inside another one ends no later than that one, whatever its own policy says."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from stormproof.resilience.attempt import Attempt
    from stormproof.resilience.operation import Operation
    from stormproof.resilience.policy import Policy

T = TypeVar("T")

#: (deadline, moment at which running attempts are cut) where nothing encloses an operation; monotonic seconds.
UNBOUNDED = (math.inf, math.inf)
_nearest: ContextVar[tuple[float, float]] = ContextVar("stormproof_deadline", default=UNBOUNDED)


def enter(deadline: float, cut_at: float) -> Token[tuple[float, float]]:
    """Bound what runs from now on in this thread or task, until :func:`leave`, by what :func:`bounds` says."""
    return _nearest.set((deadline, cut_at))


def leave(token: Token[tuple[float, float]]) -> None:
    """Take the bound away."""
    with suppress(ValueError):  # a task that is thrown away is closed in another context
        _nearest.reset(token)


def bounds(policy: Policy, started: float) -> tuple[float, float]:
    """(deadline, moment at which running attempts are cut) of an operation that began at ``started``.

    The nearer ones of its policy's deadline, which cuts if it is strict, and those that the operation runs inside of.
    """
    own = started + policy.deadline
    deadline, cut_at = _nearest.get()
    return min(own, deadline), min(own, cut_at) if policy.strict_deadline else cut_at


def is_nested() -> bool:
    """Whether this runs inside an operation."""
    return _nearest.get() is not UNBOUNDED


def bounding(send: Callable[[Operation, Attempt], T]) -> Callable[[Operation, Attempt], T]:
    """``send``, whose inner operations keep to the deadline of this one."""

    def bounded(operation: Operation, attempt: Attempt) -> T:
        token = enter(operation.deadline, operation.cut_at)
        try:
            return send(operation, attempt)
        finally:
            leave(token)

    return bounded


def bounding_async(send: Callable[[Operation, Attempt], Awaitable[T]]) -> Callable[[Operation, Attempt], Awaitable[T]]:
    """As :func:`bounding`."""

    async def bounded(operation: Operation, attempt: Attempt) -> T:
        token = enter(operation.deadline, operation.cut_at)
        try:
            return await send(operation, attempt)
        finally:
            leave(token)

    return bounded
