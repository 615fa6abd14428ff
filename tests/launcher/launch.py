"""Runs a program in a process of its own, as a user would, and keeps what it wrote, when, and how it ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from typing_extensions import Self

_TIMEOUT = 60.0
_OURS = ("OTEL_", "STORMPROOF", "OPENAI_", "OLLAMA_", "QDRANT_", "PYTHON", "COVERAGE_", "HTTP_", "HTTPS_", "NO_PROXY")
LAUNCHER = Path(sys.executable).with_name("opentelemetry-instrument")

T = TypeVar("T")
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        exit_delay: seconds from its last line on stdout to its end.
        cpu: seconds of CPU it took, its children included.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    exit_delay: float
    cpu: float

    @property
    def said(self) -> list[str]:
        """The lines on stderr that are ours."""
        return [line for line in self.stderr.splitlines() if line.startswith("stormproof")]

    @property
    def notices(self) -> list[str]:
        """What we said apart from the start line and the summary."""
        return [line for line in self.said if not re.match(r"stormproof \d|stormproof: \d+ operations", line)]

    @property
    def others(self) -> list[str]:
        """The lines on stderr that are not ours, and not the console view's either."""
        return [line for line in self.stderr.splitlines() if not re.match(r"stormproof|● |  [├└] ", line)]

    def value(self) -> Any:
        """What the program printed last, as JSON."""
        return json.loads(self.stdout.splitlines()[-1])


class Program:
    """A running program; used as a context manager, which kills what still runs, children too."""

    def __init__(self, command: Iterable[str], env: Mapping[str, str], timeout: float = _TIMEOUT) -> None:
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            list(command),
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._timer = threading.Timer(timeout, self._kill_all)
        self._timer.daemon = True
        self._timer.start()
        self._out, self._err = _Reader(self._process.stdout), _Reader(self._process.stderr)

    def wait_for(self, text: str) -> None:
        """Wait until this has been printed on stdout."""
        assert self._out.wait_for(lambda lines: any(text in line for line in lines)), self._report()

    def wait_for_error(self, text: str) -> None:
        """Wait until this has been printed on stderr."""
        assert self._err.wait_for(lambda lines: any(text in line for line in lines)), self._report()

    def find_error(self, pattern: str) -> str:
        """Wait until stderr has something like this, and return the pattern's first group."""
        assert self._err.wait_for(lambda lines: re.search(pattern, "".join(lines)) is not None), self._report()
        found = re.search(pattern, self._err.text)
        assert found is not None
        return found[1]

    def tell(self, line: str = "") -> None:
        """Write a line to its stdin, for which it waits with ``input()``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def finish(self) -> Result:
        """Wait for its end."""
        _, status, usage = os.wait4(self._process.pid, 0)
        ended = time.monotonic()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._close()
        return Result(
            code=self._process.returncode,
            stdout=self._out.text,
            stderr=self._err.text,
            seconds=ended - self._began,
            exit_delay=ended - (self._out.last_at or self._began),
            cpu=usage.ru_utime + usage.ru_stime,
        )

    def _close(self) -> None:
        self._timer.cancel()
        for reader in (self._out, self._err):
            reader.join()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def _report(self) -> str:
        return f"stdout:\n{self._out.text}\nstderr:\n{self._err.text}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._kill_all()
            self._process.wait()
            self._close()

    def _kill_all(self) -> None:
        """Kill it with its children, which may have its pipes open."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class _Reader:
    """Reads a pipe to its end in a thread, and notes when the last line came."""

    def __init__(self, pipe: IO[str] | None) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self.last_at: float | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, predicate: Callable[[list[str]], bool]) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: predicate(self._lines) or self._ended, _TIMEOUT)
            return predicate(self._lines)

    def join(self) -> None:
        self._thread.join(_TIMEOUT)
        self._pipe.close()

    def _read(self) -> None:
        for line in self._pipe:
            with self._changed:
                self._lines.append(line)
                self.last_at = time.monotonic()
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def environment(**variables: str) -> dict[str, str]:
    """The machine's environment without anything that could change how a program under the launcher behaves."""
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)}
    return {**clean, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **variables}


def script(path: Path, *parts: str) -> Path:
    """Write a program made of these parts."""
    path.write_text("\n".join(textwrap.dedent(part) for part in parts), encoding="utf-8")
    return path
