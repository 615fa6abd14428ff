"""What ``opentelemetry-instrument`` finds: the distro, the configurator and one instrumentor for each client.

Nothing here imports a client, and as little as possible of anything else: every start of every app pays for it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.distro import BaseDistro
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk._configuration import _OTelSDKConfigurator

from stormproof import install
from stormproof.telemetry import sdk
from stormproof.version import __version__

_HTTP = ("httpx", "httpx2")


class StormproofDistro(BaseDistro):
    """Chooses the defaults, and loads the HTTP instrumentations only once the app imports their libraries."""

    def _configure(self, **kwargs: Any) -> None:
        sdk.apply_defaults()

    def load_instrumentor(self, entry_point: Any, **kwargs: Any) -> None:
        if entry_point.name in _HTTP:
            install.observe_http()
        else:
            super().load_instrumentor(entry_point, **kwargs)


class StormproofConfigurator(_OTelSDKConfigurator):
    """Sets the SDK up with guarded exporters."""

    def _configure(self, **kwargs: Any) -> None:
        sdk.set_up(install.current_settings(), __version__, **kwargs)


class _ClientInstrumentor(BaseInstrumentor):
    client: str

    def instrumentation_dependencies(self) -> Collection[str]:
        supported = install.CLIENTS[self.client]
        return (f"{supported.distribution} {supported.versions}",)

    def _instrument(self, **kwargs: Any) -> None:
        providers = ("tracer_provider", "meter_provider", "logger_provider")
        install.protect_client(self.client, **{name: kwargs.get(name) for name in providers})

    def _uninstrument(self, **kwargs: Any) -> None:
        install.release_client(self.client)


class OpenAIInstrumentor(_ClientInstrumentor):
    """Protects the openai client."""

    client = "openai"


class OllamaInstrumentor(_ClientInstrumentor):
    """Protects the ollama client."""

    client = "ollama"


class QdrantInstrumentor(_ClientInstrumentor):
    """Protects qdrant-client."""

    client = "qdrant"


INSTRUMENTORS = (OpenAIInstrumentor, OllamaInstrumentor, QdrantInstrumentor)
