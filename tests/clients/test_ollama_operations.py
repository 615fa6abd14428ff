"""Each method of ollama's clients, against a server that answers anything: one operation per request, and its name."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from stormproof.demo.proxy import FaultProxy, status
from tests.servers.tolerant import TolerantWire
from tests.unit.signals import attributes, get, has

from .shield import Shield

MODEL, OTHER = "tiny", "other"
DONE: dict[str, Any] = {
    "model": "served",
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 7,
    "eval_count": 5,
    "message": {"role": "assistant", "content": "hi"},
    "response": "hi",
    "embedding": [0.5],
    "embeddings": [[0.5]],
    "models": [],
    "model_info": {},
    "results": [],
    "status": "success",
    "answers": {},
    "usage": {"input_tokens": 7, "output_tokens": 5},
}
PROGRESS: list[dict[str, Any]] = [{"status": "pulling", "total": 2, "completed": 1}, {"status": "success"}]
QUESTION = {"type": "choice", "instructions": "which?", "criteria": {"a": "one", "b": "other"}}

#: What a model is made of: 0.3 wants to know.
CREATED = {
    "model": MODEL,
    **({"modelfile": "FROM tiny"} if "modelfile" in str(inspect.signature(ollama.create)) else {}),
}
#: method → (arguments, operation, the model it names).
METHODS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "chat": ({"model": MODEL, "messages": []}, "chat", MODEL),
    "generate": ({"model": MODEL}, "text_completion", MODEL),
    "embed": ({"model": MODEL, "input": "a"}, "embeddings", MODEL),
    "embeddings": ({"model": MODEL, "prompt": "a"}, "embeddings", MODEL),
    "systemone": ({"model": MODEL, "state": "a", "questions": {"q": QUESTION}}, "systemone", MODEL),
    "pull": ({"model": MODEL}, "pull", MODEL),
    "push": ({"model": MODEL}, "push", MODEL),
    "create": (CREATED, "create", MODEL),
    "show": ({"model": MODEL}, "show", MODEL),
    "delete": ({"model": MODEL}, "delete", MODEL),
    "copy": ({"source": MODEL, "destination": OTHER}, "copy", None),
    "list": ({}, "list", None),
    "ps": ({}, "ps", None),
    "create_blob": ({"path": Path(__file__)}, "create_blob", None),
}
#: They go to another server, wherever the client's own is.
ON_THE_WEB = {"web_search": {"query": "a"}, "web_fetch": {"url": "https://example.invalid/"}}
NO_REQUEST = {"close"}
STREAMS = ("chat", "generate", "pull", "push", "create")


def public_methods() -> set[str]:
    module = importlib.import_module("ollama._client")
    functions = {*inspect.getmembers(module.Client, inspect.isfunction)} | {
        *inspect.getmembers(module.AsyncClient, inspect.isfunction)
    }
    return {name for name, _ in functions if not name.startswith("_")}


def test_the_table_is_complete() -> None:
    assert public_methods() <= {*METHODS, *ON_THE_WEB, *NO_REQUEST}


@pytest.fixture
def wire() -> Iterator[TolerantWire]:
    with TolerantWire(DONE) as wire:
        yield wire


def call(url: str, method: str, arguments: Mapping[str, Any], *, is_async: bool) -> Any:
    """The method's result; the items of its stream."""
    if not hasattr(ollama.Client, method):
        pytest.skip("this version has no such method")
    if not is_async:
        client = ollama.Client(host=url)
        try:
            result = getattr(client, method)(**arguments)
            return list(result) if inspect.isgenerator(result) else result
        finally:
            client._client.close()

    async def main() -> Any:
        client = ollama.AsyncClient(host=url)
        try:
            result = await getattr(client, method)(**arguments)
            return [item async for item in result] if isinstance(result, AsyncIterator) else result
        finally:
            await client._client.aclose()

    return asyncio.run(main())


both_ways = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@both_ways
@pytest.mark.parametrize("method", METHODS)
def test_its_name_and_model(shield: Shield, wire: TolerantWire, method: str, is_async: bool) -> None:
    arguments, name, model = METHODS[method]
    call(wire.url, method, arguments, is_async=is_async)
    operation = shield.signals.operation()
    assert len(wire.requests) == len(shield.signals.attempts()) == 1
    assert operation.name == (f"{name} {model}" if model else name)
    assert has(operation, gen_ai__operation__name=name, gen_ai__provider__name="ollama", gen_ai__request__model=model)
    assert shield.target("ollama").name == f"ollama/127.0.0.1:{wire.port}"


@both_ways
@pytest.mark.parametrize("method", [name for name in METHODS if name != "create_blob"])
def test_it_may_be_repeated_whatever_has_become_of_it(
    shield: Shield, wire: TolerantWire, method: str, is_async: bool
) -> None:
    arguments, _, _ = METHODS[method]
    with FaultProxy(wire.url) as proxy:
        proxy.plan("*", ".", [status(502)])
        call(proxy.url, method, arguments, is_async=is_async)
        assert [exchange.status for exchange in proxy.exchanges] == [502, 200]
    assert get(shield.signals.attempts(), "error.type") == ["502", None]


@both_ways
@pytest.mark.parametrize("method", STREAMS)
def test_streamed(shield: Shield, wire: TolerantWire, method: str, is_async: bool) -> None:
    arguments, name, _ = METHODS[method]
    is_progress = name in ("pull", "push", "create")
    wire.answer = PROGRESS if is_progress else [{**DONE, "done": False, "done_reason": None}, DONE]
    items = call(wire.url, method, {**arguments, "stream": True}, is_async=is_async)
    gc.collect()
    assert len(items) == 2
    operation = shield.signals.operation()
    assert operation.name == f"{name} {MODEL}"
    assert attributes(operation)["gen_ai.response.time_to_first_chunk"] > 0
    assert has(
        operation,
        gen_ai__request__stream=True,
        gen_ai__response__model=None if is_progress else "served",
        gen_ai__response__finish_reasons=None if is_progress else ("stop",),
        gen_ai__usage__input_tokens=None if is_progress else 7,
        gen_ai__usage__output_tokens=None if is_progress else 5,
    )


@both_ways
@pytest.mark.parametrize("method", ON_THE_WEB)
def test_what_goes_to_another_server_has_that_as_its_target(
    shield: Shield, wire: TolerantWire, monkeypatch: pytest.MonkeyPatch, method: str, is_async: bool
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "none")
    shield.again(RETRY__ATTEMPTS=1)
    monkeypatch.setenv("HTTPS_PROXY", wire.url)  # which cannot tunnel: nothing leaves this machine
    with pytest.raises((ConnectionError, httpx.HTTPError)):
        call(wire.url, method, ON_THE_WEB[method], is_async=is_async)
    operation = shield.signals.operation()
    assert operation.name == method
    assert has(operation, server__address="ollama.com", server__port=443)


def test_what_is_wanted_of_the_answer(shield: Shield, wire: TolerantWire) -> None:
    call(wire.url, "chat", {"model": MODEL, "messages": [], "format": "json"}, is_async=False)
    assert has(
        shield.signals.operation(),
        gen_ai__output__type="json",
        gen_ai__request__stream=None,
        gen_ai__response__finish_reasons=("stop",),
    )
