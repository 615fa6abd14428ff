"""What starting costs: nothing imported that the program does not ask for, nothing printed, little time."""

from __future__ import annotations

import json
import statistics
import sys

import pytest

from .launch import LAUNCHER, Program, environment
from .world import WAYS_IN, World

_CLIENTS = ("openai", "ollama", "qdrant_client")
_HEAVY = ("httpx", "httpx2", "pydantic", "stamina", "tenacity", "grpc", "numpy", "asyncio.windows_events")
_IMPORTED = """
import json, sys
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

_MOST_CPU = 1.0  # seconds more at the start, by FIRST_RUN.md
_ROUNDS = 3


def _pass(*command: str) -> Program:
    return Program([*command, sys.executable, "-c", "pass"], environment())


def test_a_program_that_does_nothing_is_left_alone() -> None:
    with _pass(str(LAUNCHER)) as program:
        result = program.finish()
    assert (result.code, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("way", WAYS_IN)
def test_no_client_is_imported(world: World, way: str) -> None:
    result = world.run(_IMPORTED, way=way)
    assert not {*_CLIENTS, *_HEAVY} & set(result.value())
    assert result.stderr == ""


def test_grpc_is_imported_for_those_who_ask_for_it(world: World) -> None:
    assert "grpc" in world.run(_IMPORTED, OTEL_EXPORTER_OTLP_PROTOCOL="grpc").value()


@pytest.mark.parametrize("way", WAYS_IN)
def test_importing_one_client_imports_no_other(world: World, way: str) -> None:
    result = world.run("import ollama", _IMPORTED, way=way)
    assert not {"openai", "qdrant_client", "grpc"} & set(result.value())
    assert len(result.said) == 1


def test_our_own_part_of_the_start_is_light(world: World) -> None:
    """None of the modules that only a call needs, and none of the standard library's costly ones by our doing."""
    loaded = "import json, sys; print(json.dumps([name for name in sys.modules if name.startswith('stormproof')]))"
    result = world.run(loaded)
    assert not any(name.startswith(("stormproof.clients", "stormproof.demo")) for name in json.loads(result.stdout))
    assert not {f"stormproof.{name}" for name in ("resilience.runner", "resilience.breaker", "telemetry.spans")} & set(
        result.value()
    )


def test_the_start_costs_at_most_a_second_of_cpu(world: World) -> None:
    """The median of a few starts: other work on the machine makes single ones dearer."""

    def cpu(way: str) -> float:
        return statistics.median(world.run("import ollama", way=way).cpu for _ in range(_ROUNDS))

    assert cpu("launcher") - cpu("bare") <= _MOST_CPU
