"""The servers: what is wrong with each of them is what the policies have to live with."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from .engine import Outcome, Respond, Server

#: Says whether something is wrong with the server at this time.
Trouble = Callable[[float], bool]

# A quick error takes this long, in seconds.
_QUICK = 0.02


def between(start: float, end: float = math.inf) -> Trouble:
    """Wrong from ``start`` until ``end``."""
    return lambda now: start <= now < end


def always(now: float) -> bool:
    """Wrong all the time."""
    return True


def never(now: float) -> bool:
    """Nothing is wrong."""
    return False


def flapping(up: float, down: float) -> Trouble:
    """Well for ``up`` seconds, down for ``down`` seconds, and so on."""
    return lambda now: now % (up + down) >= up


class _Varied(Server):
    """A server whose service time varies: log-normal, with the mean it is given."""

    _SIGMA = 0.5

    def varied(self, mean: float) -> float:
        return mean * self.simulation.rng.lognormvariate(-(self._SIGMA**2) / 2, self._SIGMA)


class Collapse(Server):
    """Slows with concurrency, and goes on working for callers that have left: overload feeds itself.

    After Marc Brooker, "Fixing retries with token buckets and circuit breakers", 2022, and his simulator.
    With the defaults and a timeout of 3 s it can serve about 66 calls a second; beyond, all of them time out.
    """

    def __init__(self, base: float = 1.0, slope: float = 0.01) -> None:
        self._base = base
        self._slope = slope
        self._busy = 0

    def handle(self, respond: Respond) -> None:
        self._busy += 1
        self.simulation.after(self._base + self._busy * self._slope, self._finish, respond)

    def _finish(self, respond: Respond) -> None:
        self._busy -= 1
        respond(Outcome.SUCCESS, None)


class RandomFailures(_Varied):
    """Each attempt fails with a chance of its own: at once, or (``hangs``) by never being answered."""

    def __init__(self, share: float, *, hangs: bool = False, during: Trouble = always, latency: float = 0.25) -> None:
        self._share = share
        self._hangs = hangs
        self._during = during
        self._latency = latency

    def handle(self, respond: Respond) -> None:
        simulation = self.simulation
        if self._during(simulation.now) and simulation.rng.random() < self._share:
            if not self._hangs:
                simulation.after(_QUICK, respond, Outcome.ERROR, None)
            return
        simulation.after(self.varied(self._latency), respond, Outcome.SUCCESS, None)


class Workers(_Varied):
    """A pool of workers behind a queue, first come first served. Callers that have left are served all the same.

    While ``down`` everything is refused, or (``hangs``) never answered. ``shrinks``: when and to how many workers
    the pool shrinks for good.
    """

    def __init__(
        self,
        workers: int,
        service: float,
        *,
        down: Trouble = never,
        hangs: bool = False,
        shrinks: tuple[float, int] = (math.inf, 0),
    ) -> None:
        self._workers = workers
        self._service = service
        self._down = down
        self._hangs = hangs
        self._shrinks_at, self._workers_left = shrinks
        self._busy = 0
        self._queue: deque[Respond] = deque()

    def handle(self, respond: Respond) -> None:
        if self._down(self.simulation.now):
            if not self._hangs:
                self.simulation.after(_QUICK, respond, Outcome.ERROR, None)
        else:
            self._queue.append(respond)
            self._begin()

    def _begin(self) -> None:
        workers = self._workers if self.simulation.now < self._shrinks_at else self._workers_left
        if self._queue and self._busy < workers:
            self._busy += 1
            self.simulation.after(self.varied(self._service), self._finish, self._queue.popleft())

    def _finish(self, respond: Respond) -> None:
        respond(Outcome.SUCCESS, None)
        self._busy -= 1
        self._begin()


class Limiter(_Varied):
    """A token bucket in front of a healthy server: 429 with the time until the next token, when there is none."""

    def __init__(self, rate: float, burst: float, latency: float = 0.25) -> None:
        self._rate = rate
        self._burst = burst
        self._latency = latency
        self._tokens = burst
        self._filled_at = 0.0

    def handle(self, respond: Respond) -> None:
        now = self.simulation.now
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            self.simulation.after(self.varied(self._latency), respond, Outcome.SUCCESS, None)
        else:
            self.simulation.after(_QUICK, respond, Outcome.LIMITED, (1 - self._tokens) / self._rate)


class Slow(_Varied):
    """Answers everything, but for a while many times slower."""

    def __init__(self, during: Trouble, *, factor: float = 20.0, latency: float = 0.25) -> None:
        self._during = during
        self._factor = factor
        self._latency = latency

    def handle(self, respond: Respond) -> None:
        factor = self._factor if self._during(self.simulation.now) else 1.0
        self.simulation.after(self.varied(self._latency) * factor, respond, Outcome.SUCCESS, None)
