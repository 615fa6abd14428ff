"""``make telemetry``: writes the tables of docs/telemetry.md anew, from the schema."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.contract import Group, groups, of_type

PAGE = Path(__file__).parents[1] / "docs" / "telemetry.md"


def written(page: str) -> str:
    """The page with the tables between its markers as the schema has them now."""

    def table(found: re.Match[str]) -> str:
        lines = _TABLES[found[1]]()
        return "\n".join([f"<!-- schema: {found[1]} -->", "", *lines, "", "<!-- end -->"])

    return re.sub(r"<!-- schema: (\w+) -->.*?<!-- end -->", table, page, flags=re.DOTALL)


def _spans() -> Iterator[str]:
    for group in of_type("span"):
        yield f"### {_title(group)}"
        yield ""
        yield f"{group.said['brief']} Kind {group.said['span_kind'].upper()}, named {group.said['name']['note']}."
        yield ""
        if group.id == "span.stormproof.circuit_breaker":
            yield "Its attributes are those of [a breaker's change](#a-breakers-change)."
        else:
            yield from _attributes(group)
        yield ""


_TITLES = {
    "operation.gen_ai": "Operation: openai, ollama",
    "operation.db": "Operation: Qdrant",
    "operation.db_local": "Operation: Qdrant's local mode",
    "operation.own": "Operation: a function of your own",
    "attempt.gen_ai": "Attempt: openai, ollama",
    "attempt.db": "Attempt: Qdrant",
    "attempt.own": "Attempt: a function of your own",
    "circuit_breaker": "Circuit breaker",
}


def _title(group: Group) -> str:
    return _TITLES[group.id.removeprefix("span.stormproof.")]


def _attributes(group: Group) -> Iterator[str]:
    yield "| attribute | type | when | |"
    yield "|---|---|---|---|"
    for name, said in _said(group).items():
        type_ = group.attributes[name].type
        yield f"| `{name}` | {type_} | {_when(said)} | {_meaning(group, name, said)} |"


def _said(group: Group) -> Mapping[str, Mapping[str, Any]]:
    """What the schema says of each attribute where it is used, those of extended groups first."""
    extends = group.said.get("extends", [])
    said: dict[str, Mapping[str, Any]] = {}
    for other in [extends] if isinstance(extends, str) else extends:
        said |= _said(groups()[other])
    return said | {each["ref"]: each for each in group.said.get("attributes", ())}


def _when(said: Mapping[str, Any]) -> str:
    level = said.get("requirement_level", "if known")
    if isinstance(level, dict):
        return f"if {level['conditionally_required']}"
    return str({"required": "always", "opt_in": "if [asked for](#content)"}.get(level, level))


def _meaning(group: Group, name: str, said: Mapping[str, Any]) -> str:
    definition = groups()["registry.resilience"].said["attributes"]
    ours: Mapping[str, Any] = next((each for each in definition if each["id"] == name), {})
    values = sorted(group.attributes[name].values)
    shown = ", ".join(f"`{value}`" for value in values) if 0 < len(values) <= 5 else ""
    return "; ".join(filter(None, (ours.get("brief", "official").rstrip("."), said.get("note", ""), shown)))


def _breaker_change() -> Iterator[str]:
    return _attributes(groups()["attributes.breaker_change"])


def _values(attribute: str) -> Callable[[], Iterator[str]]:
    def table() -> Iterator[str]:
        definition = groups()["registry.resilience"].said["attributes"]
        (said,) = [each for each in definition if each["id"] == attribute]
        yield "| value | |"
        yield "|---|---|"
        for member in said["type"]["members"]:
            yield f"| `{member['value']}` | {member['brief']} |"

    return table


def _metrics() -> Iterator[str]:
    yield "| name | kind, unit | attributes | |"
    yield "|---|---|---|---|"
    for group in of_type("metric"):
        said = group.said
        observable = "observable " if said.get("annotations", {}).get("observable") else ""
        kind = f"{observable}{said['instrument']}, {said['unit']}"
        yield f"| `{said['metric_name']}` | {kind} | {_names(group)} | {said['brief']} |"


def _buckets() -> Iterator[str]:
    yield "| histogram | buckets |"
    yield "|---|---|"
    for group in of_type("metric"):
        buckets = group.said.get("annotations", {}).get("buckets")
        if buckets:
            yield f"| `{group.said['metric_name']}` | {' '.join(map(str, buckets))} |"


def _events() -> Iterator[str]:
    yield "| event | severity | attributes | |"
    yield "|---|---|---|---|"
    for group in of_type("event"):
        severity = ", ".join(group.said["annotations"]["severity"])
        yield f"| `{group.said['name']}` | {severity} | {_names(group)} | {group.said['brief']} |"


def _names(group: Group) -> str:
    """Optional ones in brackets."""
    names = [f"`{each.name}`" if each.required else f"(`{each.name}`)" for each in group.attributes.values()]
    return ", ".join(names)


_TABLES: Mapping[str, Callable[[], Iterable[str]]] = {
    "spans": _spans,
    "gave_up": _values("resilience.retry.gave_up"),
    "breaker_change": _breaker_change,
    "reasons": _values("resilience.circuit_breaker.reason"),
    "metrics": _metrics,
    "buckets": _buckets,
    "events": _events,
}


def main() -> int:
    """Write the page; exit code 0."""
    PAGE.write_text(written(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
