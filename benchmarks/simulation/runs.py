"""Runs every policy through every scenario with every seed, on all cores, and gathers the figures."""

from __future__ import annotations

import gc
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .baselines import BASELINES
from .engine import Policy
from .measures import Figures
from .ours import Stormproof
from .parts import PARTS
from .scenarios import SCENARIOS

OURS, NO_RETRY = "stormproof", "no-retry"
POLICIES: dict[str, type[Policy]] = {OURS: Stormproof, **BASELINES}
#: Those, and what is run only where it is asked for.
KNOWN = {**POLICIES, **PARTS}


@dataclass(frozen=True)
class Case:
    """A policy in a scenario, with the load split over so many processes."""

    policy: str
    scenario: str
    processes: int


@dataclass(frozen=True)
class Sample:
    """One figure of a case, seed by seed. ``nan`` (nothing to measure) is left out."""

    values: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def least(self) -> float:
        return min(self.values, default=math.nan)

    @property
    def most(self) -> float:
        return max(self.values, default=math.nan)


#: What came of it, by case and figure.
Results = dict[Case, dict[str, Sample]]


def all_cases(policies: Iterable[str], scenarios: Iterable[str]) -> list[Case]:
    """Each policy in each scenario, by ``name`` or ``name@processes``."""
    splits = []
    for wanted in scenarios:
        name, _, processes = wanted.partition("@")
        counts = SCENARIOS[name].processes
        splits += [(name, count) for count in counts if not processes or count == int(processes)]
    return [Case(policy, name, processes) for policy in policies for name, processes in splits]


def run_all(cases: Sequence[Case], seeds: Sequence[int], jobs: int) -> Results:
    """Run them, and tell how far that is on stderr. The results do not depend on the number of jobs."""
    results: Results = {case: {} for case in cases}
    runs = [(case, seed) for case in cases for seed in seeds]
    begun = time.monotonic()
    with multiprocessing.Pool(jobs, initializer=gc.disable) as pool:
        # In order, so that sums of floats come out the same each time.
        for done, (case, figures) in enumerate(pool.imap(_run, runs, chunksize=4), 1):
            for name, value in figures.items():
                sample = results[case].setdefault(name, Sample())
                if not math.isnan(value):
                    sample.values.append(value)
            if done % 100 == 0 or done == len(runs):
                print(f"\r{done} of {len(runs)} runs, {time.monotonic() - begun:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    return results


def _run(run: tuple[Case, int]) -> tuple[Case, Figures]:
    case, seed = run
    figures = SCENARIOS[case.scenario].run(KNOWN[case.policy], case.processes, seed)
    gc.collect()  # nothing is garbage before the end of a run: looking for it meanwhile takes a fifth of the time
    return case, figures
