"""A delete whose answer was lost, and whose replay finds nothing: it is done, and the app is told so.

What is given back is what the client makes of a success, where all of it is known. Where the app wants to see the
answer itself (a raw response), or the answer would tell more than is known, the 404 remains.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, get_args
from urllib.parse import unquote

from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Retry

_NOT_FOUND = 404
_RAW_RESPONSE = "x-stainless-raw-response"


class NothingKnownError(Exception):
    """There is no honest answer but the error."""


def is_done(operation: Operation, error: Exception) -> bool:
    """Whether this failure of a delete says that an earlier attempt has carried it out. Remembers lost answers."""
    call = operation.call
    verdict = call.client.classify(error)
    if verdict.retry is Retry.IF_REPLAY_SAFE:
        call.own["answer_lost"] = True
    return verdict.status == _NOT_FOUND and "answer_lost" in call.own and call.endpoint is None


def openai_answer(cast_to: Any, options: Any) -> Any:
    """What openai makes of a successful delete: nothing, or ``id``, ``deleted`` and a constant ``object``."""
    headers = options.headers if isinstance(options.headers, dict) else {}
    if any(name.lower() == _RAW_RESPONSE for name in headers):
        raise NothingKnownError
    if cast_to is NoneType:
        return None
    known = {"id": unquote(options.url.rstrip("/").rpartition("/")[2]), "deleted": True}
    fields = cast_to.model_fields
    kind = get_args(fields["object"].annotation) if "object" in fields else ()
    if len(kind) == 1:
        known["object"] = kind[0]
    if not fields.keys() <= known.keys():
        raise NothingKnownError
    return cast_to.construct(**{name: known[name] for name in fields})


def ollama_answer(error: Any) -> Any:
    """ollama looks at nothing but the status."""
    response = error.__context__.response
    return type(response)(200, request=response.request)
