"""The figures as tables in Markdown, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .runs import OURS, Results, Sample

# Figures that are printed in per cent; all others as they are.
_PERCENT = ("success", "tail", "use")
_DECIMALS = {"fast failure p99": 3}

#: The figures that get a table; the others (peak, use, waits, latencies …) are in the JSON and among the bars.
HEADINGS = {
    "success": "Success: calls that succeed, %",
    "load": "Load: attempts for each call (outage: attempts during it for each call that begins in it)",
    "tail": "Tail: calls that succeed once the trouble is over, %",
    "recovery": "Recovery: seconds after the trouble until 95 % of calls succeed",
}


def show(figure: str, value: float) -> str:
    """A figure as it is printed."""
    return f"{value * 100 if figure in _PERCENT else value:.{_DECIMALS.get(figure, 2)}f}"


def table(results: Results, figure: str) -> list[str]:
    """One figure of every policy, in every scenario that has it. Means over the seeds."""
    policies = list(dict.fromkeys(case.policy for case in results))
    rows: dict[tuple[str, int], dict[str, Sample]] = {}
    for case, figures in results.items():
        if figure in figures:
            rows.setdefault((case.scenario, case.processes), {})[case.policy] = figures[figure]
    head = ["scenario@processes", *(f"**{name}**" if name == OURS else name for name in policies)]
    body = [
        [f"{scenario}@{processes}", *(_cell(figure, samples.get(policy)) for policy in policies)]
        for (scenario, processes), samples in rows.items()
    ]
    return [HEADINGS[figure], "", *markdown(head, body), ""]


def as_json(results: Results) -> dict[str, Any]:
    """Every figure, by policy and scenario."""
    policies: dict[str, dict[str, Any]] = {}
    for case, figures in results.items():
        policies.setdefault(case.policy, {})[f"{case.scenario}@{case.processes}"] = {
            name: {"mean": finite(sample.mean), "min": finite(sample.least), "max": finite(sample.most)}
            for name, sample in figures.items()
        }
    return policies


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A table that reads well as it is, too."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rule = ["-" * width for width in widths]
    rule[1:] = [f"{dashes[1:]}:" for dashes in rule[1:]]  # numbers to the right
    lines = [head, rule, *body]
    return [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]


def finite(value: float) -> float | None:
    """The value; JSON knows no infinity: ``null`` is never, or nothing to measure."""
    return value if math.isfinite(value) else None


def _cell(figure: str, sample: Sample | None) -> str:
    if sample is None or math.isnan(sample.mean):
        return "–"
    return show(figure, sample.mean) if math.isfinite(sample.mean) else "never"
