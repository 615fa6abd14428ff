"""stormproof: calls to Qdrant, OpenAI and Ollama survive what networks and servers do, and every attempt is seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stormproof.control import Breakers
from stormproof.errors import BulkheadFullError, CircuitOpenError, RateLimitedError, RefusedError, StormproofError
from stormproof.notice import say_once
from stormproof.overrides import policy
from stormproof.protection import call, check_name, protect
from stormproof.resilience.events import Listener
from stormproof.resilience.fallback import Fallback
from stormproof.resilience.policy import (
    BreakerPolicy,
    BudgetPolicy,
    BulkheadPolicy,
    Policy,
    RateLimitPolicy,
    RetryPolicy,
    default_policy,
)
from stormproof.version import __version__

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = [
    "BreakerPolicy",
    "BudgetPolicy",
    "BulkheadFullError",
    "BulkheadPolicy",
    "CircuitOpenError",
    "Fallback",
    "Listener",
    "Policy",
    "RateLimitPolicy",
    "RateLimitedError",
    "RefusedError",
    "RetryPolicy",
    "StormproofError",
    "__version__",
    "add_listener",
    "breakers",
    "call",
    "default_policy",
    "instrument",
    "policy",
    "protect",
    "remove_listener",
    "uninstrument",
]

breakers = Breakers()


def instrument(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    *,
    policies: Mapping[str, Policy] | None = None,
) -> None:
    """Protect the clients of this process, imported already or later. Idempotent.

    Providers that are not given are the global ones. If the app has set none, and gives none, the SDK is set up as
    ``opentelemetry-instrument`` would: OTLP over http/protobuf to the local collector, every ``OTEL_*`` variable
    honoured. An app with a set-up of its own should therefore make it first.

    ``policies``: by system (``openai``, ``ollama``, ``qdrant``) or by the name of protected functions; one that is
    given here wins whole over settings from the environment, also when everything else is instrumented already, and
    holds from the next call on.

    What cannot be done (a client that is too old, a variable that makes no sense) is said once on stderr.

    Raises:
        ValueError: for a policy of something that is no system, and that no ``protect()`` was told of before.
        TypeError: for a policy that is none.
    """
    _check_policies(policies or {})
    providers = {
        "tracer_provider": tracer_provider,
        "meter_provider": meter_provider,
        "logger_provider": logger_provider,
    }
    try:
        _instrument(providers, policies or {})
    except Exception as error:
        say_once("instrument", f"WARNING: nothing is protected: {error}")


def _check_policies(policies: Mapping[str, Policy]) -> None:
    for system, chosen in policies.items():
        check_name(f"policies[{system!r}]", system)
        if not isinstance(chosen, Policy):
            raise TypeError(f"policies[{system!r}]={chosen!r} is not a stormproof.Policy")


def _instrument(providers: dict[str, Any], policies: Mapping[str, Policy]) -> None:
    from stormproof import distro, install
    from stormproof.telemetry import sdk

    install.choose_policies(policies)
    if providers["tracer_provider"] is None and not install.has_providers() and not sdk.is_set_up():
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


def add_listener(listener: Listener) -> None:
    """Tell ``listener`` of every step of every call from now on, until :func:`remove_listener`."""
    from stormproof import install

    install.add_listener(listener)


def remove_listener(listener: Listener) -> None:
    """Tell it no longer. One that was never added is no error."""
    from stormproof import install

    install.remove_listener(listener)


def uninstrument() -> None:
    """Take out exactly what :func:`instrument` put in; other instrumentations stay. Idempotent."""
    from stormproof import distro, install

    for instrumentor in distro.INSTRUMENTORS:
        if instrumentor().is_instrumented_by_opentelemetry:
            instrumentor().uninstrument()
    install.release_http()
