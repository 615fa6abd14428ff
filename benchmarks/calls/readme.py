"""The table in README.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.calls.paths import LONG, PATHS
from benchmarks.calls.subjects import BARE, FLOOR, OURS, OURS_HTTP, A, B

_README = Path(__file__).parents[2] / "README.md"
_BETWEEN = re.compile(r"(<!-- overhead -->\n).*?(<!-- /overhead -->)", re.DOTALL)
_COLUMNS = {OURS: "stormproof", FLOOR: "by hand", A: "A", B: "B", OURS_HTTP: "stormproof + HTTP spans"}


def write(told: Mapping[str, Any]) -> None:
    """Put the table of a run in place of the one that is there."""
    text = _README.read_text()
    if not _BETWEEN.search(text):
        raise ValueError(f"{_README} has no place for the table: <!-- overhead --> … <!-- /overhead -->")
    _README.write_text(_BETWEEN.sub(lambda match: f"{match[1]}{table(told)}{match[2]}", text))


def table(told: Mapping[str, Any]) -> str:
    """Markdown."""
    return "\n".join(_lines(told)) + "\n"


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{package} {number}" for package, number in told["versions"].items())
    yield f"{told['date'][:10]}, Python {told['python']}, {versions}:"
    yield ""
    yield f"| µs of CPU, sync / async | bare call | {' | '.join(f'+ {title}' for title in _COLUMNS.values())} |"
    yield f"|---|---|{'---|' * len(_COLUMNS)}"
    for path in PATHS:
        if path in LONG:
            continue
        rows = [told["memory"][f"{path}, {mode}"] for mode in ("sync", "async")]
        bare = " / ".join(f"{row[BARE]['cpu_us']:,.0f}" for row in rows)
        added = (" / ".join(f"{row[name]['cpu_us'] - row[BARE]['cpu_us']:,.0f}" for row in rows) for name in _COLUMNS)
        yield f"| {path} | {bare} | {' | '.join(added)} |"
