"""A pytest plugin for the tests that run against a mutant: the quick ones first, and none for long.

Of hypothesis the same few examples each time, so that a mutant meets the same fate in every run; and no shrinking,
which is for people: the first example that fails has killed the mutant. The profile is loaded before any test is, so
that what a test does not choose itself is chosen here.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

MOST_EXAMPLES = 60
#: Where hypothesis keeps the settings of a test that has some of its own. Were it elsewhere, more examples would run.
OWN = "_hypothesis_internal_use_settings"

settings.register_profile(
    "mutation",
    max_examples=MOST_EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutation")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort and limit them by what mutmut has measured, and give none of them more examples than these."""
    stats = Path("mutmut-stats.json")
    if stats.exists():
        durations = json.loads(stats.read_text())["duration_by_test"]
        items.sort(key=lambda item: durations.get(item.nodeid, 0.0))
        if "__mutmut_" in os.environ.get("MUTANT_UNDER_TEST", ""):
            _limit(3 + 3 * sum(durations.get(item.nodeid, 0.0) + 0.01 for item in items))
    for item in items:
        test, machine = getattr(item, "obj", None), getattr(item, "cls", None)
        function = getattr(test, "__func__", test)
        for owner, name in ((function, OWN), (machine, "settings")):
            own = getattr(owner, name, None)
            if isinstance(own, settings) and own.max_examples > MOST_EXAMPLES:
                setattr(owner, name, settings(own, max_examples=MOST_EXAMPLES))


def _limit(seconds: float) -> None:
    """End this process after so much work. mutmut's own limit is of time, which passes on a busy machine too."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
