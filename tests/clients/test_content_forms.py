"""The official form of whatever may be said to a model of openai or ollama, and of what it may answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ollama
import openai
import pytest

from tests.servers.tolerant import TolerantWire

from .content import INPUT, INSTRUCTIONS, OUTPUT, TOOLS, Said, in_events, on_span, record
from .drivers import MESSAGES, MODEL
from .shield import Shield

FUNCTION = {"name": "look_up", "description": "Looks up", "parameters": {"type": "object", "properties": {}}}
CALLED = {"id": "call-1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "two"}'}}
CALL = {"type": "tool_call", "id": "call-1", "name": "look_up", "arguments": {"word": "two"}}
PNG = "iVBORw0KGgo="


@pytest.fixture
def wire() -> Iterator[TolerantWire]:
    with TolerantWire({}) as wire:
        yield wire


@pytest.fixture
def client(shield: Shield, wire: TolerantWire) -> Iterator[openai.OpenAI]:
    record(shield)
    with openai.OpenAI(base_url=f"{wire.url}/v1", api_key="none") as client:
        yield client


@pytest.fixture
def native(shield: Shield, wire: TolerantWire) -> Iterator[ollama.Client]:
    record(shield)
    client = ollama.Client(host=wire.url)
    yield client
    client._client.close()


def told(shield: Shield) -> Said:
    """What the span says, and the event too."""
    said = on_span(shield)
    assert in_events(shield) == [said]
    return said


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


def message(role: str, *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts), **more}


def answer(*parts: dict[str, Any], finish_reason: str = "stop") -> list[dict[str, Any]]:
    return [message("assistant", *parts, finish_reason=finish_reason)]


def chat(*choices: Mapping[str, Any], kind: str = "chat.completion") -> dict[str, Any]:
    numbered = [{"index": n, **choice} for n, choice in enumerate(choices)]
    return {"id": "c-1", "object": kind, "created": 0, "model": "served", "choices": numbered}


def choice(finish_reason: str = "stop", **said: Any) -> dict[str, Any]:
    return {"finish_reason": finish_reason, "message": {"role": "assistant", "content": None, **said}}


class TestChat:
    @pytest.mark.parametrize(
        ("said", "form"),
        [
            ({"role": "system", "content": "Be brief."}, message("system", text("Be brief."))),
            ({"role": "user", "content": "Two?", "name": "Ada"}, message("user", text("Two?"), name="Ada")),
            (
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "later"}]},
                message("user", text("a")),
            ),
            (
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]},
                message("user", {"type": "uri", "modality": "image", "uri": "https://a.example/b.png"}),
            ),
            (
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}],
                },
                message("user", {"type": "blob", "mime_type": "image/png", "modality": "image", "content": PNG}),
            ),
            (
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/svg+xml,%3Csvg"}}]},
                message(
                    "user", {"type": "blob", "mime_type": "image/svg+xml", "modality": "image", "content": "PHN2Zw=="}
                ),
            ),
            (
                {
                    "role": "user",
                    "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}],
                },
                message("user", {"type": "blob", "mime_type": "audio/mpeg", "modality": "audio", "content": "AAAA"}),
            ),
            (
                {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
                message("user", {"type": "file", "modality": "document", "file_id": "file-1"}),
            ),
            (
                {"role": "user", "content": [{"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}}]},
                message("user", {"type": "blob", "modality": "document", "content": "AAAA"}),
            ),
            ({"role": "assistant", "tool_calls": [CALLED]}, message("assistant", CALL)),
            ({"role": "assistant", "content": None, "refusal": "No."}, message("assistant", text("No."))),
            (
                {"role": "assistant", "function_call": {"name": "look_up", "arguments": "no JSON"}},
                message("assistant", {"type": "tool_call", "name": "look_up", "arguments": "no JSON"}),
            ),
            (
                {"role": "tool", "tool_call_id": "call-1", "content": "2"},
                message("tool", {"type": "tool_call_response", "id": "call-1", "response": "2"}),
            ),
            (
                {"role": "tool", "tool_call_id": "call-1", "content": [{"type": "text", "text": "2"}]},
                message("tool", {"type": "tool_call_response", "id": "call-1", "response": [text("2")]}),
            ),
        ],
    )
    def test_messages(
        self, shield: Shield, wire: TolerantWire, client: openai.OpenAI, said: Any, form: dict[str, Any]
    ) -> None:
        wire.answer = chat(choice(content="hi"))
        client.chat.completions.create(model=MODEL, messages=[said])
        assert told(shield) == {INPUT: [form], OUTPUT: answer(text("hi"))}

    @pytest.mark.parametrize(
        ("given", "form"),
        [
            (choice("length", content="hi"), answer(text("hi"), finish_reason="length")),
            (choice("content_filter", content=None), answer(finish_reason="content_filter")),
            (choice("tool_calls", tool_calls=[CALLED]), answer(CALL, finish_reason="tool_call")),
            (choice(refusal="No."), answer(text("No."))),
            (
                choice(audio={"id": "a", "data": "AAAA", "transcript": "hi", "expires_at": 0}),
                answer({"type": "blob", "modality": "audio", "content": "AAAA", "transcript": "hi"}),
            ),
        ],
    )
    def test_answers(
        self, shield: Shield, wire: TolerantWire, client: openai.OpenAI, given: Any, form: list[Any]
    ) -> None:
        wire.answer = chat(given)
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert told(shield)[OUTPUT] == form

    def test_tools(self, shield: Shield, wire: TolerantWire, client: openai.OpenAI) -> None:
        wire.answer = chat(choice(content="hi"))
        tools: list[Any] = [
            {"type": "function", "function": FUNCTION},
            {"type": "custom", "custom": {"name": "run", "description": "Runs"}},
        ]
        client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=tools)
        assert told(shield)[TOOLS] == [{"type": "function", **FUNCTION}, {"type": "custom", "name": "run"}]

    def test_a_stream_of_several_choices_with_calls(
        self, shield: Shield, wire: TolerantWire, client: openai.OpenAI
    ) -> None:
        first = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "look_up", "arguments": ""}}
        deltas: Sequence[tuple[int, dict[str, Any], str | None]] = [
            (1, {"role": "assistant", "content": "h"}, None),
            (0, {"role": "assistant", "tool_calls": [first]}, None),
            (1, {"content": "i"}, "stop"),
            (0, {"tool_calls": [{"index": 0, "function": {"arguments": '{"word": '}}]}, None),
            (0, {"tool_calls": [{"index": 0, "function": {"arguments": '"two"}'}}]}, None),
            (0, {}, "tool_calls"),
        ]
        wire.answer = [
            {**chat(kind="chat.completion.chunk"), "choices": [{"index": n, "delta": delta, "finish_reason": reason}]}
            for n, delta, reason in deltas
        ]
        assert len(list(client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2, stream=True))) == 6
        assert told(shield)[OUTPUT] == [*answer(CALL, finish_reason="tool_call"), *answer(text("hi"))]

    @pytest.mark.parametrize("is_async", [False, True])
    def test_raw(self, shield: Shield, wire: TolerantWire, client: openai.OpenAI, is_async: bool) -> None:
        wire.answer = chat(choice(content="hi"))

        async def ask() -> Any:
            async with openai.AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="none") as other:
                return await other.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)

        raw = (
            asyncio.run(ask())
            if is_async
            else client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        )
        assert told(shield)[OUTPUT] == answer(text("hi"))
        assert raw.parse().choices[0].message.content == "hi"

    def test_what_the_app_reads_as_bytes_says_nothing(
        self, shield: Shield, wire: TolerantWire, client: openai.OpenAI
    ) -> None:
        wire.answer = [chat(choice(content="hi"))]
        create = client.chat.completions.with_streaming_response.create
        with create(model=MODEL, messages=MESSAGES, stream=True) as response:
            assert b"hi" in b"".join(response.iter_bytes())
        assert OUTPUT not in told(shield)

    def test_an_iterator_is_left_to_the_client(self, shield: Shield, wire: TolerantWire, client: openai.OpenAI) -> None:
        wire.answer = chat(choice(content="hi"))
        client.chat.completions.create(model=MODEL, messages=iter(MESSAGES))
        assert MESSAGES[0]["content"].split()[0] in str(wire.requests[0].body)
        assert told(shield)[OUTPUT] == answer(text("hi"))


def test_text_completions(shield: Shield, wire: TolerantWire, client: openai.OpenAI) -> None:
    wire.answer = chat({"text": "a", "finish_reason": "stop"}, {"text": "b", "finish_reason": "length"}, kind="text")
    client.completions.create(model=MODEL, prompt=["one", "two"])
    assert told(shield) == {
        INPUT: [message("user", text("one")), message("user", text("two"))],
        OUTPUT: [*answer(text("a")), *answer(text("b"), finish_reason="length")],
    }


def test_a_prompt_of_tokens_says_nothing(shield: Shield, wire: TolerantWire, client: openai.OpenAI) -> None:
    wire.answer = [
        chat({"text": part, "finish_reason": end}, kind="text") for part, end in (("a", None), ("b", "stop"))
    ]
    list(client.completions.create(model=MODEL, prompt=[1, 2, 3], stream=True))
    assert told(shield) == {OUTPUT: answer(text("ab"))}


def test_what_has_no_messages_has_no_content(shield: Shield, wire: TolerantWire, client: openai.OpenAI) -> None:
    wire.answer = {"object": "list", "data": [{"index": 0, "object": "embedding", "embedding": [0.0]}], "model": "m"}
    client.embeddings.create(model=MODEL, input="two?", encoding_format="float")
    assert on_span(shield) == {}
    assert in_events(shield) == []


class TestOllama:
    def test_chat(self, shield: Shield, wire: TolerantWire, native: ollama.Client) -> None:
        called = {"function": {"name": "look_up", "arguments": {"word": "two"}}}
        wire.answer = {
            "model": "served",
            "message": {"role": "assistant", "content": "", "tool_calls": [called]},
            "done": True,
            "done_reason": "stop",
        }
        asked: list[Any] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is it?", "images": [PNG]},
            {"role": "assistant", "content": "", "tool_calls": [called]},
            {"role": "tool", "content": "2"},
        ]
        native.chat("tiny", asked, tools=[{"type": "function", "function": FUNCTION}])
        call = {name: value for name, value in CALL.items() if name != "id"}
        said = told(shield)
        assert [tool["name"] for tool in said[TOOLS]] == ["look_up"]
        assert {name: said[name] for name in (INPUT, OUTPUT)} == {
            INPUT: [
                message("system", text("Be brief.")),
                message("user", text("What is it?"), {"type": "blob", "modality": "image", "content": PNG}),
                message("assistant", call),
                message("tool", {"type": "tool_call_response", "response": "2"}),
            ],
            OUTPUT: answer(call, finish_reason="tool_call"),
        }

    @pytest.mark.parametrize("streams", [False, True])
    def test_generate(self, shield: Shield, wire: TolerantWire, native: ollama.Client, streams: bool) -> None:
        parts = [{"thinking": "hm", "response": ""}, {"response": "h"}, {"response": "i", "done_reason": "length"}]
        whole = {"model": "served", "thinking": "hm", "response": "hi", "done": True, "done_reason": "length"}
        wire.answer = [{"model": "served", "done": part is parts[-1], **part} for part in parts] if streams else whole
        generate: Any = native.generate
        result = generate("tiny", "two?", system="Be brief.", stream=streams)
        if streams:
            list(result)
        assert told(shield) == {
            INSTRUCTIONS: [text("Be brief.")],
            INPUT: [message("user", text("two?"))],
            OUTPUT: answer({"type": "reasoning", "content": "hm"}, text("hi"), finish_reason="length"),
        }

    def test_embeddings_have_no_content(self, shield: Shield, wire: TolerantWire, native: ollama.Client) -> None:
        wire.answer = {"model": "served", "embeddings": [[0.0]], "embedding": [0.0]}
        native.embeddings("tiny", "two?")
        assert on_span(shield) == {}
        assert in_events(shield) == []
