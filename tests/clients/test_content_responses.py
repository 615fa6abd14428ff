"""The official form of what is said by openai's responses: items in, items out, whole and streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.servers.tolerant import TolerantWire

from .content import INPUT, INSTRUCTIONS, OUTPUT, TOOLS, record
from .drivers import MODEL
from .shield import Shield
from .test_content_forms import CALL, FUNCTION, answer, message, text, told

CALLED = {
    "type": "function_call",
    "id": "fc-1",
    "call_id": "call-1",
    "name": "look_up",
    "arguments": '{"word": "two"}',
    "status": "completed",
}
SPOKEN = {
    "type": "message",
    "id": "msg-1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "hi", "annotations": []}],
}
THOUGHT = {"type": "reasoning", "id": "rs-1", "summary": [{"type": "summary_text", "text": "hm"}]}
SEARCHED = {
    "type": "web_search_call",
    "id": "ws-1",
    "status": "completed",
    "action": {"type": "search", "query": "two"},
}
SEARCH = {
    "type": "server_tool_call",
    "id": "ws-1",
    "name": "web_search",
    "server_tool_call": {"type": "web_search", "status": "completed", "action": {"type": "search", "query": "two"}},
}
REASONING = {"type": "reasoning", "content": "hm"}


def response(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "resp-1",
        "object": "response",
        "created_at": 0,
        "model": "served",
        "status": "completed",
        "output": list(output),
        **more,
    }


@pytest.fixture
def ask(shield: Shield) -> Iterator[Callable[..., None]]:
    """Asks and gets this answer; a stream is read to its end."""
    record(shield)
    with TolerantWire({}) as wire, openai.OpenAI(base_url=f"{wire.url}/v1", api_key="none") as client:

        def ask(answered: Any, asked: Any = "two?", **more: Any) -> None:
            wire.answer = answered
            result = _create(client, {"model": MODEL, "input": asked, **more})
            if more.get("stream"):
                list(result)

        yield ask


def _create(client: Any, body: dict[str, Any]) -> Any:
    if hasattr(client, "responses"):
        return client.responses.create(**body)
    stream = {"stream": True, "stream_cls": openai.Stream[object]} if body.get("stream") else {}
    return client.post("/responses", body=body, cast_to=object, **stream)  # as old versions can


@pytest.mark.parametrize(
    ("asked", "form"),
    [
        ("two?", [message("user", text("two?"))]),
        ([{"role": "user", "content": "two?"}], [message("user", text("two?"))]),
        (
            [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}],
            [message("developer", text("Be brief."))],
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}],
            [message("user", {"type": "uri", "modality": "image", "uri": "https://a.example/b.png"})],
        ),
        (
            [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.example/b.pdf"}]}],
            [message("user", {"type": "uri", "modality": "document", "uri": "https://a.example/b.pdf"})],
        ),
        ([CALLED, CALLED], [message("assistant", CALL, CALL)]),
        (
            [CALLED, {"type": "function_call_output", "call_id": "call-1", "output": "2"}],
            [
                message("assistant", CALL),
                message("tool", {"type": "tool_call_response", "id": "call-1", "response": "2"}),
            ],
        ),
        ([THOUGHT, SPOKEN], [message("assistant", REASONING), message("assistant", text("hi"))]),
        ([{"type": "item_reference", "id": "msg-1"}, 7, None], None),
    ],
)
def test_input(shield: Shield, ask: Callable[..., None], asked: Any, form: Any) -> None:
    ask(response(SPOKEN), asked)
    assert told(shield).get(INPUT) == form


@pytest.mark.parametrize(
    ("given", "form"),
    [
        (response(SPOKEN), answer(text("hi"))),
        (response(THOUGHT, SPOKEN), answer(REASONING, text("hi"))),
        (response(SEARCHED, SPOKEN), answer(SEARCH, text("hi"))),
        (response(CALLED), answer(CALL, finish_reason="tool_call")),
        (
            response(SPOKEN, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            answer(text("hi"), finish_reason="length"),
        ),
        (response(SPOKEN, status="failed"), answer(text("hi"), finish_reason="error")),
        (response(), None),
    ],
)
def test_output(shield: Shield, ask: Callable[..., None], given: Any, form: Any) -> None:
    ask(given)
    assert told(shield).get(OUTPUT) == form


def test_instructions_and_tools_without_their_keys(shield: Shield, ask: Callable[..., None]) -> None:
    secret = {"type": "mcp", "server_label": "s", "server_url": "https://a.example", "authorization": "sk-secret"}
    ask(response(SPOKEN), instructions="Be brief.", tools=[{"type": "function", **FUNCTION}, secret])
    said = told(shield)
    assert said[INSTRUCTIONS] == [text("Be brief.")]
    assert said[TOOLS] == [{"type": "function", **FUNCTION}, {"type": "mcp", "name": "mcp"}]


def events(*, ends: bool) -> Iterator[dict[str, Any]]:
    begun = response(status="in_progress")
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.output_item.done", "output_index": 0, "item": THOUGHT}
    for piece in ("h", "i"):
        yield {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": piece}
    if ends:
        yield {"type": "response.output_item.done", "output_index": 1, "item": SPOKEN}
        yield {"type": "response.completed", "response": response(THOUGHT, SPOKEN)}


@pytest.mark.parametrize("ends", [False, True])
def test_streams(shield: Shield, ask: Callable[..., None], ends: bool) -> None:
    ask(list(events(ends=ends)), stream=True)
    [said] = told(shield)[OUTPUT]
    assert said["parts"] == [REASONING, text("hi")]
    assert said.get("finish_reason") == ("stop" if ends else None)
