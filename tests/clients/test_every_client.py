"""What holds for every client in every way to call it: results, attempts on the wire, errors, spans."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from stormproof import CircuitOpenError
from stormproof.demo.proxy import FaultProxy, drop, hang, reset, reset_after, status
from tests.unit.signals import attributes, failed, get, has, is_child

from .drivers import Driver, every_stream, every_way, one_of_each
from .shield import Shield, sent, types_of

ProxyOf = Callable[[str], FaultProxy]


def http_spans(shield: Shield) -> list[list[str]]:
    """The HTTP spans below each attempt."""
    children = [shield.signals.children(attempt) for attempt in shield.signals.attempts()]
    return [[span.name for span in spans if span.kind is SpanKind.CLIENT] for spans in children]


@every_way
class TestWhenAllIsWell:
    def test_the_result_is_what_it_would_be_without_us(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        protected = driver.call(proxy.url)
        shield.off()
        bare = driver.call(proxy.url)
        assert protected == bare
        assert types_of(protected) == types_of(bare)
        with_us, without = (dict(exchange.headers) for exchange in sent(proxy, driver))
        with_us.pop("traceparent")
        assert with_us == without
        first, second = sent(proxy, driver)
        assert first.body == second.body

    def test_one_operation_one_attempt_one_request(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        driver.call(proxy.url)
        operation, (attempt,) = shield.signals.operation(), shield.signals.attempts()
        assert operation.name == f"{driver.operation} {driver.subject}"
        assert operation.kind is SpanKind.CLIENT
        assert operation.parent is None
        assert attempt.name == f"attempt {driver.operation}"
        assert http_spans(shield) == [["POST"]]
        assert len(sent(proxy, driver)) == 1
        assert not any(map(failed, shield.signals.spans))
        for span in (operation, attempt):
            assert has(span, server__address="127.0.0.1", server__port=proxy.port)
            assert span.instrumentation_scope is not None
            assert span.instrumentation_scope.name == f"stormproof.{driver.system}"

    def test_the_trace_is_the_apps_and_goes_on_at_the_server(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        proxy = proxy_of(driver.system)
        with shield.signals.tracer_provider.get_tracer("app").start_as_current_span("app"):
            driver.call(proxy.url)
        (app,) = shield.signals.named("app")
        assert is_child(shield.signals.operation(), app)
        (http,) = shield.signals.children(shield.signals.attempts()[0])
        assert http.context is not None
        (exchange,) = sent(proxy, driver)
        expected = f"00-{http.context.trace_id:032x}-{http.context.span_id:016x}-"
        assert exchange.headers["traceparent"].startswith(expected)


@every_way
class TestRecovery:
    @pytest.mark.parametrize(
        ("fault", "error_types"),
        [
            (status(503), {"503"}),
            (status(500), {"500"}),
            (status(502), {"502"}),
            (reset(), {"ReadError", "RemoteProtocolError", "ConnectError", "ConnectionError", "WriteError"}),
            (reset_after(), {"ReadError", "RemoteProtocolError"}),
        ],
        ids=lambda value: getattr(value, "name", ""),
    )
    def test_two_failures_and_a_success(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, fault: object, error_types: set[str]
    ) -> None:
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [fault, fault])  # type: ignore[list-item]
        driver.call(proxy.url)
        operation, attempts = shield.signals.operation(), shield.signals.attempts()
        assert len(sent(proxy, driver)) == attributes(operation)["resilience.attempt.count"] == len(attempts) == 3
        assert http_spans(shield) == [["POST"]] * 3
        assert get(attempts, "resilience.attempt.number") == [1, 2, 3]
        assert set(get(attempts[:2], "error.type")) <= error_types
        assert [failed(span) for span in (operation, *attempts)] == [False, True, True, False]
        http = [shield.signals.children(attempt)[0] for attempt in attempts]
        assert get(http, "http.request.resend_count") == [None, 1, 2]
        assert len({span.context.trace_id for span in shield.signals.spans}) == 1

    def test_a_read_timeout_once_the_target_has_shown_life(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        """A server that is only busy is not sent everything twice: another caller's success comes first."""
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [hang()])
        with ThreadPoolExecutor(1) as other_thread:
            hanging = other_thread.submit(driver.call, proxy.url, timeout=driver.timeout)
            assert proxy.wait_for("POST", driver.path)
            driver.call(proxy.url)
            hanging.result()
        first, second = shield.signals.operations()
        assert get(shield.signals.attempts(first), "error.type") == ["ReadTimeout", None]
        assert get(shield.signals.attempts(second), "error.type") == [None]

    def test_the_server_says_when_to_come_back(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [status(429, {"Retry-After": "1"})])
        driver.call(proxy.url)
        first, second = sent(proxy, driver)
        assert second.started - first.started >= 1
        assert get(shield.signals.attempts(), "resilience.retry.delay.source") == [None, "server"]
        assert get(shield.signals.attempts(), "error.type") == ["429", None]


@every_way
class TestGivingUp:
    def test_a_permanent_failure_costs_exactly_the_policys_number(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        shield.again(RETRY__ATTEMPTS=3)
        proxy = proxy_of(driver.system)
        proxy.chance("POST", driver.path, status(503), 1)
        with pytest.raises(driver.status_error) as raised:
            driver.call(proxy.url)
        assert raised.value.status_code == 503  # type: ignore[attr-defined]
        assert type(raised.value).__module__.split(".")[0] != "stormproof"
        assert len(sent(proxy, driver)) == 3
        operation = shield.signals.operation()
        assert has(operation, resilience__attempt__count=3, error__type="503", resilience__retry__gave_up="attempts")
        assert failed(operation)

    @pytest.mark.parametrize("code", [400, 401, 404, 422])
    def test_what_the_server_refuses_is_not_tried_again(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, code: int
    ) -> None:
        proxy = proxy_of(driver.system)
        proxy.chance("POST", driver.path, status(code), 1)
        errors = []
        for protected in (True, False):
            if not protected:
                shield.off()
            with pytest.raises(Exception, match=r"injected") as raised:
                driver.call(proxy.url)
            errors.append((type(raised.value), str(raised.value)))
        assert errors[0] == errors[1]
        assert len(sent(proxy, driver)) == 2
        assert has(shield.signals.operation(), error__type=str(code), resilience__retry__gave_up="not_retryable")

    def test_nobody_listens(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        url = proxy.url
        proxy.stop()
        with pytest.raises(driver.connection_errors):
            driver.call(url)
        assert get(shield.signals.attempts(), "resilience.attempt.number") == [1, 2, 3, 4]
        assert set(get(shield.signals.attempts(), "error.type")) <= {"ConnectError", "ConnectionError"}

    def test_a_hint_beyond_the_deadline_ends_it_at_once(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [status(429, {"Retry-After": "86400"})])
        began = time.monotonic()
        with pytest.raises(Exception, match=r"Rate limit|Too Many"):
            driver.call(proxy.url)
        assert time.monotonic() - began < 20
        assert len(sent(proxy, driver)) == 1
        assert has(shield.signals.operation(), error__type="429", resilience__retry__gave_up="hint_too_long")

    def test_a_strict_deadline_cuts_a_hanging_attempt(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.again(DEADLINE="400ms")
        proxy = proxy_of(driver.system)
        proxy.chance("POST", driver.path, hang(), 1)
        with pytest.raises(Exception):  # noqa: B017  # each client's own, see the attempt's error.type
            driver.call(proxy.url)
        assert get(shield.signals.attempts(), "error.type")[0] == "ReadTimeout"
        assert has(shield.signals.operation(), resilience__retry__gave_up="deadline")


@every_way
class TestWindowBreaker:
    """The classical life, by thresholds."""

    def test_it_opens_and_refuses_in_the_clients_own_words(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        shield.again(BREAKER__STRATEGY="window", BREAKER__FAILURES=2, BREAKER__OPEN_FOR="1m")
        proxy = proxy_of(driver.system)
        proxy.chance("POST", driver.path, status(503), 1)
        with pytest.raises(driver.status_error):
            driver.call(proxy.url)
        assert len(sent(proxy, driver)) == 2
        assert has(shield.signals.operation(), resilience__retry__gave_up="breaker", error__type="503")
        for expected in (*driver.circuit_errors, CircuitOpenError):
            with pytest.raises(expected, match="circuit open") as raised:
                driver.call(proxy.url)
        error = raised.value
        assert isinstance(error, CircuitOpenError)
        assert error.target == f"{driver.system}/127.0.0.1:{proxy.port}"
        assert len(sent(proxy, driver)) == 2
        refused = shield.signals.operations()[-1]
        (opening,) = shield.signals.named("circuit_breaker open")
        assert shield.signals.children(refused) == []
        assert failed(refused)
        assert has(refused, error__type="circuit_open", resilience__attempt__count=0)
        assert [link.context for link in refused.links] == [opening.context]

    def test_it_recovers_by_a_probe(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.again(
            BREAKER__STRATEGY="window",
            RETRY__ATTEMPTS=1,
            BREAKER__FAILURES=1,
            BREAKER__OPEN_FOR="1ms",
            BREAKER__SUCCESSES=2,
        )
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [status(503)])
        with pytest.raises(driver.status_error):
            driver.call(proxy.url)
        breaker = shield.target(driver.system).breaker
        while breaker.snapshot().next_probe:
            time.sleep(0.001)
        states = []
        for _ in range(2):
            driver.call(proxy.url)
            states.append(breaker.state.value)
            operation = shield.signals.operations()[-1]
            assert get(shield.signals.attempts(operation), "resilience.attempt.type") == ["probe"]
        assert states == ["half_open", "closed"]


@one_of_each
class TestAdaptiveBreaker:
    """The default, with nothing set but quick retries."""

    def test_an_outage_opens_it_and_a_probe_finds_the_recovery(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        proxy = proxy_of(driver.system)
        proxy.chance("POST", driver.path, status(503), 1)

        # Health begins at 15 and each failure takes 1: four attempts of the first call, one of each later one,
        # because with 10 and less nothing is retried. At 0 it opens, for nothing has ever succeeded.
        for _ in range(12):
            with pytest.raises(driver.status_error):
                driver.call(proxy.url)
        operations = shield.signals.operations()
        assert get(operations, "resilience.attempt.count") == [4, *[1] * 11]
        assert get(operations, "resilience.retry.gave_up") == ["attempts", *["breaker"] * 11]
        assert len(sent(proxy, driver)) == 15
        breaker = shield.target(driver.system).breaker
        assert breaker.state.value == "open"

        refused = self._refused(shield, proxy, driver)
        assert shield.signals.children(refused) == []
        (opening,) = shield.signals.named("circuit_breaker open")
        assert has(opening, resilience__circuit_breaker__reason="nothing_succeeds")
        assert [link.context for link in refused.links] == [opening.context]

        proxy.disarm()
        self._until_one_succeeds(proxy, driver)
        probe = shield.signals.operations()[-1]
        assert get(shield.signals.attempts(probe), "resilience.attempt.type") == ["probe"]
        (half_open,) = shield.signals.named("circuit_breaker half_open")
        assert has(half_open, resilience__circuit_breaker__reason="probe_succeeded")
        assert attributes(half_open)["resilience.circuit_breaker.rate"] == 1

        until = time.monotonic() + 30
        while breaker.state.value == "half_open":
            assert time.monotonic() < until
            driver.call(proxy.url)  # waits for its turn
        (closed,) = shield.signals.named("circuit_breaker closed")
        assert has(closed, resilience__circuit_breaker__reason="recovered")
        changes = {(old.value, new.value): count for (old, new), count in breaker.transitions.items()}
        assert changes == {("closed", "open"): 1, ("open", "half_open"): 1, ("half_open", "closed"): 1}
        assert breaker.calls["failure"] == len([exchange for exchange in sent(proxy, driver) if exchange.fault])

    def _refused(self, shield: Shield, proxy: FaultProxy, driver: Driver) -> ReadableSpan:
        """A call that was refused; those before it were probes that became due, and failed."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            before = len(sent(proxy, driver))
            began = time.monotonic()
            with pytest.raises((driver.status_error, CircuitOpenError)) as raised:
                driver.call(proxy.url)
            if isinstance(raised.value, CircuitOpenError):
                assert isinstance(raised.value, driver.circuit_errors)
                assert time.monotonic() - began < 2
                assert len(sent(proxy, driver)) == before
                return shield.signals.operations()[-1]
        raise AssertionError("no call was refused")

    def _until_one_succeeds(self, proxy: FaultProxy, driver: Driver) -> None:
        """Each call before that is refused: by the time of the next probe the target is back."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            before = len(sent(proxy, driver))
            try:
                driver.call(proxy.url)
            except CircuitOpenError:
                assert len(sent(proxy, driver)) == before
                time.sleep(0.01)
            else:
                return
        raise AssertionError("no probe was let through")

    def test_a_lone_caller_has_a_retry_after_a_timeout_for_ten_successes(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        proxy = proxy_of(driver.system)
        driver.use(proxy.url, lambda client: [driver.ask(client) for _ in range(12)])
        shield.signals.clear()
        proxy.plan("POST", driver.path, [hang()])
        driver.call(proxy.url, timeout=driver.timeout)
        assert get(shield.signals.attempts(), "error.type") == ["ReadTimeout", None]

    def test_without_them_and_without_a_sign_of_life_it_has_none(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        shield.again(DEADLINE="1500ms")
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [hang()])
        began = time.monotonic()
        with pytest.raises(Exception):  # noqa: B017  # each client's own, see the attempt's error.type
            driver.call(proxy.url, timeout=driver.timeout)
        assert 1.4 < time.monotonic() - began < 8  # it was waited for, up to the deadline
        assert len(sent(proxy, driver)) == 1
        assert get(shield.signals.attempts(), "error.type") == ["ReadTimeout"]
        assert has(shield.signals.operation(), error__type="ReadTimeout", resilience__retry__gave_up="breaker")


@one_of_each
class TestRateLimits:
    """Being turned away is no failure: it costs neither an attempt nor the target's health."""

    def warm_up(self, shield: Shield, proxy: FaultProxy, driver: Driver) -> None:
        """Calls enough for a rate to be known that is kept to afterwards."""
        driver.use(proxy.url, lambda client: [driver.ask(client) for _ in range(30)])
        shield.signals.clear()
        proxy.clear()

    def test_hints_are_waited_out_and_cost_no_attempt(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.again(RETRY__ATTEMPTS=2)
        proxy = proxy_of(driver.system)
        self.warm_up(shield, proxy, driver)
        limited = status(429, {"Retry-After": "1"})
        proxy.plan("POST", driver.path, [limited, status(503), limited])
        driver.call(proxy.url)
        seen = sent(proxy, driver)
        assert [exchange.status for exchange in seen] == [429, 503, 429, 200]
        assert seen[1].started - seen[0].started >= 1
        assert seen[3].started - seen[2].started >= 1
        delays = get(shield.signals.attempts(), "resilience.retry.delay.source")
        assert delays == [None, "server", "backoff", "server"]
        breaker = shield.target(driver.system).breaker
        assert breaker.calls == {"success": 31, "failure": 1, "ignored": 2, "rejected": 0}
        (paced,) = shield.signals.named("circuit_breaker half_open")
        assert has(paced, resilience__circuit_breaker__reason="rate_limited")

    def test_without_a_hint_it_is_tried_until_the_deadline(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        shield.again(DEADLINE="4s")
        proxy = proxy_of(driver.system)
        self.warm_up(shield, proxy, driver)
        proxy.chance("POST", driver.path, status(429), 1)
        began = time.monotonic()
        with pytest.raises(Exception, match=r"Rate limit|Too Many"):
            driver.call(proxy.url)
        assert time.monotonic() - began < 10
        seen = sent(proxy, driver)
        assert len(seen) > 4  # which is all that failures would get
        assert seen[-1].started - seen[0].started < 4.1
        operation = shield.signals.operation()
        assert has(operation, error__type="429", resilience__attempt__count=len(seen))
        assert attributes(operation)["resilience.retry.gave_up"] in ("deadline", "breaker")
        assert shield.target(driver.system).breaker.calls["failure"] == 0


@every_stream
class TestDroppedStreams:
    def test_before_the_first_item_it_is_tried_again(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        whole = driver.call(proxy.url)
        shield.signals.clear()
        proxy.clear()
        proxy.plan("POST", driver.path, [drop(after_bytes=3), drop(after_bytes=3)])
        assert driver.call(proxy.url) == whole
        assert len(sent(proxy, driver)) == 3
        assert has(shield.signals.operation(), resilience__attempt__count=3, error__type=None)

    def test_after_an_item_the_error_comes_once(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        proxy = proxy_of(driver.system)
        proxy.chance("POST", driver.path, drop(after_chunks=3), 1)
        errors = []
        for protected in (True, False):
            if not protected:
                shield.off()
            with pytest.raises((*driver.connection_errors, httpx.TransportError)) as raised:
                driver.call(proxy.url)
            errors.append(type(raised.value))
        assert errors[0] is errors[1]
        assert len(sent(proxy, driver)) == 2
        operation, (attempt,) = shield.signals.operation(), shield.signals.attempts()
        assert has(operation, resilience__retry__gave_up="stream_started", resilience__attempt__count=1)
        assert failed(attempt)
        assert attributes(operation)["gen_ai.response.time_to_first_chunk"] > 0
