"""Sets the OpenTelemetry SDK up as the official variables say, with defaults and guards of our own.

Only where the app has not done so itself. A variable that makes no sense costs one line on stderr, never the app.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from opentelemetry._logs import get_logger_provider
from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk import _configuration as official
from opentelemetry.sdk import resources
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

from stormproof.notice import say_problems
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

#: multiprocessing's finalizers with lower numbers run later; its own end at -5.
_LAST = -100
_LONGEST_LINE = 300


def apply_defaults() -> None:
    """Choose what the user has not; child processes inherit it."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def is_set_up() -> bool:
    """Whether the app, or another distribution, has set a tracer provider already."""
    return not isinstance(get_tracer_provider(), ProxyTracerProvider)


def set_up(settings: Settings, version: str, **kwargs: Any) -> None:
    """Set the global providers up, unless the SDK is switched off. Never raises."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    config_file = os.environ.get("OTEL_CONFIG_FILE")
    try:
        with _sdk_complaints() as complaints:
            if config_file:
                official._OTelSDKConfigurator()._configure()
            else:
                _set_up_by_variables(settings, version, **kwargs)
        say_problems(complaints)
    except Exception as error:
        about = f"OTEL_CONFIG_FILE={config_file!r}: " if config_file else ""
        say_problems([f"{about}telemetry is off, the app runs on: {_in_a_line(str(error))}"])


def _set_up_by_variables(settings: Settings, version: str, **kwargs: Any) -> None:
    correct, problems = corrected(os.environ)
    say_problems(problems)
    delivery = _delivery(settings)
    # Registered before the providers' own shutdown, hence run after it.
    atexit.register(delivery.tell_at_exit)
    with _environment(correct), _guarded_exporters(delivery):
        resource = {names.DISTRO_NAME: "stormproof", names.DISTRO_VERSION: version}
        if not hasattr(resources, "ServiceInstanceIdResourceDetector"):  # SDKs that do not do this themselves
            resource.update(_instance_id())
        resource.update(kwargs.pop("resource_attributes", None) or {})
        official._initialize_components(resource_attributes=resource, **kwargs)
    # Registered after the providers' own shutdown, hence run before it.
    atexit.register(delivery.exit.begin)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(_begin_in_child, delivery))


def _instance_id() -> dict[str, str]:
    """``service.instance.id``, unless the user has given one."""
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {} if resources.SERVICE_INSTANCE_ID in given else {resources.SERVICE_INSTANCE_ID: str(uuid.uuid4())}


def _begin_in_child(delivery: Delivery) -> None:
    """After a fork. Processes of ``multiprocessing`` end without ``atexit``, but with what is registered there."""
    delivery.begin_in_child()
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.register_after_fork(
            delivery, lambda delivery: util.Finalize(None, _shut_down, (delivery,), exitpriority=_LAST)
        )


def _shut_down(delivery: Delivery) -> None:
    delivery.exit.begin()
    for provider in (get_tracer_provider(), get_meter_provider(), get_logger_provider()):
        shutdown = getattr(provider, "shutdown", None)
        if shutdown is not None:
            shutdown()


class _Overheard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: dict[str, None] = {}  # in order, each once

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.name == "opentelemetry.util.re":  # it quotes headers, which may hold a key
            text = str(record.msg).partition(":")[0]
        self.lines[_in_a_line(text)] = None


@contextmanager
def _sdk_complaints() -> Iterator[Iterable[str]]:
    """What the SDK logs within this block: to be said in a line each, not once a signal and with tracebacks."""
    logger, overheard = logging.getLogger("opentelemetry"), _Overheard()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(overheard)
    try:
        yield overheard.lines
    finally:
        logger.removeHandler(overheard)
        logger.propagate = propagates


def _in_a_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_LINE]


def _delivery(settings: Settings) -> Delivery:
    view = None if settings.console == "off" or settings.quiet else ConsoleView(as_json=settings.console == "json")
    return Delivery(Exit(settings.exit_timeout), view, view_always=settings.console in ("text", "json"))


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """``values`` in the environment for as long as the SDK reads it; then the user's own again."""
    before = {name: os.environ.get(name) for name in values}
    _put(values)
    try:
        yield
    finally:
        _put(before)


def _put(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
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
