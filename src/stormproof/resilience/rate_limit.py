"""A limit of attempts a second to one target."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from stormproof.resilience.policy import RateLimitPolicy


@dataclass(frozen=True)
class Reservation:
    """A place in the stream of attempts.

    Attributes:
        wait: seconds to wait before sending.
    """

    wait: float
    number: int
    full_before: float


class RateLimit:
    """A token bucket as one number: the generic cell rate algorithm (ATM Forum, "Traffic Management 4.0", 1996).

    The number is the moment at which the bucket will be full again if nobody comes. Safe for concurrent use; O(1).
    """

    def __init__(self, policy: RateLimitPolicy) -> None:
        self._policy = policy
        self._interval = 1.0 / (policy.rate or math.inf)
        self._number = 0
        self.after_fork()

    def after_fork(self) -> None:
        """Be as new: the lock may be held by a thread that is not here."""
        self._lock = threading.Lock()
        self._full_at = -math.inf
        self._number += 1  # what the parent has reserved cannot be given back here
        self.calls = {"passed": 0, "delayed": 0, "rejected": 0}

    def reserve(self, now: float, longest: float) -> Reservation | None:
        """A place, whose wait is then to be waited; None if it is longer than allowed.

        ``longest``: seconds that the caller has; the policy's ``max_wait`` holds besides.
        """
        with self._lock:
            full_at = max(self._full_at, now)
            wait = max(0.0, full_at - (self._policy.burst - 1) * self._interval - now)
            if wait > min(longest, self._policy.max_wait):
                self.calls["rejected"] += 1
                return None
            self._number += 1
            reservation = Reservation(wait, self._number, self._full_at)
            self._full_at = full_at + self._interval
            self.calls["delayed" if wait else "passed"] += 1
            return reservation

    def give_back(self, reservation: Reservation) -> None:
        """A reserved attempt is not going to be sent. Only the newest place can be undone: others stand behind it."""
        with self._lock:
            if reservation.number == self._number:
                self._full_at = reservation.full_before
                self._number += 1
