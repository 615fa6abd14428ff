"""Our own settings under the launcher: mistakes are said once and cost nothing; parts can be switched off."""

from __future__ import annotations

import re

import openai
import pytest

from stormproof.demo.proxy import status

from .launch import Result
from .world import ASK, CHAT, WAYS_IN, World

_BOTH = """
import openai
client = openai.OpenAI()
try:
    print(len(client.embeddings.create(model="e", input="What is a socket?").data))
except openai.InternalServerError:
    print("failed")
"""
_END = "raise SystemExit(5)"


def _chat(world: World, *, way: str = "launcher", **variables: str) -> Result:
    result = world.run(CHAT, _END, way=way, **variables)
    assert (result.code, result.stdout) == (5, "A socket is an end.\n"), result.stderr
    assert result.others == []
    return result


_MISTAKES = {
    "STORMPROOF_OLLAMA__RETRY__ATTEMPTS": ("banana", "a whole number from 1 to 1000"),
    "STORMPROOF__DEADLINE": ("-1", "500ms"),
    "STORMPROOF_QUIET": ("maybe", "true or false"),
    "STORMPROOF_CONSOLE": ("banana", "auto, text, json, off"),
    "STORMPROOF_EXIT_TIMEOUT": ("soon", "500ms"),
    "STORMPROOF_OLAMA__ENABLED": ("false", "openai, ollama, qdrant"),
    "STORMPROOF_OLLAMA__RETRY__ATEMPTS": ("5", "STORMPROOF_OLLAMA__RETRY__ATTEMPTS"),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_bad_settings_are_said_once_each_and_the_defaults_are_used(world: World, way: str) -> None:
    world.stumble(world.ollama)
    assert world.sink.url
    result = _chat(world, way=way, **{name: value for name, (value, _) in _MISTAKES.items()})
    assert len(result.notices) == len(_MISTAKES)
    for name, (value, allowed) in _MISTAKES.items():
        (notice,) = [line for line in result.notices if re.match(rf"stormproof: {name}\b", line)]
        assert repr(value) in notice or "is not a s" in notice  # the name is wrong, not the value
        assert allowed in notice
    assert world.ollama.count("POST", "/api/chat") == 3


def test_a_bad_setting_is_said_even_if_no_client_is_used(world: World) -> None:
    result = world.run("pass", STORMPROOF__DEADLINE="banana")
    assert (result.code, len(result.stderr.splitlines())) == (0, 1)


def test_a_bad_setting_is_said_once_for_all_processes(world: World) -> None:
    pool = """
    import multiprocessing
    if __name__ == "__main__":
        for method in ("spawn", "forkserver", "fork"):
            child = multiprocessing.get_context(method).Process(target=ask)
            child.start()
            child.join()
    """
    assert world.ollama.url
    assert world.sink.url
    result = world.run(ASK, pool, STORMPROOF__DEADLINE="banana", OTEL_TRACES_EXPORTER="banana")
    assert len(result.notices) == 2, result.stderr
    assert result.others == []


def test_settings_are_obeyed(world: World) -> None:
    world.ollama.plan("POST", ".", [status(503)] * 9)
    result = world.run(
        CHAT, STORMPROOF__RETRY__ATTEMPTS="2", STORMPROOF_OLLAMA__RETRY__ATTEMPTS="3", STORMPROOF__RETRY__BASE="10ms"
    )
    assert result.code == 1
    assert world.ollama.count("POST", "/api/chat") == 3


@pytest.mark.parametrize(
    "variables",
    [{"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "stormproof_openai"}, {"STORMPROOF_OPENAI__ENABLED": "false"}],
    ids=["official", "ours"],
)
def test_one_client_can_be_left_out(world: World, variables: dict[str, str]) -> None:
    """It then behaves as without us, its own retries included; the others are protected."""
    world.stumble(world.ollama, world.openai)
    assert world.sink.url
    result = world.run(CHAT, _BOTH, **variables)
    assert result.stdout.splitlines() == ["A socket is an end.", "1"]
    assert world.openai.count("POST", ".") == 3  # by openai's own retries
    ours = [span.name for span in world.sink.spans if span.scope.startswith("stormproof")]
    assert "chat m" in ours
    assert not [name for name in ours if "embeddings" in name]
    assert "openai" not in result.said[0]


def test_all_that_is_ours_can_be_left_out(world: World) -> None:
    assert world.ollama.url
    result = world.run(CHAT, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="*")
    assert (result.code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("disabled", "expected", "way"),
    [
        ("", {"httpx", "httpx2"}, "launcher"),
        ("httpx", {"httpx2"}, "launcher"),
        ("httpx, httpx2", set(), "launcher"),
        ("httpx2", {"httpx"}, "instrument"),
    ],
)
def test_the_http_spans_can_be_left_out(world: World, disabled: str, expected: set[str], way: str) -> None:
    """ollama sends by httpx, openai since 3.0 by httpx2."""
    assert world.ollama.url
    assert world.openai.url
    assert world.sink.url
    result = world.run(CHAT, _BOTH, way=way, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled)
    assert result.stdout.splitlines() == ["A socket is an end.", "1"], result.stderr
    openai_sends_by = "httpx2" if hasattr(openai._base_client, "httpx2") else "httpx"
    libraries = {world.ollama.port: "httpx", world.openai.port: openai_sends_by}
    seen = {span.attributes.get("server.port") for span in world.sink.spans if span.name == "POST"}
    assert seen == {port for port, library in libraries.items() if library in expected}
    assert {"chat m", "embeddings e"} <= {span.name for span in world.sink.spans}


def test_who_names_no_way_in_is_left_alone(world: World) -> None:
    """Merely importing the package does nothing."""
    world.stumble(world.ollama)
    result = world.run("import stormproof", CHAT, way="bare")
    assert result.code == 1
    assert result.said == []
    assert world.ollama.count("POST", "/api/chat") == 1


def test_the_logs_can_be_had_at_debug(world: World) -> None:
    assert world.ollama.url
    assert world.sink.url
    result = world.run("import logging\nlogging.basicConfig(level=logging.DEBUG)", CHAT)
    assert result.code == 0
    assert "Traceback" not in result.stderr
