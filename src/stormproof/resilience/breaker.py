"""The circuit breaker of one target: closed, open, half-open."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stormproof.resilience.clock import Clock
from stormproof.resilience.outcome import Weight
from stormproof.resilience.policy import BreakerPolicy


class State(enum.Enum):
    """The states of ``resilience.circuit_breaker.state``; the last two are set by hand."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


@dataclass(frozen=True)
class StateChange:
    """One change of state, as it is told to listeners.

    Attributes:
        breaker: the breaker's name, which is its target's.
        reason: why, in the words of ``resilience.circuit_breaker.reason``.
        consecutive_failures: failures in a row at the moment of the change.
        calls: outcomes counted so far, by name.
        next_probe: seconds until a probe may be sent (0 unless open).
        cause: who brought it about (opaque here): the attempt whose end it was, or the operation that came to probe.
    """

    breaker: str
    previous: State
    state: State
    reason: str
    consecutive_failures: int
    calls: dict[str, int]
    next_probe: float
    cause: Any = None


class Permit:
    """Leave to make one attempt. To be settled exactly once; a second time does nothing."""

    __slots__ = ("begun", "generation", "probe", "settled")

    def __init__(self, generation: int, *, probe: bool, begun: float = 0.0) -> None:
        self.generation = generation
        self.probe = probe
        self.begun = begun
        self.settled = False


class Breaker:
    """Opens after failures in a row, probes after a while, closes when probes succeed.

    Safe for concurrent use by threads and tasks: one lock, held for a few instructions and never over a call.
    A permit carries the generation it was given in, so a result from before a change of state cannot move the
    new state. A probe that never comes back gives its place up after ``open_for`` seconds.
    """

    def __init__(
        self, name: str, policy: BreakerPolicy, clock: Clock, on_change: Callable[[StateChange], None]
    ) -> None:
        self.name = name
        self.state = State.CLOSED if policy.enabled else State.DISABLED
        self.calls = {"success": 0, "failure": 0, "ignored": 0, "rejected": 0}
        self.transitions: dict[tuple[State, State], int] = {}
        self.in_flight = 0
        #: For listeners: what they want to remember of the last opening (a link's target). Opaque here.
        self.opening: Any = None
        self._policy = policy
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._generation = 0
        self._consecutive_failures = 0
        self._good_probes = 0
        self._changed_at = 0.0
        self._probes: list[Permit] = []  # those of the running probes that are still waited for

    def acquire(self, caller: Any = None) -> Permit | None:
        """A permit for one attempt, or None when it is refused. ``caller`` is told to listeners if that is a probe."""
        change = None
        with self._lock:
            if self.state is State.OPEN and self._clock() >= self._changed_at + self._policy.open_for:
                change = self._change(State.HALF_OPEN, "probe_due", caller)
            if self.state is State.HALF_OPEN:
                permit = self._acquire_probe()
            elif self.state in (State.CLOSED, State.DISABLED):
                permit = Permit(self._generation, probe=False)
            else:
                permit = None
            if permit is None:
                self.calls["rejected"] += 1
            else:
                self.in_flight += 1
        if change is not None:
            self._on_change(change)
        return permit

    def would_reject(self) -> bool:
        """Whether an attempt made now would be refused. A look without a lock: good enough to skip a wait."""
        if self.state is State.OPEN:
            return self._clock() < self._changed_at + self._policy.open_for
        return self.state is State.FORCED_OPEN

    def settle(self, permit: Permit, weight: Weight, cause: Any = None) -> None:
        """Give the permit back with what came of the attempt. ``cause`` is told to listeners if the state changes."""
        change = None
        with self._lock:
            if permit.settled:
                return
            permit.settled = True
            self.in_flight -= 1
            self.calls[weight.value] += 1
            if permit.generation == self._generation:
                if permit.probe:
                    change = self._settle_probe(permit, weight, cause)
                elif weight is Weight.SUCCESS:
                    self._consecutive_failures = 0
                elif weight is Weight.FAILURE and self.state is State.CLOSED:
                    self._consecutive_failures += 1
                    if self._consecutive_failures >= self._policy.failures:
                        change = self._change(State.OPEN, "consecutive_failures", cause)
        if change is not None:
            self._on_change(change)

    def _acquire_probe(self) -> Permit | None:
        now = self._clock()
        self._probes = [probe for probe in self._probes if now < probe.begun + self._policy.open_for]
        if len(self._probes) >= self._policy.probes:
            return None
        permit = Permit(self._generation, probe=True, begun=now)
        self._probes.append(permit)
        return permit

    def _settle_probe(self, permit: Permit, weight: Weight, cause: Any) -> StateChange | None:
        if permit in self._probes:  # else it came back so late that its place was given up
            self._probes.remove(permit)
        if weight is Weight.FAILURE:
            self._consecutive_failures += 1
            return self._change(State.OPEN, "probe_failed", cause)
        if weight is Weight.SUCCESS:
            self._good_probes += 1
            if self._good_probes >= self._policy.successes:
                self._consecutive_failures = 0
                return self._change(State.CLOSED, "probes_succeeded", cause)
        return None

    def _change(self, state: State, reason: str, cause: Any) -> StateChange:
        previous, self.state = self.state, state
        self._generation += 1
        self._good_probes = 0
        self._probes = []
        self._changed_at = self._clock()
        key = (previous, state)
        self.transitions[key] = self.transitions.get(key, 0) + 1
        return StateChange(
            breaker=self.name,
            previous=previous,
            state=state,
            reason=reason,
            consecutive_failures=self._consecutive_failures,
            calls=dict(self.calls),
            next_probe=self._policy.open_for if state is State.OPEN else 0.0,
            cause=cause,
        )
