"""What is chosen for the calls made inside a block of the app's code, over whatever their policies say.

Layers lie in a context variable, so that they reach tasks and ``asyncio.to_thread`` and no other thread. The inner one
wins key by key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from stormproof.resilience.fallback import Fallback
from stormproof.resilience.policy import Policy, Range, RetryPolicy, ranges

_FUNCTION = Range("a function, or None", lambda value: value is None or callable(value))
_OF_THE_CALL = ("enabled", "deadline", "timeout")

#: Every key that is a call's own, and what it takes.
KEYS: Mapping[str, Range] = {
    **{name: range_ for name, range_ in ranges(Policy).items() if name in _OF_THE_CALL},
    **ranges(RetryPolicy),
    "on": _FUNCTION,
    "on_result": _FUNCTION,
    "fallback": Range("a stormproof.Fallback, or None", lambda value: value is None or isinstance(value, Fallback)),
}
_OF_THE_TARGET = ("breaker", "budget", "bulkhead", "rate_limit")


@dataclass(frozen=True, eq=False)
class Layer:
    """One block's choice.

    Attributes:
        system: whose calls it is for, or the name of functions of the user's own; None: all.
    """

    system: str | None
    changes: Mapping[str, Any]


Layers = tuple[Layer, ...]  # the innermost last

_layers: ContextVar[Layers] = ContextVar("stormproof_overrides", default=())

#: The layers in force here. By this name: it is read at every call.
current: Callable[[], Layers] = _layers.get


def enter(layer: Layer) -> None:
    """Put the layer over what is in force."""
    _layers.set((*_layers.get(), layer))


def leave(layer: Layer) -> None:
    """Take it away, once, and nothing else: a generator may be closed inside a block that it did not begin in."""
    layers = list(_layers.get())
    for position in reversed(range(len(layers))):
        if layers[position] is layer:
            del layers[position]
            _layers.set(tuple(layers))
            return


def changes_for(system: str, layers: Layers) -> dict[str, Any]:
    """What the layers choose for a system's calls."""
    changes: dict[str, Any] = {}
    for layer in layers:
        if layer.system is None or layer.system == system:
            changes.update(layer.changes)
    return changes


def changed(policy: Policy, changes: Mapping[str, Any]) -> Policy:
    """The policy with these changes. A deadline that was chosen cuts running attempts."""
    if not changes:
        return policy
    own = {name: value for name, value in changes.items() if hasattr(policy, name)}
    retry = {name: value for name, value in changes.items() if name not in own}
    if "deadline" in own:
        own["strict_deadline"] = True
    if retry:
        own["retry"] = replace(policy.retry, **retry)
    return replace(policy, **own)


def check(where: str, changes: Mapping[str, Any]) -> None:
    """Refuse what cannot be chosen for a call.

    Raises:
        TypeError: for a key that is none, or that belongs to the target and so to all its calls.
        ValueError: for a value that is not allowed.
    """
    for key, value in changes.items():
        if key in _OF_THE_TARGET:
            raise TypeError(
                f"{where}({key}={value!r}): {key} is the target's, for all calls to it, and not one call's; "
                "choose it in settings or by stormproof.instrument(policies=...)"
            )
        if key not in KEYS:
            raise TypeError(f"{where}({key}={value!r}): no such key; allowed: {', '.join(KEYS)}")
        if not KEYS[key].accepts(value):
            raise ValueError(f"{where}({key}={value!r}): {key} is not {KEYS[key].allowed}")
