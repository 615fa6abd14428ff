"""The guards before the exporters: one message, nothing lost that could be kept, and no long goodbyes."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from stormproof.demo.sink import OtlpSink
from stormproof.telemetry import export as export_module
from stormproof.telemetry.console import ConsoleView
from stormproof.telemetry.export import Courier, Delivery, Exit, SpanGuard, _LastWords
from stormproof.telemetry.variables import Endpoint

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


@pytest.fixture
def nowhere() -> int:
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def silent() -> Iterator[int]:
    """A port at which somebody listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def spans(*names: str) -> list[ReadableSpan]:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    made: list[Any] = [tracer.start_span(name) for name in names]
    for span in made:
        span.end()
    return made


class Fake:
    """An exporter that does as it is told, with what is slow or broken in it."""

    def __init__(self, work: Callable[[Any], Any] = lambda _: SUCCESS) -> None:
        self.batches: list[Any] = []
        self._work = work

    def export(self, batch: Any) -> Any:
        self.batches.append(batch)
        return self._work(batch)


def guard_at(port: int, *, named: bool, view: ConsoleView | None = None, timeout: float | None = None) -> SpanGuard:
    url = f"http://127.0.0.1:{port}"
    exporter = OTLPSpanExporter(f"{url}/v1/traces", timeout=timeout)
    return SpanGuard(exporter, Endpoint(url, "http/protobuf", named), Delivery(Exit(0.2), view))


class TestNobodyListens:
    def test_it_is_said_once_where_why_and_what_to_do(self, nowhere: int, capsys: pytest.CaptureFixture[str]) -> None:
        for guard in (guard_at(nowhere, named=True), guard_at(nowhere, named=True)):
            for _ in range(3):
                assert guard.export(spans("a")) is FAILURE
            guard.shutdown()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"stormproof: nothing answers at http://127.0.0.1:{nowhere} (connection refused); ")
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" in line

    def test_what_was_missed_is_sent_once_somebody_does(self, nowhere: int) -> None:
        guard = guard_at(nowhere, named=True)
        for name in ("first", "second"):
            assert guard.export(spans(name)) is FAILURE
        with OtlpSink(port=nowhere) as sink:
            assert guard.export(spans("third")) is SUCCESS
            seen = sink.wait_for(lambda s: s.spans if len(s.spans) == 3 else None)
        assert [span.name for span in seen] == ["first", "second", "third"]
        guard.shutdown()

    def test_what_is_kept_is_bounded_and_the_newest(self, nowhere: int) -> None:
        guard = guard_at(nowhere, named=True)
        for number in range(20):
            guard.export(spans(str(number)))
        with OtlpSink(port=nowhere) as sink:
            guard.export(spans("last"))
            names = [span.name for span in sink.spans]
        assert names == [*map(str, range(20 - export_module._MOST_KEPT, 20)), "last"]
        guard.shutdown()

    def test_without_a_named_endpoint_people_are_shown_instead(
        self, nowhere: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        guard = guard_at(nowhere, named=False, view=ConsoleView())
        guard.export(spans("a"))
        guard.export(spans("b"))
        message, *shown = capsys.readouterr().err.splitlines()
        assert "spans are shown here instead" in message
        assert [line.split()[1] for line in shown] == ["a", "b"]
        with OtlpSink(port=nowhere) as sink:
            guard.export(spans("c"))
            assert [span.name for span in sink.spans] == ["c"]
        assert capsys.readouterr().err == ""
        guard.shutdown()

    def test_a_collector_that_was_there_and_went_is_noticed(self, nowhere: int) -> None:
        guard = guard_at(nowhere, named=True)
        with OtlpSink(port=nowhere):
            assert guard.export(spans("a")) is SUCCESS
        assert guard.shutdown() is None  # type: ignore[func-returns-value]


class TestExit:
    def courier(self, port: int, work: Callable[[Any], Any], patience: float = 0.2) -> tuple[Courier, Delivery]:
        delivery = Delivery(Exit(patience), None)
        return Courier(
            Fake(work), Endpoint(f"http://127.0.0.1:{port}", "http/protobuf", True), delivery, FAILURE
        ), delivery

    def test_nobody_waits_longer_than_allowed(self, silent: int, capsys: pytest.CaptureFixture[str]) -> None:
        over, all_done = threading.Event(), threading.Event()

        def hang(batch: Any) -> Any:
            over.wait(60)
            if batch == ["b"]:
                all_done.set()
            return SUCCESS

        courier, delivery = self.courier(silent, hang)
        delivery.exit.begin()
        began = time.monotonic()
        assert courier.export(["a"]) is FAILURE
        assert courier.export(["b"]) is FAILURE
        assert time.monotonic() - began < 5
        over.set()
        assert all_done.wait(60)
        assert "takes too long" in capsys.readouterr().err

    def test_the_real_exporter_at_a_silent_endpoint(self, silent: int) -> None:
        guard = guard_at(silent, named=True, timeout=0.5)
        exit_ = guard._courier._delivery.exit
        exit_.begin()
        began = time.monotonic()
        assert guard.export(spans("a")) is FAILURE
        assert time.monotonic() - began < 5
        exit_._patience = 60.0
        assert guard.export(spans("b")) is FAILURE  # its turn comes when the thread is free again
        guard.shutdown()

    def test_time_passes_only_once_it_has_begun(self) -> None:
        exit_ = Exit(0.0)
        assert exit_.elapsed == 0
        assert not exit_.is_over(time.monotonic(), collector_is_alive=False)
        exit_.begin()
        while not exit_.is_over(time.monotonic(), collector_is_alive=False):
            pass
        assert not exit_.is_over(time.monotonic(), collector_is_alive=True)
        assert exit_.elapsed > 0

    def test_the_summary_counts_what_was_sent(self, silent: int, capsys: pytest.CaptureFixture[str]) -> None:
        delivery = Delivery(Exit(1.0), ConsoleView())
        for carries_spans in (True, False):
            endpoint = Endpoint(f"http://127.0.0.1:{silent}", "http/protobuf", True)
            Courier(Fake(), endpoint, delivery, FAILURE, carries_spans=carries_spans).export([1, 2, 3])
        delivery.tell_at_exit()
        assert capsys.readouterr().err == ""  # nothing was shown, so there is nothing to sum up
        assert delivery.view is not None
        delivery.view.operations = 2
        delivery.tell_at_exit()
        assert capsys.readouterr().err == "stormproof: 2 operations, 0 attempts, 0 errors; 3 spans sent; exit +0.0 s\n"


class TestBrokenExporters:
    @pytest.mark.parametrize("error", [RuntimeError("broken"), ValueError("bad")], ids=str)
    def test_one_that_raises_fails_and_goes_on(
        self, silent: int, capsys: pytest.CaptureFixture[str], error: Exception
    ) -> None:
        outcomes: list[Any] = [error, SUCCESS]

        def work(_: Any) -> Any:
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        courier, _ = TestExit().courier(silent, work)
        assert courier.export(["a"]) is FAILURE
        assert courier.export(["b"]) is SUCCESS
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{type(error).__name__}: {error}" in line

    def test_a_collector_that_refuses_is_one_line(
        self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        with OtlpSink() as sink:
            url = sink.url
            exporter = OTLPSpanExporter(f"{url}/no/such/path")
            guard = SpanGuard(exporter, Endpoint(url, "http/protobuf", True), Delivery(Exit(1.0), None))
            for _ in range(2):
                assert guard.export(spans("a")) is FAILURE
            guard.shutdown()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"stormproof: nothing is taken at {url} (")
        assert "404" in line
        assert "what is not taken is lost" in line
        assert caplog.records == []


class TestLastWords:
    """What the exporter itself logs is kept for our message, and not printed; all else is printed as ever."""

    LOGGER = OTLPSpanExporter.__module__

    def test_only_while_it_works_for_us_and_only_in_our_thread(self, caplog: pytest.LogCaptureFixture) -> None:
        exporter = OTLPSpanExporter("http://127.0.0.1:9/v1/traces")
        words, logger = _LastWords(exporter), logging.getLogger(self.LOGGER)
        logger.warning("before")
        with words:
            logger.error("Failed to export: %s", "no route")
            logging.getLogger("app").warning("the app's own")
            other = threading.Thread(target=logger.warning, args=("another thread's",))
            other.start()
            other.join()
            assert words.text == "Failed to export: no route"
        logger.warning("after")
        assert [record.getMessage() for record in caplog.records] == [
            "before", "the app's own", "another thread's", "after",
        ]  # fmt: skip
        with words:
            assert words.text == ""
        logger.removeFilter(words)
        exporter.shutdown()  # type: ignore[no-untyped-call]

    def test_what_it_keeps_is_one_line_and_short(self) -> None:
        exporter = OTLPSpanExporter("http://127.0.0.1:9/v1/traces")
        words, logger = _LastWords(exporter), logging.getLogger(self.LOGGER)
        with words:
            logger.error("first line %s\nsecond line", "x" * 1000)
        assert len(words.text.splitlines()) == 1
        assert len(words.text) <= 200
        logger.removeFilter(words)
        exporter.shutdown()  # type: ignore[no-untyped-call]
