"""Policies chosen in code, breakers steered by hand, listeners: as users do it, with real clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import stormproof
from stormproof import CircuitOpenError, Policy, RetryPolicy
from stormproof.demo.proxy import FaultProxy, status
from stormproof.resilience.breaker import State
from stormproof.telemetry import sdk
from tests.unit.helpers import Recorder
from tests.unit.limits import Asked
from tests.unit.signals import has

from .drivers import DRIVERS, Driver, every_way
from .shield import Shield, sent

ProxyOf = Callable[[str], FaultProxy]

one_of_each = pytest.mark.parametrize("driver", [DRIVERS[0], DRIVERS[4], DRIVERS[8]], ids=str)


def failing(proxy_of: ProxyOf, driver: Driver) -> FaultProxy:
    proxy = proxy_of(driver.system)
    proxy.chance("POST", driver.path, status(503), 1)
    return proxy


def attempts_of(proxy: FaultProxy, driver: Driver) -> int:
    """How often one call that fails is sent."""
    before = len(sent(proxy, driver))
    with pytest.raises(driver.status_error):
        driver.call(proxy.url)
    return len(sent(proxy, driver)) - before


def choose(system: str, attempts: int, **others: Any) -> None:
    stormproof.instrument(policies={system: Policy(retry=RetryPolicy(attempts=attempts, base=0.001), **others)})


@every_way
def test_a_policy_holds_from_the_next_call_on(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    proxy = failing(proxy_of, driver)
    found = [attempts_of(proxy, driver)]
    for attempts in (2, 1, 3):
        choose(driver.system, attempts)
        found.append(attempts_of(proxy, driver))
    assert found == [4, 2, 1, 3]


@one_of_each
class TestPolicies:
    def test_they_win_over_the_environment(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.again(RETRY__ATTEMPTS=3)
        proxy = failing(proxy_of, driver)
        assert attempts_of(proxy, driver) == 3
        choose(driver.system, 2)
        assert attempts_of(proxy, driver) == 2

    def test_they_are_for_their_system(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        for other in {"openai", "ollama", "qdrant"} - {driver.system}:
            choose(other, 1)
        assert attempts_of(failing(proxy_of, driver), driver) == 4

    def test_they_are_gone_once_it_is_switched_off(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        choose(driver.system, 1)
        shield.off()
        shield.on()
        assert attempts_of(failing(proxy_of, driver), driver) == 4

    def test_they_can_be_given_with_the_rest(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.off()
        policies = {driver.system: Policy(retry=RetryPolicy(attempts=2, base=0.001))}
        stormproof.instrument(**shield.signals.providers, policies=policies)
        assert attempts_of(failing(proxy_of, driver), driver) == 2

    def test_one_that_is_wrong_changes_nothing(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        with pytest.raises(ValueError, match="mistral"):
            stormproof.instrument(policies={driver.system: Policy(), "mistral": Policy()})
        with pytest.raises(TypeError):
            stormproof.instrument(policies={driver.system: {"deadline": 1}})  # type: ignore[dict-item]
        assert attempts_of(failing(proxy_of, driver), driver) == 4

    def test_one_that_is_off_leaves_the_client_alone(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.off()
        stormproof.instrument(**shield.signals.providers, policies={driver.system: Policy(enabled=False)})
        driver.call(proxy_of(driver.system).url)
        assert shield.signals.operations() == []

    def test_from_the_next_call_on_as_any_other(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        driver.call(proxy_of(driver.system).url)
        shield.signals.clear()
        stormproof.instrument(policies={driver.system: Policy(enabled=False)})
        driver.call(proxy_of(driver.system).url)
        assert shield.signals.operations() == []

    def test_one_that_the_environment_has_off_can_be_put_on(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        shield.again(ENABLED="off")
        stormproof.instrument(policies={driver.system: Policy()})
        driver.call(proxy_of(driver.system).url)
        assert len(shield.signals.operations()) == 1

    def test_a_predicate_on_errors(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        asked = Asked(False)
        stormproof.instrument(policies={driver.system: Policy(retry=RetryPolicy(on=asked))})
        assert attempts_of(failing(proxy_of, driver), driver) == 1
        (error,) = asked.about
        assert isinstance(error, driver.status_error)  # the client's own, as the app sees it
        assert has(shield.signals.operation(), resilience__retry__gave_up="not_retryable")

    def test_a_predicate_on_results(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        asked, proxy = Asked(True, True, False), proxy_of(driver.system)
        stormproof.instrument(policies={driver.system: Policy(retry=RetryPolicy(base=0.001, on_result=asked))})
        assert driver.call(proxy.url)
        assert len(sent(proxy, driver)) == len(asked.about) == 3
        assert has(shield.signals.operation(), error__type=None, resilience__attempt__count=3)


@every_way
class TestBreakers:
    def test_forced_open_it_refuses_in_the_clients_own_words(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        proxy = proxy_of(driver.system)
        driver.call(proxy.url)
        name = f"{driver.system}/127.0.0.1:{proxy.port}"
        stormproof.breakers[name].force_open()
        for expected in (*driver.circuit_errors, CircuitOpenError):
            with pytest.raises(expected, match="circuit open") as raised:
                driver.call(proxy.url)
        assert isinstance(raised.value, CircuitOpenError)
        assert raised.value.target == name
        assert len(sent(proxy, driver)) == 1
        stormproof.breakers[name].close()
        driver.call(proxy.url)
        assert len(sent(proxy, driver)) == 2

    def test_disabled_it_lets_everything_through(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.again(RETRY__ATTEMPTS=1, BREAKER__STRATEGY="window", BREAKER__FAILURES=2)
        proxy = proxy_of(driver.system)
        driver.call(proxy.url)
        target = stormproof.breakers[f"{driver.system}/127.0.0.1:{proxy.port}"]
        target.disable()
        proxy.chance("POST", driver.path, status(503), 1)
        assert [attempts_of(proxy, driver) for _ in range(4)] == [1] * 4
        target.reset()
        assert [attempts_of(proxy, driver) for _ in range(2)] == [1] * 2
        assert target.breaker.state is State.OPEN

    def test_what_was_last_wrong_leads_to_its_trace(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.again(RETRY__ATTEMPTS=1)
        proxy = failing(proxy_of, driver)
        attempts_of(proxy, driver)
        seen = stormproof.breakers[f"{driver.system}/127.0.0.1:{proxy.port}"].snapshot()
        context = shield.signals.operation().context
        assert context is not None
        assert seen.last_error is not None
        assert (seen.last_error.type, seen.last_error.trace_id) == ("503", f"{context.trace_id:032x}")
        assert seen.last_error_age is not None
        assert seen.last_error_age >= 0


def test_with_providers_of_the_apps_own_a_policy_sets_up_no_others(
    shield: Shield, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(sdk, "is_set_up", lambda: False)  # whatever other tests have left
    monkeypatch.setattr(sdk, "set_up", lambda *args, **kwargs: asked.append(args))
    stormproof.instrument(policies={"openai": Policy()})
    assert asked == []


def test_the_target_that_is_not_there(shield: Shield, proxy_of: ProxyOf) -> None:
    proxy = proxy_of("openai")
    DRIVERS[0].call(proxy.url)
    with pytest.raises(KeyError, match=f"these are: openai/127.0.0.1:{proxy.port}"):
        stormproof.breakers["openai/api.openai.com:443"]
    shield.off()
    assert list(stormproof.breakers) == []


def test_a_listener_hears_of_calls_whenever_it_is_added(shield: Shield, proxy_of: ProxyOf) -> None:
    early, late, url = Recorder(), Recorder(), proxy_of("openai").url
    shield.off()
    stormproof.add_listener(early)
    try:
        shield.on()
        DRIVERS[0].call(url)
        stormproof.add_listener(late)
        DRIVERS[0].call(url)
        stormproof.remove_listener(early)
        DRIVERS[0].call(url)
    finally:
        stormproof.remove_listener(early)
        stormproof.remove_listener(late)
    DRIVERS[0].call(url)
    assert early.steps == ["operation", "attempt 1 initial", "returned", "ended well", "over well"] * 2
    assert late.steps == early.steps
