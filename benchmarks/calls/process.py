"""What it costs to be started by the launcher: time, and memory."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

_OURS = ("stormproof_openai", "stormproof_ollama", "stormproof_qdrant")
_HTTP = {"httpx", "httpx2", "logging"}
LAUNCHER, WITH_OURS, WITH_PEERS = "launcher alone", "launcher with stormproof", "launcher with the others"
WITH_HTTP = f"{WITH_OURS} and its HTTP spans"


def _environment(*, ours: bool = False, http: bool = False, peers: bool = False, exporter: str) -> Mapping[str, str]:
    """The official distribution sets the SDK up for all but ours, which does so itself."""
    names = {entry.name for entry in entry_points(group="opentelemetry_instrumentor")}
    off = {name for name in names if not (ours if name in _OURS else http if name in _HTTP else peers)}
    distro = "stormproof" if ours else "distro"
    return {
        **os.environ,
        "OTEL_PYTHON_DISTRO": distro,
        "OTEL_PYTHON_CONFIGURATOR": "stormproof" if ours else "configurator",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(sorted(off)),
        "OTEL_TRACES_EXPORTER": exporter,
        "OTEL_METRICS_EXPORTER": exporter,
        "OTEL_LOGS_EXPORTER": exporter,
        "STORMPROOF_QUIET": "1",
    }


def launches(rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time of ``opentelemetry-instrument python -c pass``, the median of each."""
    environments = {
        LAUNCHER: _environment(exporter="none"),
        WITH_OURS: _environment(ours=True, http=True, exporter="none"),
        WITH_PEERS: _environment(peers=True, http=True, exporter="none"),
    }
    return _in_turns(rounds, environments, lambda environment: _launch(environment, "-c", "pass")[0])


def memory(rounds: int) -> dict[str, float]:
    """MiB that a launched program holds after some calls of each client, with exporters at work; the median of each."""
    environments = {
        LAUNCHER: _environment(exporter="console"),
        WITH_OURS: _environment(ours=True, exporter="console"),
        WITH_HTTP: _environment(ours=True, http=True, exporter="console"),
    }
    return _in_turns(
        rounds,
        environments,
        lambda environment: float(_launch(environment, "-m", "benchmarks.calls.held")[1].split()[-1]),
    )


def _in_turns(
    rounds: int, environments: Mapping[str, Mapping[str, str]], measure: Callable[[Mapping[str, str]], float]
) -> dict[str, float]:
    figures: dict[str, list[float]] = {name: [] for name in environments}
    for number in range(rounds + 1):
        for name, environment in environments.items():
            figure = measure(environment)
            if number:  # the first one compiles what is imported
                figures[name].append(figure)
    return {name: statistics.median(found) for name, found in figures.items()}


def _launch(environment: Mapping[str, str], *args: str) -> tuple[float, str]:
    """Milliseconds of CPU time that it took, and what it has printed to stderr."""
    launcher = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([launcher, sys.executable, *args], env=environment, check=True, capture_output=True, text=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000, ran.stderr


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
