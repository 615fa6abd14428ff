"""Text for a terminal: how wide it is, whether it has colours, and lines made of styled pieces."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

Style = Literal["", "good", "bad", "warn", "dim", "bold"]
Piece = tuple[str, Style]

_CODES: Mapping[Style, str] = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1"}
_DEFAULT_WIDTH = 100
_NARROWEST, _WIDEST = 60, 120  # beyond that a line is no longer read at a glance
FAILED = " [failed: "  # how the example ends the line of what failed


@dataclass(frozen=True)
class Terminal:
    """What lines are made for; `colour` is off where nobody would see it."""

    width: int = _DEFAULT_WIDTH
    colour: bool = False

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Terminal:
        """Look at a stream; a NO_COLOR that is set, and a dumb terminal, have no colours."""
        width = shutil.get_terminal_size((_DEFAULT_WIDTH, 24)).columns
        colour = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        return cls(max(_NARROWEST, min(_WIDEST, width)), colour)

    def line(self, pieces: Sequence[Piece]) -> str:
        """Join the pieces to one line; without colours nothing but their text is left."""
        if not self.colour:
            return "".join(text for text, _ in pieces).rstrip()
        return "".join(f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style else text for text, style in pieces)

    def title(self, text: str) -> str:
        """A heading with a rule to the end of the line."""
        return self.line([(f"{text} ", "bold"), ("─" * (self.width - len(text) - 1), "dim")])


def clip(text: str, width: int) -> str:
    """Cut a text to a width; what was cut shows as an ellipsis."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def clip_report(line: str, width: int) -> str:
    """Cut a line of the program to a width, but keep the reason if it says that something failed."""
    if FAILED not in line:
        return clip(line, width)
    head, _, reason = line.partition(FAILED)
    head = head.rstrip()
    reason = FAILED + clip(reason, max(width // 2, width - len(head)) - len(FAILED))
    return clip(head, width - len(reason)) + reason


def duration(seconds: float) -> str:
    """Write a duration as people read it."""
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "<1 ms"
