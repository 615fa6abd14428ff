"""What is said to ollama's models and what they answer, where it is asked for: see ``clients/content.py``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from stormproof.clients.content import INFERENCE, Pieces, Said, blob, each, listed, message, text, tool, tool_call
from stormproof.clients.content import tool_response as response
from stormproof.clients.facts import get
from stormproof.clients.ollama import Ollama
from stormproof.clients.patching import harmless
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.operation import Operation


class OllamaWithContent(Ollama):
    """Tells what is said, too."""

    def request_facts(self, operation: str, body: dict[str, Any]) -> Facts:
        facts = super().request_facts(operation, body)
        if operation in INFERENCE:
            facts |= harmless(_asked, body, otherwise={})
        return facts

    def answer_facts(self, call: Call, answer: Any) -> Facts:
        facts = super().answer_facts(call, answer)
        if call.operation in INFERENCE:
            facts["answers"] = functools.partial(_answers, answer)
        return facts

    def observe(self, operation: Operation, item: Any) -> None:
        super().observe(operation, item)
        if operation.call.operation in INFERENCE:
            operation.facts.setdefault("answers", _Gathered()).add(item)


def _asked(body: Mapping[str, Any]) -> Facts:
    """Chat has messages; generate has a prompt, images and a system prompt beside them."""
    if "messages" in body:
        messages = each(_message, body["messages"])
    else:
        parts = [*text(body.get("prompt")), *_images(body)]
        messages = [message("user", parts)] if parts else []
    tools = each(tool, body.get("tools"))
    return {"messages": messages, "instructions": text(body.get("system")), "tools": tools}


def _message(said: Any) -> list[Said]:
    if get(said, "role") == "tool":
        return [message("tool", [response(get(said, "tool_call_id"), get(said, "content"))])]
    return [message(get(said, "role"), [*_parts(said), *_images(said)])]


def _parts(said: Any) -> list[Said]:
    return [
        *text(get(said, "thinking"), "reasoning"),
        *text(get(said, "content")),
        *each(_call, get(said, "tool_calls")),
    ]


def _call(called: Any) -> list[Said]:
    function = get(called, "function")
    return [tool_call(None, get(function, "name"), get(function, "arguments"))]


def _images(said: Any) -> list[Said]:
    return each(functools.partial(blob, "image"), get(said, "images"))


def _answers(answer: Any) -> list[Said]:
    said = get(answer, "message")
    if said is None:  # generate's
        parts = [*text(get(answer, "thinking"), "reasoning"), *text(get(answer, "response"))]
    else:
        parts = _parts(said)
    return [message("assistant", parts, finish_reason=_finish_reason(get(answer, "done_reason"), parts))]


def _finish_reason(reason: Any, parts: list[Said]) -> Any:
    return "tool_call" if reason == "stop" and any(part["type"] == "tool_call" for part in parts) else reason


class _Gathered(Pieces):
    """The answer of a stream: text in pieces, calls of tools whole."""

    def __init__(self) -> None:
        super().__init__()
        self._thoughts: list[str] = []
        self._words: list[str] = []
        self._calls: list[Any] = []
        self._reason: Any = None

    def add(self, item: Any) -> None:
        """One item of the stream."""
        said = get(item, "message")
        self.keep(self._thoughts, get(item if said is None else said, "thinking"))
        self.keep(self._words, get(item, "response") if said is None else get(said, "content"))
        self._calls += listed(get(said, "tool_calls"))
        self._reason = get(item, "done_reason") or self._reason

    def __call__(self) -> list[Said]:
        said = {"thinking": "".join(self._thoughts), "content": "".join(self._words), "tool_calls": self._calls}
        return _answers({"message": said, "done_reason": self._reason})
