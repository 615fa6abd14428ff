"""The HTTP spans below the attempts: the official httpx and httpx2 instrumentations, loaded with the libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import wrapt

from stormproof.notice import say_once

#: Module → its instrumentor in ``opentelemetry.instrumentation.httpx``, by the entry point's name.
INSTRUMENTORS = {"httpx": "HTTPXClientInstrumentor", "httpx2": "HTTPX2ClientInstrumentor"}

_ours: list[Any] = []  # the official instrumentors that were switched on here


def instrument_when_imported(modules: set[str], providers: Callable[[], dict[str, Any] | None]) -> None:
    """Instrument ``httpx`` and ``httpx2`` once the app imports them: starting the app does not pay for it.

    ``providers`` is asked then; it returns None where HTTP spans are no longer wanted.
    """

    def hook(_: Any) -> None:
        given = providers()
        if given is None:
            return
        # The official module imports both libraries: for the second, this hook runs while it is half-made and finds
        # nothing. So all that are imported by now are looked at once it is complete.
        from opentelemetry.instrumentation import httpx as official

        from stormproof.telemetry.http_hooks import HOOKS

        for module in modules & set(sys.modules):
            instrumentor = _instrumentor(official, module)
            if instrumentor is not None and not instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.instrument(**HOOKS, skip_dep_check=True, **given)
                _ours.append(instrumentor)

    for module in modules:
        wrapt.register_post_import_hook(_harmless(hook), module)


def uninstrument() -> None:
    """Take out again what was put in here, and nothing that the app has instrumented itself."""
    while _ours:
        _ours.pop().uninstrument()


def _harmless(hook: Callable[[Any], None]) -> Callable[[Any], None]:
    def guarded(module: Any) -> None:
        try:
            hook(module)
        except Exception as error:  # it would fail the app's import
            say_once("http", f"WARNING: no HTTP spans: {error}; pip install -U opentelemetry-instrumentation-httpx")

    return guarded


def _instrumentor(official: Any, module: str) -> Any:
    """None in releases that have none for httpx2."""
    instrumentor = getattr(official, INSTRUMENTORS[module], None)
    return instrumentor() if instrumentor is not None else None
