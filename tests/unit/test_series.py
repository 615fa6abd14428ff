"""What the SDK makes of the instruments: how many series there can be, what a view of the app's own does to them, and
that exemplars lead to the span that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from stormproof.resilience.events import Fanout
from stormproof.resilience.fallback import Fallback
from stormproof.resilience.outcome import Verdict, Weight
from stormproof.telemetry.metrics import Metrics
from stormproof.telemetry.spans import Spans

from .helpers import FakeClient, Trouble, VirtualClock, World
from .signals import Signals

#: The bound of each instrument, and the series of what is beyond it.
MOST_SERIES = 2000 + 1
#: A series for each state, of each of the targets that are kept; SDKs from 1.45 on have fewer.
MOST_OF_TARGETS = 5 * 1000
CALLS = 3_000


class Seen(Signals):
    """With an app's own views."""

    def __init__(self, *views: View, **options: Any) -> None:
        super().__init__(**options)
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], views=views, shutdown_on_exit=False)


def measured(clock: VirtualClock, signals: Signals, system: str = "openai") -> World:
    fanout = Fanout()
    world = World(clock, fanout, client=FakeClient(system))
    fanout.add(
        Spans(signals.tracer_provider, "1", breaker_spans=True), Metrics(signals.meter_provider, "1", world.targets)
    )
    return world


@pytest.mark.parametrize("what", ["host", "model", "collection", "operation", "error"])
def test_series_are_bounded_whatever_there_are_thousands_of(clock: VirtualClock, what: str) -> None:
    signals = Signals(ALWAYS_OFF)
    world = measured(clock, signals, "qdrant" if what == "collection" else "openai")
    world.choose(retry={"attempts": 1}, breaker={"enabled": False}, fallback=Fallback(value="plan b"))
    for number in range(CALLS):
        error_type = f"Error{number}" if what == "error" else "Error"
        details = {
            "host": {"host": f"host-{number}"},
            "operation": {"operation": f"operation {number}"},
            "error": {},
        }
        failure = Trouble(Verdict(Weight.FAILURE, error_type=error_type))
        world.run(world.begin(**details.get(what, {"facts": {what: str(number)}})), failure)
    points = signals.collect()
    most = {name: MOST_SERIES if "circuit_breaker" not in name else MOST_OF_TARGETS for name in points}
    assert {name: len(series) for name, series in points.items() if len(series) > most[name]} == {}
    assert sum(point.value for point in points["resilience.operations"]) == CALLS
    assert sum(point.count for point in points["resilience.attempt.duration"]) == CALLS


@pytest.mark.parametrize(
    ("system", "durations"),
    [
        ("openai", ["gen_ai.client.operation.duration", "gen_ai.client.token.usage"]),
        ("qdrant", ["db.client.operation.duration"]),
    ],
)
def test_exemplars_lead_to_what_was_measured(clock: VirtualClock, system: str, durations: Sequence[str]) -> None:
    signals = Signals()
    world = measured(clock, signals, system)
    world.run(world.begin(), Trouble(), {"input_tokens": 7})
    points, operation = signals.collect(), signals.operation()
    assert [span_of(points["resilience.attempt.duration"], kind) for kind in ("initial", "retry")] == [
        attempt.context.span_id for attempt in signals.attempts()
    ]
    for name in (*durations, "resilience.retry.delay"):
        (exemplar,) = (exemplar for point in points[name] for exemplar in point.exemplars)
        assert (exemplar.trace_id, exemplar.span_id) == (operation.context.trace_id, operation.context.span_id)


def span_of(points: list[Any], kind: str) -> int:
    (exemplar,) = (
        exemplar
        for point in points
        if point.attributes["resilience.attempt.type"] == kind
        for exemplar in point.exemplars
    )
    span_id: int = exemplar.span_id
    return span_id


def test_a_view_of_the_apps_own_is_obeyed(clock: VirtualClock) -> None:
    signals = Seen(
        View(
            instrument_name="resilience.attempt.duration",
            aggregation=ExplicitBucketHistogramAggregation((1, 2)),
            attribute_keys={"error.type"},
        ),
        View(instrument_name="gen_ai.client.operation.duration", name="mine", attribute_keys=set()),
        View(instrument_name="resilience.circuit_breaker.*", aggregation=DropAggregation()),
        View(instrument_name="resilience.operations", attribute_keys={"resilience.attempt.count"}),
    )
    world = measured(clock, signals)
    world.run(world.begin(operation="chat"), Trouble(), "fine")
    world.run(world.begin(operation="embeddings"), Trouble(), "fine")
    points = signals.collect()
    assert {(p.explicit_bounds, p.attributes.get("error.type")) for p in points["resilience.attempt.duration"]} == {
        ((1, 2), "503"),
        ((1, 2), None),
    }
    assert [dict(point.attributes) for point in points["mine"]] == [{}]
    assert "gen_ai.client.operation.duration" not in points
    assert not [name for name in points if name.startswith("resilience.circuit_breaker")]
    assert {point.attributes["resilience.attempt.count"] for point in points["resilience.operations"]} == {"2"}
    assert "resilience.retry.delay" in points
