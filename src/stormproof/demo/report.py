"""Counts what became of the calls of both runs, and lays the numbers side by side.

The run without stormproof has no telemetry: its calls are counted on the wire, where openai's own retries carry their
number and the other clients have none. The run with stormproof is counted from its spans, its attempts on the wire.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stormproof.demo.proxy import Exchange
from stormproof.demo.run import Run
from stormproof.demo.stories import Story
from stormproof.demo.terminal import Piece, Terminal

_RETRY_NUMBER = "x-stainless-retry-count"
_HARMLESS = (None, "delay")
_VERSION_PROBE = "/"  # qdrant-client asks for the server's version from a thread: no call of the program's
_UNKNOWN = "?"


@dataclass(frozen=True)
class Calls:
    """What became of a run's calls; the four outcomes add up to all."""

    first_time: int = 0
    recovered: int = 0
    rejected: int = 0
    lost: int = 0
    attempts: int = 0
    in_outage: int = 0

    @property
    def all(self) -> int:
        """Every call that the program made."""
        return self.first_time + self.recovered + self.rejected + self.lost


def calls_on_the_wire(exchanges: Mapping[str, Sequence[Exchange]]) -> Calls:
    """Count the calls of a run without telemetry."""
    calls = [call for name, seen in exchanges.items() for call in _grouped(name, seen)]
    good = [call for call in calls if _is_good(call[-1])]
    first_time = sum(len(call) == 1 for call in good)
    return Calls(
        first_time=first_time,
        recovered=len(good) - first_time,
        lost=len(calls) - len(good),
        attempts=sum(map(len, calls)),
        in_outage=_in_outage(exchanges),
    )


def calls_in_spans(stories: Iterable[Story], exchanges: Mapping[str, Sequence[Exchange]]) -> Calls:
    """Count the calls of a run with telemetry, to the services that were watched on the wire."""
    outcomes = [story.outcome for story in stories if story.system in exchanges]
    return Calls(
        first_time=outcomes.count("first time"),
        recovered=outcomes.count("recovered"),
        rejected=outcomes.count("rejected"),
        lost=outcomes.count("lost"),
        attempts=sum(len(_requests(seen)) for seen in exchanges.values()),
        in_outage=_in_outage(exchanges),
    )


def table(plain: Run, protected: Run, stories: Sequence[Story], terminal: Terminal) -> list[str]:
    """The closing table, and below it what its numbers mean."""
    before, after = calls_on_the_wire(plain.exchanges), calls_in_spans(stories, protected.exchanges)
    rows: list[tuple[str, str, str]] = [
        ("", "plain python", "with stormproof"),
        ("passages stored", _stored(plain), _stored(protected)),
        ("questions answered", _answered(plain), _answered(protected)),
        ("calls the program made", str(before.all), str(after.all)),
        ("  good at the first attempt", str(before.first_time), str(after.first_time)),
        ("  recovered by a retry", str(before.recovered), str(after.recovered)),
        ("  rejected by the open breaker", "–", str(after.rejected)),
        ("  lost", str(before.lost), str(after.lost)),
        ("attempts on the wire", str(before.attempts), str(after.attempts)),
        ("  sent into the outage", str(before.in_outage), str(after.in_outage)),
        ("seconds", f"{plain.seconds:.1f}", f"{protected.seconds:.1f}"),
    ]
    lines = [terminal.line(_row(row, is_heading=index == 0)) for index, row in enumerate(rows)]
    return [*lines, "", *(line for note in _notes(stories, after, plain) for line in _wrapped(note, terminal.width))]


def _row(row: tuple[str, str, str], *, is_heading: bool) -> list[Piece]:
    text, before, after = row
    return [(f"{text:<30}{before:>13}", "dim" if is_heading else ""), (f"{after:>17}", "bold")]


def _notes(stories: Sequence[Story], after: Calls, plain: Run) -> Iterable[str]:
    watched = [story for story in stories if story.system in plain.exchanges]
    in_spans = sum(len(story.attempts) for story in watched)
    if in_spans == after.attempts:
        yield f"Each of the {in_spans} attempts on the wire has its span."
    else:
        yield f"The spans tell of {in_spans} attempts, the wire saw {after.attempts}."
    if after.lost or after.rejected:
        cut = sum(story.kind == "cut" for story in watched)
        yield (
            f"Calls lost with stormproof: {after.lost - cut} by their last attempt, which is the first one while so "
            f"much fails, {cut} cut off in mid-stream (an answer that the program has begun to read is not asked for "
            "twice). "
            "The program asked those questions again at the end, as it does in both runs."
        )
    yield "Recovered without stormproof: by openai's client, which retries by itself; the other two do not."
    if missing := sorted({"openai", "ollama", "qdrant"} - set(plain.exchanges)):
        yield f"Not counted, because reached by https and so without faults: {', '.join(missing)}."


def _wrapped(note: str, width: int) -> list[str]:
    return textwrap.wrap(note, width, initial_indent="· ", subsequent_indent="  ")


def _grouped(name: str, exchanges: Sequence[Exchange]) -> list[list[Exchange]]:
    """Put the requests of each call together; the program makes one call after the other."""
    calls: list[list[Exchange]] = []
    for exchange in _requests(exchanges):
        if name == "openai" and calls and _header(exchange, _RETRY_NUMBER) not in ("", "0"):
            calls[-1].append(exchange)
        else:
            calls.append([exchange])
    return calls


def _requests(exchanges: Sequence[Exchange]) -> list[Exchange]:
    return [exchange for exchange in exchanges if exchange.path != _VERSION_PROBE]


def _header(exchange: Exchange, name: str) -> str:
    return next((value for key, value in exchange.headers.items() if key.lower() == name), "")


def _is_good(exchange: Exchange) -> bool:
    return exchange.fault in _HARMLESS and exchange.status is not None and exchange.status < 400


def _in_outage(exchanges: Mapping[str, Sequence[Exchange]]) -> int:
    return sum(exchange.fault == "outage" for seen in exchanges.values() for exchange in seen)


def _stored(run: Run) -> str:
    return f"{run.summary.stored} of {run.summary.passages}" if run.summary else _UNKNOWN


def _answered(run: Run) -> str:
    return f"{run.summary.answered} of {run.summary.questions}" if run.summary else _UNKNOWN
