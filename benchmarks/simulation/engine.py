"""A discrete-event engine: calls arrive at client processes, each with a policy of its own, and all go to one server.

Virtual time, one seeded source of randomness: a run is a function of its seed.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

#: Tells the virtual time, in seconds.
Clock = Callable[[], float]


class Outcome(enum.Enum):
    """How one attempt ended, as the client sees it."""

    SUCCESS = "success"
    ERROR = "error"  # answered quickly: 503, connection reset
    TIMEOUT = "timeout"  # the client stopped waiting; the server may still be at work on it
    LIMITED = "limited"  # 429


#: Takes a server's answer: its outcome, and the seconds it asks to wait (``Retry-After``), if it does.
Respond = Callable[[Outcome, float | None], None]


class Call:
    """One call of the app.

    Attributes:
        process: the policy of the process that makes it.
        attempts: how many were sent.
        sent_at: when the latest was.
        waited: seconds spent waiting for leave to send.
        ended_at: None while it runs.
        memory: for the policy; opaque here.
    """

    __slots__ = ("attempts", "ended_at", "memory", "process", "running", "sent_at", "started_at", "succeeded", "waited")

    def __init__(self, process: Policy, started_at: float) -> None:
        self.process = process
        self.started_at = started_at
        self.sent_at = started_at
        self.attempts = 0
        self.running = False
        self.waited = 0.0
        self.ended_at: float | None = None
        self.succeeded = False
        self.memory: Any = None


class Policy(ABC):
    """What one process does about failures: its state, shared by all of its calls."""

    def __init__(self, rng: random.Random, clock: Clock) -> None:
        self.rng = rng
        self.clock = clock

    @abstractmethod
    def admit(self, call: Call) -> float | None:
        """0: an attempt is sent now; more: seconds to sleep and ask again; None: refused for good."""

    @abstractmethod
    def ended(self, call: Call, outcome: Outcome, retry_after: float | None) -> float | None:
        """Told of every attempt's end. After a failure: seconds to sleep before ``admit`` is asked; None: give up."""


class Server(ABC):
    """What the calls go to. It schedules its answers itself, or never answers."""

    simulation: Simulation

    @abstractmethod
    def handle(self, respond: Respond) -> None:
        """An attempt has arrived."""


class Simulation:
    """One run. Arrivals are Poisson, at ``load(time)`` calls a second (never above ``peak_load``), until ``until``.

    Attributes:
        calls: every call, in the order of arrival.
        sent: when each attempt was sent, in order.
    """

    #: Simulated seconds after the last arrival, for what still runs to end.
    DRAIN = 120.0

    def __init__(
        self,
        seed: int,
        server: Server,
        policy: Callable[[random.Random, Clock], Policy],
        *,
        processes: int,
        load: Callable[[float], float],
        peak_load: float,
        until: float,
        timeout: float,
        network: float = 0.0,
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self.now = 0.0
        self.until = until
        self.calls: list[Call] = []
        self.sent: list[float] = []
        self._server = server
        server.simulation = self
        self._processes = [
            policy(random.Random(seed * 100_003 + number), lambda: self.now)  # noqa: S311
            for number in range(processes)
        ]
        self._load = load
        self._peak_load = peak_load
        self._timeout = timeout
        self._network = network
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()  # events of the same instant happen in the order they were made
        # All attempts have the same timeout: theirs come in the order of sending and need no heap.
        self._timeouts: deque[tuple[float, Call, int]] = deque()

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action, arguments))

    def run(self) -> Simulation:
        """Let it all happen."""
        events, timeouts = self._events, self._timeouts
        self.after(0.01, self._arrive)
        while (events or timeouts) and self.now < self.until + self.DRAIN:
            if timeouts and (not events or timeouts[0][0] < events[0][0]):
                self.now, call, number = timeouts.popleft()
                if call.running and call.attempts == number:
                    self._settle(call, number, Outcome.TIMEOUT, None)
            else:
                self.now, _, action, arguments = heapq.heappop(events)
                action(*arguments)
        return self

    def _arrive(self) -> None:
        if self.now >= self.until:
            return
        # A Poisson process of a varying rate: candidates at the highest rate, of which a share is taken.
        if self.rng.random() * self._peak_load < self._load(self.now):
            call = Call(self._processes[self.rng.randrange(len(self._processes))], self.now)
            self.calls.append(call)
            self._go_on(call)
        self.after(self.rng.expovariate(self._peak_load), self._arrive)

    def _go_on(self, call: Call) -> None:
        wait = call.process.admit(call)
        if wait is None:
            self._end(call, succeeded=False)
        elif wait > 0:
            self._wait(call, wait)
        else:
            self._send(call)

    def _wait(self, call: Call, seconds: float) -> None:
        call.waited += seconds
        self.after(seconds, self._go_on, call)

    def _send(self, call: Call) -> None:
        call.attempts += 1
        number = call.attempts
        call.sent_at = self.now
        call.running = True
        self.sent.append(self.now)

        def respond(outcome: Outcome, retry_after: float | None = None) -> None:
            self._over_the_network(self._settle, call, number, outcome, retry_after)

        self._timeouts.append((self.now + self._timeout, call, number))
        self._over_the_network(self._server.handle, respond)

    def _settle(self, call: Call, number: int, outcome: Outcome, retry_after: float | None) -> None:
        if number != call.attempts or not call.running:  # answered after its timeout, or timed out after its answer
            return
        call.running = False
        wait = call.process.ended(call, outcome, retry_after)
        if outcome is Outcome.SUCCESS:
            self._end(call, succeeded=True)
        elif wait is None:
            self._end(call, succeeded=False)
        else:
            self._wait(call, wait)

    def _end(self, call: Call, *, succeeded: bool) -> None:
        call.succeeded = succeeded
        call.ended_at = self.now

    def _over_the_network(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._network:
            self.after(self.rng.expovariate(1 / self._network), action, *arguments)
        else:
            action(*arguments)
