"""What was said, as the spans and events of a shield have it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stormproof.telemetry import names
from tests.messages import violations
from tests.unit.signals import attributes

from .shield import Shield

Said = Mapping[str, list[Any]]

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CONTENT = frozenset(names.CONTENT.values())
INSTRUCTIONS, INPUT, OUTPUT, TOOLS = (names.CONTENT[fact] for fact in ("instructions", "messages", "answers", "tools"))


def record(shield: Shield, value: str | None = "SPAN_AND_EVENT") -> None:
    """Switched off and on, with this value of the variable."""
    if value is not None:
        shield.set(VARIABLE, value)
    shield.again()


def on_span(shield: Shield) -> Said:
    """What the only operation's span says."""
    return written(attributes(shield.signals.operation()))


def written(found: Mapping[str, Any]) -> Said:
    """The content among a span's attributes, which keeps to the conventions."""
    said = {name: json.loads(found[name]) for name in CONTENT & found.keys()}
    assert [problem for name, value in said.items() for problem in violations(name, value)] == []
    return said


def in_events(shield: Shield) -> list[Said]:
    """What each event says."""
    events = [log for log in shield.signals.logs if log.event_name == names.INFERENCE_DETAILS]
    return [{name: _thawed(event.attributes[name]) for name in CONTENT & event.attributes.keys()} for event in events]


def _thawed(value: Any) -> Any:
    """Lists in place of the SDK's tuples."""
    if isinstance(value, Mapping):
        return {name: _thawed(each) for name, each in value.items()}
    return [_thawed(each) for each in value] if isinstance(value, (tuple, list)) else value
