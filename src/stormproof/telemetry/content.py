"""What is said to a model and what it answers: on the operation span, in the official event, or in both.

There only if ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` asks for it; in place before the listener of the
spans, which ends them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from typing import Any

from opentelemetry._logs import Logger, LoggerProvider, LogRecord, SeverityNumber, get_logger

from stormproof.resilience.events import Listener
from stormproof.resilience.operation import Operation
from stormproof.telemetry import names, owners
from stormproof.telemetry.attributes import identity


class Content(Listener):
    """``places``: ``span``, ``event``, or both."""

    def __init__(self, places: Collection[str], logger_provider: LoggerProvider | None, version: str) -> None:
        self._on_span = "span" in places
        self._in_event = "event" in places
        self._logger: Logger = get_logger(names.SCOPE, version, logger_provider, names.SCHEMA_URL)

    def operation_ended(self, operation: Operation) -> None:
        answers = operation.facts.pop("answers", None)
        if operation.span is None or "messages" not in operation.call.facts:  # suppressed, or nothing is said in it
            return
        owner = owners.owner_of(operation.span)
        on_span = self._on_span and operation.span.is_recording()
        in_event = self._in_event and not (owner is not None and owner.tells_details)
        if not (on_span or in_event):
            return
        said = {**operation.call.facts, "answers": _read(answers)}
        content = {name: text for fact, name in names.CONTENT.items() if (text := _written(said.get(fact)))}
        if on_span:
            owners.annotate(operation.span, content)
        if in_event:
            self._emit(operation, {name: json.loads(text) for name, text in content.items()})

    def _emit(self, operation: Operation, content: dict[str, Any]) -> None:
        facts = {**operation.call.facts, **operation.facts}
        attributes = {**identity(operation), **content}
        attributes.update({names.FACTS[fact]: value for fact, value in facts.items() if fact in names.FACTS})
        if operation.items:
            attributes[names.GEN_AI_TIME_TO_FIRST_CHUNK] = operation.first_item_at - operation.started
        if operation.error_type is not None:
            attributes[names.ERROR_TYPE] = operation.error_type
        self._logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                event_name=names.INFERENCE_DETAILS,
                severity_number=SeverityNumber.DEBUG,
                severity_text=SeverityNumber.DEBUG.name,
                attributes=attributes,
                context=operation.context,
            )
        )


def _read(answers: Any) -> Any:
    """The messages of the answer; None if there is none, or none that can be read."""
    try:
        return None if answers is None else answers()
    except Exception:
        return None


def _written(messages: Any) -> str | None:
    """As JSON that every exporter takes; None if there is nothing, or nothing that JSON can say."""
    if not messages:
        return None
    try:
        text = json.dumps(messages, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_unknown)
    except (TypeError, ValueError, RecursionError):
        return None
    return text.encode(errors="replace").decode()  # half a character, at the end of a piece


def _unknown(_: object) -> None:
    """An object of the app's own, among a tool's arguments."""
