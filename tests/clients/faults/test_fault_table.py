"""Every client, called in every way, meets every fault: what is expected, and what the page says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from tests.unit.signals import attributes, get

from .conftest import Protection
from .page import Cells, Key, Page, named, not_applicable
from .situations import Situation
from .table import ROWS, Expected, Row
from .ways import WAYS, Answer, Way

CASES = [(way, row) for way in WAYS for row in ROWS if row.is_about(way) and not isinstance(row.situation(way), str)]
NOT_APPLICABLE = not_applicable(ROWS, WAYS)
KEYS = {*NOT_APPLICABLE, *((way.client, row.name, way.name) for way, row in CASES)}


@pytest.mark.parametrize(("way", "row"), CASES, ids=str)
def test_what_becomes_of_a_call(
    protection: Protection,
    upstreams: Mapping[str, Any],
    hold: Callable[[Key, Cells], None],
    way: Way,
    row: Row,
) -> None:
    upstream = upstreams[way.client]
    protection.on(way.system)
    protected, reached = _call(way, row.situation(way), upstream)
    cells = _cells(protection, way, row, protected, reached)
    assert _found(protection, way, reached) == _wanted(row.expected_of(way))

    protection.off(way.system)
    bare, _ = _call(way, row.alone or row.situation(way), upstream, **_without_own_retries(way))
    assert _kind(protected.error, row) is _kind(bare.error, row)
    assert getattr(protected.error, "status_code", None) == getattr(bare.error, "status_code", None)
    assert protected.items == bare.items

    hold((way.client, row.name, way.name), cells)


class TestThePage:
    @pytest.fixture
    def read(self) -> Page:
        return Page.read(WAYS)

    def test_it_speaks_of_every_case_and_of_nothing_else(self, read: Page) -> None:
        assert {*read.says} == KEYS
        assert {key: read.says[key] for key in NOT_APPLICABLE} == NOT_APPLICABLE

    def test_it_speaks_of_the_latest_versions(self, read: Page) -> None:
        constraints = (Path(__file__).parents[3] / "constraints" / "latest.txt").read_text().splitlines()
        pins = dict(line.partition(";")[0].strip().split("==") for line in constraints if "==" in line)
        assert read.versions == named(pins)


def _call(way: Way, situation: Situation | str, upstream: Any, **options: Any) -> tuple[Answer, int]:
    """What the app got, and how many requests reached the server."""
    assert not isinstance(situation, str)
    with situation(way, upstream) as scene:
        answer = way.call(scene.url, scene.timeouts, scene.size, **options)
        return answer, scene.reached()


def _without_own_retries(way: Way) -> dict[str, Any]:
    return {"max_retries": 0} if way.system == "openai" else {}


def _found(protection: Protection, way: Way, reached: int) -> Expected:
    attempts = protection.signals.attempts()
    (breaker,) = _outcomes(protection, way)
    waits = {*get(attempts[1:], "resilience.retry.delay.source")}
    assert len(waits) <= 1
    return Expected(
        attempts=len(attempts),
        gave_up=attributes(protection.signals.operation()).get("resilience.retry.gave_up"),
        breaker=breaker,
        wait=waits.pop() if waits else None,
        reached=reached,
    )


def _wanted(expected: Expected) -> Expected:
    return expected if expected.reached is not None else replace(expected, reached=expected.attempts)


def _outcomes(protection: Protection, way: Way) -> dict[str, int]:
    """What the breaker counted, which is one for each attempt."""
    calls = protection.target(way.system).breaker.calls
    counted = {outcome: count for outcome, count in calls.items() if count}
    assert sum(counted.values()) == len(protection.signals.attempts())
    return counted


def _kind(error: Exception | None, row: Row) -> type:
    """The error's class; of httpx's errors what they have in common, where it is a race which of them it is."""
    classes = type(error).__mro__
    return next((cls for cls in classes if row.is_race and cls.__name__ == "TransportError"), classes[0])


def _cells(protection: Protection, way: Way, row: Row, answer: Answer, reached: int) -> Cells:
    found = _found(protection, way, reached)
    attempts = protection.signals.attempts()
    network = sum(len(_network_spans(protection, attempt)) for attempt in attempts)
    given_up = f"no: {found.gave_up}" if found.gave_up else _NOT_NEEDED
    return Cells(
        attempts=str(found.attempts),
        reached=str(reached),
        repeated=f"yes, {found.wait}" if found.wait else given_up,
        breaker=found.breaker,
        result=_named(answer, row),
        spans=f"1 + {len(attempts)} + {network}",
    )


_NOT_NEEDED = "no need"


def _network_spans(protection: Protection, attempt: ReadableSpan) -> list[ReadableSpan]:
    return [span for span in protection.signals.children(attempt) if span.kind is SpanKind.CLIENT]


def _named(answer: Answer, row: Row) -> str:
    """The exception, as a reader would import it; the module's first name is enough."""
    if answer.error is None:
        return "its result"
    cls = _kind(answer.error, row)
    module = cls.__module__.partition(".")[0]
    name = cls.__name__ if module == "builtins" else f"{module}.{cls.__name__}"
    return f"`{name}`" + (f" after {answer.items} items" if answer.items else "")
