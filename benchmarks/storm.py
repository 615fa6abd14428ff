"""What retry and breaker policies do under overload, outage and rate limits: a simulation, and our bars for our own.

Same seeds, same figures. See docs/overload.md for what is simulated. A full run takes about ten minutes on two cores.

    python benchmarks/storm.py [--policies a,b] [--scenarios a,b@10] [--seeds 1-40] [--json PATH] [--plot PATH]
                               [--docs PATH] [--jobs N]

Ends with status 1 if our default misses a bar.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

if not __package__:  # run as a script: the folder above is where ``benchmarks`` is found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.simulation import bars, report
from benchmarks.simulation.runs import KNOWN, NO_RETRY, OURS, POLICIES, Results, all_cases, run_all
from benchmarks.simulation.scenarios import SCENARIOS

# Between these lines of a page stands what was printed.
_BEGIN, _END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def _names(text: str) -> list[str]:
    return text.split(",")


def _policies(text: str) -> list[str]:
    for name in _names(text):
        if name not in KNOWN:
            raise argparse.ArgumentTypeError(f"no policy {name}; there are {', '.join(KNOWN)}")
    return _names(text)


def _scenarios(text: str) -> list[str]:
    known = [*SCENARIOS, *(f"{one.name}@{count}" for one in SCENARIOS.values() for count in one.processes)]
    for name in _names(text):
        if name not in known:
            raise argparse.ArgumentTypeError(f"no scenario {name}; there are {', '.join(known)}")
    return _names(text)


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--policies", type=_policies, default=list(POLICIES), help=", ".join(KNOWN))
    parser.add_argument("--scenarios", type=_scenarios, default=list(SCENARIOS), help=", ".join(SCENARIOS))
    parser.add_argument("--seeds", type=_seeds, default=_seeds("1-40"), help="such as 1-40, the default")
    parser.add_argument("--json", type=Path, help="where to write every figure")
    parser.add_argument("--plot", type=Path, help="where to draw success over load, as SVG")
    parser.add_argument("--docs", type=Path, help=f"the page to write the tables into, after {_BEGIN.strip()}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _text(results: Results, judged: list[bars.Judged], seeds: list[int]) -> str:
    lines = [f"Means of {len(seeds)} seeds, {seeds[0]} to {seeds[-1]}.", ""]
    lines += [line for figure in report.HEADINGS for line in report.table(results, figure)]
    if judged:
        lines += [f"Bars: what {OURS} has to reach", "", *bars.table(judged), ""]
    return "\n".join(lines)


def _write_into(page: Path, text: str) -> None:
    before, _, rest = page.read_text().partition(_BEGIN)
    page.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}")


def main() -> int:
    options = _options()
    policies = options.policies
    if OURS in policies and NO_RETRY not in policies:
        policies = [*policies, NO_RETRY]  # some bars ask for no less than that
    results = run_all(all_cases(policies, options.scenarios), options.seeds, options.jobs)
    judged = list(bars.judge(results))
    text = _text(results, judged, options.seeds)
    print(text)
    if options.json:
        everything = {
            "seeds": options.seeds,
            "bars": [one.as_json() for one in judged],
            "policies": report.as_json(results),
        }
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    if options.plot:
        from benchmarks.simulation.plot import draw

        draw(results, options.plot)
    if options.docs:
        _write_into(options.docs, text)
    missed = sum(not one.met for one in judged)
    print(f"{len(judged) - missed} of {len(judged)} bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
