"""``make attributes``: leaves out each attribute and signal in turn, and expects the conformance test to fail.

Each time in a copy of the package, which is imported in place of it by a process of its own. The processes are forked
from this one, where the libraries are imported already but nothing of ours: it would be there twice.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutation.emissions import Language, emissions, without

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
TEST = "tests/clients/test_contract.py"
#: Plugins are among what is imported already.
OPTIONS = (
    "-x",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:hypothesispytest",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
PACKAGE = Path("stormproof")
#: Those of ``telemetry/`` deliver or draw what the others emit.
NOT_EMITTING = {"console.py", "export.py"}
#: What need not be missed, by the end of its name, and why.
EXCUSED = {
    "_request_facts: 'model': …": "ollama 0.3 alone says name where it means the model",
}
#: What takes the time of an import.
LIBRARIES = (
    "grpc",
    "ollama",
    "openai",
    "opentelemetry.instrumentation.httpx",
    "qdrant_client",
)
FAILED = (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)


@dataclass(frozen=True)
class Mutant:
    """The package without one emission; without any change if ``code`` is empty."""

    name: str
    file: Path
    code: str

    def write(self, folder: Path) -> None:
        shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        if self.code:
            (folder / self.file).write_text(self.code)


def main() -> int:
    """Exit code 1 if one is not missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--only", default=".", metavar="PATTERN", help="only those that this fits")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--list", action="store_true", help="say which there are, and try none")
    options = parser.parse_args()
    mutants = [mutant for mutant in all_mutants() if re.search(options.only, mutant.name)]
    if options.list:
        print(*(mutant.name for mutant in mutants), sep="\n")
        return 0
    begun = time.monotonic()
    for library in LIBRARIES:
        importlib.import_module(library)
    if list(missed([Mutant("nothing", PACKAGE, "")], 1)) != [("nothing", False)]:
        raise SystemExit("the conformance test fails already")
    kept = []
    for name, is_missed in missed(mutants, options.jobs):
        print(f"{'missed' if is_missed else 'NOT MISSED':>10}  {name}", flush=True)
        kept += [] if is_missed or name.endswith(tuple(EXCUSED)) else [name]
    print(
        f"{len(mutants)} emissions, {(time.monotonic() - begun) / 60:.1f} minutes; not missed: {len(kept)}",
        *kept,
        sep="\n  ",
    )
    return 1 if kept else 0


def all_mutants() -> Iterator[Mutant]:
    paths = [
        path
        for folder in ("telemetry", "clients")
        for path in sorted((SOURCE / PACKAGE / folder).glob("*.py"))
        if path.name not in NOT_EMITTING
    ]
    codes = {path: path.read_text() for path in paths}
    language = Language.of(codes.values())
    for path, code in codes.items():
        for number, what in enumerate(emissions(code, language)):
            yield Mutant(f"{path.name}:{what}", path.relative_to(SOURCE), without(code, number, language))


def missed(mutants: list[Mutant], jobs: int) -> Iterator[tuple[str, bool]]:
    """Each mutant's name, and whether the test fails, as they come."""
    waiting, running = iter(mutants), dict[int, tuple[Mutant, Path]]()
    while True:
        for mutant in waiting:
            folder = Path(tempfile.mkdtemp(prefix="without-"))
            mutant.write(folder / "src")
            running[_fork(folder)] = mutant, folder
            if len(running) == jobs:
                break
        if not running:
            return
        pid, status = os.wait()
        mutant, folder = running.pop(pid)
        said = (folder / "said").read_text()
        shutil.rmtree(folder)
        exit_code = os.waitstatus_to_exitcode(status)
        if exit_code not in (pytest.ExitCode.OK, *FAILED):
            raise SystemExit(f"{mutant.name}: the test could not be run ({exit_code}):\n{said}")
        yield mutant.name, exit_code != pytest.ExitCode.OK


def _fork(folder: Path) -> int:
    """Run the test in a child process, with the package of this folder; the child's id."""
    pid = os.fork()
    if pid:
        return pid
    with (folder / "said").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder / "src"))
    os.chdir(ROOT)
    exit_code = pytest.main([*OPTIONS, TEST])
    import stormproof

    if not Path(stormproof.__file__).is_relative_to(folder):
        exit_code = pytest.ExitCode.USAGE_ERROR
    os._exit(exit_code)


if __name__ == "__main__":
    sys.exit(main())
