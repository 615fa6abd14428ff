"""Hand-made spans for the drawings: times in milliseconds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from stormproof.demo.otlp import Link, Span
from stormproof.telemetry import names

BREAKER = "qdrant/db:6333"
_ids = itertools.count(1)


def span(
    name: str,
    start: float,
    end: float,
    attributes: Mapping[str, Any],
    *,
    parent: Span | None = None,
    links: tuple[Link, ...] = (),
    scope: str = "stormproof.qdrant",
) -> Span:
    """Make a span; one with an `error.type` has failed."""
    return Span(
        trace_id=parent.trace_id if parent else f"{next(_ids):032x}",
        span_id=f"{next(_ids):016x}",
        parent_id=parent.span_id if parent else "",
        name=name,
        kind="internal" if parent else "client",
        scope=scope,
        start_ns=int(start * 1e6),
        end_ns=int(end * 1e6),
        attributes=attributes,
        events=(),
        links=links,
        status="error" if names.ERROR_TYPE in attributes else "unset",
        status_message="",
        resource={},
    )


def operation(
    start: float,
    end: float,
    attempts: int,
    error: str = "",
    gave_up: str = "",
    *,
    name: str = "query_points docs",
    opening: Span | None = None,
    scope: str = "stormproof.qdrant",
) -> Span:
    """Make an operation's span, linked to the opening that it was rejected for."""
    attributes = {names.ATTEMPT_COUNT: attempts, names.BREAKER_NAME: BREAKER}
    more = {names.ERROR_TYPE: error, names.RETRY_GAVE_UP: gave_up}
    links = (Link(opening.trace_id, opening.span_id, {}),) if opening else ()
    given = {key: value for key, value in more.items() if value}
    return span(name, start, end, {**attributes, **given}, links=links, scope=scope)


def attempt(
    parent: Span,
    number: int,
    start: float,
    end: float,
    error: str = "",
    *,
    wait: float | None = None,
    source: str = "backoff",
    kind: str = "",
    in_line: float | None = None,
) -> Span:
    """Make an attempt's span; `wait` (seconds) is what was waited before it, `in_line` until it was let through."""
    attributes: dict[str, Any] = {
        names.ATTEMPT_NUMBER: number,
        names.ATTEMPT_TYPE: kind or ("initial" if number == 1 else "retry"),
    }
    if wait is not None:
        attributes |= {names.RETRY_DELAY: wait, names.RETRY_DELAY_SOURCE: source}
    if in_line is not None:
        attributes |= {names.ADMISSION_DELAY: in_line, names.ADMISSION_SOURCE: "breaker"}
    if error:
        attributes[names.ERROR_TYPE] = error
    return span("attempt query_points", start, end, attributes, parent=parent)


def change(
    parent: Span | None, at: float, previous: str, state: str, reason: str, *, rate: float | None = None
) -> Span:
    """Make the span of a change of the breaker."""
    attributes = {
        names.BREAKER_NAME: BREAKER,
        names.BREAKER_PREVIOUS_STATE: previous,
        names.BREAKER_STATE: state,
        names.BREAKER_REASON: reason,
        names.BREAKER_WINDOW_CALLS: 8,
        names.BREAKER_WINDOW_FAILURES: 5,
        names.BREAKER_WINDOW_SLOW_CALLS: 2,
        **({names.BREAKER_RATE: rate} if rate is not None else {}),
    }
    return span(f"circuit_breaker {state}", at, at, attributes, parent=parent)
