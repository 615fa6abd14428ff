"""openai: the official attributes of each kind of answer, in each of the ways to take it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from stormproof.demo.proxy import FaultProxy, status
from tests.servers.tolerant import TolerantWire
from tests.unit.signals import attributes, failed, has

from .drivers import MESSAGES, MODEL
from .shield import Shield

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
CHAT = {
    "id": "chat-1",
    "object": "chat.completion",
    "created": 0,
    "model": "served",
    "service_tier": "default",
    "system_fingerprint": "fp",
    "choices": [
        {"index": n, "finish_reason": reason, "message": {"role": "assistant", "content": "hi"}}
        for n, reason in enumerate(("stop", "length"))
    ],
    "usage": USAGE,
}
OF_CHAT = {
    "openai__api__type": "chat_completions",
    "gen_ai__response__id": "chat-1",
    "gen_ai__response__model": "served",
    "gen_ai__response__finish_reasons": ("stop", "length"),
    "gen_ai__usage__input_tokens": 7,
    "gen_ai__usage__output_tokens": 5,
    "gen_ai__usage__cache_read__input_tokens": 3,
    "gen_ai__usage__reasoning__output_tokens": 2,
    "openai__response__service_tier": "default",
    "openai__response__system_fingerprint": "fp",
}


def _chunk(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**CHAT, "object": "chat.completion.chunk", "choices": choices, "usage": usage}


CHAT_STREAM = [
    _chunk([{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]),
    _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    _chunk([{"index": 1, "delta": {}, "finish_reason": "length"}]),
    _chunk([], USAGE),
]

RESPONSE = {
    "id": "resp-1",
    "object": "response",
    "created_at": 0,
    "model": "served",
    "status": "completed",
    "service_tier": "flex",
    "output": [],
    "usage": {
        "input_tokens": 7,
        "output_tokens": 5,
        "total_tokens": 12,
        "input_tokens_details": {"cached_tokens": 3},
        "output_tokens_details": {"reasoning_tokens": 2},
    },
}
OF_RESPONSE = {
    "openai__api__type": "responses",
    "gen_ai__response__id": "resp-1",
    "gen_ai__response__model": "served",
    "gen_ai__response__finish_reasons": ("completed",),
    "gen_ai__usage__input_tokens": 7,
    "gen_ai__usage__output_tokens": 5,
    "gen_ai__usage__cache_read__input_tokens": 3,
    "gen_ai__usage__reasoning__output_tokens": 2,
    "openai__response__service_tier": "flex",
}
INCOMPLETE = {**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}


def events(last: str, response: dict[str, Any]) -> list[dict[str, Any]]:
    begun = {**RESPONSE, "status": "in_progress", "usage": None}
    return [
        {"type": "response.created", "sequence_number": 0, "response": begun},
        {"type": "response.in_progress", "sequence_number": 1, "response": begun},
        {"type": last, "sequence_number": 2, "response": response},
    ]


has_responses = pytest.mark.skipif(not hasattr(openai.OpenAI, "responses"), reason="this version has no responses")


@pytest.fixture
def wire() -> Iterator[TolerantWire]:
    with TolerantWire(CHAT) as wire:
        yield wire


@pytest.fixture
def client(shield: Shield, wire: TolerantWire) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{wire.url}/v1", api_key="none") as client:
        yield client


def ask(create: Callable[..., Any], **options: Any) -> Any:
    return create(model=MODEL, messages=MESSAGES, n=2, **options)


def in_async(wire: TolerantWire, work: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="none") as client:
            await work(client)

    asyncio.run(main())


class TestChat:
    def test_whole(self, shield: Shield, client: openai.OpenAI) -> None:
        ask(
            client.chat.completions.create,
            service_tier="auto",
            response_format={"type": "json_object"},
            extra_body={"temperature": 0.5, "max_completion_tokens": 9},
        )
        assert has(
            shield.signals.operation(),
            **OF_CHAT,
            gen_ai__request__choice__count=2,
            gen_ai__request__max_tokens=9,
            gen_ai__request__temperature=0.5,
            gen_ai__output__type="json",
            openai__request__service_tier="auto",
            gen_ai__request__stream=None,
        )

    def test_raw(self, shield: Shield, client: openai.OpenAI) -> None:
        raw = ask(client.chat.completions.with_raw_response.create)
        assert has(shield.signals.operation(), **OF_CHAT)
        assert raw.parse().id == "chat-1"

    def test_streaming_response_read_whole(self, shield: Shield, client: openai.OpenAI) -> None:
        with ask(client.chat.completions.with_streaming_response.create) as response:
            assert shield.signals.operations() == []
            assert response.parse().id == "chat-1"
        assert has(shield.signals.operation(), **OF_CHAT)

    def test_streaming_response_read_whole_asynchronously(self, shield: Shield, wire: TolerantWire) -> None:
        async def work(client: Any) -> None:
            async with ask(client.chat.completions.with_streaming_response.create) as response:
                assert shield.signals.operations() == []
                assert (await response.parse()).id == "chat-1"

        in_async(wire, work)
        assert has(shield.signals.operation(), **OF_CHAT)

    def test_streamed(self, shield: Shield, client: openai.OpenAI, wire: TolerantWire) -> None:
        wire.answer = CHAT_STREAM
        assert len(list(ask(client.chat.completions.create, stream=True))) == 4
        assert has(shield.signals.operation(), **OF_CHAT, gen_ai__request__stream=True)

    def test_streamed_raw(self, shield: Shield, client: openai.OpenAI, wire: TolerantWire) -> None:
        wire.answer = CHAT_STREAM
        raw = ask(client.chat.completions.with_raw_response.create, stream=True)
        assert raw.parse() is raw.parse()
        assert len(list(raw.parse())) == 4
        assert has(shield.signals.operation(), **OF_CHAT)
        assert attributes(shield.signals.operation())["gen_ai.response.time_to_first_chunk"] > 0

    @pytest.mark.parametrize("way", ["with_raw_response", "with_streaming_response"])
    def test_streamed_raw_asynchronously(self, shield: Shield, wire: TolerantWire, way: str) -> None:
        wire.answer = CHAT_STREAM

        async def work(client: Any) -> None:
            create = getattr(client.chat.completions, way).create
            if way == "with_raw_response":
                stream = (await ask(create, stream=True)).parse()
                assert len([chunk async for chunk in stream]) == 4
                return
            async with ask(create, stream=True) as response:
                assert len([chunk async for chunk in await response.parse()]) == 4

        in_async(wire, work)
        assert has(shield.signals.operation(), **OF_CHAT)


@has_responses
class TestResponses:
    def test_whole(self, shield: Shield, client: Any, wire: TolerantWire) -> None:
        wire.answer = RESPONSE
        wanted = {"type": "json_schema", "name": "a", "schema": {}}
        client.responses.create(
            model=MODEL, input="hello", max_output_tokens=9, conversation="conv", text={"format": wanted}
        )
        operation = shield.signals.operation()
        assert operation.name == f"chat {MODEL}"
        assert has(
            operation,
            **OF_RESPONSE,
            gen_ai__request__max_tokens=9,
            gen_ai__conversation__id="conv",
            gen_ai__output__type="json",
        )

    @pytest.mark.parametrize("way", ["create", "stream"])
    def test_streamed(self, shield: Shield, client: Any, wire: TolerantWire, way: str) -> None:
        wire.answer = events("response.completed", RESPONSE)
        if way == "create":
            assert len(list(client.responses.create(model=MODEL, input="hello", stream=True))) == 3
        else:
            with client.responses.stream(model=MODEL, input="hello") as stream:
                next(iter(stream))
                stream.until_done()
        assert has(shield.signals.operation(), **OF_RESPONSE)
        assert attributes(shield.signals.operation())["gen_ai.response.time_to_first_chunk"] > 0

    def test_cut_short(self, shield: Shield, client: Any, wire: TolerantWire) -> None:
        wire.answer = events("response.incomplete", INCOMPLETE)
        list(client.responses.create(model=MODEL, input="hello", stream=True))
        wire.answer = INCOMPLETE
        client.responses.create(model=MODEL, input="hello")
        for operation in shield.signals.operations():
            assert has(operation, gen_ai__response__finish_reasons=("max_output_tokens",))
            assert not failed(operation)

    def test_left_early_it_has_no_finish_reason(self, shield: Shield, client: Any, wire: TolerantWire) -> None:
        wire.answer = events("response.completed", RESPONSE)
        with client.responses.create(model=MODEL, input="hello", stream=True) as stream:
            next(stream)
        assert has(shield.signals.operation(), gen_ai__response__id="resp-1", gen_ai__response__finish_reasons=None)


class TestOthers:
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_run_of_an_assistant(self, shield: Shield, client: Any, wire: TolerantWire) -> None:
        wire.answer = {"id": "run-1", "model": "served", "status": "completed", "usage": USAGE}
        client.beta.threads.runs.create("thread_x", assistant_id="asst_x")
        operation = shield.signals.operation()
        assert operation.name == "invoke_agent"
        assert has(
            operation,
            gen_ai__agent__id="asst_x",
            gen_ai__conversation__id="thread_x",
            gen_ai__response__id="run-1",
            gen_ai__response__finish_reasons=("completed",),
            gen_ai__usage__output_tokens=5,
        )

    def test_images(self, shield: Shield, client: Any, wire: TolerantWire) -> None:
        wire.answer = {"created": 0, "data": [], "usage": {"input_tokens": 7, "output_tokens": 5}}
        client.images.generate(model="image-model", prompt="a cat")
        operation = shield.signals.operation()
        assert operation.name == "generate_content image-model"
        assert has(operation, gen_ai__output__type="image", gen_ai__usage__output_tokens=5)

    def test_what_no_model_has_made_has_no_response_id(self, shield: Shield, client: Any, wire: TolerantWire) -> None:
        wire.answer = {"id": "file-1", "object": "file", "status": "processed"}
        client.files.retrieve("file-1")
        assert has(shield.signals.operation(), gen_ai__response__id=None, gen_ai__response__finish_reasons=None)

    def test_each_page_is_an_operation(self, shield: Shield, client: Any, wire: TolerantWire) -> None:
        wire.answer = {"object": "list", "data": [{"id": "a"}], "has_more": True}
        pages = iter(client.fine_tuning.jobs.list())
        next(pages)
        next(pages)
        assert [operation.name for operation in shield.signals.operations()] == ["get fine_tuning/jobs"] * 2

    def test_an_address_of_its_own(self, shield: Shield, client: Any) -> None:
        with TolerantWire(CHAT) as other:
            client.post(f"{other.url}/v7/chat/completions", body={"model": MODEL}, cast_to=object)
            assert len(other.requests) == 1
            operation = shield.signals.operation()
            assert operation.name == f"chat {MODEL}"
            assert has(operation, server__port=other.port)

    def test_what_is_not_openais_has_no_name(self, shield: Shield, client: Any) -> None:
        client.get("/my-tenant/my-secret", cast_to=object)
        assert shield.signals.operation().name == "get _OTHER"


class TestAzure:
    class Mine(openai.AzureOpenAI):
        """An app's own client."""

    @pytest.mark.parametrize("make", [openai.AzureOpenAI, Mine])
    @pytest.mark.parametrize("body", [{"model": "gpt"}, {}], ids=["model", "no model"])
    def test_the_deployment_is_the_model(
        self, shield: Shield, wire: TolerantWire, make: type[openai.AzureOpenAI], body: dict[str, str]
    ) -> None:
        with make(
            azure_endpoint=wire.url, azure_deployment="my-deployment", api_key="none", api_version="2024-06-01"
        ) as client:
            client.post("/chat/completions", body=body, cast_to=object)
        assert wire.requests[0].path == "/openai/deployments/my-deployment/chat/completions"
        operation = shield.signals.operation()
        assert operation.name == f"chat {body.get('model', 'my-deployment')}"
        assert has(operation, gen_ai__provider__name="azure.ai.openai", gen_ai__response__id="chat-1")


def test_a_raw_answer_that_is_not_json_is_left_alone(shield: Shield, client: Any, wire: TolerantWire) -> None:
    with FaultProxy(wire.url) as proxy:
        proxy.plan("POST", ".", [status(200, {"content-type": "application/json"}, "not JSON")])
        raw = client.with_options(base_url=f"{proxy.url}/v1").chat.completions.with_raw_response
        assert ask(raw.create).http_response.text == "not JSON"
    assert not failed(shield.signals.operation())
