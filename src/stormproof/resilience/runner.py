"""Runs a call: the first attempt straight through, and stamina's loop only once something retryable has failed.

Sync and async share every decision (:class:`Operation`); they differ in how an attempt is made and awaited.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from stormproof.resilience.call import Call
from stormproof.resilience.clock import Clock
from stormproof.resilience.events import Listener
from stormproof.resilience.loop import is_active, retry_loop
from stormproof.resilience.operation import Attempt, Operation
from stormproof.resilience.outcome import GaveUp
from stormproof.resilience.targets import Targets

_log = logging.getLogger("stormproof")

T = TypeVar("T")

#: Makes one attempt: calls the client once, without the client's own retries.
Send = Callable[[Operation, Attempt], T]
AsyncSend = Callable[[Operation, Attempt], Awaitable[T]]


class Runner:
    """Runs calls against their targets. Safe for concurrent use by threads and tasks."""

    def __init__(self, targets: Targets, listener: Listener, clock: Clock) -> None:
        self._targets = targets
        self._listener = listener
        self._clock = clock

    def begin(self, call: Call) -> Operation:
        """The operation of this call; to be handed to ``run`` or ``run_async``."""
        return Operation(call, self._targets.get(call.client.system, call.host, call.port), self._listener, self._clock)

    def capture(self) -> Any:
        """The caller's telemetry context, for ``Call.parent`` of a call that begins later."""
        return self._listener.capture()

    def after_fork(self) -> None:
        """Start afresh in a forked child: closed breakers, full budgets, no counts of the parent's."""
        self._targets.after_fork()
        self._listener.after_fork()

    def run(self, operation: Operation, send: Send[T]) -> T:
        """The result of the first attempt that succeeds, or the last error. Result and error are the client's own."""
        try:
            return _attempt(operation, send)
        except Exception:
            if not _may_retry(operation):
                raise
        return self.resume(operation, send)

    def resume(self, operation: Operation, send: Send[T]) -> T:
        """Go on after an attempt that failed and is to be retried (``operation.wait`` is set)."""
        entered = False
        try:
            for step in retry_loop(lambda _: _wait_after(operation)):
                with step:
                    if not entered and operation.error is not None:  # its first round: what has failed already
                        entered = True
                        raise operation.error
                    return _attempt(operation, send)
        except BaseException as error:
            _give_up(operation, error)
            raise
        raise AssertionError("stamina's loop ended without a result or an error")

    async def run_async(self, operation: Operation, send: AsyncSend[T]) -> T:
        """As :meth:`run`."""
        try:
            return await _attempt_async(operation, send)
        except Exception:
            if not _may_retry(operation):
                raise
        return await self.resume_async(operation, send)

    async def resume_async(self, operation: Operation, send: AsyncSend[T]) -> T:
        """As :meth:`resume`."""
        entered = False
        try:
            async for step in retry_loop(lambda _: _wait_after(operation)):
                with step:
                    if not entered and operation.error is not None:  # its first round: what has failed already
                        entered = True
                        raise operation.error
                    return await _attempt_async(operation, send)
        except BaseException as error:
            _give_up(operation, error)
            raise
        raise AssertionError("stamina's loop ended without a result or an error")


def _may_retry(operation: Operation) -> bool:
    if operation.wait is None:
        return False
    if is_active():
        return True
    operation.abandon(GaveUp.INACTIVE)
    return False


def _give_up(operation: Operation, error: BaseException) -> None:
    """A loop that ends without us: cancelled while waiting, or stopped by stamina's test mode. Else does nothing."""
    if isinstance(error, Exception):
        operation.abandon(GaveUp.INACTIVE)
    else:
        operation.abandon(GaveUp.CANCELLED, type(error).__name__)


def _wait_after(operation: Operation) -> float | bool:
    return False if operation.wait is None else operation.wait


def _attempt(operation: Operation, send: Send[T]) -> T:
    attempt = operation.begin_attempt()
    try:
        result = send(operation, attempt)
    except BaseException as error:
        operation.listener.attempt_returned(operation, attempt)
        operation.fail(error)
        raise
    operation.listener.attempt_returned(operation, attempt)
    _take(operation, result)
    return result


async def _attempt_async(operation: Operation, send: AsyncSend[T]) -> T:
    attempt = operation.begin_attempt()
    try:
        result = await send(operation, attempt)
    except BaseException as error:
        operation.listener.attempt_returned(operation, attempt)
        operation.fail(error)
        raise
    operation.listener.attempt_returned(operation, attempt)
    _take(operation, result)
    return result


def _take(operation: Operation, result: object) -> None:
    """End the operation, unless the result is a stream: then its reader ends it."""
    call = operation.call
    try:
        if call.client.is_open(call, result):
            return
        facts = call.client.response_facts(call, result)
    except Exception:
        _log.warning("stormproof could not read a result of %s", call.client.system, exc_info=True)
        facts = {}
    operation.succeed(facts)
