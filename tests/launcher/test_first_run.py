"""The first five minutes: an unchanged program, no variable, no collector (FIRST_RUN.md, points 2 to 6)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from qdrant_client import QdrantClient

from stormproof.demo.proxy import status
from stormproof.demo.text import DIMENSIONS

from .launch import Result
from .world import CHAT, WAYS_IN, World

_RAG = """
import os
from openai import OpenAI
from qdrant_client import QdrantClient

client = OpenAI()
question = "What is a socket?"
vector = client.embeddings.create(model="text-embedding-3-small", input=question).data[0].embedding
qdrant = QdrantClient(url=os.environ["QDRANT_URL"])
if hasattr(qdrant, "query_points"):
    points = qdrant.query_points("docs", query=vector, limit=1).points
else:  # qdrant-client before 1.10
    points = qdrant.search("docs", vector, limit=1)
prompt = f"Context: {points[0].payload['text']}\\n\\nQuestion: {question}"
messages = [{"role": "user", "content": prompt}]
for chunk in client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="")
print()
raise SystemExit(7)
"""
_FILL = """
import os
from qdrant_client import QdrantClient, models
qdrant = QdrantClient(url=os.environ["QDRANT_URL"])
size = int(os.environ["SIZE"])
qdrant.create_collection("docs", models.VectorParams(size=size, distance=models.Distance.COSINE))
payload = {"text": "A socket is an end."}
qdrant.upsert("docs", [models.PointStruct(id=1, vector=[1.0] * size, payload=payload)])
"""
_SEARCH = "query_points" if hasattr(QdrantClient, "query_points") else "search"
_OPERATIONS = ("embeddings text-embedding-3-small", f"{_SEARCH} docs", "chat gpt-4o-mini")
_START = (
    r"stormproof \d+\.\d+\.\d+: openai \d+\.\d+ ✓  qdrant \d+\.\d+ ✓  ollama \d+\.\d+ ✓ \| "
    r"\d+ attempts, 30 s \| content off"
)
_TIME = r"\d+(\.\d+s|ms)"
_EXIT_DELAY = 1.0
_MARGIN = 0.5  # for the machine, which does other things too


@pytest.fixture
def rag(world: World) -> World:
    """A world in which the program finds its document."""
    assert world.openai.url
    assert world.qdrant.url
    filled = world.run(_FILL, way="bare", SIZE=str(DIMENSIONS))
    assert filled.code == 0, filled.stderr
    return world


def _run_through_faults(rag: World, **variables: str) -> Result:
    """Each service answers 503, 503, 200."""
    for proxy, path in ((rag.openai, "/embeddings"), (rag.qdrant, "/points"), (rag.openai, "/chat")):
        proxy.plan("POST", path, [status(503), status(503)])
    result = rag.run(_RAG, **variables)
    assert rag.openai.count("POST", "/embeddings") == rag.openai.count("POST", "/chat")
    return result


def _pattern(url: str) -> str:
    operations = "".join(
        rf"● {re.escape(name)} +{_TIME}  ok after 3 attempts( .*)?\n"
        rf"  ├ 1  503 +{_TIME}  wait {_TIME}\n"
        rf"  ├ 2  503 +{_TIME}  wait {_TIME}\n"
        rf"  └ 3  200 +{_TIME}\n"
        for name in _OPERATIONS
    )
    return (
        rf"{_START}\n"
        rf"stormproof: nothing answers at {re.escape(url)} \(connection refused\); spans are shown here instead "
        r"\(set OTEL_EXPORTER_OTLP_ENDPOINT, or STORMPROOF_QUIET=1\)\n"
        rf"{operations}"
        r"stormproof: 3 operations, 9 attempts, 0 errors; 0 spans sent; exit \+0\.\d s\n"
    )


def test_an_unchanged_program_rides_through_and_shows_every_attempt(rag: World) -> None:
    calm = rag.run(_RAG, way="bare")
    assert (calm.code, calm.stdout) == (7, "A socket is an end.\n"), calm.stderr

    result = _run_through_faults(rag)

    assert (result.code, result.stdout) == (calm.code, calm.stdout)
    assert re.fullmatch(_pattern("http://localhost:4318"), result.stderr), result.stderr
    assert result.exit_delay <= calm.exit_delay + _EXIT_DELAY + _MARGIN


def test_as_json_each_operation_is_one_line(rag: World) -> None:
    result = _run_through_faults(rag, STORMPROOF_CONSOLE="json")

    records: list[dict[str, Any]] = [json.loads(line) for line in result.others]
    assert [record["name"] for record in records] == list(_OPERATIONS)
    for record in records:
        assert record["status"] == "ok"
        assert record["seconds"] > 0
        assert re.fullmatch("[0-9a-f]{32}", record["trace_id"])
        assert [attempt["status"] for attempt in record["attempts"]] == ["503", "503", "ok"]
        assert all(attempt["seconds"] >= 0 for attempt in record["attempts"])
    assert len(result.said) == 3  # start, message, summary


@pytest.mark.parametrize("way", WAYS_IN)
def test_quiet_says_nothing(world: World, way: str) -> None:
    world.stumble(world.ollama)
    result = world.run(CHAT, way=way, STORMPROOF_QUIET="1")
    assert (result.code, result.stdout, result.stderr) == (0, "A socket is an end.\n", "")


@pytest.mark.parametrize("way", WAYS_IN)
def test_each_way_in_shows_the_same(world: World, way: str) -> None:
    world.stumble(world.ollama)
    result = world.run(CHAT, way=way)
    assert (result.code, result.stdout) == (0, "A socket is an end.\n")
    start, message, operation, *attempts, summary = result.stderr.splitlines()
    assert re.fullmatch(_START, start)
    assert "nothing answers at http://localhost:4318" in message
    assert re.fullmatch(rf"● chat m +{_TIME}  ok after 3 attempts  \d+ tok", operation)
    assert len(attempts) == 3
    assert summary.startswith("stormproof: 1 operations, 3 attempts, 0 errors")


def test_all_ways_in_at_once_are_one(world: World) -> None:
    world.stumble(world.ollama)
    result = world.run(WAYS_IN["auto"], WAYS_IN["instrument"], CHAT)
    assert result.stderr.count("● chat m") == 1
    assert len(result.said) == 3
    assert world.ollama.count("POST", "/api/chat") == 3


def test_a_call_that_needed_no_retry_is_one_line(world: World) -> None:
    assert world.ollama.url
    result = world.run(CHAT)
    assert len(result.stderr.splitlines()) == 4
    assert re.fullmatch(rf"● chat m +{_TIME}  ok  \d+ tok", result.stderr.splitlines()[2])


def test_a_call_that_failed_is_an_error_and_the_programs_own_traceback_is_kept(world: World) -> None:
    world.ollama.plan("POST", ".", [status(400, body={"error": "bad"})])
    result = world.run(CHAT)
    bare = world.run(CHAT.replace('"m"', '""'), way="bare")  # an empty model name fails without a server's help
    assert (result.code, bare.code) == (1, 1)
    assert result.others[0] == bare.others[0] == "Traceback (most recent call last):"
    assert re.search(rf"^● chat m +{_TIME}  400\n  └ 1  400 +{_TIME}$", result.stderr, re.MULTILINE), result.stderr
    assert "1 operations, 1 attempts, 1 errors" in result.said[-1]


def test_a_collector_at_the_default_address_gets_the_spans(world: World) -> None:
    sink = world.default_sink()
    assert world.ollama.url
    result = world.run(CHAT)
    assert {span.name for span in sink.spans} >= {"chat m", "attempt chat"}
    assert [re.fullmatch(_START, line) is not None for line in result.stderr.splitlines()] == [True]


def test_the_view_can_be_had_beside_a_collector(world: World) -> None:
    assert world.ollama.url
    assert world.sink.url
    result = world.run(CHAT, STORMPROOF_CONSOLE="text")
    assert "● chat m" in result.stderr
    assert result.notices == []
    assert re.search(r"1 operations, 1 attempts, 0 errors; [23] spans sent", result.said[-1])


def test_the_view_can_be_switched_off(world: World) -> None:
    assert world.ollama.url
    result = world.run(CHAT, STORMPROOF_CONSOLE="off")
    assert "●" not in result.stderr
    assert ["nothing is sent" in line for line in result.notices] == [True]


def test_an_output_that_is_closed_or_cannot_show_our_signs_harms_nothing(world: World) -> None:
    assert world.ollama.url
    closed = world.run("import sys\nsys.stderr.close()", CHAT)
    assert (closed.code, closed.stdout) == (0, "A socket is an end.\n")
    ascii_only = world.run(CHAT, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert (ascii_only.code, ascii_only.stdout) == (0, "A socket is an end.\n")
    assert "chat m" in ascii_only.stderr
