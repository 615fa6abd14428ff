"""A breaker worked by hand: on the virtual clock, with random numbers that are chosen, step by step."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any, Generic, TypeVar

from stormproof.resilience.adaptive import Adaptive
from stormproof.resilience.breaker import Breaker, Permit, State, StateChange
from stormproof.resilience.outcome import SUCCESS, Retry, Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy
from stormproof.resilience.window import WindowBreaker

from .helpers import VirtualClock

FAILURE = Verdict(Weight.FAILURE, Retry.ALWAYS, "503", 503)
TIMEOUT = Verdict(Weight.FAILURE, Retry.ALWAYS, "ReadTimeout", timed_out=True)
IGNORED = Verdict(Weight.IGNORED, error_type="CancelledError")

STRATEGIES: dict[str, type[Breaker]] = {"adaptive": Adaptive, "window": WindowBreaker}

B = TypeVar("B", bound=Breaker)


def rate_limited(hint: float | None = None) -> Verdict:
    """A 429, with the Retry-After it brought."""
    return Verdict(Weight.IGNORED, Retry.ALWAYS, "429", 429, hint, rate_limited=True)


class Chosen(random.Random):
    """Draws what it is told to: every number that is derived from ``random()`` follows."""

    draw = 0.5

    def random(self) -> float:
        return self.draw


class Handle(Generic[B]):
    """A breaker and what it has told; each method is one step of some caller."""

    def __init__(self, breaker: type[B], clock: VirtualClock | None = None, **knobs: Any) -> None:
        self.clock = clock or VirtualClock()
        self.changes: list[StateChange] = []
        self.rng = Chosen()
        self.breaker: B = breaker("b", BreakerPolicy(**knobs), self.clock, self.changes.append, self.rng)

    def state(self) -> State:
        """Now. Not a property, which mypy would have stay the same from one line to the next."""
        return self.breaker.state

    @property
    def reasons(self) -> list[str]:
        return [change.reason for change in self.changes]

    def ask(self, permit: Permit | None = None, *, within: float = math.inf) -> tuple[Permit, float]:
        """Ask to be let through; again, if the permit has asked before."""
        if permit is None:
            permit = Permit()
            permit.deadline = self.clock() + within
        return permit, self.breaker.admit(permit, self.clock())

    def go(self) -> Permit:
        """Be let through at once."""
        permit, wait = self.ask()
        assert wait == 0.0
        assert permit.granted
        return permit

    def smuggle(self, times: int) -> list[Permit]:
        """Permits granted at this moment, whatever the breaker would have said."""
        policy = self.breaker._policy
        self.breaker._policy = replace(policy, observe_only=True)
        permits = [self.go() for _ in range(times)]
        self.breaker._policy = policy
        return permits

    def is_refused(self, *, within: float = math.inf) -> bool:
        permit, wait = self.ask(within=within)
        assert permit.granted is (wait == 0.0)
        return wait < 0.0

    def end(self, permit: Permit, verdict: Verdict = SUCCESS, latency: float = 0.0) -> None:
        self.breaker.settle(permit, verdict, self.clock(), latency)

    def run(self, *verdicts: Verdict, latency: float = 0.0) -> None:
        """Calls one after the other, each let through at once and ended at once."""
        for verdict in verdicts:
            self.end(self.go(), verdict, latency)

    def fail(self, times: int = 1) -> None:
        self.run(*[FAILURE] * times)

    def succeed(self, times: int = 1) -> None:
        self.run(*[SUCCESS] * times)

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    def open(self) -> None:
        """Let it open because nothing succeeds; its clock stands still."""
        while self.state() is State.CLOSED:
            self.fail()
        assert self.state() is State.OPEN

    def until_probe(self) -> None:
        """Wait until the next probe may be sent, and no longer."""
        self.wait(self.breaker.snapshot().next_probe)

    def open_from_any(self) -> None:
        """Let it open, though something may have succeeded: calls that were sent at this moment fail."""
        running = [self.go() for _ in range(60)]
        while self.state() is not State.OPEN:
            self.end(running.pop(), FAILURE)

    def recover(self) -> None:
        """From open to closed."""
        assert self.state() is State.OPEN
        self.until_probe()
        self.recover_from_half_open()

    def recover_from_half_open(self) -> None:
        """To closed, with one caller whose calls take a tenth of a second and succeed."""
        for _ in range(10_000):
            if self.state() is State.CLOSED:
                return
            permit, wait = self.ask()
            while wait > 0.0:
                self.wait(wait)
                permit, wait = self.ask(permit)
            assert wait == 0.0
            self.wait(0.1)
            self.end(permit, latency=0.1)
        raise AssertionError("does not recover")


def adaptive(clock: VirtualClock | None = None, **knobs: Any) -> Handle[Adaptive]:
    return Handle(Adaptive, clock, **knobs)


def window(clock: VirtualClock | None = None, **knobs: Any) -> Handle[WindowBreaker]:
    """Openings are as long as ``open_for`` says, unless there is to be jitter."""
    return Handle(WindowBreaker, clock, **{"open_jitter": 0.0, **knobs})
