"""A limit of attempts in flight to one target, with a bounded queue before it."""

from __future__ import annotations

import threading
from collections import OrderedDict

from stormproof.resilience.policy import BulkheadPolicy
from stormproof.resilience.waiting import Turn


class Bulkhead:
    """First come, first served; threads and tasks stand in one queue (Nygard, "Release It!").

    Safe for concurrent use. Who has entered leaves exactly once; who does not want to wait any longer withdraws.
    """

    def __init__(self, policy: BulkheadPolicy) -> None:
        self._policy = policy
        self.after_fork()

    def after_fork(self) -> None:
        """Be as new: those inside and in the queue are the parent's."""
        self._lock = threading.Lock()
        self._queue: OrderedDict[Turn, None] = OrderedDict()
        self.in_flight = 0
        self.calls = {"entered": 0, "queued": 0, "rejected": 0}

    @property
    def queued(self) -> int:
        """Callers that wait for their turn."""
        return len(self._queue)

    def enter(self) -> bool:
        """Enter without waiting; False if that is not possible now, or if others wait already."""
        with self._lock:
            if self._queue or self.in_flight >= self._limit:
                return False
            self._take_in()
            return True

    def queue(self, turn: Turn) -> bool:
        """Stand in the queue; False if it is full. A turn that is given has entered."""
        with self._lock:
            if not self._queue and self.in_flight < self._limit:  # someone has left meanwhile
                self._take_in()
                turn.give()
                return True
            if len(self._queue) >= self._policy.queue:
                self.calls["rejected"] += 1
                return False
            self.calls["queued"] += 1
            self._queue[turn] = None
            return True

    def withdraw(self, turn: Turn, *, waited_too_long: bool = False) -> bool:
        """Leave the queue. False if the turn was given meanwhile: then its owner is inside and has to leave."""
        with self._lock:
            if turn not in self._queue:
                return False
            del self._queue[turn]
            self.calls["rejected"] += waited_too_long
            return True

    def leave(self) -> None:
        """The attempt is over: the next in the queue may enter."""
        with self._lock:
            self._let_out()

    @property
    def _limit(self) -> int:
        return self._policy.limit or 0

    def _take_in(self) -> None:
        self.in_flight += 1
        self.calls["entered"] += 1

    def _let_out(self) -> None:
        self.in_flight -= 1
        while self._queue:
            turn, _ = self._queue.popitem(last=False)
            if turn.give():
                self._take_in()
                return
