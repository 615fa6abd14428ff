"""One logical call: every decision about its attempts. It neither waits nor calls; the runner and streams do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stormproof.resilience import deadline as deadlines
from stormproof.resilience import nesting, overrides, reading
from stormproof.resilience.admission import pass_limits, release
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.backoff import backoff
from stormproof.resilience.outcome import SUCCESS, GaveUp, Refusal, Retry, Verdict, Weight
from stormproof.resilience.targets import OWN, LastError

if TYPE_CHECKING:
    from stormproof.resilience.call import Call, Facts
    from stormproof.resilience.clock import Clock
    from stormproof.resilience.events import Fanout
    from stormproof.resilience.fallback import Fallback
    from stormproof.resilience.targets import Target
    from stormproof.resilience.waiting import Turn

_REASONS = {Retry.NEVER: GaveUp.NOT_RETRYABLE, Retry.SPENT: GaveUp.NESTED}

_UNWANTED = Verdict(Weight.IGNORED, Retry.IF_REPLAY_SAFE, "unwanted_result")


class UnwantedResultError(Exception):
    """Stands for a result that ``RetryPolicy.on_result`` turned down. Never reaches the app."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


class Operation:
    """A call's life from the app's call to its result, its exception or the end of its stream.

    Attributes:
        call, target: which call, and where it goes.
        policy: the target's, with what the app has chosen for the block that the call was made in.
        deadline: no wait and no new attempt goes beyond this moment.
        cut_at: no running attempt goes beyond this moment; infinite unless a deadline is strict.
        attempt: the running or latest attempt; None if none was let through.
        attempts: how many were made.
        total_delay: seconds waited between attempts so far, because they failed.
        queued: seconds waited to be let through.
        error: the failure that a retry was decided for; None otherwise, so that no traceback is kept alive.
        wait: seconds to wait before the next attempt; None when there will be none.
        error_type: the final ``error.type``; None on success.
        gave_up: why no further attempt was made after a failure.
        fallback: to be taken now: it has failed for good, and its policy has something else for the app.
        fallback_type: what the app got instead: ``value``, ``function`` or ``endpoint``; None if it was its own.
        facts: what the result told.
        items: items of a stream handed to the app.
        first_item_at, last_item_at: when they came.
        context, span: for listeners; opaque here.
    """

    # What a call that succeeds at once never changes stands on the class.
    attempt: Attempt | None = None
    attempts = 0
    total_delay = 0.0
    queued = 0.0
    wait: float | None = None
    wait_source: str | None = None
    error: BaseException | None = None
    error_type: str | None = None
    gave_up: GaveUp | None = None
    can_fall_back = True
    fallback: Fallback | None = None
    fallback_type: str | None = None
    items = 0
    first_item_at = last_item_at = 0.0
    is_over = False
    ended = 0.0
    context: Any = None
    span: Any = None
    _next: Attempt | None = None  # asks to be let through
    _free_attempts = 0  # that a rate limiter turned away, and that do not count
    _last_backoff = 0.0
    _live: Operation | None = None

    def __init__(self, call: Call, target: Target, listeners: Fanout, clock: Clock) -> None:
        self.call = call
        self.target = target
        self.listeners = listeners
        self.clock = clock
        self.facts: Facts = {}
        self._choose()
        self.started = target.last_used = clock()
        self._bound()
        for tell in listeners.operation_started:
            tell(self)

    def _bound(self) -> None:
        self.deadline, self.cut_at = deadlines.bounds(self.policy, self.started)

    def _choose(self) -> None:
        """Policy and number of attempts. The app's last word wins: request, block, client, settings."""
        call, self.policy = self.call, self.target.policy
        self._own_attempts = call.client_attempts if call.attempts is None else call.attempts
        layers = overrides.current() if call.layers is None else call.layers
        if layers:
            changes = overrides.changes_for(self.target.policy_name, layers)
            self.policy = overrides.changed(self.policy, changes)
            if call.attempts is None and "attempts" in changes:
                self._own_attempts = changes["attempts"]

    # -- one attempt -------------------------------------------------------------------------------------------------

    def admit(self, make_turn: Callable[[], Turn]) -> float:
        """Ask for the next attempt to be let through.

        Returns 0 once it has begun, as ``attempt``; else the seconds after which to ask again, or earlier if the turn
        that ``make_turn`` made is given. Raises the last real error if it is refused, or the client's own kind of
        error if there is none.
        """
        attempt = self._next or self._prepare()
        now = self.clock()
        target = self.target
        wait = 0.0 if attempt.granted else target.breaker.admit(attempt, now)
        source = "breaker"
        refusal = Refusal.CIRCUIT_OPEN if wait < 0.0 else None
        if target.is_limited and wait == 0.0:
            wait, source, refusal = pass_limits(target, attempt, now, make_turn)
        if refusal is not None:
            raise self._refused(refusal)
        if wait:
            attempt.queued_by = source
            if attempt.asked_at is None:
                attempt.asked_at = now
        else:
            self._start(attempt, now)
        return wait

    def _prepare(self) -> Attempt:
        attempt = self._next = Attempt()
        attempt.deadline = self.deadline
        if self.attempts:
            last = self.attempt
            if last is not None and last.verdict is not None and last.verdict.timed_out:
                attempt.after_timeout_of = last.sent
            attempt.number = self.attempts + 1
            attempt.delay, attempt.delay_source = self.wait or 0.0, self.wait_source
            self.total_delay += attempt.delay
        return attempt

    def _start(self, attempt: Attempt, now: float) -> None:
        self._next = None
        self.attempt = attempt
        self.attempts += 1
        attempt.started = attempt.sent = now
        if attempt.asked_at is not None:
            attempt.queued = now - attempt.asked_at
            self.queued += attempt.queued
        if self.wait is not None:
            self.wait = self.wait_source = self.error = self.error_type = None
        for tell in self.listeners.attempt_started:
            tell(self, attempt)

    def adopt(self, generation: int, sent: float) -> Attempt:
        """The first attempt was let through the short way (``Breaker.enter``), before anyone knew of this operation."""
        attempt = self._prepare()
        attempt.granted, attempt.generation = True, generation
        self.started = sent
        self._bound()
        attempt.deadline = self.deadline
        self._start(attempt, sent)
        return attempt

    def returned(self, attempt: Attempt) -> None:
        """The client has returned or raised."""
        for tell in self.listeners.attempt_returned:
            tell(self, attempt)

    def succeed(self, facts: Facts | None = None) -> None:
        """The attempt, and with it the operation, has its complete result."""
        if facts:
            self.facts.update(facts)
        if self._end_attempt(SUCCESS) and not self.target.budget.is_full:
            self.target.budget.deposit()
        self._end()

    def fail(self, error: BaseException, *, final: bool = False) -> None:
        """The attempt ended in ``error``. Afterwards ``wait`` says whether, and when, there will be another.

        ``final``: the app already holds the answer's beginning, so that nothing can be repeated.
        """
        verdict = reading.classify(self, error)
        if not self._end_attempt(verdict):
            return
        self.error_type = verdict.error_type
        self.wait, self.wait_source, self.gave_up = self._decide(verdict, final)
        if self.wait is not None:
            self._schedule(error)
        elif not self._may_fall_back(error, verdict):
            self._end_with(error)

    def turns_down(self, result: Any) -> bool:
        """Whether the policy wants another attempt instead of this result, and there will be one."""
        on_result = self.call.on_result or self.policy.retry.on_result
        if on_result is None or not reading.ask(self.target, on_result, result):
            return False
        wait, source, self.gave_up = self._decide(_UNWANTED, final=False)
        if wait is None:
            return False
        self._end_attempt(_UNWANTED)
        self.error_type, self.wait, self.wait_source = _UNWANTED.error_type, wait, source
        self._schedule(UnwantedResultError(result))
        return True

    def abandon(self, reason: GaveUp, error_type: str | None = None) -> None:
        """The attempt that was to come is not going to be made. Does nothing while an attempt or stream runs."""
        if self._next is not None:
            release(self.target, self._next, self.clock())
            self._next = None
        elif self.wait is None:
            return
        error = self.error
        self.gave_up, self.error_type, self.wait = reason, error_type or self.error_type, None
        if reason is not GaveUp.INACTIVE or error is None or not self._may_fall_back(error, None):
            self._end_with(error)

    @property
    def live(self) -> Operation:
        """The operation that the app's result belongs to: another one where this one fell back to its endpoint."""
        return self._live or self

    @property
    def turn(self) -> Any:
        """The place in the bulkhead's queue that is waited in; None elsewhere."""
        return self._next.turn if self._next is not None else None

    # -- streams -----------------------------------------------------------------------------------------------------

    def item(self) -> None:
        """An item of the stream has arrived."""
        self.last_item_at = self.clock()
        self.items += 1
        if self.items == 1:
            self.first_item_at = self.last_item_at
            for tell in self.listeners.first_chunk:
                tell(self)

    def resumed(self) -> None:
        """The code that makes the stream runs again; ``returned`` follows."""
        for tell in self.listeners.attempt_resumed:
            tell(self, self.attempt)

    def close(self) -> None:
        """The app stopped reading before the end: no failure; no proof of health either if nothing had come."""
        self._end_attempt(SUCCESS if self.items else Verdict(Weight.IGNORED))
        self._end()

    # -- fallback ----------------------------------------------------------------------------------------------------

    def fell_back(self, error: BaseException | None, live: Operation | None = None) -> None:
        """The app gets something else than this operation's error; or ``error``, if that failed too."""
        if self.fallback is not None:
            self.fallback_type = self.fallback.kind
            self.fallback = None
        named = live.error_type if live is not None else None  # as its client names it
        self.error_type = None if error is None else named or type(error).__name__
        if error is None:
            self._live = live
        self._end()

    def _may_fall_back(self, error: BaseException, verdict: Verdict | None) -> bool:
        """Set ``fallback`` if it is for this. ``verdict``: None if the call was refused."""
        fallback = self.policy.fallback
        if fallback is None or not self.can_fall_back or not isinstance(error, Exception):
            return False
        if isinstance(error, UnwantedResultError):  # the app gets the result
            return False
        if fallback.endpoint is not None and self.target.system == OWN:  # which has no address
            return False
        speaks = verdict is None or verdict.weight is Weight.FAILURE or verdict.retry is not Retry.NEVER
        if reading.ask(self.target, lambda failure: fallback.covers(failure, speaks_of_the_target=speaks), error):
            self.fallback = fallback
        return self.fallback is not None

    # -- limits ------------------------------------------------------------------------------------------------------

    @property
    def remaining(self) -> float:
        """Seconds left until the deadline; may be negative."""
        return self.deadline - self.clock()

    @property
    def attempt_timeout(self) -> float | None:
        """The longest the client may take for an attempt begun now, in seconds; None for its own timeout."""
        timeout = self.policy.timeout
        if self.cut_at == math.inf:
            return timeout
        left = max(self.cut_at - self.clock(), 0.001)  # 0 would mean "no limit" to some clients
        return left if timeout is None else min(timeout, left)

    @property
    def most_attempts(self) -> int:
        """How many attempts this operation may make; those that a rate limiter turned away may not count."""
        return self.policy.retry.attempts if self._own_attempts is None else self._own_attempts

    # -- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, verdict: Verdict, final: bool) -> tuple[float | None, str | None, GaveUp | None]:
        """(wait, its source, None) for a retry; (None, None, reason) for none."""
        target = self.target
        # The breaker learns the rate and keeps to it: then being turned away is no reason to give up.
        is_free = verdict.rate_limited and self._own_attempts is None and target.breaker.forgives_rate_limits
        refusal = self._refusal(verdict, is_free, final)
        if refusal is not None:
            return None, None, refusal
        self._free_attempts += is_free
        failures = self._free_attempts if is_free else self.attempts - self._free_attempts
        wait = self._last_backoff = backoff(self.policy.retry, failures, self._last_backoff, target.rng)
        source = "backoff"
        if verdict.hint:
            # The jitter on top keeps those who were told the same from coming back together.
            wait, source = verdict.hint + wait, "server"
        if wait >= self.remaining:
            return None, None, GaveUp.HINT_TOO_LONG if source == "server" else GaveUp.DEADLINE
        if not is_free and not target.budget.withdraw():
            return None, None, GaveUp.BUDGET
        return wait, source, None

    def _refusal(self, verdict: Verdict, is_free: bool, final: bool) -> GaveUp | None:
        if verdict.retry in _REASONS:
            return _REASONS[verdict.retry]
        if verdict.retry is Retry.IF_REPLAY_SAFE and not self.call.replay_safe:
            return GaveUp.NOT_REPLAY_SAFE
        if self.items or final:
            return GaveUp.STREAM_STARTED
        if not is_free and self.attempts - self._free_attempts >= self.most_attempts:
            return GaveUp.ATTEMPTS
        if not self.target.breaker.may_retry(verdict, self.clock()):
            return GaveUp.BREAKER
        return None

    # -- ends --------------------------------------------------------------------------------------------------------

    def _schedule(self, error: BaseException) -> None:
        self.error = error
        for tell in self.listeners.retry_scheduled:
            tell(self, self.attempt)

    def _refused(self, refusal: Refusal) -> BaseException:
        if self._next is not None:
            release(self.target, self._next, self.clock())
            self._next = None
        if self.error is not None:  # the breaker opened between two attempts: the real error says more
            error, self.gave_up, self.wait = self.error, refusal.gave_up, None
        else:
            error, self.error_type = self.call.client.refused_error(self.call, self.target, refusal), refusal.value
        if not self._may_fall_back(error, None):
            self._end_with(error)
        return error

    def _end_with(self, error: BaseException | None) -> None:
        if isinstance(error, UnwantedResultError) and self.error_type == _UNWANTED.error_type:
            self.error_type = None  # the app gets the result: better than none
        else:
            nesting.mark(error, self.gave_up, self.most_attempts)
        self._end()

    def _end_attempt(self, verdict: Verdict) -> bool:
        """Settle the running attempt; False if it was settled before."""
        attempt = self.attempt
        if attempt is None or attempt.verdict is not None:
            return False
        attempt.verdict = verdict
        now = attempt.ended = self.clock()
        answered = self.first_item_at if self.items else now
        # The breaker first: its change is caused by the attempt, whose span must still be open to be linked to.
        self.target.breaker.settle(attempt, verdict, now, answered - attempt.started)
        if attempt.is_inside:
            release(self.target, attempt, now)
        for tell in self.listeners.attempt_ended:
            tell(self, attempt)
        if verdict.weight is Weight.FAILURE:
            self.target.last_error = LastError(verdict.error_type or "_OTHER", now, attempt.trace_id)
        return True

    def _end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.wait = self.error = None  # no traceback is kept alive
            self.ended = self.clock()
            for tell in self.listeners.operation_ended:
                tell(self)
