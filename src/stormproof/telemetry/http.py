"""The HTTP spans below the attempts: the official httpx and httpx2 instrumentations, loaded with the libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import wrapt
from opentelemetry import context as otel_context
from opentelemetry.trace import Span

from stormproof.telemetry import names
from stormproof.telemetry.spans import ATTEMPT_KEY

#: Module → its instrumentor in ``opentelemetry.instrumentation.httpx``, by the entry point's name.
INSTRUMENTORS = {"httpx": "HTTPXClientInstrumentor", "httpx2": "HTTPX2ClientInstrumentor"}


def instrument_when_imported(module: str, is_wanted: Callable[[], bool], **kwargs: Any) -> None:
    """Instrument ``httpx`` or ``httpx2`` once the app imports it: starting the app does not pay for it."""

    def hook(_: Any) -> None:
        if is_wanted():
            instrumentor = _instrumentor(module)
            if instrumentor is not None and not instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.instrument(
                    request_hook=mark_resend, async_request_hook=mark_resend_async, skip_dep_check=True, **kwargs
                )

    wrapt.register_post_import_hook(hook, module)


def uninstrument(module: str) -> None:
    """Take the official instrumentation out again, if the library was ever imported."""
    instrumentor = _instrumentor(module) if module in sys.modules else None
    if instrumentor is not None and instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


def mark_resend(span: Span, _: Any) -> None:
    """Request hook: how often this request was sent before."""
    attempt = otel_context.get_value(ATTEMPT_KEY)
    number = getattr(attempt, "number", 1)
    if number > 1 and span.is_recording():
        span.set_attribute(names.HTTP_RESEND_COUNT, number - 1)


async def mark_resend_async(span: Span, request: Any) -> None:
    """As :func:`mark_resend`."""
    mark_resend(span, request)


def _instrumentor(module: str) -> Any:
    from opentelemetry.instrumentation import httpx as official

    instrumentor = getattr(official, INSTRUMENTORS[module], None)  # older releases have none for httpx2
    return instrumentor() if instrumentor is not None else None
