"""The few lines for people, on stderr. Not through ``logging``: the app's logging set-up must not swallow them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

_said: dict[str, object] = {}


def say(line: str) -> None:
    """Write one line that begins with our name. Never raises: stderr may be closed, or not be there at all."""
    if _is_quiet():
        return
    try:
        sys.stderr.write(f"stormproof{line}\n" if line.startswith(" ") else f"stormproof: {line}\n")
        sys.stderr.flush()
    except Exception:  # noqa: S110  # there is nowhere left to say it
        pass


def say_once(topic: str, line: str) -> bool:
    """Write one line, unless the topic was spoken of before. Whether it was written now."""
    mine = object()
    if _said.setdefault(topic, mine) is not mine:  # atomic, and no lock that a fork could leave held
        return False
    say(line)
    return True


def say_problems(problems: Iterable[str]) -> None:
    """Write a line about each thing that is wrong with the environment, but only once for a family of processes."""
    if not is_worker_process():
        for problem in problems:
            say_once(problem, problem)


def _is_quiet() -> bool:
    # Read here and not from Settings: what is wrong with the settings is said before there are any.
    return os.environ.get("STORMPROOF_QUIET", "").strip().lower() in ("1", "true", "on")


def is_worker_process() -> bool:
    """Whether this is a process of the app's own multiprocessing pools. Its parent has said what there is to say."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        return True
    # One that was not forked does not know until it has begun, and imports the app's main module before that.
    return any(argument.startswith(("--multiprocessing-fork", "from multiprocessing.")) for argument in sys.orig_argv)
