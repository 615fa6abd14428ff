"""Lets the subjects take turns, so that a noisy moment of the machine hits all alike."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from benchmarks.calls.paths import LONG, PATHS
from benchmarks.calls.subjects import BARE, OURS, SUBJECTS

#: (subject, path, async or not, on loopback or in memory).
Key = tuple[str, str, bool, bool]


@dataclass
class Samples:
    """Nanoseconds of each call."""

    cpu: list[int] = field(default_factory=list)
    wall: list[int] = field(default_factory=list)


class Process:
    """A subject's worker, or the server."""

    def __init__(self, *args: str) -> None:
        command = [sys.executable, "-m", *args]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        self._input: IO[str] = self._process.stdin  # type: ignore[assignment]  # there are pipes
        self._output: IO[str] = self._process.stdout  # type: ignore[assignment]

    def ask(self, **question: Any) -> Any:
        """Tell it what to do, and wait for its answer."""
        self._input.write(json.dumps(question) + "\n")
        self._input.flush()
        return self.read()

    def read(self) -> Any:
        """Its next line."""
        line = self._output.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} has ended")
        return json.loads(line)

    def close(self) -> None:
        """It ends with its input."""
        self._input.close()
        self._process.wait(timeout=30)


@contextmanager
def processes(subjects: Iterable[str]) -> Iterator[tuple[dict[str, Process], int]]:
    """A worker for each subject, and the port of the server that they call."""
    with ExitStack() as stack:
        server = Process("benchmarks.calls.server")
        stack.callback(server.close)
        workers: dict[str, Process] = {}
        for name in subjects:
            workers[name] = Process("benchmarks.calls.worker", name)
            stack.callback(workers[name].close)
        yield workers, server.read()


class Turns:
    """All that was measured.

    Attributes:
        samples: by subject, path and way to call.
        crowds: by subject, calls of openai's chat a second, by fifty tasks at once on loopback; one figure a round.
    """

    def __init__(self, calls: int) -> None:
        self.samples: dict[Key, Samples] = {}
        self.crowds: dict[str, list[float]] = {}
        self._calls = calls

    def measure(self, workers: Mapping[str, Process], port: int, rounds: int) -> None:
        """Every path of every subject that knows it."""
        ways = list(itertools.product(PATHS, (False, True), (False, True)))
        for _ in range(rounds):
            for path, is_async, on_loopback in ways:
                there = port if on_loopback else None
                for name, worker in workers.items():
                    if _is_measured(name, path, on_loopback=on_loopback):
                        times = worker.ask(do="measure", name=path, is_async=is_async, port=there, count=self._calls)
                        sample = self.samples.setdefault((name, path, is_async, on_loopback), Samples())
                        sample.cpu += times[0]
                        sample.wall += times[1]

    def count(self, workers: Mapping[str, Process]) -> dict[str, dict[str, float]]:
        """Instructions of the interpreter for a call, from memory: by "path, sync" and "path, async", by subject."""
        found: dict[str, dict[str, float]] = {}
        for path, is_async in itertools.product(PATHS, (False, True)):
            for name, worker in workers.items():
                if _is_measured(name, path, on_loopback=False):
                    row = found.setdefault(f"{path}, {'async' if is_async else 'sync'}", {})
                    row[name] = worker.ask(do="instructions", name=path, is_async=is_async)
        return found

    def crowd(self, workers: Mapping[str, Process], port: int, rounds: int) -> None:
        """Fifty tasks at once."""
        for _ in range(rounds):
            for name, worker in workers.items():
                figure = worker.ask(do="throughput", name="openai chat", port=port, count=self._calls)
                self.crowds.setdefault(name, []).append(figure)


def _is_measured(subject: str, path: str, *, on_loopback: bool) -> bool:
    if path in LONG and (on_loopback or subject not in (BARE, OURS)):
        return False
    return PATHS[path].system in SUBJECTS[subject].systems
