"""What a call through breaker, budget and first attempt costs over a bare call, side by side with other libraries.

All take turns in one run, so that noise hits all alike: each round calls each of them, and the bare function, five
hundred times. Shown is the median of the rounds' differences, with the 25th percentile, in nanoseconds of CPU time a
call. A refused call is timed in full, its exception caught. Which numbers are lost when eight threads call at once is
looked at apart.

    python -m benchmarks.core [--rounds N] [--json PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import gc
import json
import platform
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.core_ours import OURS
from benchmarks.peers import FEATURES, AsyncCall, BrokenError, Call, Counted, Peer, available, work, work_async

ROUNDS = 100
CALLS_A_ROUND = 500
THREADS = 8
CALLS_A_THREAD = 25_000
COUNTED = THREADS * CALLS_A_THREAD
#: Threads take turns this often while their counts are looked at, in seconds: the usual 5 ms would hide a lost count.
SWITCH_INTERVAL = 1e-5
#: Nanoseconds; the second is what would be better still.
BAR, STRETCH, REJECTED_BAR = 2500, 1500, 5000

SYNC, ASYNC, REJECTED = "sync_ns_over_bare", "async_ns_over_bare", "rejected_ns"
BARE = "bare"
#: Nanoseconds a call, mean of as many calls as it is told to make.
Timer = Callable[[int], float]
#: (name, what is measured of it).
Key = tuple[str, str]


def sync_timer(call: Call, *, refused: bool = False) -> Timer:
    """Times a call that succeeds, or one that is refused."""

    def timed(calls: int) -> float:
        failed, last = 0, None
        start = time.thread_time_ns()
        for _ in repeat(None, calls):
            try:
                call()
            except Exception as error:  # noqa: PERF203  # a refusal is timed with what catching it costs
                failed += 1
                last = error
        spent = time.thread_time_ns() - start
        return _mean(spent, calls, failed, refused, last)

    return timed


def async_timer(call: AsyncCall, loop: asyncio.AbstractEventLoop, *, refused: bool = False) -> Timer:
    """As :func:`sync_timer`; what the event loop costs is not in it."""

    async def timed(calls: int) -> float:
        failed, last = 0, None
        start = time.thread_time_ns()
        for _ in repeat(None, calls):
            try:
                await call()
            except Exception as error:  # noqa: PERF203  # as above
                failed += 1
                last = error
        spent = time.thread_time_ns() - start
        return _mean(spent, calls, failed, refused, last)

    return lambda calls: loop.run_until_complete(timed(calls))


def _mean(spent: int, calls: int, failed: int, refused: bool, last: Exception | None) -> float:
    if last is not None:
        last.__traceback__ = None  # who raises one and the same error again hoards the tracebacks of all its refusals
    if failed != (calls if refused else 0):
        raise AssertionError(f"{failed} of {calls} calls failed")
    return spent / calls


def timers(peers: dict[str, Peer], loop: asyncio.AbstractEventLoop) -> dict[Key, Timer]:
    """Everything that is to be timed."""
    made: dict[Key, Timer] = {(BARE, SYNC): sync_timer(work), (BARE, ASYNC): async_timer(work_async, loop)}
    for name, peer in peers.items():
        if peer.guard:
            made[name, SYNC] = sync_timer(peer.guard(work))
        if peer.guard_async:
            made[name, ASYNC] = async_timer(peer.guard_async(work_async), loop)
        if peer.opened:
            made[name, REJECTED] = sync_timer(peer.opened(), refused=True)
        elif peer.opened_async:
            made[name, REJECTED] = async_timer(peer.opened_async(), loop, refused=True)
    return made


def take_turns(subjects: dict[Key, Timer], rounds: int) -> dict[Key, list[float]]:
    """Each round's figures, over the bare call of the same round where there is one; sorted."""
    samples: dict[Key, list[float]] = {key: [] for key in subjects}
    for timer in subjects.values():  # what is made at the first calls is not counted
        timer(CALLS_A_ROUND)
    gc.collect()
    gc.freeze()  # a collection is part of what a call costs; going through every loaded library is not
    for _ in range(rounds):
        now = {key: timer(CALLS_A_ROUND) for key, timer in subjects.items()}
        for (name, what), figure in now.items():
            bare = 0.0 if name == BARE else now.get((BARE, what), 0.0)
            samples[name, what].append(figure - bare)
    return {key: sorted(figures) for key, figures in samples.items()}


def count(counted: Counted) -> int:
    """How many calls were counted of those that all threads made at once."""
    call, read = counted
    ready = threading.Barrier(THREADS)

    def hammer() -> None:
        ready.wait()
        for _ in repeat(None, CALLS_A_THREAD):
            with contextlib.suppress(BrokenError):  # some count failures only
                call()

    threads = [threading.Thread(target=hammer) for _ in range(THREADS)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    return read()


def measure(peers: dict[str, Peer], rounds: int) -> dict[str, dict[str, Any]]:
    """All figures by name; the bare calls' under ``bare``."""
    loop = asyncio.new_event_loop()
    try:
        samples = take_turns(timers(peers, loop), rounds)
    finally:
        loop.close()
    results: dict[str, dict[str, Any]] = {name: {} for name in (BARE, *peers)}
    for name, result in results.items():
        for what in (SYNC, ASYNC, REJECTED):
            figures = samples.get((name, what))
            result[what] = round(figures[len(figures) // 2]) if figures else None
            result[f"{what}_p25"] = round(figures[len(figures) // 4]) if figures else None
    for name, peer in peers.items():
        counted = count(peer.counted()) if peer.counted else None
        exact = None if counted is None else counted == COUNTED
        results[name] |= {"threads_counted": counted, "threads_counts_exact": exact}
        results[name] |= {"version": version(peer.package), "features": peer.features, "note": peer.note}
    return results


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What is demanded of ours."""
    most = [
        ("a successful call over a bare one, sync, ns", SYNC, BAR),
        ("a successful call over a bare one, async, ns", ASYNC, BAR),
        ("a successful call over a bare one, sync, ns (stretch)", SYNC, STRETCH),
        ("a successful call over a bare one, async, ns (stretch)", ASYNC, STRETCH),
        ("a rejected call, ns", REJECTED, REJECTED_BAR),
    ]
    demanded = [
        {"name": name, "value": result[what], "bar": bar, "met": result[what] <= bar} for name, what, bar in most
    ]
    counted = result["threads_counted"]
    name = f"{THREADS} threads lose no count"
    return [*demanded, {"name": name, "value": counted, "bar": COUNTED, "met": counted == COUNTED}]


def report(results: dict[str, dict[str, Any]], missing: dict[str, str], rounds: int) -> dict[str, Any]:
    """Everything as it is written to a file."""
    bare = results[BARE]
    return {
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "rounds": rounds,
        "calls_a_round": CALLS_A_ROUND,
        "threads_calls": COUNTED,
        "bare": {"sync_ns": bare[SYNC], "async_ns": bare[ASYNC]},
        "ours": results["ours"],
        "ours_window": results["ours, window"],
        "ours_whole_way": results["ours, whole way"],
        "peers": {name: result for name, result in results.items() if name != BARE and name not in OURS},
        "unavailable": missing,
        "bars": bars(results["ours"]),
    }


def show(results: dict[str, dict[str, Any]], told: dict[str, Any]) -> None:
    """The table for people."""
    print(f"{told['date']}, Python {told['python']}, {told['rounds']} rounds of {CALLS_A_ROUND} calls")
    print("CPU nanoseconds a call over a bare one, median (25th percentile); refused: in full")
    print(f"bare: {told['bare']['sync_ns']} sync, {told['bare']['async_ns']} async\n")
    print(f"{'':<24}{'version':<10}{'sync':>17}{'async':>17}{'refused':>17}  {'8 threads':<13}has")
    for name, result in results.items():
        if name == BARE:
            continue
        figures = "".join(f"{_figure(result, what):>17}" for what in (SYNC, ASYNC, REJECTED))
        letters = "".join(feature[0].upper() if feature in result["features"] else "." for feature in FEATURES)
        print(f"{name:<24}{result['version']:<10}{figures}  {_lost(result['threads_counted']):<13}{letters}")
    print("\nhas: " + ", ".join(f"{feature[0].upper()} {meaning}" for feature, meaning in FEATURES.items()))
    print(f"8 threads: what is missing after {COUNTED:,} calls at once; - where nothing can be counted")
    for name, result in results.items():
        if result.get("note"):
            print(f"{name}: {result['note']}")
    for name, reason in told["unavailable"].items():
        print(f"{name}: not measured: {reason}")
    print()
    for bar in told["bars"]:
        print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['value']:,} (bar: {bar['bar']:,})")


def _figure(result: dict[str, Any], what: str) -> str:
    return "-" if result[what] is None else f"{result[what]:,} ({result[what + '_p25']:,})"


def _lost(counted: int | None) -> str:
    if counted is None:
        return "-"
    return "exact" if counted == COUNTED else f"{COUNTED - counted:,} lost"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peers, missing = available()
    results = measure(OURS | peers, options.rounds)
    told = report(results, missing, options.rounds)
    show(results, told)
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
