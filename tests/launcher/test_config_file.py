"""A declarative configuration (OTEL_CONFIG_FILE): it is obeyed, and its mistakes cost one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from .launch import Result
from .world import CHAT, WAYS_IN, World

_CONFIG = """
file_format: "1.0"
resource:
  attributes:
    - name: service.name
      value: declared
tracer_provider:
  processors:
    - simple:
        exporter:
          otlp_http:
            endpoint: {url}/v1/traces
"""


def _run(world: World, config: Path, way: str = "launcher", **variables: str) -> Result:
    assert world.ollama.url
    result = world.run(CHAT, "raise SystemExit(5)", way=way, OTEL_CONFIG_FILE=str(config), **variables)
    assert (result.code, result.stdout) == (5, "A socket is an end.\n"), result.stderr
    assert "Traceback" not in result.stderr
    return result


def _assert_one_line(result: Result, *parts: str) -> None:
    assert len(result.notices) == 1, result.stderr
    assert result.others == [], result.stderr
    for part in parts:
        assert part in result.notices[0]


@pytest.mark.parametrize("way", WAYS_IN)
def test_it_is_obeyed(world: World, tmp_path: Path, way: str) -> None:
    config = tmp_path / "otel.yaml"
    config.write_text(_CONFIG.format(url=world.sink.url), encoding="utf-8")
    world.stumble(world.ollama)
    result = _run(world, config, way, OTEL_TRACES_EXPORTER="banana")  # which the file puts out of force
    assert len(result.stderr.splitlines()) == 1, result.stderr
    (operation,) = [span for span in world.sink.spans if span.name == "chat m"]
    assert operation.attributes["resilience.attempt.count"] == 3
    assert operation.resource["service.name"] == "declared"


def test_a_file_that_is_not_there(world: World, tmp_path: Path) -> None:
    _assert_one_line(_run(world, tmp_path / "nowhere.yaml"), "nowhere.yaml", "telemetry is off, the app runs on")


@pytest.mark.parametrize("content", ["{", "file_format: banana\n"])
def test_a_file_that_is_broken(world: World, tmp_path: Path, content: str) -> None:
    config = tmp_path / "otel.yaml"
    config.write_text(content, encoding="utf-8")
    _assert_one_line(_run(world, config), "OTEL_CONFIG_FILE", "telemetry is off, the app runs on")


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_package_that_reads_it_is_missing(world: World, tmp_path: Path, way: str) -> None:
    package = tmp_path / "packages" / "opentelemetry" / "configuration.py"
    package.parent.mkdir(parents=True)
    package.write_text("raise ModuleNotFoundError('opentelemetry.configuration')", encoding="utf-8")
    config = tmp_path / "otel.yaml"
    config.write_text(_CONFIG.format(url="http://127.0.0.1:1"), encoding="utf-8")
    result = _run(world, config, way, PYTHONPATH=str(tmp_path / "packages"))
    _assert_one_line(result, "OTEL_CONFIG_FILE", "pip install opentelemetry-configuration", "telemetry is off")
