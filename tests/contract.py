"""``telemetry/schema.yaml``, and whether what was emitted keeps to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from opentelemetry.sdk.metrics import export
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanKind

import stormproof
from stormproof.telemetry import names
from tests.unit.signals import Signals, attributes

SCHEMA = Path(stormproof.__file__).parent / "telemetry" / "schema.yaml"

#: What an attribute's value is in Python; a bool is no int here. "any" is what is said: lists, as the SDK keeps them.
_TYPES: Mapping[str, type] = {
    "string": str,
    "int": int,
    "double": float,
    "boolean": bool,
    "string[]": tuple,
    "any": tuple,
}
_KINDS = {"client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_POINTS: Mapping[str, type] = {
    "histogram": export.Histogram,
    "gauge": export.Gauge,
    "counter": export.Sum,
    "updowncounter": export.Sum,
}
#: Version and schema of every scope of ours.
_SCOPE = (stormproof.__version__, names.SCHEMA_URL)
#: The SDK's own way to say that there are too many series.
_OVERFLOW = {"otel.metric.overflow": True}


@dataclass(frozen=True)
class Attribute:
    """``values``: those of an enumeration; empty if any will do."""

    name: str
    type: str
    values: frozenset[str]
    required: bool


@dataclass(frozen=True)
class Group:
    """A span, a metric or an event: what the schema says of it, and its attributes with those it extends."""

    id: str
    said: Mapping[str, Any]
    attributes: Mapping[str, Attribute]

    def violations(self, what: str, found: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with these attributes."""
        for name, value in found.items():
            attribute = self.attributes.get(name)
            if attribute is None:
                yield f"{what}: {name} is not in {self.id}"
            elif type(value) is not _TYPES[attribute.type]:
                yield f"{what}: {name} is {value!r}, not of type {attribute.type}"
            elif attribute.values and value not in attribute.values:
                yield f"{what}: {name} is {value!r}, not one of {sorted(attribute.values)}"
        for attribute in self.attributes.values():
            if attribute.required and attribute.name not in found:
                yield f"{what}: {attribute.name} is missing"


@cache
def groups() -> Mapping[str, Group]:
    """Every group of the schema by its id."""
    said = {group["id"]: group for group in yaml.safe_load(SCHEMA.read_text())["groups"]}
    ours = {each["id"]: each for group in said.values() for each in group.get("attributes", ()) if "id" in each}

    def attributes_of(group: Mapping[str, Any]) -> dict[str, Attribute]:
        extends = group.get("extends", [])
        found: dict[str, Attribute] = {}
        for other in [extends] if isinstance(extends, str) else extends:
            found |= attributes_of(said[other])
        return found | {name: _attribute(name, each, ours.get(name, {})) for name, each in _named(group)}

    return {id_: Group(id_, group, attributes_of(group)) for id_, group in said.items()}


def _named(group: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for each in group.get("attributes", ()):
        yield each.get("ref") or each["id"], each


def _attribute(name: str, said: Mapping[str, Any], defined: Mapping[str, Any]) -> Attribute:
    type_ = said.get("type") or defined["type"]
    values = frozenset(member["value"] for member in type_["members"]) if isinstance(type_, dict) else frozenset()
    return Attribute(name, "string" if values else type_, values, said.get("requirement_level") == "required")


def of_type(type_: str) -> list[Group]:
    return [group for group in groups().values() if group.said["type"] == type_]


# -- what was emitted --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Emitted:
    """A span, event, data point or log record of ours; ``problem``: what is wrong with it but for its attributes."""

    group: Group | None
    what: str
    attributes: Mapping[str, Any]
    problem: str = ""

    def violations(self) -> Iterator[str]:
        if self.group is None:
            yield f"{self.what} is not in the schema"
            return
        if self.problem:
            yield f"{self.what}: {self.problem}"
        yield from self.group.violations(self.what, self.attributes)


def emitted(signals: Signals) -> list[Emitted]:
    """Everything of ours that these providers got."""
    logs = [_log(record) for scope, record in signals.scoped_logs() if is_ours(scope)]
    return [*_spans(signals.ended), *_metrics(signals), *logs]


def violations(signals: Signals) -> list[str]:
    """Everything that is not as the schema says."""
    found = {violation for each in emitted(signals) for violation in each.violations()}
    ours = {(scope.name, scope.version, scope.schema_url) for scope in signals.scopes() if is_ours(scope.name)}
    found |= {f"scope {scope} has not our version and schema" for scope in ours if scope[1:] != _SCOPE}
    return sorted(found)


def _spans(spans: Iterable[ReadableSpan]) -> Iterator[Emitted]:
    for span in spans:
        scope = span.instrumentation_scope.name if span.instrumentation_scope is not None else ""
        if not is_ours(scope):
            continue
        group = groups()[f"span.stormproof.{_kind_of(span, scope)}"]
        problem = "" if span.kind is _KINDS[group.said["span_kind"]] else f"is of kind {span.kind}"
        yield Emitted(group, f"span {span.name}", attributes(span), problem)
        for event in span.events:
            yield _event(event, group)


def is_ours(scope: str) -> bool:
    return scope.partition(".")[0] == "stormproof"


def _kind_of(span: ReadableSpan, scope: str) -> str:
    if span.name.startswith("circuit_breaker "):
        return "circuit_breaker"
    system = {"stormproof.qdrant": "db", "stormproof.protect": "own"}.get(scope, "gen_ai")
    if span.name.startswith("attempt "):
        return f"attempt.{system}"
    is_local = system == "db" and "server.address" not in attributes(span)
    return f"operation.{system}{'_local' if is_local else ''}"


def _event(event: Event, span: Group) -> Emitted:
    group = groups().get(f"event.{event.name}")
    problem = "" if group and group.id in span.said.get("events", ()) else f"is no event of {span.id}"
    return Emitted(group, f"span event {event.name}", event.attributes or {}, problem)


def _metrics(signals: Signals) -> Iterator[Emitted]:
    for scope, metric in signals.metrics():
        if not is_ours(scope):
            continue
        group = groups().get(f"metric.{metric.name}")
        problem = "" if group is None else _metric_problem(group.said, metric)
        for point in metric.data.data_points:
            if point.attributes != _OVERFLOW:
                yield Emitted(group, f"metric {metric.name}", point.attributes or {}, problem)


def _metric_problem(said: Mapping[str, Any], metric: Any) -> str:
    if metric.unit != said["unit"]:
        return f"is in {metric.unit}, not {said['unit']}"
    if not isinstance(metric.data, _POINTS[said["instrument"]]):
        return f"is no {said['instrument']}"
    if isinstance(metric.data, export.Sum) and metric.data.is_monotonic != (said["instrument"] == "counter"):
        return f"is no {said['instrument']}"
    if isinstance(metric.data, export.Histogram):
        found = [list(point.explicit_bounds) for point in metric.data.data_points]
        if any(bounds != said["annotations"]["buckets"] for bounds in found):
            return f"has the buckets {found[0]}"
    return ""


def _log(record: Any) -> Emitted:
    group = groups().get(f"event.{record.event_name}")
    problem = ""
    severity = record.severity_number.name if record.severity_number is not None else None
    if group is not None and (
        severity not in group.said["annotations"]["severity"] or severity != record.severity_text
    ):
        problem = f"has the severity {severity}, called {record.severity_text}"
    elif not record.timestamp or not (
        record.body or record.event_name == names.INFERENCE_DETAILS
    ):  # officially has none
        problem = "says nothing, or not when"
    return Emitted(group, f"log event {record.event_name}", record.attributes or {}, problem)
