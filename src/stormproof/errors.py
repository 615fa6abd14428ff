"""One family of errors. Each refusal that reaches the app is also of the client's own error type."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from stormproof.resilience.outcome import Refusal


class StormproofError(Exception):
    """Base of every error that stormproof itself raises."""


class RefusedError(StormproofError):
    """A call was refused without touching the network.

    Each client adds its own base class, so that ``except openai.APIConnectionError``, ``except ollama.ResponseError``
    or ``except ApiException`` keep working; only a function of the user's own (``stormproof.protect``) raises a bare
    one.

    Attributes:
        target: name of the target, ``{system}/{host}:{port}`` or that of a protected function.
    """

    target: str = ""


class CircuitOpenError(RefusedError):
    """The circuit breaker of the call's target is open, or recovers too slowly for the call's deadline."""


class BulkheadFullError(RefusedError):
    """As many calls as are allowed are in flight to the target, and its queue is full or too slow."""


class RateLimitedError(RefusedError):
    """The target's own rate limit here would make the call wait too long."""


#: What a refused call raises, and what its caller reads.
REFUSALS: Mapping[Refusal, tuple[type[RefusedError], str]] = {
    Refusal.CIRCUIT_OPEN: (CircuitOpenError, "circuit open: {} keeps failing, so the call was not sent (stormproof)"),
    Refusal.BULKHEAD_FULL: (
        BulkheadFullError,
        "bulkhead full: too many calls to {} are in flight, so this one was not sent (stormproof)",
    ),
    Refusal.RATE_LIMITED: (
        RateLimitedError,
        "rate limited: the call to {} would have to wait too long, so it was not sent (stormproof)",
    ),
}


def refused_message(refusal: Refusal, target: str) -> str:
    """What a refused caller reads."""
    return REFUSALS[refusal][1].format(target)


@functools.cache
def refused_type(refusal: Refusal, client: str, bases: tuple[type, ...], **members: Any) -> Any:
    """The class of a client's refused calls: of this family, and what that client's callers catch (``bases``)."""
    family = REFUSALS[refusal][0]
    doc = f"{family.__doc__} As {client}'s callers catch it."
    return type(f"{client}{family.__name__}", (family, *bases), {"__doc__": doc, **members})


class SettingError(StormproofError, ValueError):
    """A setting that cannot be used. Names the key, the value and what is allowed."""
