"""Queues on the virtual clock, threads that can be told apart, and predicates that note what they were asked."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from stormproof.resilience import waiting
from stormproof.resilience.bulkhead import Bulkhead
from stormproof.resilience.policy import BulkheadPolicy
from stormproof.resilience.rate_limit import RateLimit

from .helpers import VirtualClock

#: Seconds. What a test that is right never waits out; one that is wrong ends by it.
LONG = 20.0


class Agenda:
    """What happens while callers stand in a queue. Whoever waits for a turn moves the virtual clock on."""

    def __init__(self, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self._clock = clock
        self._todo: list[tuple[float, Callable[[], object]]] = []

        def wait(turn: waiting.Turn, seconds: float) -> None:
            self._pass(turn, seconds)

        async def wait_async(turn: waiting.Turn, seconds: float) -> None:
            self._pass(turn, seconds)

        monkeypatch.setattr(waiting.ThreadTurn, "wait", wait)
        monkeypatch.setattr(waiting.TaskTurn, "wait", wait_async)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do this so long from now, if somebody waits then."""
        self._todo.append((self._clock.now + seconds, action))

    def _pass(self, turn: waiting.Turn, seconds: float) -> None:
        until = self._clock.now + seconds
        while self._todo and self._todo[0][0] <= until and not turn.given:
            at, action = self._todo.pop(0)
            self._clock.now = at
            action()
        if not turn.given:
            self._clock.now = until


class Place:
    """A turn that nobody waits for: notes when it is given. ``alive=False``: its loop is closed."""

    def __init__(self, name: object = None, *, alive: bool = True) -> None:
        self.name = name
        self.alive = alive
        self.given = False

    def give(self) -> bool:
        self.given = self.alive
        return self.alive

    def __repr__(self) -> str:
        return f"<Place {self.name}>"


def bulkhead(limit: int = 1, queue: int = 100, max_wait: float = 5.0) -> Bulkhead:
    return Bulkhead(BulkheadPolicy(limit=limit, queue=queue, max_wait=max_wait))


@dataclass
class Gate:
    """Calls that stay inside until they are told to go; safe to use from threads and loops alike."""

    entered: list[object] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _open: set[object] = field(default_factory=set)

    def hold(self, name: object) -> object:
        """Be inside, until let go."""
        with self._changed:
            self.entered.append(name)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: name in self._open, LONG)
        return name

    async def hold_async(self, name: object) -> object:
        """As :meth:`hold`, without holding up the loop."""
        return await asyncio.get_running_loop().run_in_executor(None, self.hold, name)

    def let_go(self, name: object) -> None:
        with self._changed:
            self._open.add(name)
            self._changed.notify_all()

    def await_entered(self, *names: object) -> None:
        """Until these, and only these, have entered so far, in this order."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.entered) >= len(names), LONG)
            assert self.entered == list(names)


class Queued:
    """Tells when somebody has taken a place in a bulkhead's queue: the moment that a thread's order depends on."""

    def __init__(self, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bulkhead = bulkhead
        self._changed = threading.Condition()
        queue = bulkhead.queue

        def noted(turn: waiting.Turn) -> bool:
            taken = queue(turn)
            with self._changed:
                self._changed.notify_all()
            return taken

        monkeypatch.setattr(bulkhead, "queue", noted)

    def await_length(self, length: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._bulkhead.queued == length, LONG)


class Asked:
    """A predicate: notes what it was asked of, and answers in turn; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.about: list[Any] = []
        self._answers = list(answers)

    def __call__(self, about: Any) -> Any:
        self.about.append(about)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def at_once(threads: int, work: Callable[[], Any]) -> list[Any]:
    """What ``work`` returns in so many threads that begin together."""
    barrier = threading.Barrier(threads)
    results: list[Any] = []

    def run() -> None:
        barrier.wait(LONG)
        results.append(work())

    crew = [threading.Thread(target=run) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(LONG)
    assert len(results) == threads
    return results


class Crew:
    """Threads that are joined at the end, and whose errors come to light."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.results: dict[object, Any] = {}

    def start(self, name: object, work: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                self.results[name] = work()
            except BaseException as error:
                self.results[name] = error

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> dict[object, Any]:
        for thread in self._threads:
            thread.join(LONG)
            assert not thread.is_alive()
        return self.results


def wait_at(limit: RateLimit, now: float, longest: float = math.inf) -> float | None:
    """Reserve a place: the wait for it; None if it is refused."""
    reservation = limit.reserve(now, longest)
    return None if reservation is None else reservation.wait
