"""What an error means to an operation: its client's verdict, what the policy makes of it, and where it came from."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stormproof.resilience.nesting import was_given_up
from stormproof.resilience.outcome import Retry, Verdict, Weight

if TYPE_CHECKING:
    from stormproof.resilience.operation import Operation
    from stormproof.resilience.targets import Target

_log = logging.getLogger("stormproof")

#: Cancellation by asyncio and by trio. Not imported: a program without trio has none.
_CANCELLED = ("CancelledError", "Cancelled")

_UNLESS_SPENT = (Retry.ALWAYS, Retry.IF_REPLAY_SAFE)


def classify(operation: Operation, error: BaseException) -> Verdict:
    """What the running attempt's error means."""
    if not isinstance(error, Exception):  # cancelled, interrupted, generator closed: nobody's fault
        return _classify_interruption(operation, type(error).__name__)
    try:
        verdict = operation.call.client.classify(error)
    except Exception:
        _log.warning("stormproof could not classify %s; it is not retried", type(error).__name__, exc_info=True)
        verdict = Verdict(Weight.IGNORED, error_type=type(error).__name__)
    on = operation.policy.retry.on
    wanted = None if on is None else ask(operation.target, on, error, otherwise=None)
    if wanted is not None:
        verdict = replace(verdict, retry=Retry.WANTED if wanted else Retry.NEVER)
    if operation.call.nests and was_given_up(error) and verdict.retry in _UNLESS_SPENT:
        verdict = replace(verdict, retry=Retry.SPENT)
    return verdict


def ask(target: Target, predicate: Any, about: Any, otherwise: Any = False) -> Any:
    """What a function of the user's says; ``otherwise`` if it raises, which is logged once a target."""
    try:
        return predicate(about)
    except Exception:
        if not target.has_bad_predicate:
            target.has_bad_predicate = True
            _log.warning("a predicate of the policy of %s failed; it is not heard", target.name, exc_info=True)
        return otherwise


def _classify_interruption(operation: Operation, name: str) -> Verdict:
    attempt = operation.attempt
    elapsed = operation.clock() - attempt.started if attempt is not None and not operation.items else 0.0
    if name in _CANCELLED and elapsed > operation.policy.breaker.slow_after:
        # asyncio.wait_for around the call: the app has lost patience, and that late it is the server's fault.
        return Verdict(Weight.FAILURE, error_type=name, timed_out=True)
    return Verdict(Weight.IGNORED, error_type=name)
