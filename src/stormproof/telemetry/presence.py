"""Whether there is an SDK: without one nothing becomes of what is told, and nobody needs to be told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import _internal as logs
from opentelemetry._logs import get_logger_provider
from opentelemetry.metrics import _internal as metrics
from opentelemetry.metrics import get_meter_provider
from opentelemetry.trace import get_tracer_provider

_GLOBAL = {
    "tracer_provider": get_tracer_provider,
    "meter_provider": get_meter_provider,
    "logger_provider": get_logger_provider,
}
#: How the API calls its own: those that stand in until an SDK is set up, and those that do nothing at all.
_EMPTY = ("Proxy", "NoOp")
#: Whether one is named for the API, which makes it when it is first asked for it.
_IS_NAMED = any(f"OTEL_PYTHON_{signal}_PROVIDER" in os.environ for signal in ("TRACER", "METER", "LOGGER"))


def is_there(given: Mapping[str, Any]) -> bool:
    """Whether one of the providers that were given, or that are global where none was, does anything."""
    if not given and _is_api_as_imported():
        return False
    for name, find in _GLOBAL.items():
        provider = given.get(name) or find()
        if not type(provider).__name__.lstrip("_").startswith(_EMPTY):
            return True
    return False


def _is_api_as_imported() -> bool:
    """Whether nobody can have set a provider: asked at each call without an SDK, where the API's questions are dear."""
    try:
        untouched = trace._TRACER_PROVIDER is None and metrics._METER_PROVIDER is None and logs._LOGGER_PROVIDER is None
    except AttributeError:  # an API with other names inside
        return False
    return untouched and not _IS_NAMED
