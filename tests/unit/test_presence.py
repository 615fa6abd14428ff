"""Nobody is told while there is no SDK; once there is one, those who wait for it are told of all that comes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracerProvider

from stormproof.resilience.events import Fanout, Listener
from stormproof.telemetry import presence
from stormproof.telemetry.presence import is_there

NOTHING: dict[str, Any] = {
    "tracer_provider": NoOpTracerProvider(),
    "meter_provider": NoOpMeterProvider(),
    "logger_provider": NoOpLoggerProvider(),
}


def test_what_the_api_has_itself_is_no_sdk() -> None:
    assert not is_there(NOTHING)


@pytest.mark.parametrize("name", NOTHING)
def test_one_provider_is_enough(name: str) -> None:
    assert is_there({**NOTHING, name: TracerProvider()})


# The global providers can be set once only: each of these has a process of its own.
_SETS = {
    "tracer": "from opentelemetry import trace as api; from opentelemetry.sdk.trace import TracerProvider as SDK",
    "meter": "from opentelemetry import metrics as api; from opentelemetry.sdk.metrics import MeterProvider as SDK",
    "logger": "from opentelemetry import _logs as api; from opentelemetry.sdk._logs import LoggerProvider as SDK",
}


@pytest.mark.parametrize("signal", _SETS)
def test_a_global_one_that_is_set_later(signal: str) -> None:
    code = f"print(is_there({{}})); {_SETS[signal]}; api.set_{signal}_provider(SDK()); print(is_there({{}}))"
    assert _said(code) == ["False", "True"]


@pytest.mark.parametrize("signal", ["tracer", "meter"])
def test_one_that_is_named_for_the_api(signal: str) -> None:
    named = {f"OTEL_PYTHON_{signal.upper()}_PROVIDER": f"sdk_{signal}_provider"}
    assert _said("print(is_there({}))", named) == ["True"]


def test_an_api_with_other_names_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is asked as everybody asks it."""
    monkeypatch.delattr(trace, "_TRACER_PROVIDER")
    for name in presence._GLOBAL:
        monkeypatch.setitem(presence._GLOBAL, name, TracerProvider)
    assert is_there({})


def _said(code: str, environment: dict[str, str] | None = None) -> list[str]:
    code = f"from stormproof.telemetry.presence import is_there; {code}"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ran.stdout.split()


class Told(Listener):
    def __init__(self) -> None:
        self.count = 0

    def operation_started(self, operation: Any) -> None:
        self.count += 1


class TestThoseWhoWait:
    def test_they_join_once_it_has_come(self) -> None:
        listeners, told, has_come = Fanout(), Told(), False
        listeners.late = lambda: (told,) if has_come else ()
        listeners.look()
        assert listeners.is_idle
        has_come = True
        listeners.look()
        assert not listeners.is_idle
        listeners.look()
        for tell in listeners.operation_started:
            tell(None)
        assert told.count == 1

    def test_before_those_who_are_there_already(self) -> None:
        told: list[str] = []

        class Named(Listener):
            def __init__(self, name: str) -> None:
                self._name = name

            def operation_started(self, operation: Any) -> None:
                told.append(self._name)

        listeners = Fanout(Named("app"))
        listeners.late = lambda: (Named("spans"), Named("metrics"))
        listeners.look()
        for tell in listeners.operation_started:
            tell(None)
        assert told == ["spans", "metrics", "app"]

    def test_only_one_thread_looks(self) -> None:
        listeners, looks = Fanout(), 0

        def late() -> tuple[Listener, ...]:
            nonlocal looks
            looks += 1
            listeners.look()  # as another thread would, meanwhile
            return (Told(),)

        listeners.late = late
        listeners.look()
        assert (looks, len(listeners.operation_started)) == (1, 1)
