"""ollama: names and attributes of its calls, files sent again whole, and a timeout where it has none."""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from stormproof.demo.ollama_wire import OllamaWire
from stormproof.demo.proxy import FaultProxy, reset_after, status
from tests.unit.signals import attributes, has

from .drivers import MESSAGES
from .shield import Shield

MODEL = "tiny"


@pytest.fixture
def proxy(proxy_of: Callable[[str], FaultProxy]) -> FaultProxy:
    return proxy_of("ollama")


@pytest.fixture
def client(shield: Shield, proxy: FaultProxy) -> Iterator[ollama.Client]:
    client = ollama.Client(host=proxy.url)
    yield client
    client._client.close()


CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    (f"chat {MODEL}", lambda client: client.chat(MODEL, MESSAGES)),
    (f"text_completion {MODEL}", lambda client: client.generate(MODEL, "hello there")),
    (f"embeddings {MODEL}", lambda client: client.embed(MODEL, ["a", "b"])),
    (f"embeddings {MODEL}", lambda client: client.embeddings(MODEL, "a")),
    ("list", lambda client: client.list()),
    ("ps", lambda client: client.ps()),
    (f"show {MODEL}", lambda client: client.show(MODEL)),
]


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_each_call_recovers_and_is_named(
    shield: Shield, client: ollama.Client, proxy: FaultProxy, name: str, call: Callable[[Any], Any]
) -> None:
    proxy.plan("*", ".", [status(503)])
    recovered = call(client)
    shield.off()
    assert type(recovered) is type(call(client))
    operation = shield.signals.operation()
    assert operation.name.removesuffix(f" {MODEL}") == name.removesuffix(f" {MODEL}")  # 0.3 calls show's model a name
    assert has(operation, gen_ai__provider__name="ollama", resilience__attempt__count=2)


def test_attributes(shield: Shield, client: ollama.Client) -> None:
    options = {"temperature": 0.5, "top_k": 3, "seed": 1, "num_predict": 2, "stop": ["!"]}
    answer = client.chat(MODEL, MESSAGES, options=options)
    assert has(
        shield.signals.operation(),
        gen_ai__request__model=MODEL,
        gen_ai__request__temperature=0.5,
        gen_ai__request__top_k=3,
        gen_ai__request__seed=1,
        gen_ai__request__max_tokens=2,
        gen_ai__request__stop_sequences=("!",),
        gen_ai__response__model=answer["model"],
        gen_ai__response__finish_reasons=("length",),
        gen_ai__usage__input_tokens=answer["prompt_eval_count"],
        gen_ai__usage__output_tokens=2,
    )
    assert "One two" not in str([dict(attributes(span)) for span in shield.signals.spans])


def test_a_missing_model_is_not_asked_for_again(shield: Shield) -> None:
    with OllamaWire(models=["other"]) as wire, FaultProxy(wire.url) as proxy:
        client = ollama.Client(host=proxy.url)
        with pytest.raises(ollama.ResponseError, match="not found") as raised:
            client.chat(MODEL, MESSAGES)
        client._client.close()
        assert raised.value.status_code == 404
        assert len(proxy.exchanges) == 1
    assert shield.target("ollama").breaker.calls["success"] == 1


@pytest.mark.parametrize(("headers", "outcome"), [({}, "failure"), ({"Retry-After": "1"}, "ignored")], ids=str)
def test_busy_with_a_time_to_come_back_is_not_broken(
    shield: Shield, client: ollama.Client, proxy: FaultProxy, headers: dict[str, str], outcome: str
) -> None:
    proxy.plan("*", ".", [status(503, headers)])
    client.list()
    assert shield.target("ollama").breaker.calls[outcome] == 1


def test_a_stream_that_is_never_read_sends_nothing(shield: Shield, client: ollama.Client, proxy: FaultProxy) -> None:
    client.chat(MODEL, MESSAGES, stream=True)
    gc.collect()
    assert (proxy.exchanges, shield.signals.spans) == ([], [])


def test_a_streams_parent_is_the_span_it_was_asked_in(shield: Shield, client: ollama.Client) -> None:
    tracer = shield.signals.tracer_provider.get_tracer("app")
    with tracer.start_as_current_span("asked"):
        stream = client.chat(MODEL, MESSAGES, stream=True)
    with tracer.start_as_current_span("read"):
        assert list(stream)
    (asked,) = shield.signals.named("asked")
    assert shield.signals.operation().parent == asked.context


def test_yield_from_works(shield: Shield, client: ollama.Client) -> None:
    def relay() -> Generator[Any, None, None]:
        yield from client.generate(MODEL, "hello there", stream=True)

    assert len(list(relay())) > 3
    relayed = relay()
    next(relayed)
    relayed.close()
    assert len(shield.signals.operations()) == 2


def test_the_modules_own_functions(shield: Shield, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    default: Any = ollama.list.__self__  # type: ignore[attr-defined]
    with httpx.Client(base_url=proxy.url) as http:
        monkeypatch.setattr(default, "_client", http)
        proxy.plan("*", ".", [status(503)])
        assert ollama.chat(MODEL, MESSAGES)["message"]
    assert has(shield.signals.operation(), resilience__attempt__count=2)


class TestBlobs:
    def bodies(self, proxy: FaultProxy) -> list[bytes]:
        return [seen.body for seen in proxy.exchanges if seen.method == "POST"]

    def test_a_file_is_sent_again_from_its_beginning(
        self, client: ollama.Client, proxy: FaultProxy, tmp_path: Path
    ) -> None:
        if not hasattr(client, "create_blob"):
            pytest.skip("this ollama sends blobs on its own")
        path = tmp_path / "model"
        path.write_bytes(b"weights" * 1000)
        proxy.plan("POST", "/api/blobs/", [status(503), reset_after(), status(201)])
        client.create_blob(path)
        assert self.bodies(proxy) == [b"weights" * 1000] * 3

    def test_asynchronously_it_is_never_sent_half(self, shield: Shield, proxy: FaultProxy, tmp_path: Path) -> None:
        path = tmp_path / "model"
        path.write_bytes(b"weights" * 1000)
        proxy.plan("POST", "/api/blobs/", [status(503), status(201)])

        async def main() -> None:
            client = ollama.AsyncClient(host=proxy.url)
            if not hasattr(client, "create_blob"):
                pytest.skip("this ollama sends blobs on its own")
            try:
                with pytest.raises(ollama.ResponseError):
                    await client.create_blob(path)
            finally:
                await client._client.aclose()

        asyncio.run(main())
        assert self.bodies(proxy) == [b"weights" * 1000]


class TestTimeouts:
    """ollama's own default is to wait for ever."""

    def seen(self, client: Any) -> Any:
        timeouts: list[Any] = []
        client._client.event_hooks = {"request": [lambda request: timeouts.append(request.extensions["timeout"])]}
        client.list()
        return timeouts[0]

    def test_without_one_there_is_an_end_all_the_same(self, client: ollama.Client) -> None:
        assert self.seen(client)["read"] == 600

    def test_the_users_own_is_kept(self, shield: Shield, proxy: FaultProxy) -> None:
        client = ollama.Client(host=proxy.url, timeout=7)
        assert self.seen(client) == dict.fromkeys(("connect", "read", "write", "pool"), 7)
        client._client.close()

    def test_a_limit_of_ours_cuts_both(self, shield: Shield, proxy: FaultProxy) -> None:
        shield.again(TIMEOUT="5s")
        for own in (None, 60):
            client = ollama.Client(host=proxy.url, timeout=own)
            assert self.seen(client)["read"] == 5
            client._client.close()


def test_the_default_client_of_the_module_is_left_where_it_is() -> None:
    module = importlib.import_module("ollama._client")
    assert isinstance(ollama.chat.__self__, module.Client)  # type: ignore[attr-defined]
