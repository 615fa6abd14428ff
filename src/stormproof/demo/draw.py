"""Operations drawn to scale: a bar for each attempt, dots for each wait, a mark for each change of a breaker.

Pure: spans in, lines out.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stormproof.demo.otlp import Span
from stormproof.demo.stories import Story, breaker_changes, chosen, error_type, read
from stormproof.demo.terminal import Piece, Style, Terminal, clip, duration
from stormproof.telemetry import names

LEGEND = "█ attempt   · wait   ◆ breaker changes   (each operation to its own scale)"

_LABEL = 22  # columns left of the bars
_FIGURES = 29  # and right of them
_STATES: Mapping[str, tuple[str, Style]] = {
    "closed": ("━", "good"),
    "open": ("×", "bad"),
    "half_open": ("◆", "warn"),
}
_REASONS = {
    # of the default breaker
    "nothing_succeeds": "{failures} failures, no success",
    "overload": "too many failures",
    "rate_limited": "told to slow down",
    "probe_succeeded": "the probe succeeded",
    "recovered": "all is well again",
    # of the classical one
    "consecutive_failures": "{failures} failures in a row",
    "failure_rate": "{failures} of {calls} failed",
    "slow_call_rate": "{slow} of {calls} were slow",
    "probe_due": "time for a probe",
    "probe_failed": "the probe failed",
    "probes_succeeded": "the probe succeeded",
    "half_open_timeout": "no probe came back",
}
_GAVE_UP = {
    "attempts": "all {attempts} attempts failed",
    "breaker": "no retry while so much fails",
    "budget": "the retry budget is spent",
    "deadline": "no time is left",
    "hint_too_long": "the wait asked for is too long",
    "not_replay_safe": "it may have been carried out",
    "stream_started": "cut off in mid-stream",
}


def traces(spans: Iterable[Span], terminal: Terminal, most: int = 8) -> list[str]:
    """Draw a choice of the operations that did not go well at once, and say how many more there are."""
    stories = read(spans)
    if not stories:
        return []
    began = stories[0].operation.start_ns
    openings = {change.span_id: change for story in stories for change in story.changes}
    picked = chosen(stories, most)
    lines: list[str] = []
    for story in picked:
        lines += [*(terminal.line(row) for row in _story(story, began, openings, terminal.width)), ""]
    shown = {story.operation.span_id for story in picked}
    more = Counter(story.outcome for story in stories if story.operation.span_id not in shown)
    if more:
        told = ", ".join(f"{count} {outcome}" for outcome, count in more.most_common())
        told = told.replace("first time", "good at the first attempt")
        lines += textwrap.wrap(f"not drawn: {told}", terminal.width)
    return lines


def breakers(spans: Iterable[Span], terminal: Terminal) -> list[str]:
    """Draw the life of every breaker that changed, over the time of all the spans."""
    spans = list(spans)
    by_name: dict[str, list[Span]] = {}
    for change in breaker_changes(spans):
        by_name.setdefault(str(change.attributes[names.BREAKER_NAME]), []).append(change)
    if not by_name:
        return []
    axis = _Axis(
        min(span.start_ns for span in spans),
        max(span.end_ns for span in spans),
        terminal.width - max(map(len, by_name)) - 1,
    )
    lines = []
    for name, changes in by_name.items():
        lines.append(terminal.line([(f"{name} ", ""), *_timeline(changes, axis)]))
        told = "; ".join(f"+{axis.at(change)} {_state(change)} ({_reason(change)})" for change in changes)
        lines += textwrap.wrap(told, terminal.width, initial_indent="  ", subsequent_indent="  ", max_lines=4)
    shown = {"half_open": "half-open"}
    if any(names.BREAKER_RATE in change.attributes for changes in by_name.values() for change in changes):
        shown = {"half_open": "half-open (paced)"}  # as the default breaker is; the classical one probes
    legend: list[Piece] = [(f"{sign} {shown.get(state, state)}   ", style) for state, (sign, style) in _STATES.items()]
    return [*lines, terminal.line([*legend, (f"over {duration(axis.seconds)}", "dim")])]


@dataclass(frozen=True)
class _Axis:
    """Time laid out on so many cells."""

    start_ns: int
    end_ns: int
    cells: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def cell(self, time_ns: int) -> int:
        """The cell of a moment; the end belongs to the last cell."""
        share = (time_ns - self.start_ns) / max(1, self.end_ns - self.start_ns)
        return max(0, min(self.cells - 1, int(share * self.cells)))

    def edge(self, time_ns: int) -> int:
        """The cell before which a moment lies, rounded."""
        share = (time_ns - self.start_ns) / max(1, self.end_ns - self.start_ns)
        return max(0, min(self.cells, round(share * self.cells)))

    def at(self, span: Span) -> str:
        """When a span began, seen from the axis's start."""
        return f"{(span.start_ns - self.start_ns) / 1e9:.1f} s"


# -- one operation -------------------------------------------------------------------------------------------------


def _story(story: Story, began: int, openings: Mapping[str, Span], width: int) -> list[list[Piece]]:
    axis = _Axis(story.operation.start_ns, story.operation.end_ns, width - _LABEL - _FIGURES)
    rows = [(span.start_ns, _attempt(story, index, axis)) for index, span in enumerate(story.attempts)]
    # A change that an attempt's end brought about comes after that attempt.
    rows += [(change.start_ns, _change(change, axis)) for change in story.changes]
    drawn = [row for _, row in sorted(rows, key=lambda row: row[0])]
    if not story.attempts:
        drawn.append([(f"    {clip(_why_nothing_was_sent(story, openings), width - 4)}", "dim")])
    return [_header(story, began, width), *drawn]


def _header(story: Story, began: int, width: int) -> list[Piece]:
    operation = story.operation
    style: Style = "bad" if operation.status == "error" else "good"
    mark = "✗" if operation.status == "error" else "✓"
    when = f"{duration(_seconds(operation))} at +{(operation.start_ns - began) / 1e9:.1f} s"
    said = _said(story)
    name = clip(operation.name, width - len(said) - len(when) - 6)
    gap = " " * max(1, width - len(name) - len(said) - len(when) - 4)
    return [(f"{mark} ", style), (name, "bold"), (f"  {said}", style), (gap + when, "dim")]


def _said(story: Story) -> str:
    attributes = story.operation.attributes
    attempts = int(attributes.get(names.ATTEMPT_COUNT, 0))
    if story.outcome == "rejected":
        return "rejected, the breaker is open"
    if story.kind == "bad probe":
        return "lost: the probe failed"
    if story.kind == "opened":
        return "lost: the breaker opened"
    if story.outcome == "lost":
        reason = _GAVE_UP.get(str(attributes.get(names.RETRY_GAVE_UP)), "")
        return f"lost: {reason.format(attempts=attempts) or error_type(story.operation)}"
    if story.probe is not None:
        return "probe: closed the breaker" if story.kind == "closed" else "probe: it is back"
    return f"recovered on attempt {attempts}" if attempts > 1 else "good"


def _attempt(story: Story, index: int, axis: _Axis) -> list[Piece]:
    span = story.attempts[index]
    following = story.attempts[index + 1] if index + 1 < len(story.attempts) else None
    error = error_type(span)
    style: Style = "bad" if error else "good"
    said = error or "ok"
    if span.attributes.get(names.ATTEMPT_TYPE) == "probe":
        said = f"probe {said}"
    label = f"  {span.attributes[names.ATTEMPT_NUMBER]} {'✗' if error else '✓'} {said}"
    start = axis.cell(span.start_ns)
    end = max(start + 1, axis.edge(span.end_ns))
    until = max(end, axis.cell(following.start_ns)) if following else end
    return [
        (f"{clip(label, _LABEL - 1):<{_LABEL}}", style),
        (("·" if index == 0 and _admission(span) else " ") * start, "warn"),
        ("█" * (end - start), style),
        ("·" * (until - end) + " " * (axis.cells - until), "warn"),
        (f"{duration(_seconds(span)):>8}{_wait(following) or _paced(story, index)}", ""),
    ]


def _admission(span: Span) -> float:
    """Seconds for which the breaker made an attempt wait for its turn."""
    return float(span.attributes.get(names.ADMISSION_DELAY, 0.0))


def _paced(story: Story, index: int) -> str:
    waited = _admission(story.attempts[index])
    return f"  after {duration(waited)} in line" if waited else ""


def _wait(following: Span | None) -> str:
    if following is None or names.RETRY_DELAY not in following.attributes:
        return ""
    source = following.attributes.get(names.RETRY_DELAY_SOURCE, "")
    return f"  wait {duration(following.attributes[names.RETRY_DELAY])} {source}"


def _change(change: Span, axis: _Axis) -> list[Piece]:
    cell = axis.cell(change.start_ns)
    style = _STATES.get(str(change.attributes[names.BREAKER_STATE]), ("", ""))[1]
    label = f"    breaker {_state(change)}"
    bar = " " * cell + "◆" + " " * (axis.cells - cell - 1)
    return [(f"{clip(label, _LABEL - 1):<{_LABEL}}{bar}", style), (f"  {_reason(change)}", "")]


def _why_nothing_was_sent(story: Story, openings: Mapping[str, Span]) -> str:
    opening = next((openings[link.span_id] for link in story.operation.links if link.span_id in openings), None)
    if opening is None:
        return "nothing was sent"
    return f"nothing was sent: it opened {duration((story.operation.start_ns - opening.start_ns) / 1e9)} ago"


# -- the breaker ---------------------------------------------------------------------------------------------------


def _timeline(changes: Sequence[Span], axis: _Axis) -> list[Piece]:
    """Fill the axis with the states; each gets a cell at least, as long as there are cells."""
    state = str(changes[0].attributes[names.BREAKER_PREVIOUS_STATE])
    pieces: list[Piece] = []
    cursor = 0
    for change in changes:
        cell = min(axis.cells, max(cursor + bool(pieces), axis.cell(change.start_ns)))
        pieces.append(_stretch(state, cell - cursor))
        cursor, state = cell, str(change.attributes[names.BREAKER_STATE])
    return [*pieces, _stretch(state, axis.cells - cursor)]


def _stretch(state: str, cells: int) -> Piece:
    sign, style = _STATES.get(state, ("?", ""))
    return sign * cells, style


def _state(change: Span) -> str:
    return str(change.attributes[names.BREAKER_STATE]).replace("_", "-")


def _reason(change: Span) -> str:
    reason = str(change.attributes.get(names.BREAKER_REASON))
    said = _REASONS.get(reason, reason.replace("_", " ")).format(
        calls=change.attributes.get(names.BREAKER_WINDOW_CALLS, 0),
        failures=change.attributes.get(names.BREAKER_WINDOW_FAILURES, 0),
        slow=change.attributes.get(names.BREAKER_WINDOW_SLOW_CALLS, 0),
    )
    rate = change.attributes.get(names.BREAKER_RATE)
    return f"{said}: {rate:.2g}/s" if rate else said


def _seconds(span: Span) -> float:
    return (span.end_ns - span.start_ns) / 1e9
