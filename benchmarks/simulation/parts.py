"""stormproof's default without one of its parts, to see what that part is good for."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from stormproof.resilience.adaptive import BACKLOG, Adaptive
from stormproof.resilience.breaker import Permit
from stormproof.resilience.outcome import Verdict

from .engine import Clock, Policy
from .ours import Stormproof


class _Without(Stormproof):
    """As the default, with another breaker in its place."""

    BREAKER: type[Adaptive]

    def __init__(self, rng: random.Random, clock: Clock) -> None:
        super().__init__(rng, clock)
        target = self.target
        target.breaker = self.BREAKER(target.name, target.policy.breaker, clock, lambda _: None, rng)


class _NoProof(Adaptive):
    def _await_proof(self, permit: Permit, now: float) -> float:
        return 0.0

    def _may_retry(self, verdict: Verdict, now: float) -> bool:
        return super()._may_retry(replace(verdict, timed_out=False), now)


class _NoGate(Adaptive):
    def _may_retry(self, verdict: Verdict, now: float) -> bool:
        return True


class _NoPacer(Adaptive):
    def _pace(self, permit: Permit, now: float) -> float:
        return 0.0


class _NoPause(Adaptive):
    def _cut(self, permit: Permit, now: float, latency: float) -> None:
        super()._cut(permit, now, latency=0.0)


class _NoCap(Adaptive):
    def _grow(self, now: float, slot: float, cause: Permit) -> None:
        delivered = self._delivered
        if slot - now > BACKLOG:  # then the delivered rate is what the growth is capped by
            self._delivered = math.inf
        super()._grow(now, slot, cause)
        self._delivered = delivered


class _NoProbes(Adaptive):
    def _cut(self, permit: Permit, now: float, latency: float) -> None:
        self._alive = True
        super()._cut(permit, now, latency)


class WithoutProof(_Without):
    """A retry after a timeout is as one after any failure: it waits for no success that was sent later."""

    BREAKER = _NoProof


class WithoutGate(_Without):
    """A failure is retried however low the health is."""

    BREAKER = _NoGate


class WithoutPacer(_Without):
    """Nothing is paced: neither after a cut nor after a 429."""

    BREAKER = _NoPacer


class WithoutPause(_Without):
    """Sending goes on at once after a cut."""

    BREAKER = _NoPause


class WithoutCap(_Without):
    """With a backlog the rate grows whatever is delivered."""

    BREAKER = _NoCap


class WithoutProbes(_Without):
    """It never opens: it only paces."""

    BREAKER = _NoProbes


#: All of them, by name.
PARTS: dict[str, type[Policy]] = {
    "without-proof": WithoutProof,
    "without-gate": WithoutGate,
    "without-pacer": WithoutPacer,
    "without-pause": WithoutPause,
    "without-cap": WithoutCap,
    "without-probes": WithoutProbes,
}
