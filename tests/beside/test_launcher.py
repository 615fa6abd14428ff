"""Under the launcher, with all of them installed: they are loaded by their entry points, and each call is one tree."""

from __future__ import annotations

import pytest

from tests.launcher.world import World

from .others import OFFICIAL, OPENINFERENCE, TRACELOOP, TRACELOOP_OLLAMA

_CALLS = """
import os, warnings
warnings.simplefilter("ignore")
import ollama, openai
from qdrant_client import QdrantClient, models
question = "Context: A socket is an end.\\n\\nQuestion: What is a socket?"
messages = [{"role": "user", "content": question}]
client = openai.OpenAI()
print(client.chat.completions.create(model="gpt-4o-mini", messages=messages).choices[0].message.content)
for _ in client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True):
    pass
print(ollama.chat("m", messages)["message"]["content"])
for _ in ollama.chat("m", messages, stream=True):
    pass
store = QdrantClient(os.environ["QDRANT_URL"], check_compatibility=False)
store.create_collection("docs", models.VectorParams(size=2, distance=models.Distance.DOT))
store.upsert("docs", [models.PointStruct(id=1, vector=[0.1, 0.2])])
print(len(store.query_points("docs", [0.1, 0.2]).points))
"""


@pytest.mark.parametrize("way", ["launcher", "auto"])
def test_one_tree_a_call(world: World, way: str) -> None:
    world.stumble(world.openai, world.ollama)
    assert world.qdrant.url
    assert world.sink.url
    by_hand = "" if way == "launcher" else _BY_HAND
    result = world.run(by_hand, _CALLS, way=way)
    assert result.code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "1"
    assert "Traceback" not in result.stderr
    spans = {span.span_id: span for span in world.sink.spans}
    operations = [span for span in world.sink.spans if "resilience.attempt.count" in span.attributes]
    innermost = {OPENINFERENCE.span, TRACELOOP.span, OFFICIAL.span}
    assert [span.name for span in operations if span.name in innermost] == [operations[0].name] * 2
    assert [span.name for span in operations if "ollama" in span.name] == [TRACELOOP_OLLAMA.span] * 2
    assert sorted(span.name for span in operations[4:]) == [
        "create_collection docs",
        "qdrant.query_points",
        "qdrant.upsert",
    ]
    assert [span.attributes["resilience.attempt.count"] for span in operations] == [3, 1, 3, 1, 1, 1, 1]
    attempts = [span for span in world.sink.spans if span.name.startswith("attempt ")]
    assert len(attempts) == 3 + 1 + 3 + 1 + 1 + 1 + 1
    assert {spans[attempt.parent_id].span_id for attempt in attempts} == {span.span_id for span in operations}
    requests = [span for span in world.sink.spans if span.name in ("POST", "PUT")]
    assert {spans[request.parent_id].name.split()[0] for request in requests} == {"attempt"}
    assert len(requests) == len(attempts)


_BY_HAND = """
from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference
from opentelemetry.instrumentation.ollama import OllamaInstrumentor
from opentelemetry.instrumentation.qdrant import QdrantInstrumentor
for instrumentor in OpenInference, OllamaInstrumentor, QdrantInstrumentor:
    instrumentor().instrument()
"""
