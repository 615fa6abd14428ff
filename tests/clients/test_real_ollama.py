"""The real Ollama server behind the proxy: natively, and by the OpenAI client on its ``/v1``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest

from stormproof.demo.proxy import FaultProxy, drop, reset, status
from tests.servers.ollama import TINY, RealOllama, supported
from tests.unit.signals import attributes, get, has

from .shield import Shield

pytestmark = [
    pytest.mark.real_ollama,
    pytest.mark.skipif(not supported(), reason="needs Linux on x86-64 with gcc"),
    pytest.mark.xdist_group("real_ollama"),
]

MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]
TWO_FAULTS = [status(503), reset()]


@pytest.fixture(scope="module")
def server() -> Iterator[RealOllama]:
    with RealOllama() as server:
        yield server


@pytest.fixture
def proxy(server: RealOllama) -> Iterator[FaultProxy]:
    with FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def native(shield: Shield, proxy: FaultProxy) -> Iterator[ollama.Client]:
    client = ollama.Client(host=proxy.url)
    yield client
    client._client.close()


@pytest.fixture
def compatible(shield: Shield, proxy: FaultProxy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none") as client:
        yield client


def recovered(shield: Shield, proxy: FaultProxy, name: str) -> Any:
    """The operation, which took three attempts, each with its request on the wire."""
    operation = shield.signals.operation()
    assert operation.name == f"{name} {TINY}"
    assert has(operation, resilience__attempt__count=3, error__type=None)
    assert len(proxy.exchanges) == 3
    assert get(shield.signals.attempts(), "error.type")[::2] == ["503", None]
    return operation


def test_chat(native: ollama.Client, shield: Shield, proxy: FaultProxy) -> None:
    proxy.plan("POST", "/api/chat", TWO_FAULTS)
    answer = native.chat(TINY, MESSAGES)
    operation = recovered(shield, proxy, "chat")
    assert has(
        operation,
        gen_ai__response__finish_reasons=("stop",),
        gen_ai__usage__input_tokens=answer["prompt_eval_count"],
        gen_ai__usage__output_tokens=answer["eval_count"],
    )


def test_stream(native: ollama.Client, shield: Shield, proxy: FaultProxy) -> None:
    proxy.plan("POST", "/api/chat", [status(503), drop(after_bytes=0)])
    parts = list(native.chat(TINY, MESSAGES, stream=True))
    assert len(parts) > 10
    operation = recovered(shield, proxy, "chat")
    assert attributes(operation)["gen_ai.response.time_to_first_chunk"] > 0


def test_embed(native: ollama.Client, shield: Shield, proxy: FaultProxy) -> None:
    proxy.plan("POST", "/api/embed", TWO_FAULTS)
    assert len(native.embed(TINY, ["a", "b"])["embeddings"]) == 2
    recovered(shield, proxy, "embeddings")


def test_openais_chat(compatible: openai.OpenAI, shield: Shield, proxy: FaultProxy) -> None:
    proxy.plan("POST", "/v1/chat/completions", TWO_FAULTS)
    answer = compatible.chat.completions.create(model=TINY, messages=MESSAGES)
    operation = recovered(shield, proxy, "chat")
    assert answer.usage is not None
    assert has(operation, gen_ai__response__id=answer.id, gen_ai__usage__output_tokens=answer.usage.completion_tokens)


def test_openais_stream(compatible: openai.OpenAI, shield: Shield, proxy: FaultProxy) -> None:
    proxy.plan("POST", "/v1/chat/completions", [status(503), drop(after_bytes=0)])
    assert len(list(compatible.chat.completions.create(model=TINY, messages=MESSAGES, stream=True))) > 10
    recovered(shield, proxy, "chat")


def test_openais_embeddings(compatible: openai.OpenAI, shield: Shield, proxy: FaultProxy) -> None:
    proxy.plan("POST", "/v1/embeddings", TWO_FAULTS)
    assert len(compatible.embeddings.create(model=TINY, input="a").data[0].embedding) > 10
    recovered(shield, proxy, "embeddings")
