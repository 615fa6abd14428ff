"""What the official HTTP instrumentations do for us at each request: loaded with them, not by the launcher."""

from __future__ import annotations

from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.trace import Span

from stormproof.resilience.attempt import Attempt
from stormproof.telemetry import names
from stormproof.telemetry.spans import ATTEMPT_KEY


def mark_resend(span: Span, _: Any) -> None:
    """Request hook: how often this request was sent before."""
    attempt = otel_context.get_value(ATTEMPT_KEY)
    number = getattr(attempt, "number", 1)
    if number > 1 and span.is_recording():
        span.set_attribute(names.HTTP_RESEND_COUNT, number - 1)


async def mark_resend_async(span: Span, request: Any) -> None:
    """As :func:`mark_resend`."""
    mark_resend(span, request)


def note_status(_span: Span, _request: Any, response: Any) -> None:
    """Response hook: the attempt's own span tells the status too."""
    attempt = otel_context.get_value(ATTEMPT_KEY)
    if isinstance(attempt, Attempt):
        attempt.status = response.status_code


async def note_status_async(span: Span, request: Any, response: Any) -> None:
    """As :func:`note_status`."""
    note_status(span, request, response)


#: Arguments of ``instrument``.
HOOKS = {
    "request_hook": mark_resend,
    "response_hook": note_status,
    "async_request_hook": mark_resend_async,
    "async_response_hook": note_status_async,
}
