"""What is read off a finished run. All durations are seconds of simulated time, all shares are from 0 to 1."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from .engine import Call, Simulation

#: Figures of one run, by name. ``nan``: nothing to measure; ``inf``: never.
Figures = dict[str, float]

# A service has recovered when this share of the calls begun within so many seconds succeeds.
_WELL, _WELL_FOR, _STEP = 0.95, 3.0, 0.5


def common(run: Simulation, horizon: float = math.inf) -> Figures:
    """What every scenario reports. Successes count until ``horizon``: too late is as good as never."""
    calls = [call for call in run.calls if call.started_at < horizon]
    good = [call for call in calls if call.succeeded and call.ended_at is not None and call.ended_at < horizon]
    return {
        "success": share(len(good), len(calls)),
        "load": share(len(run.sent), len(run.calls)),
        "wait p99": percentile((call.waited for call in good), 0.99),
        "latency p50": percentile(map(duration, good), 0.5),
        "latency p99": percentile(map(duration, good), 0.99),
        "lost": sum(call.ended_at is None for call in run.calls),
    }


def success_of(run: Simulation, start: float, end: float) -> float:
    """The share of the calls begun in a stretch of time that succeeded."""
    calls = begun(run, start, end)
    return share(sum(call.succeeded for call in calls), len(calls))


def recovery(run: Simulation, start: float, end: float) -> float:
    """Seconds from ``start`` until calls succeed again; ``inf`` if they do not by ``end``."""
    for step in range(math.ceil((end - start) / _STEP)):
        after = step * _STEP
        if success_of(run, start + after, start + after + _WELL_FOR) >= _WELL:
            return after
    return math.inf


def begun(run: Simulation, start: float, end: float) -> Sequence[Call]:
    """The calls that came in a stretch of time."""
    first, last = (bisect_left(run.calls, time, key=lambda call: call.started_at) for time in (start, end))
    return run.calls[first:last]


def sent(run: Simulation, start: float, end: float) -> int:
    """How many attempts were sent in a stretch of time."""
    return bisect_left(run.sent, end) - bisect_left(run.sent, start)


def goodput(run: Simulation, start: float, end: float) -> float:
    """Calls a second that came to success in a stretch of time."""
    good = sum(call.succeeded and call.ended_at is not None and start <= call.ended_at < end for call in run.calls)
    return good / (end - start)


def duration(call: Call) -> float:
    """How long the app waited for it."""
    return math.nan if call.ended_at is None else call.ended_at - call.started_at


def percentile(values: Iterable[float], rank: float) -> float:
    """The value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[int(len(ordered) * rank)] if ordered else math.nan


def share(part: float, whole: float) -> float:
    """``part`` of ``whole``."""
    return part / whole if whole else math.nan
