"""The other instrumentations: openinference, traceloop's three, and the official one for openai."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import openai
import wrapt

_CLIENTS = ("openai", "ollama", "qdrant_client")
_PROXY: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)


@dataclass(frozen=True)
class Other:
    """One of them.

    Attributes:
        span: the name of its span for the call that the drivers make, or for ``scroll``.
        takes_itself_out: whether ``uninstrument`` does what it says.
    """

    name: str
    module: str
    instrumentor: str
    scope: str
    span: str
    takes_itself_out: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def system(self) -> str:
        return self.instrumentor.removesuffix("Instrumentor").lower()

    def on(self, **providers: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of as they are imported is theirs
            self._instrumentor().instrument(skip_dep_check=True, **providers)

    def off(self) -> None:
        if self.module in sys.modules and self._instrumentor().is_instrumented_by_opentelemetry:
            self._instrumentor().uninstrument()

    def _instrumentor(self) -> Any:
        return getattr(importlib.import_module(self.module), self.instrumentor)()


_OPENINFERENCE = "openinference.instrumentation.openai"
_OTEL = "opentelemetry.instrumentation"

OPENINFERENCE = Other("openinference", _OPENINFERENCE, "OpenAIInstrumentor", _OPENINFERENCE, "ChatCompletion")
OFFICIAL = Other("official", f"{_OTEL}.genai.openai", "OpenAIInstrumentor", f"{_OTEL}.genai.openai", "chat gpt-4o-mini")
TRACELOOP = Other(
    "traceloop", f"{_OTEL}.openai", "OpenAIInstrumentor", f"{_OTEL}.openai.v1", "openai.chat", takes_itself_out=False
)
TRACELOOP_OLLAMA = Other(
    "traceloop-ollama",
    f"{_OTEL}.ollama",
    "OllamaInstrumentor",
    f"{_OTEL}.ollama",
    "ollama.chat",
    takes_itself_out=False,
)
TRACELOOP_QDRANT = Other(
    "traceloop-qdrant", f"{_OTEL}.qdrant", "QdrantInstrumentor", f"{_OTEL}.qdrant", "qdrant.scroll"
)
OTHERS = (OPENINFERENCE, OFFICIAL, TRACELOOP, TRACELOOP_OLLAMA, TRACELOOP_QDRANT)


def strip() -> None:
    """Take off what they have left around the clients' functions."""
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] in _CLIENTS]:
        for owner in (module, *(thing for thing in vars(module).values() if inspect.isclass(thing))):
            for name, value in list(vars(owner).items()):
                if isinstance(value, _PROXY):
                    setattr(owner, name, innermost(value))
    for client in (openai.OpenAI, openai.AsyncOpenAI):
        if "request" in vars(client):  # openinference's, which shadows the base class's from then on
            del client.request


def innermost(function: Any) -> Any:
    """What is beneath their wrappers."""
    while isinstance(function, _PROXY):
        function = function.__wrapped__
    return function
