"""The retry budget of a target: bounds what retries add to its load, however many callers there are."""

from __future__ import annotations

import threading

from stormproof.resilience.policy import BudgetPolicy


class Budget:
    """A token bucket, full at the start. Safe for concurrent use by threads and tasks; O(1).

    See :class:`~stormproof.resilience.policy.BudgetPolicy` for the source of the algorithm.
    """

    __slots__ = ("_lock", "_policy", "_tokens")

    def __init__(self, policy: BudgetPolicy) -> None:
        self._policy = policy
        self._tokens = policy.capacity
        self._lock = threading.Lock()

    @property
    def share_left(self) -> float:
        """The part of the bucket that is full, from 0 to 1."""
        return self._tokens / self._policy.capacity if self._policy.capacity else 0.0

    def withdraw(self) -> bool:
        """Take the token of one retry; False when there is none."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def deposit(self) -> None:
        """Pay back for one success."""
        if self._tokens >= self._policy.capacity:  # the healthy case takes no lock
            return
        with self._lock:
            self._tokens = min(self._policy.capacity, self._tokens + self._policy.payback)
