"""What is counted, and the closing table."""

from __future__ import annotations

from itertools import count

import pytest

from stormproof.demo.otlp import Span
from stormproof.demo.proxy import Exchange
from stormproof.demo.report import Calls, calls_in_spans, calls_on_the_wire, table
from stormproof.demo.run import Run, Summary
from stormproof.demo.stories import read
from stormproof.demo.terminal import Terminal

from .spans import attempt, operation

_numbers = count(1)


def request(
    status: int | None = 200, fault: str | None = None, *, retry: int | None = None, path: str = "/call"
) -> Exchange:
    """Make what the proxy saw of a request."""
    headers = {} if retry is None else {"X-Stainless-Retry-Count": str(retry)}
    return Exchange(next(_numbers), 1, "POST", path, "", headers, b"", fault, 0.0, status)


class TestOnTheWire:
    def test_openais_own_retries_are_one_call(self) -> None:
        seen = [
            request(retry=0),
            *(request(503, "status 503", retry=0), request(200, "delay", retry=1)),
            *(request(503, "status 503", retry=0), request(None, "reset", retry=1), request(503, "x", retry=2)),
            request(retry=0),
        ]
        assert calls_on_the_wire({"openai": seen}) == Calls(first_time=2, recovered=1, lost=1, attempts=7)

    def test_every_other_request_is_a_call(self) -> None:
        seen = [request(), request(503, "status 503"), request(None, "outage"), request(), request(200, "drop")]
        expected = Calls(first_time=2, lost=3, attempts=5, in_outage=1)
        assert calls_on_the_wire({"qdrant": seen}) == expected
        assert expected.all == 5

    def test_an_answer_that_says_no_is_a_lost_call(self) -> None:
        assert calls_on_the_wire({"qdrant": [request(404)]}).lost == 1

    def test_the_version_probe_is_no_call(self) -> None:
        assert calls_on_the_wire({"qdrant": [request(path="/"), request()]}).all == 1


def spans() -> list[Span]:
    """Make one operation of each outcome, six attempts in all, and one to a service that was not watched."""
    good, recovered = operation(0, 1, 1), operation(2, 3, 2)
    lost, cut = operation(4, 5, 2, "503", "attempts"), operation(6, 7, 1, "ReadError", "stream_started")
    rejected = operation(8, 9, 0, "circuit_open")
    unseen = operation(10, 11, 1, scope="stormproof.openai")
    made = [(good, 1), (recovered, 2), (lost, 2), (cut, 1), (unseen, 1)]
    attempts = [
        attempt(parent, n, parent.start_ns / 1e6, parent.end_ns / 1e6) for parent, m in made for n in range(1, m + 1)
    ]
    return [good, recovered, lost, cut, rejected, unseen, *attempts]


def test_spans_are_counted_by_outcome() -> None:
    wire = {"qdrant": [request()] * 5 + [request(None, "outage")]}
    expected = Calls(first_time=1, recovered=1, rejected=1, lost=2, attempts=6, in_outage=1)
    assert calls_in_spans(read(spans()), wire) == expected
    assert expected.all == 5


def test_the_closing_table() -> None:
    plain = Run(1, 12.34, Summary(30, 60, 2, 3), {"qdrant": [request(), request(503, "status 503")]})
    protected = Run(0, 13.0, Summary(60, 60, 3, 3), {"qdrant": [request()] * 6})
    lines = table(plain, protected, read(spans()), Terminal(60))
    assert lines[:12] == [
        "                               plain python  with stormproof",
        "passages stored                    30 of 60         60 of 60",
        "questions answered                   2 of 3           3 of 3",
        "calls the program made                    2                5",
        "  good at the first attempt               1                1",
        "  recovered by a retry                    0                1",
        "  rejected by the open breaker            –                1",
        "  lost                                    1                2",
        "attempts on the wire                      2                6",
        "  sent into the outage                    0                0",
        "seconds                                12.3             13.0",
        "",
    ]
    notes = " ".join(" ".join(lines[12:]).split()).replace("- ", "-")
    assert "Each of the 6 attempts on the wire has its span." in notes
    assert "1 by their last attempt, which is the first one while so much fails, 1 cut off in mid-stream" in notes
    assert "Not counted, because reached by https and so without faults: ollama, openai." in notes
    assert max(map(len, lines)) <= 60


def test_attempts_that_are_missing_are_told() -> None:
    run = Run(0, 1.0, None, {"qdrant": [request()]})
    lines = table(run, run, read(spans()), Terminal(60))
    assert "· The spans tell of 6 attempts, the wire saw 1." in lines
    assert lines[1].split() == ["passages", "stored", "?", "?"]


@pytest.mark.parametrize(("answered", "complete"), [(3, True), (2, False)])
def test_a_run_is_complete_when_nothing_is_lost(answered: int, complete: bool) -> None:
    assert Summary(60, 60, answered, 3).is_complete is complete
