"""Records that are made later are made all the same, each once, and before metrics are collected."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

from stormproof.telemetry import later
from stormproof.telemetry.later import Later

from .limits import LONG
from .signals import Signals


class Recorder:
    """As a histogram; tells when there are as many records as are waited for."""

    def __init__(self, wanted: int = 1) -> None:
        self.records: list[tuple[float, Any, Any]] = []
        self.threads: set[str] = set()
        self.complete = threading.Event()
        self._wanted = wanted

    def record(self, value: float, attributes: Any, context: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.records.append((value, attributes, context))
        if len(self.records) == self._wanted:
            self.complete.set()


def put(to: Later, histogram: Any, *values: float) -> None:
    for value in values:
        to.record(histogram, value, {"a": 1}, None)


def test_they_are_made_by_a_thread_of_their_own() -> None:
    records, histogram, context = Later(), Recorder(wanted=3), Context({"k": 1})
    for number in range(3):
        records.record(histogram, number, {"n": number}, context)  # type: ignore[arg-type]
    assert histogram.complete.wait(LONG)
    assert histogram.records == [(number, {"n": number}, context) for number in range(3)]
    assert histogram.threads == {"stormproof-metrics"}


def test_whoever_drains_makes_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Later, "_start", lambda _: None)
    records, histogram = Later(), Recorder()
    put(records, histogram, *range(100))
    assert histogram.records == []
    records.drain()
    assert [value for value, _, _ in histogram.records] == list(range(100))


def test_a_drain_waits_for_the_one_that_is_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Later, "_start", lambda _: None)
    records, begun, go_on = Later(), threading.Event(), threading.Event()

    class Slow(Recorder):
        def record(self, value: float, attributes: Any, context: Any) -> None:
            begun.set()
            assert go_on.wait(LONG)
            super().record(value, attributes, context)

    histogram = Slow()
    put(records, histogram, 1.0)
    first, second = (threading.Thread(target=records.drain) for _ in range(2))
    first.start()
    assert begun.wait(LONG)
    second.start()
    second.join(0.05)
    assert second.is_alive()  # nothing waits any more, but not all is recorded
    go_on.set()
    for thread in (first, second):
        thread.join(LONG)
    assert len(histogram.records) == 1


def test_who_comes_when_too_much_waits_records_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Later, "_start", lambda _: None)
    monkeypatch.setattr(later, "_MOST_WAITING", 3)
    records, histogram = Later(), Recorder()
    put(records, histogram, 1, 2, 3, 4)
    assert [value for value, _, _ in histogram.records] == [4]
    records.drain()
    assert sorted(value for value, _, _ in histogram.records) == [1, 2, 3, 4]


def test_one_that_cannot_be_made_keeps_no_other_from_being_made(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        def record(self, value: float, attributes: Any, context: Any) -> None:
            if value < 2:
                raise ValueError(value)
            super().record(value, attributes, context)

    records, histogram = Later(), Broken()
    put(records, histogram, 0, 1, 2)
    assert histogram.complete.wait(LONG)
    (complaint,) = caplog.records
    assert complaint.name == "stormproof"


def test_without_a_thread_they_wait_for_the_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    records, histogram = Later(), Recorder()
    put(records, histogram, 1.0, 2.0)
    assert histogram.records == []
    records.drain()
    assert len(histogram.records) == 2


def test_a_thread_without_work_ends_and_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "_IDLE", 0.001)
    records = Later()
    for _ in range(3):
        histogram = Recorder()
        put(records, histogram, 1.0)
        assert histogram.complete.wait(LONG)
        thread = records._thread
        if thread is not None:
            thread.join(LONG)
            assert not thread.is_alive()


def test_a_forked_child_begins_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Later, "_start", lambda _: None)
    records, histogram = Later(), Recorder()
    put(records, histogram, 1.0)
    records.after_fork()
    records.drain()
    assert histogram.records == []


def test_from_many_threads_each_is_made_once() -> None:
    signals, records, threads = Signals(), Later(), 8
    histogram: Histogram = signals.meter_provider.get_meter("stormproof").create_histogram("h")

    def hammer() -> None:
        for _ in range(1000):
            records.record(histogram, 1.0, {}, None)

    hammering = [threading.Thread(target=hammer) for _ in range(threads)]
    for thread in hammering:
        thread.start()
    for thread in hammering:
        thread.join(LONG)
    records.drain()
    (point,) = signals.points("h")
    assert (point.count, point.sum) == (threads * 1000, threads * 1000.0)
