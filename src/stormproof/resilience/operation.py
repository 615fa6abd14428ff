"""One logical call: every decision about its attempts. It neither waits nor calls; the runner and streams do."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

from stormproof.resilience.backoff import full_jitter
from stormproof.resilience.breaker import Permit
from stormproof.resilience.outcome import SUCCESS, GaveUp, Retry, Verdict, Weight

if TYPE_CHECKING:
    from stormproof.resilience.call import Call, Facts
    from stormproof.resilience.clock import Clock
    from stormproof.resilience.events import Listener
    from stormproof.resilience.targets import Target

_log = logging.getLogger("stormproof")
# Without a state of its own: the app's random numbers are not used up, and forked workers do not wait in step.
_rng = random.SystemRandom()

CIRCUIT_OPEN = "circuit_open"


class Attempt:
    """One try at the network.

    Attributes:
        number: from 1.
        type: ``initial``, ``retry`` or ``probe``.
        delay: seconds waited before it.
        delay_source: who chose the wait: ``backoff`` or ``server``.
        verdict: how it ended; None while it runs.
        status: the HTTP status that was answered, if whoever saw it has noted it here.
        context, span, token: for listeners; opaque here.
    """

    __slots__ = (
        "context",
        "delay",
        "delay_source",
        "ended",
        "number",
        "permit",
        "span",
        "started",
        "status",
        "token",
        "type",
        "verdict",
    )

    def __init__(self, number: int, permit: Permit, started: float, delay: float, delay_source: str | None) -> None:
        self.number = number
        self.type = "probe" if permit.probe else "initial" if number == 1 else "retry"
        self.permit = permit
        self.started = started
        self.ended = started
        self.delay = delay
        self.delay_source = delay_source
        self.verdict: Verdict | None = None
        self.status: int | None = None
        self.context: Any = None
        self.span: Any = None
        self.token: Any = None


class Operation:
    """A call's life from the app's call to its result, its exception or the end of its stream.

    Attributes:
        call, target: which call, and where it goes.
        attempt: the running or latest attempt; None if none was let through.
        attempts: how many were made.
        total_delay: seconds waited between attempts so far.
        error: the failure that a retry was decided for; None otherwise, so that no traceback is kept alive.
        wait: seconds to wait before the next attempt; None when there will be none.
        error_type: the final ``error.type``; None on success.
        gave_up: why no further attempt was made after a failure.
        facts: what the result told.
        items: items of a stream handed to the app.
        first_item_at, last_item_at: when they came.
        context, span: for listeners; opaque here.
    """

    __slots__ = (
        "attempt",
        "attempts",
        "call",
        "clock",
        "context",
        "ended",
        "error",
        "error_type",
        "facts",
        "first_item_at",
        "gave_up",
        "is_over",
        "items",
        "last_item_at",
        "listener",
        "span",
        "started",
        "target",
        "total_delay",
        "wait",
        "wait_source",
    )

    def __init__(self, call: Call, target: Target, listener: Listener, clock: Clock) -> None:
        self.call = call
        self.target = target
        self.listener = listener
        self.clock = clock
        self.started = self.ended = clock()
        self.attempt: Attempt | None = None
        self.attempts = 0
        self.total_delay = 0.0
        self.wait: float | None = None
        self.wait_source: str | None = None
        self.error: BaseException | None = None
        self.error_type: str | None = None
        self.gave_up: GaveUp | None = None
        self.facts: Facts = {}
        self.items = 0
        self.first_item_at = self.last_item_at = 0.0
        self.is_over = False
        self.context: Any = None
        self.span: Any = None
        listener.operation_started(self)

    # -- one attempt ---------------------------------------------------------------------------------------------

    def begin_attempt(self) -> Attempt:
        """Ask for a permit and begin. Raises the last real error, or the client's circuit-open error, if refused."""
        permit = self.target.breaker.acquire(self)
        if permit is None:
            raise self._refused()
        self.attempts += 1
        delay, source = (self.wait or 0.0, self.wait_source) if self.attempts > 1 else (0.0, None)
        self.total_delay += delay
        self.wait = self.wait_source = self.error = self.error_type = None
        self.attempt = Attempt(self.attempts, permit, self.clock(), delay, source)
        self.listener.attempt_started(self, self.attempt)
        return self.attempt

    def succeed(self, facts: Facts | None = None) -> None:
        """The attempt, and with it the operation, has its complete result."""
        if facts:
            self.facts.update(facts)
        if self._end_attempt(SUCCESS):
            self.target.budget.deposit()
        self._end()

    def fail(self, error: BaseException, *, final: bool = False) -> None:
        """The attempt ended in ``error``. Afterwards ``wait`` says whether, and when, there will be another.

        ``final``: the app already holds the answer's beginning, so that nothing can be repeated.
        """
        verdict = self._classify(error)
        if not self._end_attempt(verdict):
            return
        self.error_type = verdict.error_type
        self.wait, self.wait_source, self.gave_up = self._decide(verdict, final)
        if self.wait is None:
            self._end()
        elif self.attempt is not None:
            self.error = error
            self.listener.retry_scheduled(self, self.attempt)

    def abandon(self, reason: GaveUp, error_type: str | None = None) -> None:
        """The retry that was decided on is not going to be made. Does nothing while an attempt or stream runs."""
        if self.wait is not None:
            self.gave_up, self.error_type = reason, error_type or self.error_type
            self._end()

    # -- streams -------------------------------------------------------------------------------------------------

    def item(self) -> None:
        """An item of the stream has arrived."""
        self.last_item_at = self.clock()
        self.items += 1
        if self.items == 1:
            self.first_item_at = self.last_item_at
            self.listener.first_chunk(self)

    def close(self) -> None:
        """The app stopped reading before the end: no failure; no proof of health either if nothing had come."""
        self._end_attempt(SUCCESS if self.items else Verdict(Weight.IGNORED))
        self._end()

    # -- limits --------------------------------------------------------------------------------------------------

    @property
    def remaining(self) -> float:
        """Seconds left until the deadline; may be negative."""
        return self.started + self.target.policy.deadline - self.clock()

    @property
    def attempt_timeout(self) -> float | None:
        """The longest the client may take for an attempt begun now, in seconds; None for its own timeout."""
        policy = self.target.policy
        if not policy.strict_deadline:
            return policy.timeout
        remaining = max(self.remaining, 0.001)  # 0 would mean "no limit" to some clients
        return remaining if policy.timeout is None else min(policy.timeout, remaining)

    @property
    def most_attempts(self) -> int:
        """How many attempts this operation may make."""
        return self.target.policy.retry.attempts if self.call.attempts is None else self.call.attempts

    # -- decisions -----------------------------------------------------------------------------------------------

    def _decide(self, verdict: Verdict, final: bool) -> tuple[float | None, str | None, GaveUp | None]:
        """(wait, its source, None) for a retry; (None, None, reason) for none."""
        refusal = GaveUp.STREAM_STARTED if final else self._refusal(verdict)
        if refusal is not None:
            return None, None, refusal
        wait = full_jitter(self.target.policy.retry, self.attempts, _rng)
        source = "backoff"
        if verdict.hint:
            # The jitter on top keeps those who were told the same from coming back together.
            wait, source = verdict.hint + wait, "server"
        if wait >= self.remaining:
            return None, None, GaveUp.HINT_TOO_LONG if source == "server" else GaveUp.DEADLINE
        if not self.target.budget.withdraw():
            return None, None, GaveUp.BUDGET
        return wait, source, None

    def _refusal(self, verdict: Verdict) -> GaveUp | None:
        if verdict.retry is Retry.NEVER:
            return GaveUp.NOT_RETRYABLE
        if verdict.retry is Retry.IF_REPLAY_SAFE and not self.call.replay_safe:
            return GaveUp.NOT_REPLAY_SAFE
        if self.items:
            return GaveUp.STREAM_STARTED
        if self.attempts >= self.most_attempts:
            return GaveUp.ATTEMPTS
        if self.target.breaker.would_reject():
            return GaveUp.BREAKER
        return None

    def _classify(self, error: BaseException) -> Verdict:
        if not isinstance(error, Exception):  # cancelled, interrupted, generator closed: nobody's fault
            return Verdict(Weight.IGNORED, error_type=type(error).__name__)
        try:
            return self.call.client.classify(error)
        except Exception:
            _log.warning("stormproof could not classify %s; it is not retried", type(error).__name__, exc_info=True)
            return Verdict(Weight.IGNORED, error_type=type(error).__name__)

    def _refused(self) -> BaseException:
        if self.error is not None:  # the breaker opened between two attempts: the real error says more
            error, self.gave_up = self.error, GaveUp.BREAKER
        else:
            error, self.error_type = self.call.client.circuit_open_error(self.call, self.target), CIRCUIT_OPEN
        self._end()
        return error

    def _end_attempt(self, verdict: Verdict) -> bool:
        """Settle the running attempt; False if it was settled before."""
        attempt = self.attempt
        if attempt is None or attempt.verdict is not None:
            return False
        attempt.verdict = verdict
        attempt.ended = self.clock()
        # The breaker first: its change is caused by the attempt, whose span must still be open to be linked to.
        self.target.breaker.settle(attempt.permit, verdict.weight, cause=attempt)
        self.listener.attempt_ended(self, attempt)
        return True

    def _end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.wait = self.error = None  # no traceback is kept alive
            self.ended = self.clock()
            self.listener.operation_ended(self)
