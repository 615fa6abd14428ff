"""One family of errors. Each refusal that reaches the app is also of the client's own error type."""

from __future__ import annotations


class StormproofError(Exception):
    """Base of every error that stormproof itself raises."""


class CircuitOpenError(StormproofError):
    """A call was refused without touching the network because its target's circuit breaker is open.

    The app never gets a bare one: each client adds its own base class, so that ``except openai.APIConnectionError``,
    ``except ollama.ResponseError`` or ``except ApiException`` keep working.

    Attributes:
        target: name of the target, ``{system}/{host}:{port}``.
    """

    target: str = ""


def circuit_open_message(target: str) -> str:
    """What a refused caller reads."""
    return f"circuit open: {target} keeps failing, so the call was not sent (stormproof)"


class SettingError(StormproofError, ValueError):
    """A setting that cannot be used. Names the key, the value and what is allowed."""
