"""One call, one operation span: theirs, annotated; with our attempts below it, whoever came first."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from stormproof.demo.proxy import FaultProxy, status
from stormproof.errors import CircuitOpenError
from tests.clients.drivers import COLLECTION, DRIVERS, MESSAGES, STREAMING, Driver, quiet_qdrant
from tests.clients.shield import Shield, sent, types_of
from tests.unit.signals import attributes, failed

from .others import OFFICIAL, OPENINFERENCE, TRACELOOP, TRACELOOP_OLLAMA, TRACELOOP_QDRANT, Other
from .trees import PAIRS, Scroll, call, every_order, every_pair, scope, tree

ProxyOf = Callable[[str], FaultProxy]

_DURATIONS = ("gen_ai.client.operation.duration", "db.client.operation.duration")


@every_pair
@every_order
def test_theirs_is_annotated_and_no_second_is_made(
    shield: Shield, proxy_of: ProxyOf, driver: Driver, other: Other, order: str
) -> None:
    proxy = proxy_of(driver.system)
    shield.off()
    expected = driver.call(proxy.url)
    proxy.plan("POST", driver.path, [status(503)])
    answer = call(shield, driver, proxy.url, order, other)
    assert (answer, types_of(answer)) == (expected, types_of(expected))
    assert len(sent(proxy, driver)) == 1 + 2
    attempt = f"{other.span}/attempt {driver.operation}"
    assert tree(shield.signals) == [other.span, attempt, f"{attempt}/POST", attempt, f"{attempt}/POST"]
    operation = shield.signals.operation()
    assert scope(operation) == other.scope
    assert attributes(operation)["resilience.attempt.count"] == 2
    assert attributes(operation)["resilience.circuit_breaker.name"] == shield.target(driver.system).name
    assert "resilience.retry.scheduled" in [event.name for event in operation.events]
    assert "error.type" not in attributes(operation)
    assert not failed(operation)


@every_pair
def test_each_official_duration_is_recorded_once(
    shield: Shield, proxy_of: ProxyOf, driver: Driver, other: Other
) -> None:
    call(shield, driver, proxy_of(driver.system).url, "ours first", other)
    recorded = shield.signals.collect()
    counts = [sum(point.count for point in recorded.get(name, [])) for name in _DURATIONS]
    assert sorted(counts) == [0, 1]
    assert sum(point.count for point in recorded.get("gen_ai.client.token.usage", [])) in (0, 2)
    assert [point.value for point in recorded["resilience.operations"]] == [1]


@every_pair
def test_what_failed_for_good_is_told_and_status_and_name_are_theirs(
    shield: Shield, proxy_of: ProxyOf, driver: Driver, other: Other
) -> None:
    shield.set("STORMPROOF__RETRY__ATTEMPTS", 3)
    proxy = proxy_of(driver.system)
    proxy.plan("POST", driver.path, [status(503)] * 9)
    with pytest.raises(driver.status_error) as caught:
        call(shield, driver, proxy.url, "ours first", other)
    assert len(sent(proxy, driver)) == 3
    operation = shield.signals.operation()
    assert (operation.name, scope(operation)) == (other.span, other.scope)
    assert attributes(operation)["resilience.attempt.count"] == 3
    assert attributes(operation)["resilience.retry.gave_up"] == "attempts"
    assert operation.status.status_code is StatusCode.ERROR
    assert operation.status.description != "503"  # which would be ours
    told = attributes(operation)["error.type"].removeprefix("openai.")
    assert told == (type(caught.value).__name__ if other in _NAMING_ERRORS else "503")
    recorded = shield.signals.collect()
    assert sum(point.count for name in _DURATIONS for point in recorded.get(name, [])) == 1


#: Those that set ``error.type`` themselves; elsewhere it is ours.
_NAMING_ERRORS = (TRACELOOP, OFFICIAL, TRACELOOP_OLLAMA)


@every_pair
def test_a_refused_call_has_no_attempts_and_a_link_to_the_opening(
    shield: Shield, proxy_of: ProxyOf, driver: Driver, other: Other
) -> None:
    shield.set("STORMPROOF__BREAKER__STRATEGY", "window")
    shield.set("STORMPROOF__BREAKER__FAILURES", 1)
    shield.set("STORMPROOF__RETRY__ATTEMPTS", 1)
    proxy = proxy_of(driver.system)
    proxy.plan("POST", driver.path, [status(503)])
    with pytest.raises(driver.status_error):
        call(shield, driver, proxy.url, "ours first", other)
    with pytest.raises(CircuitOpenError):
        driver.call(proxy.url)
    refused = shield.signals.operations()[-1]
    assert (scope(refused), shield.signals.attempts(refused)) == (other.scope, [])
    assert attributes(refused)["resilience.attempt.count"] == 0
    (opening,) = shield.signals.named("circuit_breaker open")
    assert opening.context is not None
    assert [link.context.span_id for link in refused.links] == [opening.context.span_id]


class TestSeveralOthers:
    @pytest.mark.parametrize("driver", DRIVERS[:4], ids=str)
    @every_order
    def test_the_innermost_is_the_operation(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, order: str
    ) -> None:
        proxy = proxy_of("openai")
        proxy.plan("POST", driver.path, [status(503)])
        call(shield, driver, proxy.url, order, TRACELOOP, OPENINFERENCE, OFFICIAL)
        assert len(sent(proxy, driver)) == 2
        outside = f"{OFFICIAL.span}/{TRACELOOP.span}"
        attempt = f"{outside}/{OPENINFERENCE.span}/attempt chat"
        assert tree(shield.signals)[3:] == [attempt, f"{attempt}/POST", attempt, f"{attempt}/POST"]
        assert scope(shield.signals.operation()) == OPENINFERENCE.scope

    def test_the_call_and_the_one_after_it_are_two(self, shield: Shield, proxy_of: ProxyOf) -> None:
        url = proxy_of("openai").url
        call(shield, DRIVERS[0], url, "theirs first", OPENINFERENCE, TRACELOOP)
        DRIVERS[0].call(url)
        assert [scope(span) for span in shield.signals.operations()] == [OPENINFERENCE.scope] * 2


def _exhaust(stream: Any) -> None:
    for _ in stream:
        pass


def _close(stream: Any) -> None:
    next(iter(stream))
    stream.close()


def _break_off(stream: Any) -> None:
    for _ in stream:
        break


def _leave(stream: Any) -> None:
    with stream:
        next(iter(stream))


class TestStreams:
    """Theirs ends before ours or after it: what we know is on it in any case, and nothing is set once it has ended."""

    STREAMS = tuple(pair for pair in PAIRS if pair[0] in STREAMING and not pair[0].is_async)

    @pytest.mark.parametrize(("driver", "other"), STREAMS, ids=str)
    @pytest.mark.parametrize("end", [_exhaust, _close, _break_off, _leave])
    def test_however_it_ends(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, other: Other, end: Callable[[Any], None]
    ) -> None:
        if end is _leave and driver.system == "ollama":
            end = _exhaust  # its streams are generators, which are no context managers
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [status(503)])
        shield.off()
        other.on(**shield.signals.providers)
        shield.on()
        client = driver.client(proxy.url)
        end(driver.start(client))
        gc.collect()
        driver.close(client)
        operation = shield.signals.operation()
        assert scope(operation) == other.scope
        assert len(shield.signals.attempts()) == attributes(operation)["resilience.attempt.count"] == 2
        assert attributes(operation)["resilience.retry.total_delay"] > 0
        assert attributes(operation)["resilience.circuit_breaker.state"] == "closed"
        assert shield.target(driver.system).breaker.in_flight == 0


class TestSpansThatCoverSeveralRequests:
    def test_each_batch_of_an_upload_has_an_operation_of_its_own(self, shield: Shield, proxy_of: ProxyOf) -> None:
        from qdrant_client import models

        proxy = proxy_of("qdrant")
        proxy.plan("PUT", r"/collections/docs/points", [status(503)])
        TRACELOOP_QDRANT.on(**shield.signals.providers)
        client = quiet_qdrant(proxy.url)
        points = [models.PointStruct(id=n, vector=[0.1, 0.2, 0.3, 0.4]) for n in (1, 2, 3)]
        client.upload_points(COLLECTION, points, batch_size=1)
        client.close()
        upload = "qdrant.upload_points"
        batch = f"{upload}/upsert {COLLECTION}"
        assert tree(shield.signals).count(upload) == 1
        assert tree(shield.signals).count(batch) == 3
        assert tree(shield.signals).count(f"{batch}/attempt upsert") == 4
        assert {scope(span) for span in shield.signals.operations()} == {"stormproof.qdrant"}


class TestWhereTheirSpanIsNotThere:
    def test_an_async_call_of_qdrant(self, shield: Shield, proxy_of: ProxyOf) -> None:
        """traceloop's span ends before the call begins, when the coroutine is made: ours stands beside it."""
        call(shield, Scroll(is_async=True), proxy_of("qdrant").url, "ours first", TRACELOOP_QDRANT)
        operation = f"scroll {COLLECTION}"
        assert tree(shield.signals) == [
            TRACELOOP_QDRANT.span,
            operation,
            f"{operation}/attempt scroll",
            f"{operation}/attempt scroll/POST",
        ]

    def test_another_call_inside_a_stream_is_not_taken_for_it(self, shield: Shield, proxy_of: ProxyOf) -> None:
        """Ollama's list of models has no span of theirs; the stream's is not current, and hidden in theirs' frames."""
        TRACELOOP_OLLAMA.on(**shield.signals.providers)
        driver = DRIVERS[4]
        client = driver.client(proxy_of("ollama").url)
        for _ in client.chat("tiny", MESSAGES, stream=True):
            client.list()
            break
        gc.collect()
        driver.close(client)
        assert sorted(span.name for span in shield.signals.operations()) == ["list", TRACELOOP_OLLAMA.span]


@every_pair
def test_others_that_record_nothing_change_nothing(
    shield: Shield, proxy_of: ProxyOf, driver: Driver, other: Other
) -> None:
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.trace import NoOpTracerProvider

    other.on(tracer_provider=NoOpTracerProvider(), meter_provider=NoOpMeterProvider())
    driver.call(proxy_of(driver.system).url)
    operation = shield.signals.operation()
    assert scope(operation) == f"stormproof.{driver.system}"
    assert len(shield.signals.attempts()) == 1
