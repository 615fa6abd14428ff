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


def get(thing: Any, name: str) -> Any:
    """What a mapping or an object has under a name; None if it has not.

    What one of pydantic's models has is read from where it is kept: to ask it for what it has not is dear.
    """
    if type(thing) is dict:
        return thing.get(name)
    try:
        return thing.__dict__[name]
    except (AttributeError, KeyError):
        return _asked(thing, name)


def _asked(thing: Any, name: str) -> Any:
    if hasattr(type(thing), "__pydantic_extra__"):
        extra = thing.__pydantic_extra__  # what this release of the client does not know
        return extra.get(name) if extra else None
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def several(value: Any) -> list[str]:
    """Stop sequences and the like, of which one may be given alone."""
    return [value] if isinstance(value, str) else list(value)
