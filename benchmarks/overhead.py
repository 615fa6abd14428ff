"""What a call costs with stormproof, beside a hand-written floor and beside the others, by the real clients.

Each has a process of its own; all take turns in one run, so that noise hits all alike. CPU time of the calling thread
and wall time, each call by itself: median and 25th percentile. By a transport that answers from memory (below httpx,
so that its official instrumentation sees the call) and on loopback. The bars are held against the memory's medians.

    python -m benchmarks.overhead [--rounds N] [--json PATH] [--readme]
    python -m benchmarks.overhead --instructions        # counted, not timed: two minutes, on a noisy machine, too
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import statistics
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.calls import process, readme
from benchmarks.calls.bars import bars
from benchmarks.calls.subjects import ASSEMBLED, BARE, FLOOR, OURS, SUBJECTS, A, B
from benchmarks.calls.turns import Key, Samples, Turns, processes

BLOCKS, ROUNDS, CALLS, LAUNCHES = 5, 4, 20, 7
_CROWDED = (BARE, FLOOR, OURS, ASSEMBLED, A, B)
_PACKAGES = ("openai", "ollama", "qdrant-client", "opentelemetry-sdk", "opentelemetry-instrumentation-openai")


def run(rounds: int) -> dict[str, Any]:
    """Everything that is measured."""
    launch, memory = process.launches(LAUNCHES), process.memory(LAUNCHES)
    turns = Turns(CALLS)
    for _ in range(BLOCKS):  # in new processes: each is faster or slower by how it happens to lie in memory
        with processes(SUBJECTS) as (workers, port):
            turns.measure(workers, port, rounds)
            turns.crowd({name: workers[name] for name in _CROWDED}, port, rounds)
    samples, crowds = turns.samples, turns.crowds
    bare = statistics.median(crowds[BARE])
    others = {
        "launch_ms": launch,
        "memory_mib": memory,
        "throughput": {name: statistics.median(figures) / bare for name, figures in crowds.items()},
    }
    tables = table(samples, "cpu", on_loopback=False)
    return {
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
        "rounds": rounds * BLOCKS,
        "calls_a_round": CALLS,
        "memory": summary(samples, on_loopback=False),
        "loopback": summary(samples, on_loopback=True),
        **others,
        "bars": bars(tables, others),
    }


def count() -> dict[str, dict[str, float]]:
    """Instructions of the interpreter for a call from memory."""
    with processes(SUBJECTS) as (workers, _):
        return Turns(CALLS).count(workers)


def table(samples: Mapping[Key, Samples], what: str, *, on_loopback: bool) -> dict[str, dict[str, float]]:
    """Medians in microseconds: by path and mode, by subject."""
    told: dict[str, dict[str, float]] = {}
    for (subject, path, is_async, where), sample in samples.items():
        if where == on_loopback:
            row = told.setdefault(f"{path}, {'async' if is_async else 'sync'}", {})
            row[subject] = statistics.median(getattr(sample, what)) / 1000
    return told


def summary(samples: Mapping[Key, Samples], *, on_loopback: bool) -> dict[str, Any]:
    """Microseconds, of CPU and on the wall: the median and the 25th percentile."""
    told: dict[str, Any] = {}
    for (subject, path, is_async, where), sample in samples.items():
        if where == on_loopback:
            row = told.setdefault(f"{path}, {'async' if is_async else 'sync'}", {})
            row[subject] = {
                f"{what}_us{suffix}": round(statistics.quantiles(getattr(sample, what), n=4)[quartile] / 1000, 1)
                for what in ("cpu", "wall")
                for suffix, quartile in (("", 1), ("_p25", 0))
            }
    return told


def show_counted(counted: Mapping[str, Mapping[str, float]]) -> None:
    """The same for people: bare, then what each adds, and of what the floor adds."""
    for name, row in counted.items():
        print(f"\n{name:<28}{row[BARE]:>9.0f}")
        for subject, instructions in row.items():
            if subject != BARE and FLOOR in row:
                added = instructions - row[BARE]
                print(f"  {subject:<42}{added:>+8.0f}{added / (row[FLOOR] - row[BARE]):>8.2f} of what the floor adds")


def show(told: Mapping[str, Any]) -> None:
    """The tables for people."""
    print(f"{told['date']}, Python {told['python']}, {told['rounds']} rounds of {told['calls_a_round']} calls")
    for where in ("memory", "loopback"):
        print(f"\n{where}: CPU of a call in µs: bare, then what each adds; in brackets the 25th percentile")
        for name, row in told[where].items():
            bare = row[BARE]
            print(f"\n{name:<28}{bare['cpu_us']:>9.0f} ({bare['cpu_us_p25']:.0f})")
            for subject, figures in row.items():
                if subject != BARE and FLOOR in row:
                    added, p25 = (figures[what] - bare[what] for what in ("cpu_us", "cpu_us_p25"))
                    ratio = figures["cpu_us"] / row[FLOOR]["cpu_us"]
                    print(f"  {subject:<42}{added:>+8.0f} ({p25:+.0f}){ratio:>8.2f} of the floor's total")
    print(f"\nlaunch, ms of CPU: {json.dumps({name: round(ms) for name, ms in told['launch_ms'].items()})}")
    print(
        f"memory after some calls, MiB: {json.dumps({name: round(mib, 1) for name, mib in told['memory_mib'].items()})}"
    )
    print(f"throughput of 50 tasks: {json.dumps({name: round(x, 2) for name, x in told['throughput'].items()})}\n")
    for bar in told["bars"]:
        print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['value']} (bar: {bar['bar']})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="in each of five sets of processes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    parser.add_argument("--instructions", action="store_true", help="count instructions of the interpreter, no times")
    options = parser.parse_args()
    if options.instructions:
        show_counted(count())
        return
    told = run(options.rounds)
    show(told)
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    if options.readme:
        readme.write(told)


if __name__ == "__main__":
    main()
