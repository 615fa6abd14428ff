"""Windows over the last calls or the last seconds: rings whose totals are kept, so that a look at them costs O(1).

As in resilience4j's sliding windows (FixedSizeSlidingWindowMetrics, SlidingTimeWindowMetrics).
"""

from __future__ import annotations

from array import array
from typing import Protocol

_FAILED, _SLOW = 1, 2


class Ring(Protocol):
    """Counts of what is inside the window. Not safe for concurrent use: the breaker's lock guards it."""

    calls: int
    failures: int
    slow_calls: int

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call that ended at ``now`` (monotonic seconds)."""

    def advance(self, now: float) -> None:
        """Forget what has left the window by ``now``."""


class CountRing:
    """The last ``size`` calls, a byte each."""

    __slots__ = ("_next", "_ring", "calls", "failures", "slow_calls")

    def __init__(self, size: int) -> None:
        self.calls = self.failures = self.slow_calls = 0
        self._ring = bytearray(size)
        self._next = 0

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        if self.calls == len(self._ring):
            oldest = self._ring[self._next]
            self.failures -= oldest & _FAILED
            self.slow_calls -= (oldest & _SLOW) // _SLOW
        else:
            self.calls += 1
        self._ring[self._next] = failed * _FAILED + slow * _SLOW
        self._next = (self._next + 1) % len(self._ring)
        self.failures += failed
        self.slow_calls += slow

    def advance(self, now: float) -> None:
        """Calls leave only when others come."""


class TimeRing:
    """The last ``size`` seconds, in buckets of one second."""

    __slots__ = ("_calls", "_failures", "_second", "_size", "_slow_calls", "calls", "failures", "slow_calls")

    def __init__(self, size: int) -> None:
        self.calls = self.failures = self.slow_calls = 0
        self._size = size
        self._second: int | None = None  # the newest that is counted
        self._calls, self._failures, self._slow_calls = (array("I", [0]) * size for _ in range(3))

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        self.advance(now)
        bucket = int(now) % self._size
        self._calls[bucket] += 1
        self._failures[bucket] += failed
        self._slow_calls[bucket] += slow
        self.calls += 1
        self.failures += failed
        self.slow_calls += slow

    def advance(self, now: float) -> None:
        second = int(now)
        if second == self._second:
            return
        newest = second if self._second is None else self._second
        # However long nothing happened, no bucket is emptied twice.
        for passed in range(max(newest, second - self._size) + 1, second + 1):
            self._empty(passed % self._size)
        self._second = max(newest, second)

    def _empty(self, bucket: int) -> None:
        self.calls -= self._calls[bucket]
        self.failures -= self._failures[bucket]
        self.slow_calls -= self._slow_calls[bucket]
        self._calls[bucket] = self._failures[bucket] = self._slow_calls[bucket] = 0
