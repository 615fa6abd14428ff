"""Sets the OpenTelemetry SDK up as the official variables say, with defaults and guards of our own.

Only where the app has not done so itself. A variable that makes no sense costs one line on stderr, never the app.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk import _configuration as official
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

from stormproof.notice import say_once
from stormproof.settings import Settings
from stormproof.telemetry import names
from stormproof.telemetry.console import ConsoleView
from stormproof.telemetry.export import Delivery, Exit, Guard, LogGuard, MetricGuard, SpanGuard
from stormproof.telemetry.variables import corrected, endpoint_of

#: Used where the user has chosen nothing.
DEFAULTS: Mapping[str, str] = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http",  # the HTTP spans' attributes by their stable names
}


def apply_defaults() -> None:
    """Choose what the user has not; child processes inherit it."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def is_set_up() -> bool:
    """Whether the app, or another distribution, has set a tracer provider already."""
    return not isinstance(get_tracer_provider(), ProxyTracerProvider)


def set_up(settings: Settings, version: str, **kwargs: Any) -> None:
    """Set the global providers up. Never raises."""
    try:
        if os.environ.get("OTEL_CONFIG_FILE"):
            official._OTelSDKConfigurator()._configure()
            return
        correct, problems = corrected(os.environ)
        for problem in problems:
            say_once(problem, problem)
        delivery = _delivery(settings)
        # Registered before the providers' own shutdown, hence run after it.
        atexit.register(delivery.tell_at_exit)
        with _environment(correct), _guarded_exporters(delivery):
            resource = {names.DISTRO_NAME: "stormproof", names.DISTRO_VERSION: version}
            resource.update(kwargs.pop("resource_attributes", None) or {})
            official._initialize_components(resource_attributes=resource, **kwargs)
        # Registered after the providers' own shutdown, hence run before it.
        atexit.register(delivery.exit.begin)
    except Exception as error:
        say_once("sdk", f"telemetry is off, the app runs on: {' '.join(str(error).split())}")


def _delivery(settings: Settings) -> Delivery:
    view = None if settings.console == "off" or settings.quiet else ConsoleView(as_json=settings.console == "json")
    return Delivery(Exit(settings.exit_timeout), view, view_always=settings.console in ("text", "json"))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """``values`` in the environment for as long as the SDK reads it; then the user's own again."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _guarded_exporters(delivery: Delivery) -> Iterator[None]:
    """Within this block the official set-up gets our guards in place of the OTLP exporters."""
    seam: Any = official  # it has none for this: the function that finds the exporters is replaced for a moment
    import_exporters = seam._import_exporters
    guards: tuple[type[Guard], ...] = (SpanGuard, MetricGuard, LogGuard)

    def import_guarded(*names_by_signal: Any) -> Any:
        found = import_exporters(*names_by_signal)
        return tuple(
            {name: _guarded(cls, guard, delivery) if name.startswith("otlp") else cls for name, cls in classes.items()}
            for classes, guard in zip(found, guards, strict=True)
        )

    seam._import_exporters = import_guarded
    try:
        yield
    finally:
        seam._import_exporters = import_exporters


def _guarded(exporter: type[Any], guard: type[Guard], delivery: Delivery) -> type[Any]:
    """A class that makes a guarded exporter: the official set-up looks at the class before it calls it."""

    def new(_: Any, *args: Any, **kwargs: Any) -> Any:
        return guard(exporter(*args, **kwargs), endpoint_of(guard.signal, os.environ), delivery)

    return type(guard.__name__, (guard,), {"__new__": new})
