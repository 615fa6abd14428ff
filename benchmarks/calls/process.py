"""What a process costs by being instrumented: its start, and its memory."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

_OURS = ("stormproof_openai", "stormproof_ollama", "stormproof_qdrant")
LAUNCHER, WITH_OURS, WITH_PEERS = "launcher alone", "launcher with stormproof", "launcher with the others"


def _environment(*, ours: bool, peers: bool) -> Mapping[str, str]:
    """The official distribution sets the SDK up for all but ours, which does so itself."""
    names = {entry.name for entry in entry_points(group="opentelemetry_instrumentor")}
    off = {name for name in names if not (ours if name in _OURS else peers)}
    if ours:  # they come with it
        off -= {"httpx", "httpx2", "logging"}
    distro = "stormproof" if ours else "distro"
    return {
        **os.environ,
        "OTEL_PYTHON_DISTRO": distro,
        "OTEL_PYTHON_CONFIGURATOR": "stormproof" if ours else "configurator",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(sorted(off)),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "STORMPROOF_QUIET": "1",
    }


def launches(rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time of ``opentelemetry-instrument python -c pass``, the median of each."""
    environments = {
        LAUNCHER: _environment(ours=False, peers=False),
        WITH_OURS: _environment(ours=True, peers=False),
        WITH_PEERS: _environment(ours=False, peers=True),
    }
    times: dict[str, list[float]] = {name: [] for name in environments}
    for number in range(rounds + 1):
        for name, environment in environments.items():
            spent = _launch(environment)
            if number:  # the first one compiles what is imported
                times[name].append(spent)
    return {name: statistics.median(spent) for name, spent in times.items()}


def _launch(environment: Mapping[str, str]) -> float:
    launcher = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([launcher, sys.executable, "-c", "pass"], env=environment, check=True, capture_output=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
