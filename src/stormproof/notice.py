"""The few lines for people, on stderr. Not through ``logging``: the app's logging set-up must not swallow them."""

from __future__ import annotations

import os
import sys

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


def _is_quiet() -> bool:
    # Read here and not from Settings: what is wrong with the settings is said before there are any.
    return os.environ.get("STORMPROOF_QUIET", "").strip().lower() in ("1", "true", "on")
