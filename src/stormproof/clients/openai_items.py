"""The parts of messages of chat and responses, and the items that the input and the output of responses are made of."""

from __future__ import annotations

from typing import Any

from stormproof.clients.content import (
    Pieces,
    Said,
    at,
    blob,
    each,
    message,
    plain,
    text,
    tool_call,
    tool_response,
    words,
)
from stormproof.clients.facts import get

_TEXTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text")
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_CALL, _OUTPUT = "_call", "_call_output"
_ARGUMENTS = {"function_call": "arguments", "custom_tool_call": "input"}
_BY_THE_APP = ("computer_call", "shell_call", "local_shell_call", "apply_patch_call")  # the others by the server
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_FINISH_REASONS = {"completed": "stop", "failed": "error", "cancelled": "error", "max_output_tokens": "length"}


def parts(content: Any) -> list[Said]:
    """What the content of a message is made of; text may stand alone."""
    return text(content) if isinstance(content, str) else each(_part, content)


def _part(part: Any) -> list[Said]:
    kind = get(part, "type")
    if kind in _TEXTS:
        return text(get(part, "text"))
    if kind == "refusal":
        return text(get(part, "refusal"))
    if kind in ("image_url", "input_image"):
        url = get(part, "image_url")
        return at("image", url if isinstance(url, str) else get(url, "url")) or _file("image", get(part, "file_id"))
    if kind == "input_audio":
        audio = get(part, "input_audio")
        return blob("audio", get(audio, "data"), _AUDIO.get(str(get(audio, "format"))))
    if kind in ("file", "input_file"):
        return _document(get(part, "file") or part)
    return []


def _document(file: Any) -> list[Said]:
    data = get(file, "file_data")
    if isinstance(data, str) and not data.startswith("data:"):
        return blob("document", data)
    return at("document", data or get(file, "file_url")) or _file("document", get(file, "file_id"))


def _file(modality: str, id_: Any) -> list[Said]:
    return [{"type": "file", "modality": modality, "file_id": id_}] if isinstance(id_, str) else []


# -- items of responses ------------------------------------------------------------------------------------------------


def messages(asked: Any) -> list[Said]:
    """The input of responses: text, or items. Calls of tools that follow each other are of one message."""
    if isinstance(asked, str):
        return [message("user", text(asked))]
    said: list[Said] = []
    for one in each(_message, asked):
        if said and _is_calls(said[-1]) and _is_calls(one):
            said[-1]["parts"] += one["parts"]
        else:
            said.append(one)
    return said


def _message(item: Any) -> list[Said]:
    role = get(item, "role")
    made = parts(get(item, "content")) if isinstance(role, str) else _item(item)
    return [message(role or ("tool" if made[0]["type"] == "tool_call_response" else "assistant"), made)] if made else []


def _is_calls(said: Said) -> bool:
    return all(part["type"] == "tool_call" for part in said["parts"])


def _item(item: Any) -> list[Said]:
    """An item of an answer, or one that is no message: reasoning, a call of a tool or what came of it."""
    kind = str(get(item, "type"))
    if kind == "message":
        return parts(get(item, "content"))
    if kind == "reasoning":
        return [{**part, "type": kind} for part in (*parts(get(item, "summary")), *parts(get(item, "content")))]
    if kind.endswith(_OUTPUT):
        output = get(item, "output")
        return [tool_response(_id(item), parts(output) if isinstance(output, (list, tuple)) else plain(output))]
    return _call(item, kind) if kind.endswith(_CALL) else []


def _call(item: Any, kind: str) -> list[Said]:
    if kind in _ARGUMENTS:
        return [tool_call(_id(item), get(item, "name"), get(item, _ARGUMENTS[kind]))]
    name = kind.removesuffix(_CALL)
    told = {key: value for key, value in plain(item).items() if key not in ("type", "id", "call_id")}
    if kind in _BY_THE_APP:
        return [tool_call(_id(item), name, told)]
    return [
        {"type": "server_tool_call", **words(id=_id(item)), "name": name, "server_tool_call": {"type": name, **told}}
    ]


def _id(item: Any) -> Any:
    return get(item, "call_id") or get(item, "id")


def answers(response: Any) -> list[Said]:
    """The one message that all items of an answer are."""
    made = each(_item, get(response, "output"))
    if not made:
        return []
    reason = get(get(response, "incomplete_details"), "reason") or get(response, "status")
    reason = _FINISH_REASONS.get(reason, reason)
    if reason == "stop" and any(part["type"] == "tool_call" for part in made):
        reason = "tool_call"
    return [message("assistant", made, finish_reason=reason)]


class Gathered:
    """The answer of a stream of responses: its end tells it whole; before that, the items that are done, and text."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._whole: Any = None
        self._done: dict[int, Any] = {}
        self._text: dict[int, list[str]] = {}

    def add(self, event: Any) -> None:
        """One event of the stream."""
        kind, index = get(event, "type"), get(event, "output_index") or 0
        if kind in _ENDS:
            self._whole = get(event, "response")
            self._done, self._text = {}, {}
        elif kind == "response.output_item.done":
            self._done[index] = get(event, "item")
            self._text.pop(index, None)
        elif kind == "response.output_text.delta":
            self._pieces.keep(self._text.setdefault(index, []), get(event, "delta"))

    def answers(self) -> list[Said]:
        """What is known of it."""
        if self._whole is not None:
            return answers(self._whole)
        begun = {n: {"type": "message", "content": "".join(kept)} for n, kept in self._text.items()}
        return answers({"output": [item for _, item in sorted({**begun, **self._done}.items())]})
