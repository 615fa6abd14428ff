"""One try at the network."""

from __future__ import annotations

from typing import Any

from stormproof.resilience.breaker import Permit
from stormproof.resilience.outcome import Verdict
from stormproof.resilience.rate_limit import Reservation
from stormproof.resilience.waiting import Turn


class Attempt(Permit):
    """A permit of the breaker, and what became of it.

    Attributes:
        number: from 1.
        type: ``initial``, ``retry`` or ``probe``.
        delay: seconds waited before it because the one before it failed.
        delay_source: who chose that wait: ``backoff`` or ``server``.
        queued: seconds it then waited to be let through.
        queued_by: for whom: ``breaker``, ``bulkhead`` or ``rate_limit``.
        started, ended: monotonic seconds.
        verdict: how it ended; None while it runs.
        status: the HTTP status that was answered, if whoever saw it has noted it here.
        trace_id: of its trace, if a listener has noted it here; only failures need it.
        context, span, token: for listeners; opaque here.
    """

    # Most attempts are the first, are not kept waiting and succeed: the rest stands on the class.
    number = 1
    delay = 0.0
    delay_source: str | None = None
    queued = 0.0
    queued_by: str | None = None
    started = 0.0
    ended = 0.0
    verdict: Verdict | None = None
    status: int | None = None
    trace_id: str | None = None
    context: Any = None
    span: Any = None
    token: Any = None

    # On its way through the limits.
    asked_at: float | None = None
    reservation: Reservation | None = None  # of the rate limit
    send_at: float | None = None  # as it has it
    turn: Turn | None = None
    turn_until = 0.0
    is_inside = False  # the bulkhead

    @property
    def type(self) -> str:
        if self.probe:
            return "probe"
        return "initial" if self.number == 1 else "retry"
