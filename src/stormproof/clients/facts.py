"""What a request's body tells, each value of the type that the conventions give its attribute."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from stormproof.resilience.call import Facts

_TYPES: Mapping[str, type] = {
    "model": str,
    "temperature": float,
    "top_p": float,
    "top_k": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "max_tokens": int,
    "seed": int,
    "dimensions": int,
}


def taken(body: Mapping[str, Any], names: Collection[str]) -> Facts:
    """Those of these facts that the body has under the same name; one of another type is the server's to refuse."""
    facts: Facts = {}
    for name, value in body.items():
        if name in names:
            kind = _TYPES[name]
            typed = float(value) if kind is float and type(value) is int else value
            if isinstance(typed, kind) and not isinstance(typed, bool):
                facts[name] = typed
    return facts


def several(value: Any) -> list[str]:
    """Stop sequences and the like, of which one may be given alone."""
    return [value] if isinstance(value, str) else list(value)
