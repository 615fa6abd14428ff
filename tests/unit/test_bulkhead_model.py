"""The bulkhead against a model of it: whatever is done to it in whatever order, nothing is lost and none passes."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stormproof.resilience.bulkhead import Bulkhead
from stormproof.resilience.policy import BulkheadPolicy

from .limits import Place


class BulkheadMachine(RuleBasedStateMachine):
    """``inside`` counts those that have entered, ``queue`` has those that wait, oldest first."""

    @initialize(limit=st.integers(1, 4), queue=st.integers(0, 5))
    def make(self, limit: int, queue: int) -> None:
        self.limit, self.longest = limit, queue
        self.bulkhead = Bulkhead(BulkheadPolicy(limit=limit, queue=queue))
        self.inside = 0
        self.queue: list[Place] = []
        self.served: list[Place] = []  # who was given a turn, in that order
        self.awaited: list[Place] = []  # whom the model expects to be given one
        self.calls = {"entered": 0, "queued": 0, "rejected": 0}

    @rule()
    def enter(self) -> None:
        expected = self.inside < self.limit and not self.queue
        assert self.bulkhead.enter() is expected
        self._count_in(expected)

    @rule(alive=st.booleans())
    def queue_up(self, alive: bool) -> None:
        place = self._place(alive=alive)
        if self.inside < self.limit and not self.queue:
            assert self.bulkhead.queue(place)
            self._count_in(1)
            self.awaited += [place] if alive else []
        elif len(self.queue) >= self.longest:
            assert not self.bulkhead.queue(place)
            self.calls["rejected"] += 1
        else:
            assert self.bulkhead.queue(place)
            self.calls["queued"] += 1
            self.queue.append(place)

    @precondition(lambda self: self.queue)
    @rule(data=st.data(), too_long=st.booleans())
    def withdraw(self, data: Any, too_long: bool) -> None:
        place = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        assert self.bulkhead.withdraw(place, waited_too_long=too_long)
        self.calls["rejected"] += too_long

    @precondition(lambda self: self.awaited)
    @rule(data=st.data(), too_long=st.booleans())
    def withdraw_too_late(self, data: Any, too_long: bool) -> None:
        assert not self.bulkhead.withdraw(data.draw(st.sampled_from(self.awaited)), waited_too_long=too_long)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def die_waiting(self, data: Any) -> None:
        data.draw(st.sampled_from(self.queue)).alive = False

    @precondition(lambda self: self.inside)
    @rule()
    def leave(self) -> None:
        self.bulkhead.leave()
        self.inside -= 1
        while self.queue:
            place = self.queue.pop(0)
            if place.alive:
                self.awaited.append(place)
                self._count_in(1)
                break

    @rule()
    def fork(self) -> None:
        self.bulkhead._lock.acquire()
        self.bulkhead.after_fork()
        self.inside, self.queue = 0, []
        self.calls = dict.fromkeys(self.calls, 0)

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        if not hasattr(self, "bulkhead"):
            return
        assert self.bulkhead.in_flight == self.inside <= self.limit
        assert self.bulkhead.queued == len(self.queue) <= self.longest
        assert self.served == self.awaited  # first come, first served
        assert self.bulkhead.calls == self.calls
        assert not self.queue or self.inside == self.limit  # none waits for a place that is free

    def teardown(self) -> None:
        """Once all have left, it is empty, and lets as many in as at first."""
        if not hasattr(self, "bulkhead"):
            return
        while self.inside:
            self.leave()
        assert (self.bulkhead.in_flight, self.bulkhead.queued) == (0, 0)
        assert [self.bulkhead.enter() for _ in range(self.limit + 1)] == [True] * self.limit + [False]

    def _count_in(self, number: int) -> None:
        self.inside += number
        self.calls["entered"] += number

    def _place(self, *, alive: bool) -> Place:
        place, give = Place(alive=alive), Place.give

        def noted() -> bool:
            if place.alive:
                self.served.append(place)
            return give(place)

        place.give = noted  # type: ignore[method-assign]
        return place


BulkheadMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBulkhead = BulkheadMachine.TestCase
