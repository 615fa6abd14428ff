"""One run of the program in a process of its own, through fault proxies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stormproof.demo.proxy import Exchange, FaultProxy
from stormproof.demo.scenario import Storm
from stormproof.demo.services import VARIABLES, Service

_SUMMARY = re.compile(r"done: (\d+) of (\d+) passages stored, (\d+) of (\d+) questions answered")
_STOP_TIMEOUT = 5.0
_HERE = Path(__file__)


class SetUpError(Exception):
    """Something that the demo needs is not there."""


@dataclass(frozen=True)
class Summary:
    """What the program says at its end."""

    stored: int
    passages: int
    answered: int
    questions: int

    @property
    def is_complete(self) -> bool:
        """Whether nothing was lost."""
        return self.stored == self.passages and self.answered == self.questions


@dataclass(frozen=True)
class Run:
    """What came of a run: the program's own word, and the requests that the proxies saw."""

    code: int
    seconds: float
    summary: Summary | None
    exchanges: Mapping[str, Sequence[Exchange]] = field(default_factory=dict)


def program() -> Path:
    """Return the example's file: the copy that is installed with the package, or the checkout's own."""
    candidates = (_HERE.with_name("rag.py"), _HERE.parents[3] / "examples" / "rag.py")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise SetUpError("examples/rag.py is missing: install stormproof again, or run from a checkout")


def launcher() -> str:
    """Return the path of `opentelemetry-instrument` that belongs to this Python."""
    found = shutil.which("opentelemetry-instrument", path=str(Path(sys.executable).parent))
    if found is None:
        raise SetUpError(
            "opentelemetry-instrument is not beside this Python: pip install opentelemetry-instrumentation"
        )
    return found


def run(
    command: Sequence[str],
    services: Sequence[Service],
    storm: Storm,
    environment: Mapping[str, str],
    show: Callable[[str], None],
) -> Run:
    """Run a command through the storm; each of its lines is shown as it comes."""
    with ExitStack() as stack:
        proxies = {}
        addresses = {}
        for service in services:
            root = service.root
            if service.takes_faults:
                proxy = proxies[service.name] = stack.enter_context(FaultProxy(service.root))
                storm.arm(service.name, proxy)
                root = proxy.url
            addresses[VARIABLES[service.name]] = service.at(root)
        started = time.monotonic()
        lines = []
        with _process(command, {**environment, **addresses}) as process:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                show(line.rstrip())
        exchanges = {name: proxy.exchanges for name, proxy in proxies.items()}
    return Run(process.returncode, time.monotonic() - started, _summary(lines), exchanges)


@contextmanager
def _process(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command and be sure that it is over at the end, whatever happens."""
    process = subprocess.Popen(  # noqa: S603  # our own command
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        # Ctrl-C is for the demo, which ends the program itself and in good order.
        start_new_session=os.name == "posix",
    )
    try:
        with process:
            try:
                yield process
                process.wait()
            except BaseException:
                _end(process)
                raise
    finally:
        if process.poll() is None:
            process.kill()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()


def _summary(lines: Sequence[str]) -> Summary | None:
    for line in reversed(lines):
        if match := _SUMMARY.search(line):
            return Summary(*map(int, match.groups()))
    return None
