"""The form that the GenAI conventions give to what is said, as their JSON schemas of messages, instructions and tools
have it: what each part must have, and of which type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stormproof.telemetry import names

_ANY: tuple[type, ...] = (object,)

#: By the part's type: what it must have, and what it may.
_PARTS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "text": ({"content": str}, {}),
    "reasoning": ({"content": str}, {}),
    "tool_call": ({"name": str}, {"id": str, "arguments": _ANY}),
    "tool_call_response": ({"response": _ANY}, {"id": str}),
    "server_tool_call": ({"name": str, "server_tool_call": dict}, {"id": str}),
    "blob": ({"modality": str, "content": str}, {"mime_type": str, "transcript": str}),
    "uri": ({"modality": str, "uri": str}, {"mime_type": str}),
    "file": ({"modality": str, "file_id": str}, {"mime_type": str}),
}
_MODALITIES = ("image", "video", "audio", "document")
_TOOL = ({"type": str, "name": str}, {"description": str, "parameters": dict})


def violations(name: str, value: Any) -> Iterator[str]:
    """What is wrong with the value of one of the four attributes."""
    if not isinstance(value, list) or not value:
        yield f"{name} is {value!r}, no list with something in it"
        return
    for each in value:
        if name == names.CONTENT["tools"]:
            yield from _fields(each, *_TOOL)
        elif name == names.CONTENT["instructions"]:
            yield from _part(each)
        else:
            answer = {"finish_reason": str} if name == names.CONTENT["answers"] else {}
            yield from _fields(each, {"role": str, "parts": list}, {"name": str, **answer})
            for part in each.get("parts", ()):
                yield from _part(part)


def _part(part: Any) -> Iterator[str]:
    kind = part.get("type")
    if kind not in _PARTS:
        yield f"{part} is of no type that has a form"
        return
    must, may = _PARTS[kind]
    yield from _fields(part, {"type": str, **must}, may)
    if part.get("modality", "image") not in _MODALITIES:
        yield f"{part} has another modality than {_MODALITIES}"
    if kind == "server_tool_call" and not isinstance(part["server_tool_call"].get("type"), str):
        yield f"{part} does not say which tool it is"


def _fields(found: Mapping[str, Any], must: Mapping[str, Any], may: Mapping[str, Any]) -> Iterator[str]:
    for name, kind in {**must, **may}.items():
        if name not in found:
            if name in must:
                yield f"{found} has no {name}"
        elif not isinstance(found[name], kind):
            yield f"{name} of {found} is no {kind}"
    for name in found.keys() - must.keys() - may.keys():
        yield f"{found} has {name}, which the form has not"
