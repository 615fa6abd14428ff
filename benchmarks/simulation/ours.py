"""stormproof's default policy: the product's own objects, driven by the engine as its runner drives them."""

from __future__ import annotations

import random
from typing import Any

from stormproof.resilience.call import Call as ProtectedCall
from stormproof.resilience.call import Facts
from stormproof.resilience.events import Fanout
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Refusal, Retry, Verdict, Weight
from stormproof.resilience.policy import Policy as Knobs
from stormproof.resilience.targets import Target
from stormproof.resilience.waiting import ThreadTurn

from .engine import Call, Clock, Outcome, Policy


class _SimulatedError(Exception):
    """An error of the simulated client, which says itself what it means."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.error_type)
        self.verdict = verdict


class _Client:
    """As little of a client as the product needs: no stream, no facts."""

    system = "openai"

    def classify(self, error: BaseException) -> Verdict:
        return error.verdict if isinstance(error, _SimulatedError) else Verdict(Weight.IGNORED)

    def response_facts(self, call: ProtectedCall, result: Any) -> Facts:
        return {}

    def is_open(self, call: ProtectedCall, result: Any) -> bool:
        return False

    def refused_error(self, call: ProtectedCall, target: Target, refusal: Refusal) -> Exception:
        return _SimulatedError(Verdict(Weight.IGNORED, error_type=refusal.value))


class Stormproof(Policy):
    """One process: one target, with the breaker, the budget and the retries that are in force by default."""

    def __init__(self, rng: random.Random, clock: Clock) -> None:
        super().__init__(rng, clock)
        self._call = ProtectedCall(_Client(), "chat", "server", 80)
        self._listeners = Fanout()
        self.target = Target(
            "openai",
            "server",
            80,
            name="openai/server:80",
            policy=Knobs(),
            clock=clock,
            on_change=self._listeners.breaker_changed,
            rng=rng,
        )

    def admit(self, call: Call) -> float | None:
        operation = call.memory
        if operation is None:
            operation = call.memory = Operation(self._call, self.target, self._listeners, self.clock)
        try:
            wait: float = operation.admit(ThreadTurn)
        except _SimulatedError:
            return None
        return wait

    def ended(self, call: Call, outcome: Outcome, retry_after: float | None) -> float | None:
        operation = call.memory
        if outcome is Outcome.SUCCESS:
            operation.succeed()
        else:
            operation.fail(_SimulatedError(_verdict(outcome, retry_after)))
        wait: float | None = operation.wait
        return wait


def _verdict(outcome: Outcome, retry_after: float | None) -> Verdict:
    """What the product's clients make of such an end."""
    if outcome is Outcome.TIMEOUT:
        return Verdict(Weight.FAILURE, Retry.ALWAYS, "ReadTimeout", timed_out=True)
    if outcome is Outcome.LIMITED:
        return Verdict(Weight.IGNORED, Retry.ALWAYS, "429", 429, retry_after, rate_limited=True)
    return Verdict(Weight.FAILURE, Retry.ALWAYS, "503", 503)
