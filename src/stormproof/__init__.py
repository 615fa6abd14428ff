"""stormproof: calls to Qdrant, OpenAI and Ollama survive what networks and servers do, and every attempt is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stormproof.errors import CircuitOpenError, StormproofError
from stormproof.notice import say_once
from stormproof.version import __version__

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["CircuitOpenError", "StormproofError", "__version__", "instrument", "uninstrument"]


def instrument(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
) -> None:
    """Protect the clients of this process, imported already or later. Idempotent.

    Providers that are not given are the global ones. If the app has set none, and gives none, the SDK is set up as
    ``opentelemetry-instrument`` would: OTLP over http/protobuf to the local collector, every ``OTEL_*`` variable
    honoured. An app with a set-up of its own should therefore make it first.

    Never raises: what cannot be done (a client that is too old, a variable that makes no sense) is said once on stderr.
    """
    providers = {
        "tracer_provider": tracer_provider,
        "meter_provider": meter_provider,
        "logger_provider": logger_provider,
    }
    try:
        _instrument(providers)
    except Exception as error:
        say_once("instrument", f"WARNING: nothing is protected: {error}")


def _instrument(providers: dict[str, Any]) -> None:
    from stormproof import distro, install
    from stormproof.telemetry import sdk

    if providers["tracer_provider"] is None and not sdk.is_set_up():
        sdk.apply_defaults()
        sdk.set_up(install.current_settings(), __version__)
        install.observe_logging()
    install.begin_loading()
    try:
        for instrumentor in distro.INSTRUMENTORS:
            if not instrumentor().is_instrumented_by_opentelemetry:
                instrumentor().instrument(skip_dep_check=True, **providers)
    finally:
        install.end_loading()
    install.observe_http(tracer_provider=providers["tracer_provider"], meter_provider=providers["meter_provider"])


def uninstrument() -> None:
    """Take out exactly what :func:`instrument` put in; other instrumentations stay. Idempotent."""
    from stormproof import distro, install

    for instrumentor in distro.INSTRUMENTORS:
        if instrumentor().is_instrumented_by_opentelemetry:
            instrumentor().uninstrument()
    install.release_http()
