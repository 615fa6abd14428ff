"""Mutation testing of ``resilience/``: mutmut changes the code in small ways, and some unit test must notice each.

``make mutants`` takes them all, ``make mutants ONLY="budget breaker"`` those of two files, and ``make mutants AGAIN=1``
those that the last run left alive, or that were changed since. The report says which survived; one that is no fault
of the tests belongs into ``survivors.md``, with the reason.

mutmut works on a copy, in which every ``@property`` is spelled ``name = property(function)``: functions with decorators
are none of its business. What stands outside functions (constants, defaults of dataclasses) is not mutated.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".cache" / "mutation"
SOURCE = Path("src/stormproof/resilience")
MODULE = "stormproof.resilience"
EXPLANATIONS = Path(__file__).with_name("survivors.md")
GETTER = "__property"
#: A mutant that fills memory without end fails at this much, in bytes.
MEMORY = 6 << 30

# mutmut's exit codes, which are pytest's and a few more. Whatever else ended the tests has killed the mutant.
UNTESTED = {None, 255}  # 255: pytest itself could not be run
SURVIVED = {0, 5, 33}  # 5 and 33: no test reaches it
TIMEOUT = {-24, 24, 152, -9}  # SIGXCPU, and SIGKILL where that was not heard


@dataclass(frozen=True)
class Mutant:
    """One change of the code, and what became of it."""

    name: str
    file: str
    exit_code: int | None

    @property
    def function(self) -> str:
        """The function's name, with its class."""
        mangled = self.name.rpartition(".")[2].partition("__mutmut_")[0].removesuffix(GETTER)
        return ".".join(mangled.split("ǁ")[1:]) if "ǁ" in mangled else mangled.removeprefix("x_")

    @property
    def fate(self) -> str:
        """What it is counted as."""
        for fate, exit_codes in (("untested", UNTESTED), ("survived", SURVIVED), ("timeout", TIMEOUT)):
            if self.exit_code in exit_codes:
                return fate
        return "killed"

    @property
    def diff(self) -> tuple[str, ...]:
        """What it takes away (``-``) and puts in (``+``), without indentation."""
        from mutmut.mutation.diff_apply import get_diff_for_mutant

        lines = get_diff_for_mutant(self.name, path=SOURCE / self.file).splitlines()
        return _plain(line for line in lines if not line.startswith(("---", "+++")))


@dataclass(frozen=True)
class Explanation:
    """Why a survivor may live. Without ``+`` lines it is good for whatever is made of the ``-`` lines."""

    file: str
    function: str
    diff: tuple[str, ...]
    reason: str

    def covers(self, mutant: Mutant, diff: tuple[str, ...]) -> bool:
        if (self.file, self.function) != (mutant.file, mutant.function):
            return False
        if any(line.startswith("+") for line in self.diff):
            return self.diff == diff
        return self.diff == tuple(line for line in diff if line.startswith("-"))


def main() -> int:
    """Exit code 1 if too few mutants are killed, 2 if they could not be tested."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", metavar="FILE", default=[], help="these files alone: budget breaker")
    parser.add_argument("--again", action="store_true", help="only what survived the last run or was changed since")
    parser.add_argument("--report", action="store_true", help="only the report of the last run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--minimum", type=float, default=90.0, metavar="PERCENT", help="the lowest score that is good")
    options = parser.parse_args()
    stems = [Path(name).stem for name in options.only]

    begun = time.monotonic()
    if not options.report:
        lay_out(keep=bool(options.again or options.only))
        if options.again:
            forget_survivors()
        failed = run([f"{MODULE}.{stem}.*" for stem in stems], options.jobs)
        if failed:
            return 2
    os.chdir(WORK)
    mutants = [mutant for mutant in results() if not stems or Path(mutant.file).stem in stems]
    print(f"{len(mutants)} mutants, {(time.monotonic() - begun) / 60:.1f} minutes\n")
    return report(mutants, options.minimum)


def lay_out(*, keep: bool) -> None:
    """The copy that mutmut works on; with what the last run found if that is to be kept."""
    if not keep:
        shutil.rmtree(WORK, ignore_errors=True)
    for stale in (WORK / "src", WORK / "tests", WORK / "mutants" / "tests"):
        shutil.rmtree(stale, ignore_errors=True)
    # Which test reaches what is found out anew each time: mutmut would miss that a test has changed.
    (WORK / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, WORK / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", WORK)
    for path in (WORK / SOURCE).glob("*.py"):
        code = path.read_text()
        plain = without_property_decorators(code)
        if plain != code:
            path.write_text(plain)


def without_property_decorators(code: str) -> str:
    """The same code, in which mutmut sees the functions behind its properties."""
    lines = code.splitlines()
    functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: -node.lineno):
        if [ast.unparse(decorator) for decorator in node.decorator_list] == ["property"]:
            indent = " " * node.col_offset
            lines.insert(node.end_lineno or node.lineno, f"{indent}{node.name} = property({node.name}{GETTER})")
            lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"def {node.name}(", f"def {node.name}{GETTER}(", 1)
            del lines[node.decorator_list[0].lineno - 1]
    return "\n".join(lines) + "\n"


def forget_survivors() -> None:
    """Have mutmut test again what is not dead."""
    for path in (WORK / "mutants" / SOURCE).glob("*.meta"):
        meta = json.loads(path.read_text())
        for mutant in results_of(path):
            if mutant.fate != "killed":
                meta["exit_code_by_key"][mutant.name] = None
        path.write_text(json.dumps(meta))


def run(patterns: list[str], jobs: int) -> bool:
    """Test the mutants; True if that failed. Where nobody watches, mutmut's progress goes to a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
    command = [f"{sysconfig.get_path('scripts')}/mutmut", "run", "--max-children", str(jobs), *patterns]
    log = WORK / "mutmut.log"
    with log.open("w") as file:
        output = None if sys.stdout.isatty() else file
        done = subprocess.run(command, cwd=WORK, stdout=output, stderr=output, check=False)
    if done.returncode:
        said = re.split(r"[\r\n]+", log.read_text())[-60:]
        print(*said, f"mutmut stopped with exit code {done.returncode}", sep="\n")
    return done.returncode != 0


def results() -> list[Mutant]:
    """What the last run found, file by file."""
    paths = sorted((WORK / "mutants" / SOURCE).glob("*.meta"))
    return [mutant for path in paths if (WORK / SOURCE / path.stem).exists() for mutant in results_of(path)]


def results_of(meta: Path) -> Iterator[Mutant]:
    for name, exit_code in json.loads(meta.read_text())["exit_code_by_key"].items():
        yield Mutant(name, meta.stem, exit_code)


def explanations() -> list[Explanation]:
    """Those of ``survivors.md``: ``## file function``, the reason, and one or more diffs that it holds for."""
    found = []
    for section in re.split(r"^## ", EXPLANATIONS.read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        file, function = title.split()
        reason = ""
        for text, diff in re.findall(r"(.*?)^```diff\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL):
            reason = text.strip() or reason
            if not reason:
                raise SystemExit(f"{EXPLANATIONS.name}: {title} has no reason")
            found.append(Explanation(file, function, _plain(diff.splitlines()), reason))
    return found


def report(mutants: list[Mutant], minimum: float) -> int:
    """Print what survived, and what share of the mutants did not."""
    survivors = {mutant: mutant.diff for mutant in mutants if mutant.fate == "survived"}
    known = explanations()
    explained = {mutant for mutant in survivors if any(one.covers(mutant, survivors[mutant]) for one in known)}
    for mutant, diff in survivors.items():
        if mutant not in explained:
            reached = "" if mutant.exit_code == 0 else "No test reaches it.\n"
            print(f"## {mutant.file} {mutant.function}\n\n{reached}```diff", *diff, "```\n", sep="\n")
    files = {mutant.file for mutant in mutants}
    for one in known:
        if one.file in files and not any(one.covers(mutant, survivors[mutant]) for mutant in explained):
            print(f"{EXPLANATIONS.name}: explains no survivor: {one.file} {one.function}", *one.diff, sep="\n  ")

    row = "{:<20}{:>8}{:>8}{:>9}{:>10}{:>11}{:>9}"
    print(row.format("", "mutants", "killed", "timeout", "survived", "explained", "score"))
    for title, those in [*((file, {file}) for file in sorted(files)), ("all", files)]:
        fates = [mutant.fate for mutant in mutants if mutant.file in those]
        counts = [fates.count(fate) for fate in ("killed", "timeout", "survived")]
        excused = sum(mutant.file in those for mutant in explained)
        print(row.format(title, len(fates), *counts, excused, f"{score(fates):.1f} %"))

    fates = [mutant.fate for mutant in mutants]
    if not fates or "untested" in fates:
        print(f"\n{fates.count('untested')} mutants were not tested")
        return 2
    print(f"\n{len(survivors) - len(explained)} survivors lack an explanation; {minimum:g} % of all are to be killed")
    return int(score(fates) < minimum)


def score(fates: list[str]) -> float:
    """The share of dead mutants, in percent. One that makes the tests run without end is dead."""
    return 100.0 * (fates.count("killed") + fates.count("timeout")) / max(len(fates), 1)


def _plain(lines: Iterator[str] | list[str]) -> tuple[str, ...]:
    return tuple(f"{line[0]} {line[1:].strip()}" for line in lines if line.startswith(("-", "+")))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nstopped; --again goes on from here")
