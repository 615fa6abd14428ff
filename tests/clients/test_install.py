"""Switched on and off: exactly what was put in comes out, others' wrappers stay, and a fault of ours harms none."""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

import openai
import pytest
import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

import stormproof
from stormproof import install
from stormproof.clients import patching
from stormproof.demo.proxy import FaultProxy, status
from tests.unit.signals import Signals

from .drivers import DRIVERS, Driver, every_way, one_of_each
from .shield import Shield

ProxyOf = Callable[[str], FaultProxy]

SLOTS = [
    ("openai._base_client", "SyncAPIClient", "request"),
    ("openai._base_client", "AsyncAPIClient", "request"),
    ("ollama._client", "Client", "_request"),
    ("ollama._client", "AsyncClient", "_request"),
    ("qdrant_client.http.api_client", "ApiClient", "send"),
    ("qdrant_client.http.api_client", "AsyncApiClient", "send"),
    ("qdrant_client.http.api_client", "ApiClient", "request"),
    ("qdrant_client.http.api_client", "AsyncApiClient", "request"),
    ("qdrant_client.uploader.rest_uploader", None, "upload_batch"),
]
some_slots = pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: ".".join(filter(None, slot)))


def owner_of(slot: tuple[str, str | None, str]) -> Any:
    module = importlib.import_module(slot[0])
    return getattr(module, slot[1]) if slot[1] else module


def held(slot: tuple[str, str | None, str]) -> Any:
    return vars(owner_of(slot))[slot[2]]


@pytest.fixture
def bare(shield: Shield) -> dict[Any, Any]:
    """What is in the slots without us; afterwards stormproof is on."""
    shield.off()
    bare = {slot: held(slot) for slot in SLOTS}
    shield.on()
    return bare


class TestOnAndOff:
    @pytest.mark.alone
    def test_every_slot_is_taken_and_given_back(self, shield: Shield, bare: dict[Any, Any]) -> None:
        for _ in range(3):
            assert all(held(slot) is not bare[slot] for slot in SLOTS)
            shield.off()
            assert all(held(slot) is bare[slot] for slot in SLOTS)
            shield.on()

    def test_twice_is_once(self, shield: Shield, bare: dict[Any, Any], proxy_of: ProxyOf) -> None:
        taken = {slot: held(slot) for slot in SLOTS}
        shield.on()
        assert {slot: held(slot) for slot in SLOTS} == taken
        DRIVERS[0].call(proxy_of("openai").url)
        assert len(shield.signals.operations()) == 1
        for _ in range(2):
            shield.off()
        assert all(held(slot) is bare[slot] for slot in SLOTS)

    @every_way
    def test_off_means_off(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.off()
        proxy = proxy_of(driver.system)
        driver.call(proxy.url)
        assert shield.signals.spans == []
        assert "traceparent" not in proxy.exchanges[0].headers

    @one_of_each
    def test_on_again_it_works_again_with_its_http_spans(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver
    ) -> None:
        shield.again()
        driver.call(proxy_of(driver.system).url)
        (attempt,) = shield.signals.attempts()
        assert [span.name for span in shield.signals.children(attempt)] == ["POST"]

    def test_on_again_what_is_observed_is_what_is_in_force(self, shield: Shield, proxy_of: ProxyOf) -> None:
        """A meter provider keeps the callbacks it was first given: they must not go on telling of what is gone."""
        url = proxy_of("openai").url
        for _ in range(3):
            shield.off()
            shield.on()
            DRIVERS[0].call(url)
        assert list(shield.signals.values("resilience.operations", "resilience.attempt.count").values()) == [3]
        calls = shield.signals.values("resilience.circuit_breaker.calls", "resilience.circuit_breaker.outcome")
        assert calls["success"] == 1  # the breaker is a new one
        shield.off()
        assert not shield.signals.points("resilience.circuit_breaker.status")

    @one_of_each
    def test_one_client_can_be_left_out(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        shield.set(f"STORMPROOF_{driver.system.upper()}__ENABLED", "false")
        shield.again()
        for each in DRIVERS[0], DRIVERS[4], DRIVERS[8]:
            each.call(proxy_of(each.system).url)
        protected = {span.instrumentation_scope.name for span in shield.signals.operations()}  # type: ignore[union-attr]
        assert len(protected) == 2
        assert f"stormproof.{driver.system}" not in protected

    def test_the_wrapped_functions_still_look_like_themselves(self, shield: Shield, bare: dict[Any, Any]) -> None:
        import inspect

        for slot in SLOTS:
            ours, original = held(slot), bare[slot]
            assert (ours.__name__, ours.__doc__, ours.__module__) == (
                original.__name__,
                original.__doc__,
                original.__module__,
            )
            assert inspect.signature(ours) == inspect.signature(original)
            assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(original)


@pytest.mark.alone
class TestOthers:
    """Another instrumentation's wrapper around the same function, put on and taken off at any time."""

    @some_slots
    @pytest.mark.parametrize("first", ["ours", "theirs"])
    @pytest.mark.parametrize("leaves_first", ["ours", "theirs"])
    def test_each_can_go_in_any_order(
        self, shield: Shield, bare: dict[Any, Any], slot: Any, first: str, leaves_first: str
    ) -> None:
        shield.off()
        steps = {
            "ours": (shield.on, shield.off),
            "theirs": (lambda: wrap(slot, _transparent), lambda: unwrap(slot)),
        }
        second = {"ours": "theirs", "theirs": "ours"}
        steps[first][0]()
        steps[second[first]][0]()
        assert isinstance(held(slot), wrapt.FunctionWrapper)
        steps[leaves_first][1]()
        if leaves_first == "ours":
            assert isinstance(held(slot), wrapt.FunctionWrapper)
            assert held(slot).__wrapped__ is bare[slot]
        else:
            assert held(slot) is not bare[slot]
            assert not isinstance(held(slot), wrapt.FunctionWrapper)
        steps[second[leaves_first]][1]()
        assert held(slot) is bare[slot]

    @one_of_each
    @pytest.mark.parametrize("order", list(itertools.permutations(["wrap", "wrap", "on"])), ids="-".join)
    def test_both_work_whatever_the_order(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, order: tuple[str, ...]
    ) -> None:
        slot = next(slot for slot in SLOTS if slot[0].startswith(driver.system))
        shield.off()
        calls: list[str] = []

        def count(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
            calls.append("theirs")
            return wrapped(*args, **kwargs)

        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [status(503)])
        for step in order:
            shield.on() if step == "on" else wrap(slot, count)
        try:
            driver.call(proxy.url)
        finally:
            unwrap(slot)
            unwrap(slot)
        assert calls == ["theirs"] * 2  # outside of us: once a call, not once an attempt
        assert len(proxy.exchanges) == len(shield.signals.attempts()) == 2

    def test_a_shadow_in_a_subclass_is_taken_too(self, shield: Shield, proxy_of: ProxyOf) -> None:
        """openinference sets ``OpenAI.request``, which hides the base class's from then on."""
        import openai

        shield.off()
        original = openai.OpenAI.request
        setattr(openai.OpenAI, "request", wrapt.FunctionWrapper(original, _transparent))  # noqa: B010  # for mypy
        try:
            for switch_on_first in (False, True):
                shield.on()
                proxy = proxy_of("openai")
                DRIVERS[0].call(proxy.url)
                assert len(shield.signals.attempts(shield.signals.operations()[-1])) == 1
                shield.off()
                assert isinstance(vars(openai.OpenAI)["request"], wrapt.FunctionWrapper), switch_on_first
                assert vars(openai.OpenAI)["request"].__wrapped__ is original
        finally:
            del openai.OpenAI.request


@pytest.mark.alone
class TestWhoPutsBackWhatItFound:
    """openinference wraps ``OpenAI.request`` and puts back there what it found: ours, or the bare function."""

    @pytest.fixture
    def other(self) -> Iterator[Any]:
        yield (other := _PutsBack())
        if other.is_instrumented_by_opentelemetry:
            other.uninstrument()
        if "request" in vars(openai.OpenAI):
            del openai.OpenAI.request

    def test_it_comes_after_us_and_stays(self, shield: Shield, bare: dict[Any, Any], other: Any) -> None:
        other.instrument()
        shield.off()
        assert vars(openai.OpenAI)["request"].__wrapped__ is bare[SLOTS[0]]

    def test_it_comes_after_us_and_goes_before(self, shield: Shield, bare: dict[Any, Any], other: Any) -> None:
        other.instrument()
        other.uninstrument()
        shield.off()
        assert openai.OpenAI.request is bare[SLOTS[0]]

    def test_it_comes_after_us_and_goes_after(self, shield: Shield, bare: dict[Any, Any], other: Any) -> None:
        other.instrument()
        shield.off()
        other.uninstrument()
        assert openai.OpenAI.request is bare[SLOTS[0]]

    def test_a_decorator_around_us_is_not_taken_for_us(self, shield: Shield, bare: dict[Any, Any]) -> None:
        ours = openai.OpenAI.request

        @functools.wraps(ours)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            return ours(*args, **kwargs)

        setattr(openai.OpenAI, "request", decorated)  # noqa: B010  # for mypy
        try:
            shield.off()
            assert openai.OpenAI.request is decorated
        finally:
            del openai.OpenAI.request

    def test_it_comes_before_us_and_goes_before(
        self, shield: Shield, bare: dict[Any, Any], proxy_of: ProxyOf, other: Any
    ) -> None:
        shield.off()
        other.instrument()
        shield.on()
        other.uninstrument()
        DRIVERS[0].call(proxy_of("openai").url)
        assert len(shield.signals.attempts()) == 1  # the bare function that it put back would pass us by
        shield.off()
        assert openai.OpenAI.request is bare[SLOTS[0]]

    def test_nothing_is_left_of_our_watching(self, shield: Shield) -> None:
        watched = BaseInstrumentor.uninstrument
        shield.off()
        assert BaseInstrumentor.uninstrument is not watched
        assert BaseInstrumentor.uninstrument.__module__ == BaseInstrumentor.__module__
        shield.on()


class _PutsBack(BaseInstrumentor):
    """As openinference's instrumentor does it."""

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        self._found = openai.OpenAI.request
        wrapt.wrap_function_wrapper("openai", "OpenAI.request", _transparent)

    def _uninstrument(self, **kwargs: Any) -> None:
        setattr(openai.OpenAI, "request", self._found)  # noqa: B010  # for mypy


class TestNoHarm:
    """A fault of ours is logged once, and the call goes the way it would have gone without us."""

    @pytest.fixture(autouse=True)
    def reports_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(patching, "_reported", set())

    @every_way
    def test_a_call_that_cannot_be_described(
        self, shield: Shield, proxy_of: ProxyOf, monkeypatch: pytest.MonkeyPatch, driver: Driver
    ) -> None:
        proxy = proxy_of(driver.system)
        expected = driver.call(proxy.url)
        shield.signals.clear()
        module = f"stormproof.clients.{driver.system}"
        monkeypatch.setattr(f"{module}.{'address' if driver.system == 'qdrant' else 'address_of'}", _broken)
        for _ in range(3):
            assert driver.call(proxy.url) == expected
        assert shield.signals.operations() == []
        describe = "_describe" if driver.system == "qdrant" else "_Requests._describe"
        shield.expected_complaints = [_leaves_alone(f"{module}.{describe}")]

    @every_way
    def test_an_attempt_that_cannot_be_prepared(
        self, shield: Shield, proxy_of: ProxyOf, monkeypatch: pytest.MonkeyPatch, driver: Driver
    ) -> None:
        shield.again(TIMEOUT="5s")
        proxy = proxy_of(driver.system)
        monkeypatch.setattr(f"stormproof.clients.{driver.system}.clamped", _broken)
        assert driver.call(proxy.url)
        name = "_prepare" if driver.system == "qdrant" else "_prepared"
        shield.expected_complaints = [_leaves_alone(f"stormproof.clients.{driver.system}.{name}")]

    @every_way
    def test_an_answer_that_cannot_be_read(
        self, shield: Shield, proxy_of: ProxyOf, monkeypatch: pytest.MonkeyPatch, driver: Driver
    ) -> None:
        proxy = proxy_of(driver.system)
        expected = driver.call(proxy.url)
        module = sys.modules[f"stormproof.clients.{driver.system}"]
        for name in ("_facts_of", "_add_usage"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, _broken)
        monkeypatch.setattr(getattr(module, type(driver).__name__), "response_facts", _broken)
        for _ in range(2):
            assert driver.call(proxy.url) == expected
        assert shield.target(driver.system).breaker.calls["success"] == 3
        shield.expected_complaints = ["any"]

    @one_of_each
    def test_a_telemetry_that_raises(
        self, shield: Shield, proxy_of: ProxyOf, monkeypatch: pytest.MonkeyPatch, driver: Driver
    ) -> None:
        for name in ("attempt_started", "attempt_ended", "operation_ended"):
            monkeypatch.setattr(f"stormproof.telemetry.metrics.Metrics.{name}", _broken, raising=False)
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [status(503)])
        assert driver.call(proxy.url)
        assert len(shield.signals.attempts()) == 2
        shield.expected_complaints = ["any"]

    def test_a_patch_that_fails_is_one_line_and_the_client_works(
        self,
        shield: Shield,
        proxy_of: ProxyOf,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        shield.off()
        monkeypatch.delenv("STORMPROOF_QUIET")
        monkeypatch.setattr("stormproof.clients.openai.patch", _broken)
        capsys.readouterr()
        shield.on()
        assert DRIVERS[0].call(proxy_of("openai").url)
        said = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
        assert said == [
            (
                "stormproof: WARNING: openai is not protected: RuntimeError: broken; pip install 'openai"
                f"{install.CLIENTS['openai'].versions}'"
            )
        ]

    def test_a_version_that_was_never_tried_is_left_alone(
        self, shield: Shield, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], proxy_of: ProxyOf
    ) -> None:
        shield.off()
        monkeypatch.delenv("STORMPROOF_QUIET")
        too_new = install.Supported("openai", ">=99")
        monkeypatch.setitem(install.CLIENTS, "openai", too_new)
        capsys.readouterr()
        shield.on()
        assert DRIVERS[0].call(proxy_of("openai").url)
        assert shield.signals.operations() == []
        assert "is outside >=99; pip install 'openai>=99'" in capsys.readouterr().err


def test_the_first_call_decides_the_providers(shield: Shield, proxy_of: ProxyOf) -> None:
    others = Signals()
    stormproof.instrument(**others.providers)
    DRIVERS[0].call(proxy_of("openai").url)
    assert (len(shield.signals.operations()), others.spans) == (1, [])


def wrap(slot: Any, wrapper: Any) -> None:
    setattr(owner_of(slot), slot[2], wrapt.FunctionWrapper(held(slot), wrapper))


def unwrap(slot: Any) -> None:
    setattr(owner_of(slot), slot[2], held(slot).__wrapped__)


def _transparent(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def _broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken")


def _leaves_alone(name: str) -> str:
    return f"stormproof leaves calls alone where {name} fails"
