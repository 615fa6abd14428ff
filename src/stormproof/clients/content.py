"""What is said to a model and what it answers, in the form of the GenAI conventions: messages of a role and parts.

Used only where ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` asks for it. What cannot be read is left out, and
an iterator is never read from: it is the client's.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_to_bytes

from stormproof.clients.facts import get

#: A message, a part of one, or the definition of a tool.
Said = dict[str, Any]

#: The operations of clients whose messages are read.
INFERENCE = frozenset(("chat", "text_completion"))

#: The most characters of a stream that are kept; what comes later is left out.
MOST_CHARACTERS = 1_000_000


def listed(value: Any) -> Sequence[Any]:
    """The items of a list or tuple; none of anything else."""
    return value if isinstance(value, (list, tuple)) else ()


def each(read: Callable[[Any], list[Said]], values: Any) -> list[Said]:
    """What ``read`` makes of the items of a list; one that it cannot read is left out."""
    said: list[Said] = []
    for value in listed(values):
        with suppress(Exception):
            said += read(value)
    return said


def message(role: Any, parts: Iterable[Said], **more: Any) -> Said:
    """Who said what; of ``more``, what is text."""
    return {"role": role if isinstance(role, str) else "user", "parts": list(parts), **words(**more)}


def words(**values: Any) -> Said:
    """Those that are text."""
    return {name: value for name, value in values.items() if isinstance(value, str)}


def text(content: Any, type_: str = "text") -> list[Said]:
    """A part of text, or of reasoning; none if there is nothing in it."""
    return [{"type": type_, "content": content}] if isinstance(content, str) and content else []


def tool_call(id_: Any, name: Any, arguments: Any) -> Said:
    """The model wants a tool to be called. Arguments that came as JSON are read, if they are."""
    if isinstance(arguments, str):
        with suppress(ValueError):  # a tool that takes text, or a stream that was cut
            arguments = json.loads(arguments)
    return {"type": "tool_call", **words(id=id_), "name": name or "", "arguments": arguments}


def tool_response(id_: Any, response: Any) -> Said:
    """What the tool said."""
    return {"type": "tool_call_response", **words(id=id_), "response": response}


def blob(modality: str, content: Any, mime_type: str | None = None, **more: Any) -> list[Said]:
    """A part of data that is in the message itself, as base64."""
    if not isinstance(content, str) or not content:
        return []
    return [{"type": "blob", **words(mime_type=mime_type), "modality": modality, "content": content, **words(**more)}]


def at(modality: str, url: Any) -> list[Said]:
    """A part of data that is at a URL, or in it."""
    if not isinstance(url, str) or not url:
        return []
    if not url.startswith("data:"):
        return [{"type": "uri", "modality": modality, "uri": url}]
    head, _, data = url.removeprefix("data:").partition(",")
    if not head.endswith(";base64"):
        data = b64encode(unquote_to_bytes(data)).decode()
    return blob(modality, data, head.partition(";")[0] or None)


def tool(definition: Any) -> list[Said]:
    """A tool that the model may call; of one that the server runs, its name only: the rest may hold keys."""
    kind = get(definition, "type")
    kind = kind if isinstance(kind, str) else "function"
    inner = get(definition, kind) or definition  # chat and ollama keep it in there, responses do not
    name = get(inner, "name")
    said: Said = {"type": kind, "name": name if isinstance(name, str) else kind}
    if kind == "function":
        said |= words(description=get(inner, "description"))
        parameters = plain(get(inner, "parameters"))
        said |= {"parameters": parameters} if isinstance(parameters, Mapping) else {}
    return [said]


def plain(value: Any) -> Any:
    """A client's model as the mapping that it stands for; anything else as it is."""
    dump = getattr(value, "model_dump", None)
    return value if dump is None or isinstance(value, Mapping) else dump(mode="json", exclude_none=True)


class Pieces:
    """Gathers what a stream says, piece by piece, as long as there is room."""

    def __init__(self) -> None:
        self._room = MOST_CHARACTERS

    def keep(self, pieces: list[str], piece: Any) -> None:
        """One more of these, if it is text and there is room."""
        if isinstance(piece, str) and len(piece) <= self._room:
            self._room -= len(piece)
            pieces.append(piece)
        elif isinstance(piece, str):
            self._room = 0  # nor anything after it
