"""What is demanded of ours, and whether it was met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.calls import process
from benchmarks.calls.paths import CHUNKS, MANY_CHUNKS
from benchmarks.calls.subjects import (
    ASSEMBLED,
    BARE,
    FLOOR,
    FLOOR_UNSAMPLED,
    OURS,
    OURS_ALONE,
    OURS_UNSAMPLED,
    TRACELOOP,
    A,
    B,
)

#: By path: total CPU of the floor's, added CPU of the floor's, and of what A and B add; None: only reported.
_DEMANDED: Mapping[str, tuple[float, float | None, float | None, float | None]] = {
    "openai chat": (1.08, 1.6, 0.25, 0.20),
    "openai stream": (1.10, 1.6, 0.35, 0.30),
    "openai embeddings": (1.10, 1.6, 0.60, 0.35),
    "ollama chat": (1.25, 1.6, 0.90, 0.50),
    "ollama stream": (1.25, 1.6, 0.80, 0.50),
    "qdrant query_points": (1.10, 1.2, None, 0.60),
}
_MOST_A_CHUNK = 3.0
_MOST_WITHOUT_SDK = 30.0
_MOST_UNSAMPLED = 1.2
_UPSERT = ("qdrant upsert", 1.05)
_LEAST_THROUGHPUT = 0.85
_MOST_LAUNCH, _MOST_MEMORY = 30.0, 3.0

#: Microseconds of CPU, by subject.
Row = Mapping[str, float]


def bars(tables: Mapping[str, Row], others: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each with its name, its value, its bar and whether it was met. ``tables``: by "path, sync" and "path, async"."""
    found = [
        {"name": name, "value": round(value, 3), "bar": bar, "met": value <= bar}
        for name, value, bar in _at_most(tables, others)
    ]
    shares = others["throughput"]
    return [
        *found,
        {
            "name": "throughput of 50 tasks, of the bare client's",
            "value": round(shares[OURS], 3),
            "bar": _LEAST_THROUGHPUT,
            "met": shares[OURS] >= _LEAST_THROUGHPUT,
        },
    ]


def _at_most(tables: Mapping[str, Row], others: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    for name, row in tables.items():
        path, _, mode = name.partition(", ")
        for what, value, bar in _of_path(path, row):
            yield f"{name}: {what}", value, bar
        long = tables.get(f"{path.replace('stream', 'long stream')}, {mode}")
        if path.endswith(" stream") and "long" not in path and long is not None:
            of_many = long[OURS] - long[BARE] - (row[OURS] - row[BARE])
            yield f"{name}: µs a chunk", of_many / (MANY_CHUNKS - CHUNKS), _MOST_A_CHUNK
    launch, memory = others["launch_ms"], others["memory_mib"]
    yield "launch, ms over the launcher", launch[process.WITH_OURS] - launch[process.LAUNCHER], _MOST_LAUNCH
    yield "memory, MiB over the launcher's", memory[process.WITH_OURS] - memory[process.LAUNCHER], _MOST_MEMORY


def _of_path(path: str, row: Row) -> Iterator[tuple[str, float, float]]:
    added = row[OURS] - row[BARE]
    if path in _DEMANDED:
        total, of_floor, of_a, of_b = _DEMANDED[path]
        yield "total CPU, of the floor's", row[OURS] / row[FLOOR], total
        if of_floor is not None:
            yield "added CPU, of the floor's", added / (row[FLOOR] - row[BARE]), of_floor
        if of_a is not None:
            yield f"added CPU, of that of {TRACELOOP} + {ASSEMBLED}", added / (row[A] - row[BARE]), of_a
        if of_b is not None:
            yield "the same, theirs with httpx", added / (row[B] - row[BARE]), of_b
        yield "sampled out, of the floor's", row[OURS_UNSAMPLED] / row[FLOOR_UNSAMPLED], _MOST_UNSAMPLED
    if "long" not in path:
        yield "without an SDK, µs", row[OURS_ALONE] - row[BARE], _MOST_WITHOUT_SDK
    if path == _UPSERT[0]:
        yield "total CPU, of the bare call's", row[OURS] / row[BARE], _UPSERT[1]
