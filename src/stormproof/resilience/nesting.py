"""Nothing is multiplied: what an inner operation has retried in vain, the one around it does not begin again.

An error that an operation gives up on inside another one carries a mark from there to the enclosing operation, which
takes it off. The app never sees it.
"""

from __future__ import annotations

from contextlib import suppress

from stormproof.resilience import deadline
from stormproof.resilience.outcome import GaveUp

_MARK = "_stormproof_gave_up"

#: So far back an error is followed to those it was made of.
_MOST_CAUSES = 10


def mark(error: BaseException | None, gave_up: GaveUp | None, most_attempts: int) -> None:
    """Note on the error of an operation that has ended why there was no further attempt.

    Not where the enclosing operation may do what this one could not: the app had begun to read a stream, or wanted
    one attempt here.
    """
    if gave_up is None or not isinstance(error, Exception) or not deadline.is_nested():
        return
    if gave_up is GaveUp.STREAM_STARTED or (gave_up is GaveUp.ATTEMPTS and most_attempts == 1):
        return
    with suppress(Exception):  # one that cannot be written to
        setattr(error, _MARK, True)


def was_given_up(error: BaseException) -> bool:
    """Whether it, or an error it was raised from or while handling, was given up on by an inner operation."""
    found = False
    seen: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if seen is None:
            break
        found |= vars(seen).pop(_MARK, False)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return found
