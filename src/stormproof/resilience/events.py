"""What the runner tells whoever watches: one method a step of a call's life."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stormproof.resilience.attempt import Attempt
    from stormproof.resilience.breaker import StateChange
    from stormproof.resilience.operation import Operation
    from stormproof.resilience.targets import Target

_log = logging.getLogger("stormproof")


class Listener:
    """Told of every step, in the thread or task that takes it. Every method does nothing unless overridden.

    Called without any lock held. What it raises is logged once and never disturbs the call.
    """

    def capture(self) -> Any:
        """What of the caller's context is to be the parent of an operation that begins later."""
        return None

    def operation_started(self, operation: Operation) -> None:
        """The app has called; nothing was sent yet."""

    def attempt_started(self, operation: Operation, attempt: Attempt) -> None:
        """The client is about to be called. What is attached to the context here is seen by the client."""

    def attempt_returned(self, operation: Operation, attempt: Attempt) -> None:
        """The client has returned or raised, in the same context as ``attempt_started``. A stream may go on."""

    def attempt_resumed(self, operation: Operation, attempt: Attempt) -> None:
        """A generator of the user's goes on, in this context until ``attempt_returned``."""

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


#: Every step, by the method's name.
_STEPS = tuple(name for name, value in vars(Listener).items() if callable(value) and name != "capture")

Tellers = tuple[Callable[..., None], ...]


class Fanout:
    """Tells several listeners of a step, each if it wants to hear of it.

    For each step there is a tuple of functions to call: a step that nobody listens to costs a glance at an empty one.
    """

    operation_started: Tellers
    attempt_started: Tellers
    attempt_returned: Tellers
    attempt_resumed: Tellers
    attempt_ended: Tellers
    retry_scheduled: Tellers
    first_chunk: Tellers
    operation_ended: Tellers
    is_idle: bool

    def __init__(self, *listeners: Listener) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._reported: set[tuple[type, str]] = set()
        self._looking = threading.Lock()
        #: Returns the listeners that wait for something, once it has come; None where none waits.
        self.late: Callable[[], tuple[Listener, ...]] | None = None
        self.add(*listeners)

    def look(self) -> None:
        """Let those join who wait (``late``), if what they wait for has come. Once, whichever thread sees it first."""
        if self._looking.acquire(blocking=False):
            try:
                joining = self.late() if self.late is not None else ()
                if joining:
                    self.late = None
                    self._tell(joining + self._listeners)
            finally:
                self._looking.release()

    def add(self, *listeners: Listener) -> None:
        """Tell these too, from the next step on."""
        self._tell(self._listeners + listeners)

    def discard(self, listener: Listener) -> None:
        """Do not tell this one any longer; one that is not here is no error."""
        self._tell(tuple(other for other in self._listeners if other is not listener))

    def capture(self) -> Any:
        """The first that a listener wants to be remembered of the caller's context."""
        return next((parent for parent in map(self._captured, self._listeners) if parent), None)

    def breaker_changed(self, target: Target, change: StateChange) -> None:
        """Tell everyone of a breaker's change."""
        for tell in self._on_breaker_changed:
            tell(target, change)

    def after_fork(self) -> None:
        """Tell everyone that this is a forked child."""
        self._looking = threading.Lock()
        for tell in self._on_fork:
            tell()

    def _tell(self, listeners: tuple[Listener, ...]) -> None:
        self._listeners = listeners
        tellers = {step: self._tellers(step) for step in _STEPS}
        self._on_breaker_changed = tellers.pop("breaker_changed")
        self._on_fork = tellers.pop("after_fork")
        #: Nobody wants to hear of calls.
        self.is_idle = not any(tellers.values())
        vars(self).update(tellers)

    def _tellers(self, step: str) -> Tellers:
        wanting = (who for who in self._listeners if getattr(type(who), step) is not getattr(Listener, step))
        return tuple(self._guarded(getattr(who, step), who, step) for who in wanting)

    def _guarded(self, tell: Callable[..., None], listener: Listener, step: str) -> Callable[..., None]:
        def told(*args: object) -> None:
            try:
                tell(*args)
            except Exception:
                self._report(listener, step)

        return told

    def _captured(self, listener: Listener) -> Any:
        try:
            return listener.capture()
        except Exception:
            self._report(listener, "capture")
            return None

    def _report(self, listener: Listener, step: str) -> None:
        key = (type(listener), step)
        if key not in self._reported:
            self._reported.add(key)
            _log.warning("%s failed on %s; further failures are not logged", key[0].__name__, step, exc_info=True)
