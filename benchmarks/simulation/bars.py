"""What stormproof's default has to reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .report import finite, markdown, show
from .runs import NO_RETRY, OURS, Case, Results


@dataclass(frozen=True)
class Bar:
    """The mean of a figure over all seeds must be at least, or at most, so much.

    It is compared as it is printed: what reads as 1.00 is 1.00.
    """

    scenario: str
    processes: int
    figure: str
    sense: str  # "≥" or "≤"
    limit: float | None  # None: what no retry reaches


@dataclass(frozen=True)
class Judged:
    """A bar and what was reached.

    Attributes:
        value: the mean over all seeds.
        worst: the least favourable seed's.
        limit: what had to be reached.
    """

    bar: Bar
    value: float
    worst: float
    limit: float
    met: bool

    @property
    def scenario(self) -> str:
        return f"{self.bar.scenario}@{self.bar.processes}"

    def as_row(self) -> list[str]:
        """For the table."""
        value, worst, limit = (show(self.bar.figure, number) for number in (self.value, self.worst, self.limit))
        source = " (no retry)" if self.bar.limit is None else ""
        bar = f"{self.bar.sense} {limit}{source}"
        return [self.scenario, self.bar.figure, value, worst, bar, "yes" if self.met else "**no**"]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "scenario": self.scenario,
            "figure": self.bar.figure,
            "value": finite(self.value),
            "worst": finite(self.worst),
            "sense": self.bar.sense,
            "bar": self.limit,
            "met": self.met,
        }


def _bars(scenario: str, processes: tuple[int, ...], *wanted: tuple[str, str, float | None]) -> list[Bar]:
    return [Bar(scenario, count, *one) for count in processes for one in wanted]


BARS = [
    *_bars("random-10", (10, 1000), ("success", "≥", 0.999), ("load", "≤", 1.12)),
    *_bars("random-30", (1, 10), ("success", "≥", 0.97)),
    *_bars("hang-30", (10,), ("success", "≥", 0.97)),
    *_bars(
        "outage",
        (1, 10),
        ("load", "≤", 1.1),
        ("fast failure p99", "≤", 0.1),
        ("peak", "≤", 1.25),
        ("recovery", "≤", 4.0),
    ),
    *_bars("outage-hang", (10,), ("load", "≤", 1.1), ("recovery", "≤", 4.0)),
    *_bars("spike", (1, 10), ("success", "≥", 0.97), ("tail", "≥", 0.99)),
    *_bars("ramp", (1, 10), ("success", "≥", 0.75), ("tail", "≥", 0.99)),
    *_bars("spike", (1000,), ("success", "≥", None)),
    *_bars("ramp", (1000,), ("success", "≥", None)),
    *_bars("limiter", (10,), ("use", "≥", 0.95), ("load", "≤", 1.0)),
    *_bars("slow", (10,), ("success", "≥", 1.0), ("load", "≤", 1.0)),
]


def judge(results: Results) -> Iterator[Judged]:
    """Each bar whose scenario was run, with ours and, where it is the measure, no retry."""
    for bar in BARS:
        case = Case(OURS, bar.scenario, bar.processes)
        rival = Case(NO_RETRY, bar.scenario, bar.processes)
        if case not in results or (bar.limit is None and rival not in results):
            continue
        sample = results[case][bar.figure]
        limit = results[rival][bar.figure].mean if bar.limit is None else bar.limit
        reached, demanded = (float(show(bar.figure, value)) for value in (sample.mean, limit))
        is_least = bar.sense == "≥"
        met = reached >= demanded if is_least else reached <= demanded
        yield Judged(bar, sample.mean, sample.least if is_least else sample.most, limit, met)


def table(judged: Iterable[Judged]) -> list[str]:
    """What the default has to reach, and what it reaches."""
    head = ["scenario@processes", "figure", "mean", "worst seed", "bar", "met"]
    return markdown(head, [one.as_row() for one in judged])
