"""Where an app wants less telemetry, or none: the calls are protected as ever. And what is always to be seen."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.instrumentation.utils import suppress_http_instrumentation, suppress_instrumentation
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, TraceFlags

import stormproof
from stormproof import BreakerPolicy, Policy, RetryPolicy
from stormproof.demo.proxy import FaultProxy, status
from stormproof.telemetry import presence
from tests.unit.signals import Signals, attributes, get

from .drivers import Driver, every_way, one_of_each
from .shield import Shield, sent

ProxyOf = Callable[[str], FaultProxy]


@every_way
def test_a_trace_that_is_not_sampled(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    """No span, no work for one; the decision reaches the server; retries and metrics are what they are."""
    signals, proxy = Signals(ALWAYS_OFF), proxy_of(driver.system)
    shield.off()
    stormproof.instrument(**signals.providers)
    proxy.plan("POST", driver.path, [status(503)])
    driver.call(proxy.url)
    parents = [exchange.headers["traceparent"].split("-") for exchange in sent(proxy, driver)]
    assert [int(flags, 16) & TraceFlags.SAMPLED for *_, flags in parents] == [0, 0]
    assert len({trace_id for _, trace_id, *_ in parents}) == 1
    assert signals.spans == []
    points = signals.collect()
    assert [point.value for point in points["resilience.operations"]] == [1]
    assert sum(point.count for point in points["resilience.attempt.duration"]) == 2
    assert not any(point.exemplars for point in points["resilience.attempt.duration"])


@one_of_each
def test_the_api_alone(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    """As where no SDK is configured: every provider does nothing."""
    proxy = proxy_of(driver.system)
    shield.off()
    expected = driver.call(proxy.url)
    stormproof.instrument(NoOpTracerProvider(), NoOpMeterProvider(), NoOpLoggerProvider())
    proxy.plan("POST", driver.path, [status(503)])
    assert driver.call(proxy.url) == expected
    assert len(sent(proxy, driver)) == 1 + 2
    assert "traceparent" not in sent(proxy, driver)[-1].headers


@every_way
def test_an_sdk_that_comes_later(
    shield: Shield, proxy_of: ProxyOf, monkeypatch: pytest.MonkeyPatch, driver: Driver
) -> None:
    """From the first call after it on, whichever client makes it."""
    signals, proxy, sdk = Signals(), proxy_of(driver.system), Mock(return_value=False)
    monkeypatch.setattr(presence, "is_there", sdk)
    shield.off()
    stormproof.instrument(**signals.providers)
    expected = driver.call(proxy.url)
    assert (signals.operations(), signals.logs, signals.points("resilience.operations")) == ([], [], [])
    sdk.return_value = True
    assert driver.call(proxy.url) == expected
    assert [span.name.partition(" ")[0] for span in signals.operations()] == [driver.operation]


@one_of_each
def test_nothing_is_told_where_instrumentation_is_suppressed(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    """As the official instrumentations have it; what is read at collection time counts on."""
    proxy = proxy_of(driver.system)
    shield.off()
    breaker = BreakerPolicy(strategy="window", failures=3, open_for=60)
    chosen = Policy(retry=RetryPolicy(base=0.001), breaker=breaker)
    stormproof.instrument(**shield.signals.providers, policies={driver.system: chosen})
    with suppress_instrumentation():
        proxy.plan("POST", driver.path, [status(503)])
        driver.call(proxy.url)
        proxy.plan("POST", driver.path, [status(503)] * 3)
        for _ in range(2):
            with pytest.raises((driver.status_error, *driver.circuit_errors)):
                driver.call(proxy.url)
    assert len(sent(proxy, driver)) == 2 + 3
    assert (shield.signals.spans, shield.signals.logs) == ([], [])
    assert {name.rpartition(".")[0] for name in shield.signals.collect()} == {
        "resilience.circuit_breaker",
        "resilience.retry",
    }
    assert shield.signals.points("resilience.retry.delay") == []


@one_of_each
def test_only_the_http_spans_can_be_suppressed(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    proxy = proxy_of(driver.system)
    proxy.plan("POST", driver.path, [status(503)])
    with suppress_http_instrumentation():
        driver.call(proxy.url)
    operation = f"{driver.operation} {driver.subject}"
    attempt = f"attempt {driver.operation}"
    assert [span.name for span in shield.signals.spans] == [operation, attempt, attempt]


@every_way
def test_a_wait_is_the_gap_between_two_attempts(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    proxy = proxy_of(driver.system)
    shield.again(RETRY__BASE="20ms")
    proxy.plan("POST", driver.path, [status(503), status(503)])
    driver.call(proxy.url)
    operation, attempts = shield.signals.operation(), shield.signals.attempts()
    waits = get(attempts[1:], "resilience.retry.delay")
    assert attributes(operation)["resilience.retry.total_delay"] == pytest.approx(sum(waits))
    for wait, before, after in zip(waits, attempts, attempts[1:], strict=False):
        assert before.end_time is not None
        assert after.start_time is not None
        assert (after.start_time - before.end_time) / 1e9 >= wait - 0.002  # of two clocks
    (retries,) = shield.signals.points("resilience.retry.delay")
    assert (retries.count, retries.sum) == (2, pytest.approx(sum(waits)))
