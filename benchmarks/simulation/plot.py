"""Success over load, one panel a scenario, one mark a policy. Of the runs with ten processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .runs import OURS, Results

# Greys and colours that can be told from white and from black: the page behind may be either.
_INK = "#808790"
_OURS_COLOUR = "#e5484d"
_COLOURS = ("#3b82c4", "#c9791f", "#4a9e5c", "#9a6bd0")
_MARKS = "osD^vPX"
_COLUMNS = 4
_LOADS = (0.1, 0.3, 1, 3, 10)
_RULE_WIDTH = 0.5
_PROCESSES = 10  # every scenario is run with so many


def draw(results: Results, path: Path) -> None:
    """Draw it as SVG. Text stays text, nothing is behind it."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "storm",  # the same file each time
        "font.size": 8,
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with mpl.rc_context(style):
        scenarios = list(dict.fromkeys(case.scenario for case in results if case.processes == _PROCESSES))
        rows = math.ceil(len(scenarios) / _COLUMNS)
        figure = Figure(figsize=(10, 2.3 * rows + 0.9), layout="constrained")
        for number, scenario in enumerate(scenarios, 1):
            axes = figure.add_subplot(rows, _COLUMNS, number)
            _panel(axes, results, scenario)
            if number > len(scenarios) - _COLUMNS:
                axes.set_xlabel("attempts for each call")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=7, frameon=False)
        figure.supylabel("calls that succeed, %", fontsize=8)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _panel(axes: Axes, results: Results, scenario: str) -> None:
    axes.set_title(scenario, fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(_LOADS[0], _LOADS[-1])
    axes.set_xticks(_LOADS, map(str, _LOADS))
    axes.minorticks_off()
    axes.set_ylim(-5, 105)
    axes.axvline(1, color=_INK, linewidth=_RULE_WIDTH, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
    others = _others()
    for case, figures in results.items():
        if (case.scenario, case.processes) == (scenario, _PROCESSES):
            colour, mark = (_OURS_COLOUR, "*") if case.policy == OURS else next(others)
            axes.plot(
                figures["load"].mean,
                figures["success"].mean * 100,
                linestyle="none",
                marker=mark,
                markersize=11 if case.policy == OURS else 5,
                markerfacecolor=colour if case.policy == OURS else "none",
                markeredgecolor=colour,
                label=case.policy,
                zorder=3 if case.policy == OURS else 2,
            )


def _others() -> Iterator[tuple[str, str]]:
    """A colour and a mark for each policy, in turn; there are more combinations than policies."""
    return ((_COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]) for number in range(28))
