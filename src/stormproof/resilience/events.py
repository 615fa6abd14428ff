"""What the runner tells whoever watches: one method a step of a call's life."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stormproof.resilience.breaker import StateChange
    from stormproof.resilience.operation import Attempt, Operation
    from stormproof.resilience.targets import Target

_log = logging.getLogger("stormproof")


class Listener:
    """Told of every step, in the thread or task that takes it. Every method does nothing unless overridden."""

    def capture(self) -> Any:
        """What of the caller's context is to be the parent of an operation that begins later."""
        return None

    def operation_started(self, operation: Operation) -> None:
        """The app has called; nothing was sent yet."""

    def attempt_started(self, operation: Operation, attempt: Attempt) -> None:
        """The client is about to be called. What is attached to the context here is seen by the client."""

    def attempt_returned(self, operation: Operation, attempt: Attempt) -> None:
        """The client has returned or raised, in the same context as ``attempt_started``. A stream may go on."""

    def attempt_ended(self, operation: Operation, attempt: Attempt) -> None:
        """``attempt.verdict`` is final."""

    def retry_scheduled(self, operation: Operation, attempt: Attempt) -> None:
        """``attempt`` failed; ``operation.wait`` seconds are waited before the next one."""

    def first_chunk(self, operation: Operation) -> None:
        """The first item of a stream has arrived."""

    def operation_ended(self, operation: Operation) -> None:
        """The app has its result or its exception, or a stream has come to its end."""

    def breaker_changed(self, target: Target, change: StateChange) -> None:
        """A breaker changed its state."""

    def after_fork(self) -> None:
        """This is a forked child: locks may be held by threads that are not here, counts are the parent's."""


class Fanout(Listener):
    """Tells several listeners in turn. One that raises is reported once and never disturbs the call."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners
        self._reported: set[tuple[type, str]] = set()

    def add(self, *listeners: Listener) -> None:
        """Tell these too, from the next step on."""
        self._listeners += listeners

    def capture(self) -> Any:
        return next((parent for parent in map(self._captured, self._listeners) if parent), None)

    def operation_started(self, operation: Operation) -> None:
        self._tell("operation_started", operation)

    def attempt_started(self, operation: Operation, attempt: Attempt) -> None:
        self._tell("attempt_started", operation, attempt)

    def attempt_returned(self, operation: Operation, attempt: Attempt) -> None:
        self._tell("attempt_returned", operation, attempt)

    def attempt_ended(self, operation: Operation, attempt: Attempt) -> None:
        self._tell("attempt_ended", operation, attempt)

    def retry_scheduled(self, operation: Operation, attempt: Attempt) -> None:
        self._tell("retry_scheduled", operation, attempt)

    def first_chunk(self, operation: Operation) -> None:
        self._tell("first_chunk", operation)

    def operation_ended(self, operation: Operation) -> None:
        self._tell("operation_ended", operation)

    def breaker_changed(self, target: Target, change: StateChange) -> None:
        self._tell("breaker_changed", target, change)

    def after_fork(self) -> None:
        self._tell("after_fork")

    def _tell(self, event: str, *args: object) -> None:
        for listener in self._listeners:
            try:
                getattr(listener, event)(*args)
            except Exception:  # noqa: PERF203  # one listener's failure must not silence the next
                self._report(listener, event)

    def _captured(self, listener: Listener) -> Any:
        try:
            return listener.capture()
        except Exception:
            self._report(listener, "capture")
            return None

    def _report(self, listener: Listener, event: str) -> None:
        key = (type(listener), event)
        if key not in self._reported:
            self._reported.add(key)
            _log.warning("%s failed on %s; further failures are not logged", key[0].__name__, event, exc_info=True)
