"""What the end of an attempt means: for the breaker, for the retry, for whoever watches."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Weight(enum.Enum):
    """How an attempt's end counts for the breaker of its target."""

    SUCCESS = "success"  # the server is alive, even if it said no (a 404 is a healthy answer)
    FAILURE = "failure"
    IGNORED = "ignored"  # says nothing about the server: cancelled, rate limited, a local error


class Retry(enum.Enum):
    """Whether another attempt can help."""

    NEVER = "never"
    ALWAYS = "always"  # the request was certainly not carried out
    IF_REPLAY_SAFE = "if_replay_safe"  # it may have been carried out: only where that does no harm
    WANTED = "wanted"  # the app has asked for it, whatever we think
    SPENT = "spent"  # an operation inside this one has retried it in vain


@dataclass(frozen=True)
class Verdict:
    """A client's reading of how one attempt ended.

    Attributes:
        weight: what the breaker counts.
        retry: whether another attempt can help.
        error_type: low-cardinality name for ``error.type``; None on success.
        status: the HTTP status (int) or gRPC code name (str) that was answered, if any.
        hint: seconds the server asked to wait (``Retry-After`` and its kin), if any.
        timed_out: the server did not answer in time: it may be dead, or only busy.
        rate_limited: the server is well and says that this caller asks too often.
    """

    weight: Weight
    retry: Retry = Retry.NEVER
    error_type: str | None = None
    status: int | str | None = None
    hint: float | None = None
    timed_out: bool = False
    rate_limited: bool = False


SUCCESS = Verdict(Weight.SUCCESS)


class GaveUp(enum.Enum):
    """Why no further attempt was made after a failure."""

    ATTEMPTS = "attempts"
    BUDGET = "budget"
    DEADLINE = "deadline"
    BREAKER = "breaker"
    BULKHEAD = "bulkhead"
    RATE_LIMIT = "rate_limit"
    NOT_RETRYABLE = "not_retryable"
    NOT_REPLAY_SAFE = "not_replay_safe"
    NESTED = "nested"  # an operation inside this one has retried it in vain
    STREAM_STARTED = "stream_started"
    HINT_TOO_LONG = "hint_too_long"
    CANCELLED = "cancelled"  # while waiting
    INACTIVE = "inactive"  # stamina.set_active(False), or stamina's test mode stopped the loop


class Refusal(enum.Enum):
    """Who did not let a call through to the network; the ``error.type`` of a call that was never sent."""

    CIRCUIT_OPEN = "circuit_open"
    BULKHEAD_FULL = "bulkhead_full"
    RATE_LIMITED = "rate_limited"

    @property
    def gave_up(self) -> GaveUp:
        """The same, said of a retry."""
        return _GAVE_UP[self]


_GAVE_UP = {
    Refusal.CIRCUIT_OPEN: GaveUp.BREAKER,
    Refusal.BULKHEAD_FULL: GaveUp.BULKHEAD,
    Refusal.RATE_LIMITED: GaveUp.RATE_LIMIT,
}
