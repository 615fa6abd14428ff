"""What was emitted, each in a line: names, attributes, and what leads to what. Without values, which differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link

from tests.contract import groups, is_ours
from tests.unit.signals import Signals, attributes, failed

#: Groups of the schema that stand in a line as one word where all that they require is there.
_WORDS = ("gen_ai", "db", "own", "outcome", "retry", "breaker_change")
_RESEND_COUNT = "http.request.resend_count"


class Shapes:
    """The lines of everything that these providers got."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._spans = {span.context.span_id: span for span in signals.ended if span.context is not None}

    def lines(self) -> set[str]:
        return {*self._of_spans(), *self._of_metrics(), *self._of_logs()}

    def _of_spans(self) -> Iterator[str]:
        for span in self._signals.ended:
            found = dict(attributes(span))
            if not _is_operation_or_ours(span):
                found = {name: value for name, value in found.items() if name == _RESEND_COUNT}
                if not found:
                    continue
            links = [f"→ {self._name(link.context.span_id)}" for link in span.links if _is_link(link)]
            kind = f"{span.kind.name} in {self._name(span.parent and span.parent.span_id)}"
            what = " ".join([kind, *["failed"] * failed(span), *links])
            yield f"span {span.name}: {what}: {_attributes(found)}"
            for event in span.events:
                yield f"event {event.name} of {span.name}: {_attributes(event.attributes or {})}"

    def _of_metrics(self) -> Iterator[str]:
        for scope, metric in self._signals.metrics():
            if not is_ours(scope):
                continue
            for point in metric.data.data_points:
                found = _attributes(dict.fromkeys(point.attributes or {}))
                if not hasattr(point, "exemplars"):
                    yield f"metric {metric.name}: {found}"
                # Without one, nothing was recorded since the last look.
                for exemplar in getattr(point, "exemplars", ()):
                    yield f"metric {metric.name} → {self._name(exemplar.span_id)}: {found}"

    def _of_logs(self) -> Iterator[str]:
        for record in self._signals.logs:
            where = self._name(record.span_id)
            yield f"log {record.event_name} {record.severity_text} in {where}: {_attributes(record.attributes or {})}"

    def _name(self, span_id: int | None) -> str:
        span = self._spans.get(span_id or 0)
        return span.name if span is not None else "nothing"


def _is_operation_or_ours(span: ReadableSpan) -> bool:
    """Of others' spans those count that are annotated."""
    scope = span.instrumentation_scope.name if span.instrumentation_scope is not None else ""
    return is_ours(scope) or any(name.startswith("resilience.") for name in attributes(span))


def _is_link(link: Link) -> bool:
    return link.context.is_valid


def _attributes(found: Mapping[str, Any]) -> str:
    """The attributes' names, of those that are enumerations with their values."""
    left, words = dict(found), []
    for word in _WORDS:
        required = {name for name, each in groups()[f"attributes.{word}"].attributes.items() if each.required}
        if required <= set(left):
            words.append(f"[{word}]")
            left = {name: value for name, value in left.items() if name not in required}
    enumerations = {name for name, each in groups()["registry.resilience"].attributes.items() if each.values}
    words += [f"{name}={left[name]}" if name in enumerations and left[name] else name for name in sorted(left)]
    return " ".join(words)
