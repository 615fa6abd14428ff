"""What is said to openai's models and what they answer, where it is asked for: see ``clients/content.py``.

Chat completions, responses and text completions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from stormproof.clients import openai_items as items
from stormproof.clients.content import INFERENCE, Pieces, Said, blob, each, listed, message, text, tool, tool_call
from stormproof.clients.content import tool_response as response
from stormproof.clients.facts import get
from stormproof.clients.openai import OpenAI
from stormproof.clients.openai_answers import observe
from stormproof.clients.openai_calls import Request, request_facts
from stormproof.clients.patching import harmless
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.operation import Operation

_FINISH_REASONS = {"tool_calls": "tool_call", "function_call": "tool_call"}


def _request_facts(api: Any, request: Request, url: str, body: Mapping[str, Any]) -> Facts:
    facts = request_facts(api, request, url, body)
    if request.operation in INFERENCE:
        facts |= harmless(_asked, body, otherwise={})
    return facts


def _observe(operation: Operation, chunk: Any) -> None:
    observe(operation, chunk)
    if operation.call.operation in INFERENCE:
        operation.facts.setdefault("answers", _Gathered()).add(chunk)


class OpenAIWithContent(OpenAI):
    """Tells what is said, too."""

    request_facts = staticmethod(_request_facts)
    observe = staticmethod(_observe)

    def answer_facts(self, call: Call, answer: Any) -> Facts:
        facts = super().answer_facts(call, answer)
        if call.operation in INFERENCE:
            facts["answers"] = functools.partial(_answers, answer)
        return facts


def _asked(body: Mapping[str, Any]) -> Facts:
    """Chat has messages, responses have an input, text completions a prompt, or several."""
    if "messages" in body:
        messages = each(_message, body["messages"])
    elif "input" in body:
        messages = items.messages(body["input"])
    else:
        prompt = body.get("prompt")
        messages = each(_prompt, [prompt] if isinstance(prompt, str) else prompt)
    tools = [*listed(body.get("tools")), *listed(body.get("functions"))]
    return {
        "messages": messages,
        "instructions": text(body.get("instructions")),
        "tools": each(tool, tools),
    }


def _prompt(prompt: Any) -> list[Said]:
    """One that is given as tokens says nothing."""
    return [message("user", text(prompt))] if isinstance(prompt, str) else []


def _message(said: Any) -> list[Said]:
    """A message of a chat."""
    role, content = get(said, "role"), get(said, "content")
    if role in ("tool", "function"):
        spoken = content if isinstance(content, str) else items.parts(content)
        return [message(role, [response(get(said, "tool_call_id"), spoken)], name=get(said, "name"))]
    return [message(role, [*items.parts(content), *_more(said)], name=get(said, "name"))]


def _more(said: Any) -> list[Said]:
    """What a message of a model has beside its content."""
    audio = get(said, "audio")
    function = get(said, "function_call")  # as it was called before there were tools
    return [
        *text(get(said, "refusal")),
        *blob("audio", get(audio, "data"), transcript=get(audio, "transcript")),
        *each(_call, get(said, "tool_calls")),
        *(_call({"function": function}) if function is not None else ()),
    ]


def _call(called: Any) -> list[Said]:
    """A function with its arguments, or a tool that takes text."""
    inner = get(called, "function") or get(called, "custom")
    arguments = get(inner, "arguments")
    return [tool_call(get(called, "id"), get(inner, "name"), get(inner, "input") if arguments is None else arguments)]


def _answers(answer: Any) -> list[Said]:
    """One message for each choice; an answer of responses is one."""
    choices = get(answer, "choices")
    return items.answers(answer) if choices is None else each(_choice, choices)


def _choice(choice: Any) -> list[Said]:
    said, reason = get(choice, "message"), get(choice, "finish_reason")
    parts = text(get(choice, "text")) if said is None else [*items.parts(get(said, "content")), *_more(said)]
    return [message(get(said, "role") or "assistant", parts, finish_reason=_FINISH_REASONS.get(reason, reason))]


class _Gathered(Pieces):
    """The answer of a stream. Responses tell it whole at the end: their pieces count where that does not come."""

    def __init__(self) -> None:
        super().__init__()
        self._choices: dict[int, _Choice] = {}
        self._response = items.Gathered(self)

    def add(self, chunk: Any) -> None:
        """One chunk of the stream, or one event of responses."""
        choices = get(chunk, "choices")
        if choices is None:
            self._response.add(chunk)
        for choice in listed(choices):
            index = get(choice, "index") or 0
            self._choices.setdefault(index, _Choice()).add(choice, self)

    def __call__(self) -> list[Said]:
        if not self._choices:
            return self._response.answers()
        return each(_choice, [choice.whole() for _, choice in sorted(self._choices.items())])


class _Choice:
    """One choice of a stream."""

    def __init__(self) -> None:
        self._text: dict[str, list[str]] = {"content": [], "refusal": []}
        self._calls: dict[int, dict[str, Any]] = {}
        self._reason: Any = None

    def add(self, choice: Any, pieces: Pieces) -> None:
        self._reason = get(choice, "finish_reason") or self._reason
        delta = get(choice, "delta")
        if delta is None:  # of a text completion
            pieces.keep(self._text["content"], get(choice, "text"))
            return
        for name, kept in self._text.items():
            pieces.keep(kept, get(delta, name))
        for called in listed(get(delta, "tool_calls")):
            call = self._calls.setdefault(get(called, "index") or 0, {"id": None, "name": None, "arguments": []})
            inner = get(called, "function") or get(called, "custom")
            call["id"] = get(called, "id") or call["id"]
            call["name"] = get(inner, "name") or call["name"]
            pieces.keep(call["arguments"], get(inner, "arguments") or get(inner, "input"))

    def whole(self) -> dict[str, Any]:
        """As the choice of a whole answer."""
        calls = [
            {"id": call["id"], "function": {"name": call["name"], "arguments": "".join(call["arguments"])}}
            for _, call in sorted(self._calls.items())
        ]
        said = {name: "".join(kept) for name, kept in self._text.items()}
        return {"message": {**said, "tool_calls": calls}, "finish_reason": self._reason}
