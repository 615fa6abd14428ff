"""What openai's answers tell: complete ones, as objects or as JSON, and streams, chunk by chunk. Nothing is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stormproof.clients.facts import get
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.operation import Operation

#: fact → where the answer has it.
_IDENTITY = {
    "response_id": "id",
    "response_model": "model",
    "response_service_tier": "service_tier",
    "system_fingerprint": "system_fingerprint",
}
#: fact → its names: tokens, in the vocabulary of chat and in that of responses.
_USAGE = (
    ("input_tokens", "prompt_tokens", "input_tokens"),
    ("output_tokens", "completion_tokens", "output_tokens"),
)
_USAGE_DETAILS = (
    ("cached_tokens", "cached_tokens", ("prompt_tokens_details", "input_tokens_details")),
    ("reasoning_tokens", "reasoning_tokens", ("completion_tokens_details", "output_tokens_details")),
)


def answer_facts(answer: Any) -> Facts:
    """What a complete answer tells."""
    facts: Facts = {}
    _add_identity(facts, answer)
    usage = get(answer, "usage")
    if usage is not None:
        _add_usage(facts, usage)
    choices = get(answer, "choices")
    if choices:
        _add_finish_reasons(facts, choices)
    elif "response_id" in facts:
        _add_status(facts, answer)
    return facts


def raw_answer(call: Call, response: Any) -> Mapping[str, Any]:
    """An answer that the app takes raw: it is in memory already, and reading it again changes nothing."""
    if not call.own["is_official"] or "json" not in response.headers.get("content-type", ""):
        return {}
    try:
        answer = json.loads(response.content)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def observe(operation: Operation, chunk: Any) -> None:
    """What one item of a stream tells: a chunk of chat, or an event that may carry the whole answer so far."""
    facts = operation.facts
    choices = get(chunk, "choices")
    if choices is None:
        _observe_event(facts, chunk)
        return
    if "response_id" not in facts:
        _add_identity(facts, chunk)
    for choice in choices:
        if get(choice, "finish_reason") is not None:
            _add_finish_reasons(facts, choices)
            break
    usage = get(chunk, "usage")
    if usage is not None:
        _add_usage(facts, usage)


def _observe_event(facts: Facts, event: Any) -> None:
    """Responses have it in ``response``, runs of assistants in ``data``, images and transcripts in the event itself."""
    answer = get(event, "response") or get(event, "data") or event
    _add_identity(facts, answer)
    if "response_id" in facts:
        _add_status(facts, answer)
    usage = get(answer, "usage")
    if usage is not None:
        _add_usage(facts, usage)


def _add_identity(facts: Facts, answer: Any) -> None:
    if not isinstance(get(answer, "model"), str):  # a file, a page, an event: nothing that a model has made
        return
    for fact, name in _IDENTITY.items():
        value = get(answer, name)
        if isinstance(value, str):
            facts[fact] = value


def _add_finish_reasons(facts: Facts, choices: Any) -> None:
    """Streams tell the end of each choice in a chunk of its own."""
    reasons = [reason for reason in (get(choice, "finish_reason") for choice in choices) if isinstance(reason, str)]
    if reasons:
        facts["finish_reasons"] = [*facts.get("finish_reasons", ()), *reasons]


def _add_status(facts: Facts, answer: Any) -> None:
    """Responses and runs have a status, and say why they are incomplete; one that is under way has not finished."""
    status = get(answer, "status")
    if isinstance(status, str) and status not in ("in_progress", "queued"):
        reason = get(get(answer, "incomplete_details"), "reason")
        facts["finish_reasons"] = [reason if isinstance(reason, str) else status]


def _add_usage(facts: Facts, usage: Any) -> None:
    for fact, *spellings in _USAGE:
        for name in spellings:
            value = get(usage, name)
            if isinstance(value, int):
                facts[fact] = value
                break
    for fact, name, details in _USAGE_DETAILS:
        for part in details:
            detail = get(usage, part)
            value = None if detail is None else get(detail, name)
            if isinstance(value, int) and value:
                facts[fact] = value
