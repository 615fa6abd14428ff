"""An attempt's way through its target's limits, after the breaker: rate limit, then bulkhead (resilience4j's order)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stormproof.resilience.outcome import Refusal, Verdict, Weight

if TYPE_CHECKING:
    from stormproof.resilience.attempt import Attempt
    from stormproof.resilience.bulkhead import Bulkhead
    from stormproof.resilience.targets import Target
    from stormproof.resilience.waiting import Turn

_NEVER_SENT = Verdict(Weight.IGNORED)


def pass_limits(
    target: Target, attempt: Attempt, now: float, make_turn: Callable[[], Turn]
) -> tuple[float, str, Refusal | None]:
    """(0, …) to be sent now; (seconds after which to ask again, who makes it wait, None); or a refusal."""
    if target.rate_limit is not None:
        if attempt.send_at is None:
            attempt.reservation = target.rate_limit.reserve(now, attempt.deadline - now)
            if attempt.reservation is None:
                return 0.0, "rate_limit", Refusal.RATE_LIMITED
            attempt.send_at = now + attempt.reservation.wait
        if now < attempt.send_at:
            return attempt.send_at - now, "rate_limit", None
    if target.bulkhead is not None and not attempt.is_inside:
        return _pass_bulkhead(target.bulkhead, target.policy.bulkhead.max_wait, attempt, now, make_turn)
    return 0.0, "", None


def _pass_bulkhead(
    bulkhead: Bulkhead, max_wait: float, attempt: Attempt, now: float, make_turn: Callable[[], Turn]
) -> tuple[float, str, Refusal | None]:
    if attempt.turn is None:
        if bulkhead.enter():
            attempt.is_inside = True
            return 0.0, "bulkhead", None
        turn = make_turn()
        if not bulkhead.queue(turn):
            return 0.0, "bulkhead", Refusal.BULKHEAD_FULL
        attempt.turn = turn
        attempt.turn_until = min(now + max_wait, attempt.deadline)
    if not attempt.turn.given:
        if now < attempt.turn_until:
            return attempt.turn_until - now, "bulkhead", None
        if bulkhead.withdraw(attempt.turn, waited_too_long=True):
            attempt.turn = None
            return 0.0, "bulkhead", Refusal.BULKHEAD_FULL
    attempt.is_inside, attempt.turn = True, None
    return 0.0, "bulkhead", None


def release(target: Target, attempt: Attempt, now: float) -> None:
    """Give back what the attempt holds: at its end, or because it is not going to be sent. Twice does no harm."""
    if not attempt.granted:
        if attempt.place is not None:
            target.breaker.withdraw(attempt)
        return
    if not attempt.settled:
        target.breaker.settle(attempt, _NEVER_SENT, now, 0.0)
        if attempt.reservation is not None and target.rate_limit is not None:
            target.rate_limit.give_back(attempt.reservation)
    if target.bulkhead is None or target.breaker.is_of_parent(attempt.generation):
        return
    turn, attempt.turn = attempt.turn, None
    was_given = turn is not None and not target.bulkhead.withdraw(turn) and turn.given
    if attempt.is_inside or was_given:
        attempt.is_inside = False
        target.bulkhead.leave()
