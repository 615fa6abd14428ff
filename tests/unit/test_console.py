"""The view for people: an operation's line, its attempts' lines, and no more than two lines for a plain retry."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from stormproof.errors import CircuitOpenError
from stormproof.resilience.events import Fanout
from stormproof.telemetry import console as console_module
from stormproof.telemetry.console import ConsoleView
from stormproof.telemetry.spans import Spans

from .helpers import Trouble, VirtualClock, World, asked_to_wait
from .signals import Signals


class Shown:
    """A world whose spans are shown as they end, and what was written."""

    def __init__(self, clock: VirtualClock, capsys: pytest.CaptureFixture[str]) -> None:
        self.signals = Signals()
        self.world = World(clock, Fanout(Spans(self.signals.tracer_provider, "1", breaker_spans=True)))
        self.view = ConsoleView()
        self._capsys = capsys

    def lines(self) -> list[str]:
        """What the spans since the last look are shown as, without times and runs of spaces."""
        self.view.show(self.signals.ended)
        self.signals.clear()
        return [" ".join(line.split()) for line in self._capsys.readouterr().err.splitlines()]


@pytest.fixture
def shown(clock: VirtualClock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setattr(console_module, "_seconds", lambda _: 0.125)
    return Shown(clock, capsys)


def test_a_good_call_is_one_line(shown: Shown) -> None:
    shown.world.run(shown.world.begin(subject="gpt-4o-mini"), {"input_tokens": 3, "output_tokens": 4})
    assert shown.lines() == ["● chat gpt-4o-mini 125ms ok 7 tok"]


def test_a_recovered_call_shows_its_attempts_and_waits(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    shown.world.choose(retry={"base": 1e-9})
    shown.world.run(shown.world.begin(), Trouble(), asked_to_wait(2), "fine")
    assert shown.lines() == [
        "● chat 125ms ok after 3 attempts",
        "├ 1 503 125ms wait 0ms",
        "├ 2 429 125ms wait 2.00s as the server asked",
        "└ 3 ok 125ms",
    ]


def test_a_failed_call_shows_its_error(shown: Shown) -> None:
    with pytest.raises(Trouble):
        shown.world.run(shown.world.begin(attempts=1), Trouble())
    assert shown.lines() == ["● chat 125ms 503", "└ 1 503 125ms"]


def test_a_refused_call_and_the_breakers_change(shown: Shown) -> None:
    shown.world.choose(retry={"attempts": 1}, breaker={"failures": 1})
    with pytest.raises(Trouble):
        shown.world.run(shown.world.begin(), Trouble())
    assert shown.lines() == ["● circuit_breaker open 125ms ok", "● chat 125ms 503", "└ 1 503 125ms"]
    with pytest.raises(CircuitOpenError):
        shown.world.run(shown.world.begin())
    assert shown.lines() == ["● chat 125ms circuit_open"]
    assert shown.view.summary() == "2 operations, 1 attempts, 2 errors"


def test_the_first_token_of_a_stream(shown: Shown, clock: VirtualClock) -> None:
    operation = shown.world.begin(streaming=True)
    shown.world.run(operation, object())
    clock.now += 1.5
    operation.item()
    operation.succeed()
    assert shown.lines() == ["● chat 125ms ok first token 1.50s"]


def test_the_apps_own_spans_are_lines_and_http_below_an_attempt_is_not(shown: Shown) -> None:
    http = shown.signals.tracer_provider.get_tracer("opentelemetry.instrumentation.httpx")
    app = shown.signals.tracer_provider.get_tracer("app")
    with (
        app.start_as_current_span("rag answer"),
        http.start_as_current_span("POST", kind=SpanKind.CLIENT),
    ):
        pass
    http.start_span("GET", kind=SpanKind.CLIENT).end()
    assert shown.lines() == ["● rag answer 125ms ok", "● GET 125ms ok"]


def test_as_json_each_operation_is_one_line(shown: Shown) -> None:
    shown.view = ConsoleView(as_json=True)
    shown.world.run(shown.world.begin(), Trouble(), "fine")
    shown.signals.tracer_provider.get_tracer("app").start_span("other").end()
    call, other = (json.loads(line) for line in shown.lines())
    assert (call["name"], call["status"], call["seconds"]) == ("chat", "ok", 0.125)
    assert len(call["trace_id"]) == 32
    assert [attempt["status"] for attempt in call["attempts"]] == ["503", "ok"]
    assert call["attributes"]["resilience.attempt.count"] == 2
    assert (other["name"], "attempts" in other) == ("other", False)


def test_attempts_of_calls_that_never_end_are_forgotten(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "_MOST_PENDING", 2)
    operations = [shown.world.begin() for _ in range(4)]
    for operation in operations:
        shown.world.run(operation, "fine")
    attempts = [span for span in shown.signals.ended if span.name == "attempt chat"]
    shown.view.show(attempts)
    assert len(shown.view._attempts) == 2


def test_a_closed_stderr_harms_nobody(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> Any:
            raise ValueError("I/O operation on closed file")

    shown.world.run(shown.world.begin(), "fine")
    monkeypatch.setattr("sys.stderr", Closed())
    spans: list[ReadableSpan] = shown.signals.ended
    shown.view.show(spans)
    assert shown.view.operations == 1
