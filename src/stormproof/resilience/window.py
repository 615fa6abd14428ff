"""The classical strategy: thresholds over a window open the breaker, probes close it."""

from __future__ import annotations

from typing import Any

from stormproof.resilience.breaker import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    REFUSED,
    Breaker,
    Permit,
    WindowSnapshot,
)
from stormproof.resilience.outcome import Verdict, Weight
from stormproof.resilience.rings import CountRing, Ring, TimeRing


class WindowBreaker(Breaker):
    """Opens on failures in a row, on the share of failures, or on the share of slow calls in its window.

    After a while, longer each time, probes are let through: enough good ones close it, a bad one opens it again
    (Nygard, "Release It!"; the window as in resilience4j). Knobs: :class:`~stormproof.resilience.policy.BreakerPolicy`.
    """

    strategy = "window"

    def _forget(self, now: float) -> None:
        policy = self._policy
        # A window of fewer calls than the minimum is enough when it is full.
        self._enough = min(policy.minimum_calls, policy.size) if policy.window == "count" else policy.minimum_calls
        self._in_a_row = 0
        self._openings = 0  # without a recovery in between
        self._open_until = self._decide_until = 0.0
        self._clear()

    def _clear(self) -> None:
        size = self._policy.size
        self._ring: Ring = CountRing(size) if self._policy.window == "count" else TimeRing(size)
        self._probing = self._good_probes = 0

    def _admit(self, permit: Permit, now: float) -> float:
        if self.state is CLOSED:
            return 0.0
        if self.state is OPEN:
            if now < self._open_until:
                return REFUSED
            self._decide_until = now + self._policy.half_open_for
            self._change(HALF_OPEN, "probe_due", permit, now)
        elif now >= self._decide_until:  # a probe that hangs must not block recovery for ever
            self._open("half_open_timeout", permit, now)
            return REFUSED
        if self._probing >= self._policy.probes:
            return REFUSED
        self._probing += 1
        permit.probe = True
        return 0.0

    def _settled(self, permit: Permit, verdict: Verdict, now: float, latency: float) -> None:
        if permit.generation != self._generation:
            return  # sent before the last change: tells nothing of the state that is in force
        if permit.probe:
            self._probing -= 1
        if verdict.weight is Weight.IGNORED:
            return
        failed = verdict.weight is Weight.FAILURE
        slow = latency > self._policy.slow_after
        if self.state is CLOSED:
            self._count(failed, slow, permit, now)
        elif permit.probe and (failed or (slow and self._policy.slow_rate is not None)):
            self._open("probe_failed", permit, now)
        elif permit.probe:
            self._good_probes += 1
            if self._good_probes >= self._policy.successes:
                self._change(CLOSED, "probes_succeeded", permit, now)
                self._forget(now)

    def _succeeded(self, generation: int, sent: float, now: float, slow: bool) -> None:
        if generation == self._generation and self.state is CLOSED:
            self._count(False, slow, None, now)

    def _count(self, failed: bool, slow: bool, cause: Any, now: float) -> None:
        self._ring.add(now, failed=failed, slow=slow)
        self._in_a_row = self._in_a_row + 1 if failed else 0
        reason = self._too_much()
        if reason is not None:
            self._open(reason, cause, now)

    def _too_much(self) -> str | None:
        policy, ring = self._policy, self._ring
        if policy.failures is not None and self._in_a_row >= policy.failures:
            return "consecutive_failures"
        if ring.calls < self._enough:
            return None
        if policy.failure_rate is not None and ring.failures >= policy.failure_rate * ring.calls:
            return "failure_rate"
        if policy.slow_rate is not None and ring.slow_calls >= policy.slow_rate * ring.calls:
            return "slow_call_rate"
        return None

    def _open(self, reason: str, cause: Any, now: float) -> None:
        policy = self._policy
        cap = max(policy.open_cap, policy.open_for)  # it bounds the growth, not what was asked for
        try:
            length = min(cap, policy.open_for * policy.open_factor**self._openings)
        except OverflowError:
            length = cap
        self._open_until = now + length * self._rng.uniform(1.0 - policy.open_jitter, 1.0 + policy.open_jitter)
        self._openings += 1
        self._change(OPEN, reason, cause, now)
        self._clear()

    def _may_retry(self, verdict: Verdict, now: float) -> bool:
        return self.state is not OPEN or now >= self._open_until

    def _leave(self, permit: Permit) -> None:
        """There is no line: who is refused does not wait."""

    def _window(self, now: float) -> WindowSnapshot:
        self._ring.advance(now)
        return WindowSnapshot(self._ring.calls, self._ring.failures, self._ring.slow_calls)

    def _next_probe(self, now: float) -> float:
        return max(0.0, self._open_until - now)
