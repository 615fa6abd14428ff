"""The circuit breaker of one target: what both strategies share. How they decide is in adaptive.py and window.py."""

from __future__ import annotations

import enum
import itertools
import math
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stormproof.resilience.outcome import Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy

#: The answer to a caller that is not let through, and need not ask again.
REFUSED = -1.0

#: The answer to a call that cannot go the short way.
NOT_CALM = -1


class State(enum.Enum):
    """The states of ``resilience.circuit_breaker.state``; the last two are set by hand."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


# By these names here and in the strategies: to look a member up on its enum costs a call more than the lock does.
CLOSED, OPEN, HALF_OPEN, FORCED_OPEN, DISABLED = State


@dataclass(frozen=True)
class WindowSnapshot:
    """What the breaker has seen: in its window, or (adaptive) since its last change of state."""

    calls: int
    failures: int
    slow_calls: int

    @property
    def failure_rate(self) -> float:
        """From 0 to 1; 0 without calls."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """From 0 to 1; 0 without calls."""
        return self.slow_calls / self.calls if self.calls else 0.0


@dataclass(frozen=True)
class StateChange:
    """One change of state, as it is told to listeners.

    Attributes:
        breaker: the breaker's name, which is its target's.
        reason: why, in the words of ``resilience.circuit_breaker.reason``.
        window: what had been seen at that moment.
        next_probe: seconds until a probe may be sent (0 unless open).
        rate: calls a second that are let through while half-open and paced; None where nothing is paced.
        cause: the attempt whose end, or whose asking, brought it about; None for a change by hand. Opaque here.
    """

    breaker: str
    previous: State
    state: State
    reason: str
    window: WindowSnapshot
    next_probe: float = 0.0
    rate: float | None = None
    cause: Any = None


@dataclass(frozen=True)
class BreakerSnapshot:
    """A breaker at one moment.

    Attributes:
        calls: outcomes counted so far: ``success``, ``failure``, ``ignored``, ``rejected``.
        rate: calls a second that are let through while paced; None where nothing is.
        waiting: callers that wait for their turn.
        reason: of the last change; None if there was none.
        in_state_for: seconds since the last change, or since the breaker was made.
        next_probe: seconds until a probe may be sent; 0 unless open.
    """

    name: str
    strategy: str
    state: State
    observe_only: bool
    window: WindowSnapshot
    calls: dict[str, int]
    in_flight: int
    rate: float | None
    waiting: int
    reason: str | None
    in_state_for: float
    next_probe: float


class Permit:
    """One caller's leave to make one attempt: from asking for it to the attempt's end, which settles it once.

    Attributes:
        deadline: the caller does not wait beyond this moment.
        after_timeout_of: when the caller's last attempt was sent, if that one timed out.
        sent: when it was granted.
        probe: it is to find out whether the target has recovered.
        rate: the pace at that moment.
    """

    # What most permits never change stands on the class: a healthy call sets only what it must.
    deadline = math.inf
    after_timeout_of: float | None = None
    granted = False
    settled = False
    sent = 0.0
    probe = False
    generation = 0
    rate = math.inf
    place: Any = None  # in the line of a breaker that paces
    epoch = 0
    proof_until = 0.0


class Breaker(ABC):
    """Lets attempts through, makes them wait, or refuses them. Safe for concurrent use by threads and tasks.

    One lock, held for a few instructions and never over a call or a listener. Each method is O(1). Results are judged
    by when their attempt was sent, so that one from before a change of state cannot move the new state.
    """

    # So many of them in a dict would take half of what an idle target may.
    __slots__ = (
        "_calm_from",
        "_changed_at",
        "_changes",
        "_clock",
        "_count_lock",
        "_entered",
        "_failures",
        "_first_generation",
        "_generation",
        "_ignored",
        "_is_telling",
        "_left",
        "_lock",
        "_looked",
        "_on_change",
        "_policy",
        "_reason",
        "_refuses_until",
        "_rejected",
        "_rng",
        "_slow_calls",
        "_successes",
        "name",
        "opening",
        "state",
        "transitions",
        "waiting",
    )
    strategy: str

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        clock: Callable[[], float],
        on_change: Callable[[StateChange], None],
        rng: random.Random,
    ) -> None:
        self.name = name
        self.transitions: dict[tuple[State, State], int] = {}
        #: For listeners: what they want to remember of how the present trouble began (a link's target). Opaque here.
        self.opening: Any = None
        self.waiting = 0
        self._policy = policy
        self._clock = clock
        self._on_change = on_change
        self._rng = rng
        self._successes = self._failures = self._ignored = self._rejected = self._slow_calls = 0
        self._generation = -1
        self._begin(clock())

    # -- the way of an attempt ---------------------------------------------------------------------------------------

    def admit(self, permit: Permit, now: float) -> float:
        """0: granted. Above 0: wait so many seconds and ask again. ``REFUSED``: no."""
        with self._lock:
            state = self.state
            if state is DISABLED:
                wait = 0.0
            elif state is FORCED_OPEN:
                wait = REFUSED
            else:
                wait = self._admit(permit, now)
                if wait and self._policy.observe_only:
                    wait = 0.0
            if wait <= 0.0 and permit.place is not None:
                self._leave(permit)
            if wait == 0.0:
                permit.granted = True
                permit.sent = now
                permit.generation = self._generation
                self._entered()
            elif wait < 0.0:
                self._rejected += 1
        if self._changes:
            self._tell()
        return wait

    def enter(self, now: float) -> int:
        """The short way in, for a call that nobody watches: the generation; ``NOT_CALM`` if anything is wrong."""
        if now < self._calm_from:
            return NOT_CALM
        generation = self._generation
        self._entered()
        return generation

    def turn_away(self, now: float) -> bool:
        """The short way for a refusal: whether the call is refused, and was counted, without a closer look."""
        if now >= self._refuses_until:
            return False
        with self._lock:
            self._rejected += 1
        return True

    def leave(self, generation: int, sent: float, now: float) -> None:
        """The short way out, for a call that came in by :meth:`enter` and succeeded."""
        with self._lock:
            if generation < self._first_generation:
                return
            self._left += 1
            self._successes += 1
            slow = now - sent > self._policy.slow_after
            if slow:
                self._slow_calls += 1
            self._succeeded(generation, sent, now, slow)
        if self._changes:
            self._tell()

    def withdraw(self, permit: Permit) -> None:
        """The caller does not wait any longer."""
        with self._lock:
            self._leave(permit)

    def settle(self, permit: Permit, verdict: Verdict, now: float, latency: float) -> None:
        """Give the permit back with what came of the attempt. A second time, or without one, does nothing.

        ``latency``: seconds from sending to the answer's beginning, or to the failure.
        """
        with self._lock:
            if permit.settled or not permit.granted:
                return
            permit.settled = True
            if permit.generation < self._first_generation:
                return
            self._left += 1
            if verdict.weight is Weight.SUCCESS:
                self._successes += 1
            elif verdict.weight is Weight.FAILURE:
                self._failures += 1
            else:
                self._ignored += 1
            if verdict.weight is not Weight.IGNORED and (latency > self._policy.slow_after or verdict.timed_out):
                self._slow_calls += 1
            if self.state is not DISABLED and self.state is not FORCED_OPEN:
                self._settled(permit, verdict, now, latency)
        if self._changes:
            self._tell()

    def may_retry(self, verdict: Verdict, now: float) -> bool:
        """Whether a retry after this failure has a chance. A look without a lock: good enough to skip a wait."""
        if self.state is DISABLED or self._policy.observe_only:
            return True
        return self.state is not FORCED_OPEN and self._may_retry(verdict, now)

    @property
    def forgives_rate_limits(self) -> bool:
        """Whether a rate limited attempt is free, because this breaker learns the rate and keeps to it."""
        return False

    @property
    def rate(self) -> float | None:
        """Calls a second that are let through; None where nothing is paced."""
        return None

    # -- by hand -----------------------------------------------------------------------------------------------------

    def force_open(self) -> None:
        """Refuse every call until told otherwise."""
        self._by_hand(FORCED_OPEN, "forced_open")

    def disable(self) -> None:
        """Let every call through and judge none, until told otherwise."""
        self._by_hand(DISABLED, "disabled")

    def close(self) -> None:
        """Close, forget what was seen, and decide alone again."""
        self._by_hand(CLOSED, "closed_by_hand")

    def after_fork(self) -> None:
        """Be as new: the lock may be held by a thread that is not here, permits and failures are the parent's."""
        self.waiting = 0
        self._begin(self._clock())

    def is_of_parent(self, generation: int) -> bool:
        """Whether a permit was given before this process was forked: then there is nothing to give back here."""
        return generation < self._first_generation

    # -- to look at --------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Attempts that run now."""
        with self._count_lock:
            left = self._left  # first: whoever enters and leaves meanwhile must not make it negative
            entered = self._entered() - self._looked
            self._looked += 1
            return entered - left

    @property
    def calls(self) -> dict[str, int]:
        """Outcomes counted so far."""
        return {
            "success": self._successes,
            "failure": self._failures,
            "ignored": self._ignored,
            "rejected": self._rejected,
        }

    def snapshot(self) -> BreakerSnapshot:
        """Everything at this moment, consistent with itself."""
        with self._lock:
            now = self._clock()
            return BreakerSnapshot(
                name=self.name,
                strategy=self.strategy,
                state=self.state,
                observe_only=self._policy.observe_only,
                window=self._window(now),
                calls=self.calls,
                in_flight=self.in_flight,
                rate=self.rate,
                waiting=self.waiting,
                reason=self._reason,
                in_state_for=now - self._changed_at,
                next_probe=self._next_probe(now) if self.state is OPEN else 0.0,
            )

    # -- what a strategy decides; all are called with the lock held, but for _may_retry -------------------------------

    @abstractmethod
    def _admit(self, permit: Permit, now: float) -> float: ...

    @abstractmethod
    def _settled(self, permit: Permit, verdict: Verdict, now: float, latency: float) -> None: ...

    @abstractmethod
    def _succeeded(self, generation: int, sent: float, now: float, slow: bool) -> None:
        """A call that was not a probe has succeeded."""

    @abstractmethod
    def _may_retry(self, verdict: Verdict, now: float) -> bool: ...

    @abstractmethod
    def _forget(self, now: float) -> None:
        """Be as new, and closed."""

    @abstractmethod
    def _window(self, now: float) -> WindowSnapshot: ...

    @abstractmethod
    def _next_probe(self, now: float) -> float: ...

    @abstractmethod
    def _leave(self, permit: Permit) -> None:
        """The permit's caller stands in no line any more."""

    # -- changes -----------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._lock = threading.Lock()
        self._count_lock = threading.Lock()
        # Calls in flight are entered - left. To enter takes no lock: the count of itertools is atomic.
        self._entered = itertools.count().__next__
        self._looked = 0  # at that count, which adds one to it
        self._left = 0
        self.state = CLOSED if self._policy.enabled else DISABLED
        self._changes: list[StateChange] = []
        self._is_telling = False
        self._reason: str | None = None
        self._changed_at = now
        self._generation += 1
        self._first_generation = self._generation
        # Calls may take the short way from this moment on: at once while closed, otherwise never.
        self._calm_from = -math.inf if self.state is CLOSED else math.inf
        self._refuses_until = -math.inf
        self._forget(now)

    def _by_hand(self, state: State, reason: str) -> None:
        with self._lock:
            now = self._clock()
            if state is not self.state:
                self._change(state, reason, None, now)
            self._forget(now)
            if state is CLOSED:
                self._calm_from = -math.inf
        self._tell()

    def _change(self, state: State, reason: str, cause: Any, now: float) -> None:
        """To be told of once the lock is free again."""
        window = self._window(now)
        previous, self.state = self.state, state
        self._calm_from = -math.inf if state is CLOSED else math.inf
        self._generation += 1
        self._reason, self._changed_at = reason, now
        key = (previous, state)
        self.transitions[key] = self.transitions.get(key, 0) + 1
        next_probe = self._next_probe(now) if state is OPEN else 0.0
        if state is FORCED_OPEN:
            self._refuses_until = math.inf
        elif state is OPEN and not self._policy.observe_only:
            self._refuses_until = now + next_probe
        else:
            self._refuses_until = -math.inf
        self._changes.append(StateChange(self.name, previous, state, reason, window, next_probe, self.rate, cause))

    def _tell(self) -> None:
        """Tell of the changes in the order in which they were made: one thread at a time, for all that are waiting."""
        while True:
            with self._lock:
                if self._is_telling or not self._changes:
                    return
                self._is_telling = True
                changes, self._changes = self._changes, []
            try:
                for change in changes:
                    self._on_change(change)
            finally:
                self._is_telling = False
