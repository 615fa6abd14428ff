"""Spans for people, on stderr: one line an operation, one an attempt. Shown when no collector answers."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from stormproof.telemetry import names

#: Operations whose attempts have been seen but which have not ended yet.
_MOST_PENDING = 1000
_NAME_WIDTH = 34


class ConsoleView:
    """Draws ended spans. An operation is drawn when it ends, with the attempts that ended before it.

    For one thread, that of the span exporter; bounded in memory.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._attempts: OrderedDict[int, list[ReadableSpan]] = OrderedDict()
        self.operations = self.attempts = self.errors = 0

    def show(self, spans: Sequence[ReadableSpan]) -> None:
        """Write what these spans tell."""
        lines = [line for span in spans for line in self._lines(span)]
        if lines:
            try:
                sys.stderr.write("\n".join(lines) + "\n")
                sys.stderr.flush()
            except Exception:  # noqa: S110  # stderr may be closed
                pass

    def clear(self) -> None:
        """Forget everything so far."""
        self._attempts.clear()
        self.operations = self.attempts = self.errors = 0

    def summary(self) -> str:
        """What was seen so far, in words."""
        return f"{self.operations} operations, {self.attempts} attempts, {self.errors} errors"

    def _lines(self, span: ReadableSpan) -> list[str]:
        attributes = span.attributes or {}
        if names.ATTEMPT_NUMBER in attributes and span.parent is not None:
            self.attempts += 1
            self._remember(span.parent.span_id, span)
            return []
        if names.ATTEMPT_COUNT in attributes:
            self.operations += 1
            self.errors += _failed(span)
            attempts = self._attempts.pop(span.context.span_id, [])
            return [_as_json(span, attempts)] if self._as_json else _drawn(span, attempts)
        if _is_http_child(span):
            return []
        return [_as_json(span, []) if self._as_json else f"● {span.name:<{_NAME_WIDTH}} {_took(span)}  {_status(span)}"]

    def _remember(self, operation: int, attempt: ReadableSpan) -> None:
        self._attempts.setdefault(operation, []).append(attempt)
        if len(self._attempts) > _MOST_PENDING:
            self._attempts.popitem(last=False)


def _drawn(span: ReadableSpan, attempts: list[ReadableSpan]) -> list[str]:
    attributes = span.attributes or {}
    words = [_status(span)]
    if not _failed(span) and len(attempts) > 1:
        words.append(f"after {len(attempts)} attempts")
    line = f"● {span.name:<{_NAME_WIDTH}} {_took(span)}  {' '.join(words)}"
    first_chunk = attributes.get(names.GEN_AI_TIME_TO_FIRST_CHUNK)
    if isinstance(first_chunk, float):
        line += f"  first token {_time(first_chunk)}"
    tokens = sum(_number(attributes.get(names.FACTS[fact])) for fact in ("input_tokens", "output_tokens"))
    if tokens:
        line += f"  {tokens:g} tok"
    queued = _number(attributes.get(names.ADMISSION_DELAY))
    if queued:
        line += f"  let through after {_time(queued)}"
    if len(attempts) == 1 and not _failed(attempts[0]):
        return [line]
    attempts = sorted(attempts, key=lambda attempt: attempt.start_time or 0)
    return [line, *(_attempt_line(attempts, index) for index in range(len(attempts)))]


def _attempt_line(attempts: list[ReadableSpan], index: int) -> str:
    attempt = attempts[index]
    number = (attempt.attributes or {}).get(names.ATTEMPT_NUMBER)
    is_last = index == len(attempts) - 1
    status = _status(attempt) if _failed(attempt) else (attempt.attributes or {}).get(names.HTTP_STATUS, "ok")
    line = f"  {'└' if is_last else '├'} {number}  {status:<22} {_took(attempt)}"
    if not is_last:
        following = attempts[index + 1].attributes or {}
        line += f"  wait {_time(_number(following.get(names.RETRY_DELAY)))}"
        if following.get(names.RETRY_DELAY_SOURCE) == "server":
            line += " as the server asked"
    return line


def _as_json(span: ReadableSpan, attempts: list[ReadableSpan]) -> str:
    record: dict[str, Any] = _record(span)
    record["trace_id"] = f"{span.context.trace_id:032x}"
    if attempts:
        record["attempts"] = [_record(attempt) for attempt in attempts]
    return json.dumps(record, default=str)


def _record(span: ReadableSpan) -> dict[str, Any]:
    return {
        "name": span.name,
        "seconds": _seconds(span),
        "status": _status(span),
        "attributes": dict(span.attributes or {}),
    }


def _is_http_child(span: ReadableSpan) -> bool:
    """The HTTP span of an attempt repeats what the attempt's line says."""
    scope = span.instrumentation_scope
    is_http = scope is not None and scope.name.startswith("opentelemetry.instrumentation.httpx")
    return is_http and span.parent is not None and span.kind is SpanKind.CLIENT


def _failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR


def _status(span: ReadableSpan) -> str:
    return str((span.attributes or {}).get(names.ERROR_TYPE) or "error") if _failed(span) else "ok"


def _seconds(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


def _took(span: ReadableSpan) -> str:
    return f"{_time(_seconds(span)):>7}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f}s" if seconds >= 1 else f"{seconds * 1000:.0f}ms"


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) else 0
