"""Whether there is an SDK: without one nothing becomes of what is told, and nobody needs to be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry._logs import get_logger_provider
from opentelemetry.metrics import get_meter_provider
from opentelemetry.trace import get_tracer_provider

_GLOBAL = {
    "tracer_provider": get_tracer_provider,
    "meter_provider": get_meter_provider,
    "logger_provider": get_logger_provider,
}
#: How the API calls its own: those that stand in until an SDK is set up, and those that do nothing at all.
_EMPTY = ("Proxy", "NoOp")


def is_there(given: Mapping[str, Any]) -> bool:
    """Whether one of the providers that were given, or that are global where none was, does anything."""
    for name, find in _GLOBAL.items():
        provider = given.get(name) or find()
        if not type(provider).__name__.lstrip("_").startswith(_EMPTY):
            return True
    return False
