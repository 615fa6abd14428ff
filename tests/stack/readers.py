"""What the backends know, read from their own APIs."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class JaegerSpan:
    """A span as Jaeger's API tells it."""

    id: str
    trace_id: str
    name: str
    parent: str | None
    links: list[str]
    start: int
    end: int
    tags: dict[str, Any]
    events: list[str]
    process: dict[str, Any]
    warnings: list[str]
    children: list[JaegerSpan] = field(default_factory=list)

    @property
    def scope(self) -> str:
        return str(self.tags.get("otel.scope.name", ""))


def jaeger_spans(url: str, service: str, **search: str) -> list[JaegerSpan]:
    """All spans of the traces that a search finds, each with its children in the order of their start."""
    query = urllib.parse.urlencode({"service": service, "limit": 5000, **search})
    spans = [span for trace in _get(f"{url}/api/traces?{query}")["data"] or [] for span in _spans_of(trace)]
    by_id = {span.id: span for span in spans}
    for span in sorted(spans, key=lambda span: span.start):
        if span.parent in by_id:
            by_id[span.parent].children.append(span)
    return spans


def _spans_of(trace: dict[str, Any]) -> Iterator[JaegerSpan]:
    for span in trace["spans"]:
        parents = [ref["spanID"] for ref in span["references"] if ref["refType"] == "CHILD_OF"]
        yield JaegerSpan(
            id=span["spanID"],
            trace_id=span["traceID"],
            name=span["operationName"],
            parent=parents[0] if parents else None,
            links=[ref["spanID"] for ref in span["references"] if ref["refType"] == "FOLLOWS_FROM"],
            start=span["startTime"],
            end=span["startTime"] + span["duration"],
            tags={tag["key"]: tag["value"] for tag in span["tags"]},
            events=[f["value"] for log in span["logs"] for f in log["fields"] if f["key"] == "event"],
            process={tag["key"]: tag["value"] for tag in trace["processes"][span["processID"]]["tags"]},
            warnings=span["warnings"] or [],
        )


def prometheus(url: str, query: str) -> list[tuple[dict[str, str], float]]:
    """The series that a query gives now: labels and value."""
    answer = _get(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]


def log_records(path: Path) -> list[dict[str, Any]]:
    """What the collector's file exporter has written so far."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        {**record, "service": _service(resource)}
        for line in lines
        for resource in json.loads(line)["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]


def eventually(look: Callable[[], T], *, within: float = 30.0) -> T:
    """What ``look`` returns once it stops raising AssertionError: backends show what they have got a little later."""
    deadline = time.monotonic() + within
    while True:
        try:
            return look()
        except AssertionError:  # noqa: PERF203  # that is the point of it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)  # between two looks at another process


def _service(resource: dict[str, Any]) -> str | None:
    attributes = resource["resource"]["attributes"]
    return next((a["value"]["stringValue"] for a in attributes if a["key"] == "service.name"), None)


def _get(url: str) -> Any:
    with _opener.open(url, timeout=10) as answer:
        return json.load(answer)
