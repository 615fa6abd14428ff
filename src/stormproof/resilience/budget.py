"""The retry budget of a target: bounds what retries add to its load, however many callers there are."""

from __future__ import annotations

import threading

from stormproof.resilience.policy import BudgetPolicy


class Budget:
    """A token bucket, full at the start; shared by all retries and hedges of a target.

    Safe for concurrent use by threads and tasks; O(1). See :class:`~stormproof.resilience.policy.BudgetPolicy` for the
    source of the algorithm.
    """

    __slots__ = ("_lock", "_policy", "_tokens", "is_full")

    def __init__(self, policy: BudgetPolicy) -> None:
        self._policy = policy
        self.refill()

    def refill(self) -> None:
        """Be as new, with a new lock: the old one may be held by a thread that a fork left behind."""
        self._lock = threading.Lock()
        self._tokens = float(self._policy.capacity)
        #: Nothing can be paid back: lets the healthy case do without a call.
        self.is_full = True

    @property
    def share_left(self) -> float:
        """The part of the bucket that is full, from 0 to 1."""
        return self._tokens / self._policy.capacity

    def withdraw(self) -> bool:
        """Take the token of one retry; False when there is none."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            self.is_full = False
            return True

    def deposit(self) -> None:
        """Pay back for one success."""
        with self._lock:
            self._tokens = min(float(self._policy.capacity), self._tokens + self._policy.payback)
            self.is_full = self._tokens >= self._policy.capacity
