"""Spans put together again: each operation with its attempts and with what it did to the breaker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from stormproof.demo.otlp import Span
from stormproof.telemetry import names

Outcome = Literal["first time", "recovered", "rejected", "lost"]
Kind = Literal[
    "cut", "opened", "bad probe", "good probe", "slowed", "closed", "rejected", "lost", "recovered", "first time"
]

_CUT = "stream_started"
_CIRCUIT_OPEN = "circuit_open"
_PROBE = "probe"


@dataclass(frozen=True)
class Story:
    """One operation; attempts and changes of the breaker in the order of time."""

    operation: Span
    attempts: tuple[Span, ...] = ()
    changes: tuple[Span, ...] = ()

    @property
    def system(self) -> str:
        """The client that made the call."""
        return self.operation.scope.removeprefix(f"{names.SCOPE}.")

    @property
    def outcome(self) -> Outcome:
        """How it ended for the program."""
        attributes = self.operation.attributes
        if self.operation.status == "error":
            return "rejected" if attributes.get(names.ERROR_TYPE) == _CIRCUIT_OPEN else "lost"
        return "recovered" if attributes.get(names.ATTEMPT_COUNT, 1) > 1 else "first time"

    @property
    def kind(self) -> Kind:
        """What makes it worth showing: its part in the breaker's life, or else its outcome."""
        if self.operation.attributes.get(names.RETRY_GAVE_UP) == _CUT:
            return "cut"
        if self.probe is not None and error_type(self.probe):
            return "bad probe"
        states = [change.attributes.get(names.BREAKER_STATE) for change in self.changes]
        if "open" in states:
            return "opened"
        if "closed" in states:
            return "closed"
        if states:  # half-open; a probe that is let through for a look makes it so as well
            return "good probe" if self.probe is not None else "slowed"
        return self.outcome

    @property
    def probe(self) -> Span | None:
        """The attempt that was to find out whether the service is back."""
        return next((span for span in self.attempts if span.attributes.get(names.ATTEMPT_TYPE) == _PROBE), None)

    @property
    def first_error(self) -> str:
        """The `error.type` of the first attempt that failed, empty if none did."""
        return next((error for span in self.attempts if (error := error_type(span))), "")


def error_type(span: Span) -> str:
    """Why a span failed; empty if it did not."""
    return str(span.attributes.get(names.ERROR_TYPE, "error")) if span.status == "error" else ""


def read(spans: Iterable[Span]) -> list[Story]:
    """Return the operations in the order in which they began."""
    spans = sorted(spans, key=lambda span: span.start_ns)
    attempts: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if names.ATTEMPT_NUMBER in span.attributes:
            attempts[span.parent_id].append(span)
    changes = breaker_changes(spans)
    return [
        Story(span, tuple(attempts[span.span_id]), tuple(_own(changes, span, attempts[span.span_id])))
        for span in spans
        if names.ATTEMPT_COUNT in span.attributes
    ]


def breaker_changes(spans: Iterable[Span]) -> list[Span]:
    """Return the changes of every breaker in the order of time."""
    found = (span for span in spans if names.BREAKER_PREVIOUS_STATE in span.attributes)
    return sorted(found, key=lambda span: span.start_ns)


def chosen(stories: Sequence[Story], most: int = 8) -> list[Story]:
    """Pick one of each kind, the one with most attempts, and put them in the order of time.

    Recoveries count as several kinds: by what they recovered from. The rarer kinds go first if there are too many.
    """
    best: dict[tuple[Kind, str], Story] = {}
    for story in stories:
        kind = story.kind
        key = (kind, story.first_error if kind == "recovered" else "")
        if kind != "first time" and (key not in best or len(story.attempts) > len(best[key].attempts)):
            best[key] = story
    order: tuple[Kind, ...] = (
        *("recovered", "opened", "rejected", "good probe", "closed", "cut", "slowed", "lost", "bad probe"),
    )
    first_recovery = {key: index for index, key in enumerate(key for key in best if key[0] == "recovered")}
    # The first recovery is worth most, further ones least.
    ranked = sorted(best, key=lambda key: (first_recovery.get(key, 0) > 0, order.index(key[0])))
    return sorted((best[key] for key in ranked[:most]), key=lambda story: story.operation.start_ns)


def _own(changes: Iterable[Span], operation: Span, attempts: Sequence[Span]) -> Iterable[Span]:
    """Yield the changes that this operation brought about.

    One that an attempt brought about by asking to be let through comes before it and so has no attempt for a parent:
    it is told by the breaker's name and the time, for the program makes one call after the other.
    """
    family = {operation.span_id, *(attempt.span_id for attempt in attempts)}
    breaker = operation.attributes.get(names.BREAKER_NAME)
    for change in changes:
        is_orphan = not change.parent_id and change.attributes.get(names.BREAKER_NAME) == breaker
        is_within = operation.start_ns <= change.start_ns <= operation.end_ns
        if change.parent_id in family or (is_orphan and is_within):
            yield change
