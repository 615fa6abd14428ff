"""The pages that list names must list all of them, with the defaults that are in force; their examples must run."""

from __future__ import annotations

import ast
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import db_attributes
from opentelemetry.semconv.attributes import error_attributes, exception_attributes, http_attributes, server_attributes
from opentelemetry.semconv.metrics import db_metrics

import stormproof
from stormproof import settings
from stormproof.resilience import overrides
from stormproof.resilience.backoff import backoff
from stormproof.resilience.breaker import State
from stormproof.resilience.outcome import GaveUp, Refusal
from stormproof.resilience.policy import BreakerPolicy, RetryPolicy, default_policy
from stormproof.telemetry import sdk
from tests import contract, telemetry_page

DOCS = Path(__file__).parents[2] / "docs"
SETTINGS = (DOCS / "settings.md").read_text()
TELEMETRY = (DOCS / "telemetry.md").read_text()
RESILIENCE = Path(stormproof.__file__).parent / "resilience"

#: Knobs without a variable.
CODE_ONLY = [
    prefix + knob.name
    for prefix, part in settings._PARTS.items()
    for knob in fields(part)
    if "range" not in knob.metadata and knob.default is not MISSING
]


def blocks(page: str, language: str) -> list[str]:
    """The examples of a page, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


# -- telemetry.md, made of the schema ---------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_schema() -> None:
    assert telemetry_page.written(TELEMETRY) == TELEMETRY, "the schema has changed since: make telemetry"


def values_of(attribute: str) -> set[str]:
    return set(contract.groups()["registry.resilience"].attributes[attribute].values)


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("resilience.retry.gave_up", GaveUp),
        ("resilience.circuit_breaker.state", State),
        ("resilience.circuit_breaker.previous_state", State),
    ],
)
def test_the_schema_has_the_values_of_the_code(attribute: str, values: Iterable[Any]) -> None:
    assert values_of(attribute) == {value.value for value in values}


def test_official_names_are_official() -> None:
    """Those of GenAI left the package for a repository of their own, which has none yet."""
    modules = [db_attributes, error_attributes, exception_attributes, http_attributes, server_attributes, db_metrics]
    official = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    schema = {name for group in contract.groups().values() for name in group.attributes}
    schema |= {group.said["metric_name"] for group in contract.of_type("metric")}
    assert {name for name in schema if not name.startswith(("resilience.", "gen_ai.", "openai."))} <= official


@pytest.mark.parametrize("refusal", Refusal)
def test_every_refusal_is_documented(refusal: Refusal) -> None:
    assert f"`{refusal.value}`" in TELEMETRY


def reasons() -> Iterator[tuple[str, str]]:
    """(file, reason) wherever a breaker changes its state."""
    for path in ("breaker", "adaptive", "window"):
        for node in ast.walk(ast.parse((RESILIENCE / f"{path}.py").read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("_change", "_open", "_begin_pacing", "_by_hand"):
                    yield from ((path, arg.value) for arg in node.args if _is_text(arg))  # type: ignore[attr-defined]
            elif isinstance(node, ast.FunctionDef) and node.name == "_too_much":
                returned = (part.value for part in ast.walk(node) if isinstance(part, ast.Return))
                yield from ((path, value.value) for value in returned if _is_text(value))  # type: ignore[union-attr]


def _is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_the_schema_has_every_reason_of_a_breakers_change_and_no_other() -> None:
    definition = contract.groups()["registry.resilience"].said["attributes"]
    (said,) = [each for each in definition if each["id"] == "resilience.circuit_breaker.reason"]
    strategies = {"both": "breaker"}
    schema = {
        (strategies.get(strategy, strategy), member["value"])
        for member in said["type"]["members"]
        for strategy in [re.match("adaptive|window|both", member["brief"])[0]]  # type: ignore[index]
    }
    found = set(reasons())
    assert len(found) == 15
    assert schema == found


# -- settings.md -------------------------------------------------------------------------------------------------------


def row(key: str) -> list[str]:
    """The cells of a key's row: variable, default, what it takes."""
    [line] = [line for line in SETTINGS.splitlines() if line.startswith(f"| `{key}` |")]
    _, _, variable, default, takes, _ = line.split("|")
    return [variable.strip(), default.strip(), takes.strip()]


@pytest.mark.parametrize("key", settings.KEYS)
def test_every_setting_is_documented_with_its_default(key: str) -> None:
    name = f"STORMPROOF__{key.upper().replace('.', '__')}"
    variable, default, _ = row(key)
    assert variable == f"`{name}`"
    part, _, knob = key.rpartition(".")
    for system, shown in zip(("openai", "qdrant"), re.findall("`([^`]+)`", default) * 2, strict=False):
        policy = settings.from_environment({}).policy_for(system)
        assert settings._parse(name, shown, settings.KEYS[key]) == getattr(
            getattr(policy, part) if part else policy, knob
        )


@pytest.mark.parametrize("key", settings.KEYS)
def test_what_each_setting_takes_is_documented(key: str) -> None:
    range_, (_, _, takes) = settings.KEYS[key], row(key)
    assert not [word for word in range_.choices if f"`{word}`" not in takes]
    assert ("`off`" in takes) is range_.off
    if "duration" in range_.allowed:
        assert "a duration" in takes
    elif range_.allowed == "true or false":
        assert "`true`, `false`" in takes
    else:
        bounds = takes.partition(":")[0]
        assert set(re.findall(r"\d+", range_.allowed)) <= set(re.findall(r"\d+", bounds))


def test_the_table_has_the_order_of_the_keys() -> None:
    assert re.findall(r"^\| `([a-z_.]+)` \| `STORMPROOF__", SETTINGS, re.MULTILINE) == list(settings.KEYS)


@pytest.mark.parametrize("key", CODE_ONLY)
def test_what_only_code_can_choose_is_documented(key: str) -> None:
    [line] = [line for line in SETTINGS.splitlines() if line.startswith(f"| `{key}` |")]
    part, _, knob = key.rpartition(".")
    policy = default_policy("openai")
    assert f"| `{getattr(getattr(policy, part) if part else policy, knob)}` |" in line


def test_these_are_what_only_code_can_choose() -> None:
    assert CODE_ONLY == ["strict_deadline", "fallback", "retry.on", "retry.on_result"]


@pytest.mark.parametrize("variable", [*settings._PROCESS_KEYS, *sdk.DEFAULTS])
def test_every_variable_of_the_process_is_documented(variable: str) -> None:
    assert f"`{variable}`" in SETTINGS


class TestRecipes:
    """The environments of settings.md are taken as they stand there."""

    @pytest.fixture
    def recipes(self) -> list[settings.Settings]:
        chosen = [
            settings.from_environment(dict(line.split("=") for line in block.splitlines()))
            for block in blocks(SETTINGS, "sh")
        ]
        assert [one.problems for one in chosen] == [()] * 3
        return chosen

    def test_the_classical_breaker(self, recipes: list[settings.Settings]) -> None:
        expected = BreakerPolicy(
            strategy="window", failures=5, successes=2, open_for=30, open_factor=1, failure_rate=None
        )
        assert [recipes[0].policy_for(system).breaker for system in settings.SYSTEMS] == [expected] * 3
        assert expected.slow_rate is None

    def test_the_failure_rate(self, recipes: list[settings.Settings]) -> None:
        breaker = recipes[1].policy_for("openai").breaker
        assert (breaker.strategy, breaker.window, breaker.size) == ("window", "time", 60)
        assert (breaker.failures, breaker.failure_rate, breaker.slow_rate) == (None, 0.5, None)

    @pytest.mark.parametrize(
        ("system", "waits", "cap"), [("qdrant", [1, 2], 5), ("openai", [2, 4], 10), ("ollama", [2, 4], 10)]
    )
    def test_the_retries(self, recipes: list[settings.Settings], system: str, waits: list[float], cap: float) -> None:
        retry: RetryPolicy = recipes[2].policy_for(system).retry
        assert [backoff(retry, failures, 0.0, random.Random()) for failures in range(1, retry.attempts)] == waits
        assert backoff(retry, 99, 0.0, random.Random()) == cap


#: Runs the examples one after the other, as one program that makes calls in between. No network: the transport answers.
PROGRAM = """
import importlib, sys
import openai

library = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
transport = library.MockTransport(lambda _: library.Response(200, json={"object": "list", "data": []}))
client = openai.OpenAI(api_key="-", http_client=openai.DefaultHttpxClient(transport=transport))
program = {}
for number, block in enumerate(sys.argv[1:]):
    exec(compile(block, f"example {number}", "exec"), program)
    client.models.list()

from stormproof import install

chosen = {system: install.policy_for(system) for system in ("openai", "qdrant")}
assert chosen["openai"].retry.attempts == 3
assert chosen["openai"].retry.on(Exception("moderation")) is False
assert chosen["openai"].retry.on(Exception("overloaded")) is None
assert chosen["openai"].fallback.kind == "endpoint"
assert chosen["qdrant"].strict_deadline
assert chosen["qdrant"].fallback.function(None) == []
"""


#: The examples of protect.md, with a session that answers without a network.
OWN_FUNCTIONS = """
import asyncio, sys
from types import SimpleNamespace

asked = []
answer = SimpleNamespace(raise_for_status=lambda: None, json=lambda: [{"key": "FIRE-1"}])
session = SimpleNamespace(get=lambda url, **options: asked.append(url) or answer)

async def post(url, text):
    asked.append(url)

for number, block in enumerate(sys.argv[1:]):
    exec(compile(block, f"example {number}", "exec"), globals())
assert issue == issues[0] and page is answer
asyncio.run(comment("FIRE-1", "put out"))
quick_search("fire")
print(*stormproof.breakers, len(asked))
"""


def test_the_examples_of_protect_run(tmp_path: Path) -> None:
    page = (DOCS / "protect.md").read_text()
    done = subprocess.run(
        [sys.executable, "-c", OWN_FUNCTIONS, *blocks(page, "python")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "jira notion 6\n", "")


@pytest.mark.parametrize("key", overrides.KEYS)
def test_every_override_is_documented(key: str) -> None:
    assert f"`{key}`" in (DOCS / "protect.md").read_text()


def test_the_examples_run(tmp_path: Path) -> None:
    silent = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *blocks(SETTINGS, "python")],
        capture_output=True,
        text=True,
        env={**os.environ, **silent, "PYTHONIOENCODING": "utf-8"},
        encoding="utf-8",
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    name = "openai/api.openai.com:443"
    assert done.stdout.splitlines() == [
        "closed 1.0 0 None",
        f"{name}: closed → forced_open (forced_open)",
        f"{name}: forced_open → disabled (disabled)",
        f"{name}: disabled → closed (closed_by_hand)",
    ]
