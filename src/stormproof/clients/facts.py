"""What a request's body tells, each value of the type that the conventions give its attribute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def taken(body: Mapping[str, Any], names: Iterable[str]) -> Facts:
    """Those of these facts that the body has under the same name; one of another type is the server's to refuse."""
    facts: Facts = {}
    for name in names:
        value, kind = body.get(name), _TYPES[name]
        if isinstance(value, bool):
            continue
        if kind is float and isinstance(value, int):
            value = float(value)
        if isinstance(value, kind):
            facts[name] = value
    return facts


def several(value: Any) -> list[str]:
    """Stop sequences and the like, of which one may be given alone."""
    return [value] if isinstance(value, str) else list(value)
