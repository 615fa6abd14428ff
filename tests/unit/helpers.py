"""A virtual clock, a client that fails as it is told, and a runner for both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from stormproof.errors import refused_message, refused_type
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.breaker import Permit
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.events import Fanout, Listener
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Refusal, Retry, Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy, BudgetPolicy, Policy, RetryPolicy
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Target, Targets

FAILED = Verdict(Weight.FAILURE, Retry.ALWAYS, "503", 503)
PERHAPS_DONE = Verdict(Weight.FAILURE, Retry.IF_REPLAY_SAFE, "ReadError")
TIMED_OUT = Verdict(Weight.FAILURE, Retry.IF_REPLAY_SAFE, "ReadTimeout", timed_out=True)
REFUSED = Verdict(Weight.SUCCESS, Retry.NEVER, "404", 404)

#: The classical breaker, with nothing left to chance and one threshold: tests say what else they want.
CLASSICAL: dict[str, Any] = {
    "strategy": "window",
    "failures": 5,
    "failure_rate": None,
    "open_for": 2.0,
    "open_factor": 1.0,
    "open_jitter": 0.0,
    "successes": 1,
}


class VirtualClock:
    """Monotonic seconds that pass only when someone says so.

    ``waits``: every wait so far; ``meanwhile``: called at the end of each, for what others do during it.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        self.meanwhile()

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class Trouble(Exception):
    """A client's error that says itself what it means."""

    def __init__(self, verdict: Verdict = FAILED) -> None:
        super().__init__(verdict.error_type)
        self.verdict = verdict


def asked_to_wait(seconds: float) -> Trouble:
    """A 429 with a hint."""
    return Trouble(Verdict(Weight.IGNORED, Retry.ALWAYS, "429", 429, seconds, rate_limited=True))


class FakeClient:
    """Reads :class:`Trouble`; its results are their own facts if they are dicts."""

    def __init__(self, system: str = "openai") -> None:
        self.system = system

    def classify(self, error: BaseException) -> Verdict:
        if isinstance(error, Trouble):
            return error.verdict
        raise LookupError("a classifier that cannot tell")

    def response_facts(self, call: Call, result: Any) -> Facts:
        return result if isinstance(result, dict) else {}

    def is_open(self, call: Call, result: Any) -> bool:
        return call.streaming

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        error: Exception = refused_type(refusal, "Fake", (ConnectionError,))(refused_message(refusal, target.name))
        return error


class Recorder(Listener):
    """Notes every step as a short word."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def operation_started(self, operation: Operation) -> None:
        self.steps.append("operation")

    def attempt_started(self, operation: Operation, attempt: Attempt) -> None:
        self.steps.append(f"attempt {attempt.number} {attempt.type}")

    def attempt_returned(self, operation: Operation, attempt: Attempt) -> None:
        self.steps.append("returned")

    def attempt_ended(self, operation: Operation, attempt: Attempt) -> None:
        assert attempt.verdict is not None
        self.steps.append(f"ended {attempt.verdict.error_type or 'well'}")

    def retry_scheduled(self, operation: Operation, attempt: Attempt) -> None:
        self.steps.append("retry")

    def first_chunk(self, operation: Operation) -> None:
        self.steps.append("first chunk")

    def operation_ended(self, operation: Operation) -> None:
        self.steps.append(f"over {operation.error_type or 'well'}")


@dataclass
class World:
    """A runner with its targets; runs scripts of outcomes, in the one way or the other.

    Its breaker is the classical one, whose life is easily told; ``world.policy = Policy()`` is the default of users.
    """

    clock: VirtualClock
    listener: Listener | Fanout
    is_async: bool = False
    policy: Policy = field(default_factory=lambda: Policy(breaker=BreakerPolicy(**CLASSICAL)))
    client: FakeClient = field(default_factory=FakeClient)

    def __post_init__(self) -> None:
        fanout = self.listener if isinstance(self.listener, Fanout) else Fanout(self.listener)
        self.targets = Targets(lambda _: self.policy, self.clock, fanout.breaker_changed)
        self.runner = Runner(self.targets, fanout, self.clock)

    def choose(
        self,
        *,
        retry: dict[str, Any] | None = None,
        breaker: dict[str, Any] | None = None,
        budget: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Change the policy, before the first call. ``breaker``: what differs from :data:`CLASSICAL`."""
        self.policy = replace(
            self.policy,
            retry=RetryPolicy(**(retry or {})),
            breaker=BreakerPolicy(**{**CLASSICAL, **(breaker or {})}),
            budget=BudgetPolicy(**(budget or {})),
            **others,
        )

    def call(self, **details: Any) -> Call:
        return Call(**{"client": self.client, "operation": "chat", "host": "localhost", "port": 80, **details})

    def begin(self, **details: Any) -> Operation:
        return self.runner.begin(self.call(**details))

    def run(self, operation: Operation, *script: Any) -> Any:
        """Run a call whose attempts end as the script says: exceptions are raised, callables called."""
        outcomes = iter(script)

        def send(operation: Operation, attempt: Attempt) -> Any:
            return _play(next(outcomes), operation, attempt)

        async def send_async(operation: Operation, attempt: Attempt) -> Any:
            await asyncio.sleep(0)
            return _play(next(outcomes), operation, attempt)

        if self.is_async:
            return asyncio.run(self.runner.run_async(operation, send_async))
        return self.runner.run(operation, send)

    @property
    def target(self) -> Target:
        return self.targets.get(self.client.system, "localhost", 80)


def count(target: Target, verdict: Verdict = FAILED) -> None:
    """Another caller's attempt, let through and ended at this moment."""
    permit, now = Permit(), target._clock()
    assert target.breaker.admit(permit, now) == 0.0
    target.breaker.settle(permit, verdict, now, 0.0)


def at_once(threads: int, work: Callable[[], Any]) -> list[Any]:
    """What ``work`` returned in each of so many threads, all let go together."""
    barrier = threading.Barrier(threads)

    def run() -> Any:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(threads)]]


def _play(outcome: Any, operation: Operation, attempt: Attempt) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    if isinstance(outcome, Callable):  # type: ignore[arg-type]
        return outcome(operation, attempt)
    return outcome
