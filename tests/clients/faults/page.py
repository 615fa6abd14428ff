"""The page docs/faults.md: written from what the tests of the fault table saw, and read again to be held to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path

from .table import ATTEMPTS, Row
from .ways import Way

PATH = Path(__file__).parents[3] / "docs" / "faults.md"

#: (client, fault, way to call).
Key = tuple[str, str, str]

#: By their names here: the distribution, and what is added to it in a heading.
CLIENTS = {
    "openai": ("openai", ""),
    "ollama": ("ollama", ""),
    "qdrant": ("qdrant-client", ", REST"),
    "qdrant-grpc": ("qdrant-client", ", gRPC"),
}
_TITLES = {client: f"## {''.join(parts)}" for client, parts in CLIENTS.items()}
_COLUMNS = ("what happens", "called", "attempts", "reached the server", "repeated", "breaker", "the app gets", "spans")
_ALL = "always"
_NOTHING = "–"

_INTRODUCTION = f"""\
# Faults

What becomes of a call, fault by fault, client by client. This page is written by the tests (`make faults`), which
inject each fault on real sockets beneath the real client; each run of the tests holds it to what it sees.

The call is one that may be carried out twice ({{calls}}); the fault hits every attempt; {ATTEMPTS} attempts are
allowed, and the breaker is set never to open, so that nothing but the fault decides. (By default a target that fails
much is retried less, see [How it works](how-it-works.md).)

- **called**: synchronously or asynchronously, for a whole answer or a stream; *{_ALL}*: in every way, with the same
  outcome.
- **attempts**, and how many of them **reached the server**: requests of which it saw at least the beginning.
- **repeated**: after a wait of our own (*backoff*) or of the *server*'s choice; or why not, in the words of
  `resilience.retry.gave_up`.
- **breaker**: what each attempt counts for it; *ignored* is neither success nor failure.
- **the app gets**: the exception, which is the one that the bare client raises for this fault; or its result.
- **spans**: operation + attempts + HTTP requests. (gRPC's own are there only where its instrumentation is installed,
  which it was not here.)

Seen with {{versions}}.
"""
_CALLS = "a chat, a count of points"


@dataclass(frozen=True)
class Cells:
    """What a line of the page says, from the third column on."""

    attempts: str
    reached: str
    repeated: str
    breaker: str
    result: str
    spans: str


def not_applicable(rows: Iterable[Row], ways: Iterable[Way]) -> dict[Key, Cells]:
    """What the page says of a fault that makes no sense for a way to call: why."""
    ways = [*ways]
    return {
        (way.client, row.name, way.name): Cells(_NOTHING, _NOTHING, reason, _NOTHING, _NOTHING, _NOTHING)
        for row in rows
        for way in ways
        if row.is_about(way) and isinstance(reason := row.situation(way), str)
    }


def versions() -> str:
    """The clients that are installed, as the page names them."""
    return named({name: version(name) for name, _ in CLIENTS.values()})


def named(pins: Mapping[str, str]) -> str:
    """The clients with these versions, as the page names them."""
    return ", ".join(f"{name} {pins[name]}" for name in dict(CLIENTS.values()))


def write(seen: Mapping[Key, Cells], rows: Iterable[Row], ways: Iterable[Way]) -> None:
    """Write the page."""
    rows, ways = [*rows], [*ways]
    seen = {**seen, **not_applicable(rows, ways)}
    lines = [_INTRODUCTION.format(versions=versions(), calls=_CALLS)]
    for client, title in _TITLES.items():
        lines.append(title)
        lines += _tables(client, seen, rows, [way.name for way in ways if way.client == client])
    PATH.write_text("\n".join(lines) + "\n")


def _tables(client: str, seen: Mapping[Key, Cells], rows: list[Row], ways: list[str]) -> Iterator[str]:
    for group in dict.fromkeys(row.group for row in rows):
        lines: list[str] = []
        for row in rows:
            if row.group == group:
                keys = {way: (client, row.name, way) for way in ways}
                lines += _lines(row.name, {way: seen[key] for way, key in keys.items() if key in seen})
        if lines:
            yield from ("", f"### {group}", "", _line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *lines)
    yield ""


def _lines(fault: str, by_way: Mapping[str, Cells]) -> Iterator[str]:
    """One line for all ways with the same outcome."""
    for cells in dict.fromkeys(by_way.values()):
        ways = [way for way in by_way if by_way[way] == cells]
        yield _line((fault, _ALL if len(ways) == len(by_way) else ", ".join(ways), *astuple(cells)))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Page:
    """The page as it stands: the versions that it speaks of, and what it says."""

    versions: str
    says: Mapping[Key, Cells]

    def hold(self, key: Key, cells: Cells) -> None:
        """Fail if the page says something else of this case, as seen with the versions that it speaks of."""
        said = self.says.get(key)
        assert cells == said or self.versions != versions(), f"docs/faults.md says {said}, not {cells}: make faults"

    @classmethod
    def read(cls, ways: Iterable[Way]) -> Page:
        says: dict[Key, Cells] = {}
        client, seen_with = "", ""
        names = {client: [way.name for way in ways if way.client == client] for client in CLIENTS}
        titles = {title: client for client, title in _TITLES.items()}
        for line in PATH.read_text().splitlines() if PATH.exists() else ():
            client = titles.get(line, client)
            if line.startswith("Seen with "):
                seen_with = line.removeprefix("Seen with ").removesuffix(".")
            if client and line.startswith("| ") and not line.startswith(("| ---", f"| {_COLUMNS[0]} |")):
                fault, called, *cells = (cell.strip() for cell in line[1:-1].split(" | "))
                for way in names[client] if called == _ALL else called.split(", "):
                    says[client, fault, way] = Cells(*cells)
        return cls(seen_with, says)
