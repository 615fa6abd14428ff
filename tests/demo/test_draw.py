"""The drawings, line by line."""

from __future__ import annotations

import io
import re

import pytest

from stormproof.demo import draw, stories
from stormproof.demo.otlp import Span
from stormproof.demo.terminal import Terminal, clip_report, duration

from .spans import attempt, change, operation

NARROW = Terminal(width=71)  # leaves twenty columns for the bars


def recovered() -> list[Span]:
    call = operation(0, 1000, 3)
    return [
        call,
        attempt(call, 1, 0, 100, "503"),
        attempt(call, 2, 300, 400, "ReadError", wait=0.2),
        attempt(call, 3, 800, 1000, wait=0.4, source="server"),
    ]


def whole_outage() -> list[Span]:
    """The default breaker's life: failures open it, a call is rejected, a bad probe, a good one, paced, closed."""
    lost = operation(0, 1000, 4, "ReadError", "attempts")
    single = operation(1000, 1010, 1, "ReadError", "breaker")
    opener = operation(1020, 1100, 1, "ReadError", "breaker")
    trip = attempt(opener, 1, 1020, 1090, "ReadError")
    opened = change(trip, 1090, "closed", "open", "nothing_succeeds")
    rejected = operation(1500, 1500.2, 0, "circuit_open", opening=opened)
    bad = operation(3100, 3200, 1, "ReadError", "breaker")
    good = operation(5200, 5300, 1)
    good_probe = attempt(good, 1, 5210, 5290, kind="probe")
    paced = operation(5400, 6400, 1)
    last = operation(8000, 8100, 1)
    return [
        lost,
        *(attempt(lost, n, 250 * (n - 1), 250 * (n - 1) + 10, "ReadError", wait=0.24) for n in range(1, 5)),
        *(single, attempt(single, 1, 1000, 1010, "ReadError"), opener, trip, opened, rejected),
        *(bad, attempt(bad, 1, 3110, 3190, "ReadError", kind="probe")),
        *(good, good_probe, change(good_probe, 5290, "open", "half_open", "probe_succeeded", rate=1.0)),
        *(paced, attempt(paced, 1, 6200, 6400, in_line=0.8)),
        *(last, change(None, 8000, "half_open", "closed", "recovered"), attempt(last, 1, 8050, 8100, in_line=0.05)),
        operation(9000, 10000, 1),
    ]


def classical_outage() -> list[Span]:
    """The life by thresholds: four failures, the fifth opens, one rejection, a bad probe, a good one."""
    lost = operation(0, 1000, 4, "ReadError", "attempts")
    opener = operation(1000, 1100, 1, "ReadError", "breaker")
    trip = attempt(opener, 1, 1000, 1090, "ReadError")
    opened = change(trip, 1090, "closed", "open", "consecutive_failures")
    rejected = operation(1500, 1500.2, 0, "circuit_open", opening=opened)
    bad = operation(3100, 3200, 1, "ReadError", "breaker")
    bad_probe = attempt(bad, 1, 3110, 3190, "ReadError", kind="probe")
    good = operation(5200, 5300, 1)
    good_probe = attempt(good, 1, 5210, 5290, kind="probe")
    return [
        lost,
        *(attempt(lost, n, 250 * (n - 1), 250 * (n - 1) + 10, "ReadError", wait=0.24) for n in range(1, 5)),
        *(opener, trip, opened, rejected),
        *(bad, change(None, 3105, "open", "half_open", "probe_due"), bad_probe),
        change(bad_probe, 3190, "half_open", "open", "probe_failed"),
        *(good, change(None, 5205, "open", "half_open", "probe_due"), good_probe),
        change(good_probe, 5290, "half_open", "closed", "probes_succeeded"),
        operation(9000, 10000, 1),
    ]


def test_a_recovery() -> None:
    assert draw.traces(recovered(), NARROW) == [
        "✓ query_points docs  recovered on attempt 3               1 s at +0.0 s",
        "  1 ✗ 503             ██····                100 ms  wait 200 ms backoff",
        "  2 ✗ ReadError             ██········      100 ms  wait 400 ms server",
        "  3 ✓ ok                              ████  200 ms",
        "",
    ]


def test_an_outage() -> None:
    assert draw.traces(whole_outage(), NARROW) == [
        "✗ query_points docs  lost: all 4 attempts failed          1 s at +0.0 s",
        "  1 ✗ ReadError       █····                  10 ms  wait 240 ms backoff",
        "  2 ✗ ReadError            █····             10 ms  wait 240 ms backoff",
        "  3 ✗ ReadError                 █····        10 ms  wait 240 ms backoff",
        "  4 ✗ ReadError                      █       10 ms",
        "",
        "✗ query_points docs  lost: the breaker opened           80 ms at +1.0 s",
        "  1 ✗ ReadError       ██████████████████     70 ms",
        "    breaker open                       ◆    5 failures, no success",
        "",
        "✗ query_points docs  rejected, the breaker is open      <1 ms at +1.5 s",
        "    nothing was sent: it opened 410 ms ago",
        "",
        "✗ query_points docs  lost: the probe failed            100 ms at +3.1 s",
        "  1 ✗ probe ReadError   ████████████████     80 ms",
        "",
        "✓ query_points docs  probe: it is back                 100 ms at +5.2 s",
        "  1 ✓ probe ok          ████████████████     80 ms",
        "    breaker half-open                   ◆   the probe succeeded: 1/s",
        "",
        "✓ query_points docs  good                              100 ms at +8.0 s",
        "    breaker closed    ◆                     all is well again",
        "  1 ✓ ok              ··········██████████   50 ms  after 50 ms in line",
        "",
        "not drawn: 2 good at the first attempt, 1 lost",
    ]


def test_why_there_was_no_retry() -> None:
    call = operation(0, 10, 1, "503", "breaker")
    drawn = draw.traces([call, attempt(call, 1, 0, 10, "503")], NARROW)
    assert drawn[0] == "✗ query_points do…  lost: no retry while so much fails  10 ms at +0.0 s"


def test_a_rate_limit() -> None:
    call = operation(0, 2000, 2)
    first, second = (
        attempt(call, 1, 0, 100, "429"),
        attempt(call, 2, 1500, 2000, wait=1.0, source="server", in_line=0.4),
    )
    slowed = change(first, 100, "closed", "half_open", "rate_limited", rate=1.25)
    assert draw.traces([call, first, second, slowed], NARROW) == [
        "✓ query_points docs  recovered on attempt 2               2 s at +0.0 s",
        "  1 ✗ 429             █··············       100 ms  wait 1 s server",
        "    breaker half-open  ◆                    told to slow down: 1.2/s",
        "  2 ✓ ok                             █████  500 ms  after 400 ms in line",
        "",
    ]


def test_a_classical_outage() -> None:
    assert draw.traces(classical_outage(), NARROW) == [
        "✗ query_points docs  lost: all 4 attempts failed          1 s at +0.0 s",
        "  1 ✗ ReadError       █····                  10 ms  wait 240 ms backoff",
        "  2 ✗ ReadError            █····             10 ms  wait 240 ms backoff",
        "  3 ✗ ReadError                 █····        10 ms  wait 240 ms backoff",
        "  4 ✗ ReadError                      █       10 ms",
        "",
        "✗ query_points docs  lost: the breaker opened          100 ms at +1.0 s",
        "  1 ✗ ReadError       ██████████████████     90 ms",
        "    breaker open                        ◆   5 failures in a row",
        "",
        "✗ query_points docs  rejected, the breaker is open      <1 ms at +1.5 s",
        "    nothing was sent: it opened 410 ms ago",
        "",
        "✗ query_points docs  lost: the probe failed            100 ms at +3.1 s",
        "    breaker half-open  ◆                    time for a probe",
        "  1 ✗ probe ReadError   ████████████████     80 ms",
        "    breaker open                        ◆   the probe failed",
        "",
        "✓ query_points docs  probe: closed the breaker         100 ms at +5.2 s",
        "    breaker half-open  ◆                    time for a probe",
        "  1 ✓ probe ok          ████████████████     80 ms",
        "    breaker closed                      ◆   the probe succeeded",
        "",
        "not drawn: 1 good at the first attempt",
    ]


def test_the_breakers_timeline() -> None:
    assert draw.breakers(whole_outage(), NARROW) == [
        "qdrant/db:6333 ━━━━━━×××××××××××××××××××××××◆◆◆◆◆◆◆◆◆◆◆◆◆◆◆━━━━━━━━━━━━",
        "  +1.1 s open (5 failures, no success); +5.3 s half-open (the probe",
        "  succeeded: 1/s); +8.0 s closed (all is well again)",
        "━ closed   × open   ◆ half-open (paced)   over 10 s",
    ]
    assert draw.breakers(classical_outage(), NARROW) == [
        "qdrant/db:6333 ━━━━━━×××××××××××◆×××××××××××◆━━━━━━━━━━━━━━━━━━━━━━━━━━",
        "  +1.1 s open (5 failures in a row); +3.1 s half-open (time for a",
        "  probe); +3.2 s open (the probe failed); +5.2 s half-open (time for a",
        "  probe); +5.3 s closed (the probe succeeded)",
        "━ closed   × open   ◆ half-open   over 10 s",
    ]


def test_nothing_to_draw() -> None:
    assert draw.traces([], NARROW) == []
    assert draw.breakers(recovered(), NARROW) == []


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_too_wide(width: int) -> None:
    terminal = Terminal(width=width)
    spans = [*recovered(), *whole_outage(), *classical_outage()]
    lines = [*draw.traces(spans, terminal), *draw.breakers(spans, terminal)]
    assert max(map(len, lines)) <= width
    assert any(len(line) > width - 8 for line in lines)


def test_colours_add_nothing_but_colour() -> None:
    spans = [*recovered(), *whole_outage()]
    plain, coloured = (draw.traces(spans, Terminal(80, colour)) for colour in (False, True))
    assert "\x1b" not in "".join(plain)
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in coloured] == plain


class _Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert Terminal.of(_Tty(), {}) == Terminal(80, colour=True)
    assert not Terminal.of(io.StringIO(), {}).colour
    assert not Terminal.of(_Tty(), {"NO_COLOR": "1"}).colour
    assert not Terminal.of(_Tty(), {"TERM": "dumb"}).colour


@pytest.mark.parametrize(("columns", "width"), [("20", 60), ("300", 120)])
def test_the_width_has_limits(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert Terminal.of(io.StringIO(), {}).width == width


def test_one_of_each_kind_is_chosen() -> None:
    many = [span for _ in range(3) for span in (*recovered(), *whole_outage())]
    kinds = [story.kind for story in stories.chosen(stories.read(many))]
    assert sorted(kinds) == ["bad probe", "closed", "good probe", "lost", "opened", "recovered", "rejected"]
    assert [story.kind for story in stories.chosen(stories.read(many), most=2)] == ["recovered", "opened"]


def test_a_failure_keeps_its_reason_when_it_is_cut() -> None:
    line = "12. What is the very long question about all that? And half an answer [failed: connection reset by peer]"
    assert clip_report(line, 60) == "12. What is the very long que… [failed: connection reset by…"
    assert clip_report("short  [failed: reset]", 60) == "short [failed: reset]"


def test_durations() -> None:
    assert [duration(s) for s in (0.0001, 0.0126, 0.5, 1.234, 12.34, 123.4)] == [
        *("<1 ms", "13 ms", "500 ms"),
        *("1.23 s", "12.3 s", "123 s"),
    ]
