"""The real Ollama of the tests: the clients' own calls work against it, natively and on its OpenAI side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ollama as ollama_client
import openai
import pytest

from .ollama import TINY, TINY_LOOP, RealOllama, supported

pytestmark = [
    pytest.mark.real_ollama,
    pytest.mark.skipif(not supported(), reason="needs Linux on x86-64 with gcc"),
]

REPLY = (
    "Qdrant stores vectors, a retriever finds the nearest points and this tiny model answers with one fixed sentence."
)
MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[RealOllama]:
    with RealOllama(loop=True) as server:
        yield server


@pytest.fixture
def client(server: RealOllama) -> Iterator[ollama_client.Client]:
    client = ollama_client.Client(host=server.url)
    yield client
    client._client.close()


def test_chat_and_stream(client: ollama_client.Client) -> None:
    answer = client.chat(TINY, MESSAGES)
    assert answer["message"]["content"].strip() == REPLY
    assert answer["done_reason"] == "stop"
    parts = [part["message"]["content"] for part in client.chat(TINY, MESSAGES, stream=True)]
    assert "".join(parts).strip() == REPLY
    assert len(parts) > 10


def test_generate_and_embed(client: ollama_client.Client) -> None:
    assert client.generate(TINY, "Hello")["response"].strip() == REPLY
    assert [len(vector) for vector in client.embed(TINY, ["a", "b"])["embeddings"]] == [256, 256]


def test_tool_call(client: ollama_client.Client) -> None:
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    function = {"name": "search_docs", "description": "Search", "parameters": parameters}
    answer = client.chat(TINY, MESSAGES, tools=[{"type": "function", "function": function}])
    call = answer["message"]["tool_calls"][0]["function"]
    assert (call["name"], call["arguments"]) == ("search_docs", {"query": "vector index"})


def test_a_loop_runs_to_its_limit(client: ollama_client.Client) -> None:
    answer = client.generate(TINY_LOOP, "Hello", options={"num_predict": 100})
    assert (answer["eval_count"], answer["done_reason"]) == (100, "length")


def test_its_openai_side(server: RealOllama) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(model=TINY, messages=MESSAGES)
        assert (answer.choices[0].message.content or "").strip() == REPLY
        stream = client.chat.completions.create(model=TINY, messages=MESSAGES, stream=True)
        words = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "".join(words).strip() == REPLY
        assert len(client.embeddings.create(model=TINY, input="a").data[0].embedding) == 256
        assert TINY in [model.id.partition(":")[0] for model in client.models.list()]
