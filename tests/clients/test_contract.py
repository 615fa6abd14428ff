"""The contract both ways: every test's ``shield`` sees that nothing is emitted that the schema does not have; here all
that it has is emitted, and where each of it is: ``emitted.txt`` has what comes out of each of the stages.

``make telemetry`` writes that file anew. ``make attributes`` shows that nothing can be left out unnoticed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import stormproof
from stormproof.demo.proxy import FaultProxy
from stormproof.telemetry import names
from tests import contract

from .shield import Shield
from .stages import STAGES, Stage

EMITTED = Path(__file__).with_name("emitted.txt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # openai's assistants: agents have names there
def test_everything_in_the_schema_is_emitted_and_where_it_always_is(
    shield: Shield, proxy_of: Callable[[str], FaultProxy], request: pytest.FixtureRequest
) -> None:
    shield.expected_complaints = ["any"]  # a policy in place of another, an empty budget
    is_to_be_written = request.config.getoption("--write-emitted", default=False)
    said = {} if is_to_be_written else _read(EMITTED.read_text())
    stages: dict[str, Stage] = {}
    for name, (driver, play) in STAGES.items():
        stage = stages[name] = Stage(shield, proxy_of, driver)
        play(stage)
        assert stage.violations == []
        assert is_to_be_written or stage.lines == said[name]
    if is_to_be_written:
        EMITTED.write_text(_written({name: stage.lines for name, stage in stages.items()}))
    assert _wanted() - set().union(*(stage.attributes for stage in stages.values())) == set()


def _written(lines: dict[str, set[str]]) -> str:
    return "\n".join(f"[{name}]\n" + "".join(f"{line}\n" for line in sorted(each)) for name, each in lines.items())


def _read(page: str) -> dict[str, set[str]]:
    sections = re.findall(r"^\[(.*)\]\n((?:.+\n)*)", page, flags=re.MULTILINE)
    return {name: set(lines.splitlines()) for name, lines in sections}


def _wanted() -> set[tuple[str, str]]:
    return {
        (group.id, attribute)
        for kind in ("span", "metric", "event")
        for group in contract.of_type(kind)
        for attribute in group.attributes
    }


def test_every_name_of_the_code_is_in_the_schema_and_no_other() -> None:
    code = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str) and "." in value}
    code = {name for name in code | set(names.FACTS.values()) | set(names.CONTENT.values()) if "://" not in name}
    schema = {attribute for _, attribute in _wanted()}
    schema |= {group.said["metric_name"] for group in contract.of_type("metric")}
    schema |= {group.said["name"] for group in contract.of_type("event")}
    apart = {names.DISTRO_NAME, names.DISTRO_VERSION, names.HTTP_RESEND_COUNT}  # of the resource, of the HTTP span
    assert code - apart == schema


def test_the_resource_says_whose_distribution_it_is() -> None:
    program = """
import json, stormproof
stormproof.instrument()
from opentelemetry import trace
print(json.dumps(dict(trace.get_tracer_provider().resource.attributes)))
"""
    nowhere = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    source = str(Path(stormproof.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **nowhere, "PYTHONPATH": source, "STORMPROOF_QUIET": "1"},
        capture_output=True,
        check=True,
    )
    resource = json.loads(done.stdout)
    assert resource["telemetry.distro.name"] == "stormproof"
    assert resource["telemetry.distro.version"] == stormproof.__version__
