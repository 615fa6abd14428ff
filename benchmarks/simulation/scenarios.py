"""The scenarios: a server with its trouble, the load it meets, and what is read off the run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from . import measures
from .engine import Clock, Policy, Server, Simulation
from .measures import Figures
from .servers import Collapse, Limiter, RandomFailures, Slow, Workers, between, flapping


@dataclass(frozen=True)
class Scenario:
    """One kind of trouble.

    Attributes:
        name, title: for the command line; for people.
        processes: into how many client processes the same load is split, one run for each.
        server: makes the server.
        measure: reads the figures off a finished run.
        load: calls a second at a time, never more than ``peak_load``.
        until: when the last call comes.
        timeout: of one attempt, in seconds.
        network: mean time one way, in seconds.
    """

    name: str
    title: str
    processes: tuple[int, ...]
    server: Callable[[], Server]
    measure: Callable[[Simulation], Figures]
    load: Callable[[float], float]
    peak_load: float
    until: float
    timeout: float = 3.0
    network: float = 0.0

    def run(self, policy: Callable[[random.Random, Clock], Policy], processes: int, seed: int) -> Figures:
        """The figures of one run."""
        simulation = Simulation(
            seed,
            self.server(),
            policy,
            processes=processes,
            load=self.load,
            peak_load=self.peak_load,
            until=self.until,
            timeout=self.timeout,
            network=self.network,
        )
        return self.measure(simulation.run())


def _steady(rate: float) -> Callable[[float], float]:
    return lambda _: rate


# -- overload: 66 calls a second are possible, the usual load is 40 -----------------------------------------------

_HORIZON = 79.0


def _spike_figures(run: Simulation) -> Figures:
    return {
        **measures.common(run, _HORIZON),
        "tail": measures.success_of(run, 60, 75),
        "recovery": measures.recovery(run, 25, 75),
    }


def _ramp_figures(run: Simulation) -> Figures:
    return {
        **measures.common(run, _HORIZON),
        "tail": measures.success_of(run, 45, 70),
        "recovery": measures.recovery(run, 35, 70),
    }


# -- outage: 150 calls a second are possible, the load is 100; everything fails for 30 s ---------------------------

_DOWN, _UP, _OUTAGE_LOAD = 20.0, 50.0, 100.0


def _outage_figures(run: Simulation) -> Figures:
    victims = measures.begun(run, _DOWN, _UP)
    failed = [call for call in measures.begun(run, _DOWN + 10, _UP) if call.ended_at is not None and not call.succeeded]
    return {
        **measures.common(run),
        "load": measures.share(measures.sent(run, _DOWN, _UP), len(victims)),
        "tail": measures.success_of(run, _UP + 5, 100),
        "recovery": measures.recovery(run, _UP, 95),
        "peak": max(measures.sent(run, _UP + 0.5 * step, _UP + 0.5 * step + 1) for step in range(20)) / _OUTAGE_LOAD,
        # Those that begin once the outage has been going on for a while: by then a process can know.
        "fast failure p99": measures.percentile(map(measures.duration, failed), 0.99) if failed else 0.0,
    }


# -- 429: 20 a second are allowed; 30 come for a minute, then 10 ---------------------------------------------------

_ALLOWED = 20.0


def _limiter_figures(run: Simulation) -> Figures:
    return {
        **measures.common(run),
        "use": measures.goodput(run, 10, 60) / _ALLOWED,
        "sent/allowed": measures.sent(run, 30, 60) / 30 / _ALLOWED,
        "tail": measures.success_of(run, 75, 100),
    }


def _random(name: str, title: str, share: float, processes: tuple[int, ...], *, hangs: bool = False) -> Scenario:
    return Scenario(
        name,
        title,
        processes,
        lambda: RandomFailures(share, hangs=hangs),
        measures.common,
        _steady(40),
        peak_load=40,
        until=100,
    )


def _outage(name: str, title: str, processes: tuple[int, ...], *, hangs: bool = False) -> Scenario:
    return Scenario(
        name,
        title,
        processes,
        lambda: Workers(75, 0.5, down=between(_DOWN, _UP), hangs=hangs),
        _outage_figures,
        _steady(_OUTAGE_LOAD),
        peak_load=_OUTAGE_LOAD,
        until=100,
    )


_ALL = [
    _random("random-10", "10 % of attempts fail", 0.1, (10, 1000)),
    _random("random-30", "30 % of attempts fail", 0.3, (1, 10)),
    _random("hang-30", "30 % of attempts are never answered", 0.3, (10,), hangs=True),
    _outage("outage", "everything fails for 30 s", (1, 10, 1000)),
    _outage("outage-hang", "nothing is answered for 30 s", (10,), hangs=True),
    Scenario(
        "spike",
        "twice the load for 5 s, on a server that collapses",
        (1, 10, 100, 1000),
        Collapse,
        _spike_figures,
        lambda now: 80 if 20 <= now <= 25 else 40,  # noqa: PLR2004
        peak_load=80,
        until=80,
        network=0.1,
    ),
    Scenario(
        "ramp",
        "load up to 80 a second and down again, on a server that collapses",
        (1, 10, 100, 1000),
        Collapse,
        _ramp_figures,
        lambda now: 80 - 1.6 * abs(now - 25),
        peak_load=80,
        until=75,
        network=0.1,
    ),
    Scenario(
        "limiter",
        "1.5 times the allowed rate, 429 beyond",
        (10,),
        lambda: Limiter(_ALLOWED, burst=_ALLOWED),
        _limiter_figures,
        lambda now: 30 if now < 60 else _ALLOWED / 2,  # noqa: PLR2004
        peak_load=30,
        until=100,
        timeout=30.0,
    ),
    Scenario(
        "slow",
        "answers 20 times slower for 30 s, none wrong",
        (10,),
        lambda: Slow(between(20, 50)),
        lambda run: {**measures.common(run), "recovery": measures.recovery(run, 50, 75)},
        _steady(40),
        peak_load=40,
        until=80,
        timeout=15.0,
    ),
    Scenario(
        "flapping",
        "5 s up, 5 s down, again and again",
        (1, 10),
        lambda: Workers(30, 0.5, down=flapping(5, 5)),
        measures.common,
        _steady(40),
        peak_load=40,
        until=100,
    ),
    Scenario(
        "half-bad",
        "half of the replicas fail every attempt for 40 s",
        (10,),
        lambda: RandomFailures(0.5, during=between(20, 60)),
        lambda run: {**measures.common(run), "tail": measures.success_of(run, 65, 100)},
        _steady(40),
        peak_load=40,
        until=100,
    ),
    Scenario(
        "capacity-lost",
        "half of the workers are gone for good: 30 a second are possible, 40 come",
        (10,),
        lambda: Workers(30, 0.5, shrinks=(20, 15)),
        lambda run: {**measures.common(run), "use": measures.goodput(run, 40, 80) / 30},
        _steady(40),
        peak_load=40,
        until=80,
    ),
]

#: All of them, by name.
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
