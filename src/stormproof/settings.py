"""Environment → policies. A bad setting is reported once and its default is used; nothing stops.

``STORMPROOF_<SYSTEM>__<KEY>`` is for one system, ``STORMPROOF__<KEY>`` for all; ``KEY`` is one of :data:`KEYS` with its
dots written as ``__`` (``STORMPROOF_OPENAI__RETRY__ATTEMPTS=3``). Durations are seconds, or ``500ms``, ``2s``, ``1m``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stormproof.errors import SettingError
from stormproof.resilience.policy import Policy

SYSTEMS = ("openai", "ollama", "qdrant")

#: Seconds within which a call's waits and new attempts must fit: a vector search is awaited by someone.
_DEFAULT_DEADLINES = {"qdrant": 10.0}

_MOST = 1000
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}
_CONSOLE_MODES = ("auto", "text", "json", "off")


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|)", text.strip().lower())
    if match is None:
        raise ValueError
    return _positive(float(match[1]) * _UNITS[match[2]])


def _positive(number: float) -> float:
    if not (number > 0 and math.isfinite(number)):
        raise ValueError
    return number


def _whole(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MOST:
        raise ValueError
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise ValueError
    return number


def _switch(text: str) -> bool:
    try:
        return {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}[text.strip().lower()]
    except KeyError:
        raise ValueError from None


def _console_mode(text: str) -> str:
    if text.strip().lower() not in _CONSOLE_MODES:
        raise ValueError
    return text.strip().lower()


@dataclass(frozen=True)
class _Kind:
    parse: Callable[[str], Any]
    allowed: str


_DURATION = _Kind(_duration, "a duration above 0, such as 500ms, 2s, 1m or seconds")
_COUNT = _Kind(_whole, f"a whole number from 1 to {_MOST}")
_SWITCH = _Kind(_switch, "true or false")

#: Every key of a policy, what it takes, in the order in which it is listed to people.
KEYS: Mapping[str, _Kind] = {
    "enabled": _SWITCH,
    "deadline": _DURATION,
    "timeout": _DURATION,
    "retry.attempts": _COUNT,
    "retry.base": _DURATION,
    "retry.cap": _DURATION,
    "budget.capacity": _COUNT,
    "budget.payback": _Kind(_share, "a number from 0 to 1"),
    "breaker.enabled": _SWITCH,
    "breaker.failures": _COUNT,
    "breaker.successes": _COUNT,
    "breaker.open_for": _DURATION,
    "breaker.probes": _COUNT,
}

#: Settings of the whole process; each is a field of :class:`Settings`.
_PROCESS_KEYS: Mapping[str, tuple[str, _Kind]] = {
    "STORMPROOF_QUIET": ("quiet", _SWITCH),
    "STORMPROOF_CONSOLE": ("console", _Kind(_console_mode, "one of " + ", ".join(_CONSOLE_MODES))),
    "STORMPROOF_BREAKER_SPANS": ("breaker_spans", _SWITCH),
    "STORMPROOF_EXIT_TIMEOUT": ("exit_timeout", _DURATION),
}


@dataclass(frozen=True)
class Settings:
    """What is in force.

    Attributes:
        policies: by system.
        quiet: nothing is written to stderr.
        console: where spans go for people: ``auto`` shows them on stderr when no collector answers and none was
            named, ``text`` and ``json`` always, ``off`` never.
        breaker_spans: whether a change of a breaker's state makes a span of its own.
        exit_timeout: the longest that sending the last telemetry may delay the exit, in seconds.
        problems: what could not be used, one line each.
    """

    policies: Mapping[str, Policy]
    quiet: bool = False
    console: str = "auto"
    breaker_spans: bool = True
    exit_timeout: float = 1.0
    problems: tuple[str, ...] = field(default=())

    def policy_for(self, system: str) -> Policy:
        """The policy of a system; the defaults for one that has no settings of its own."""
        return self.policies.get(system) or Policy()


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Read every ``STORMPROOF_*`` variable. Never raises: what is wrong is in ``Settings.problems``."""
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    process: dict[str, Any] = {}
    chosen: dict[str, dict[str, Any]] = {system: {} for system in SYSTEMS}
    # The shorter prefix (for all systems) first, so that a system's own setting wins whatever the order.
    for name in sorted(
        (n for n in environ if n.startswith("STORMPROOF_")), key=lambda n: not n.startswith("STORMPROOF__")
    ):
        try:
            if name in _PROCESS_KEYS:
                attribute, kind = _PROCESS_KEYS[name]
                process[attribute] = _parse(name, environ[name], kind)
            else:
                systems, key = _resolve(name, environ[name])
                value = _parse(name, environ[name], KEYS[key])
                for system in systems:
                    chosen[system][key] = value
        except SettingError as error:  # noqa: PERF203  # the next setting may be right
            problems.append(str(error))
    policies = {system: _policy(system, values) for system, values in chosen.items()}
    return Settings(policies=policies, problems=tuple(problems), **process)


def _parse(name: str, text: str, kind: _Kind) -> Any:
    try:
        return kind.parse(text)
    except ValueError:
        raise SettingError(f"{name}={text!r} is not {kind.allowed}; the default is used") from None


def _resolve(name: str, value: str) -> tuple[tuple[str, ...], str]:
    """The systems and the key that a variable's name means."""
    head, separator, tail = name.removeprefix("STORMPROOF").lower().partition("__")
    head, key = head.removeprefix("_"), tail.replace("__", ".")
    if not separator:
        raise SettingError(_unknown(name, value, [*_PROCESS_KEYS, *map(_variable, KEYS)]))
    if head and head not in SYSTEMS:
        raise SettingError(f"{name}={value!r}: {head!r} is not a system; allowed: {', '.join(SYSTEMS)}; it is ignored")
    if key not in KEYS:
        raise SettingError(_unknown(name, value, [_variable(k, head) for k in KEYS]))
    return ((head,) if head else SYSTEMS), key


def _variable(key: str, system: str = "") -> str:
    prefix = f"STORMPROOF_{system.upper()}" if system else "STORMPROOF"
    return f"{prefix}__{key.upper().replace('.', '__')}"


def _unknown(name: str, value: str, allowed: list[str]) -> str:
    import difflib  # only for those who mistype

    endings = {choice.removeprefix("STORMPROOF"): choice for choice in allowed}  # what they share proves nothing
    close = difflib.get_close_matches(name.removeprefix("STORMPROOF"), endings, n=1)
    hint = f"did you mean {endings[close[0]]}?" if close else "allowed: " + ", ".join(allowed)
    return f"{name}={value!r} is not a setting, it is ignored; {hint}"


def _policy(system: str, values: Mapping[str, Any]) -> Policy:
    policy = Policy(deadline=_DEFAULT_DEADLINES.get(system, Policy.deadline), strict_deadline="deadline" in values)
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        if part:
            policy = replace(policy, **{part: replace(getattr(policy, part), **{name: value})})
        else:
            policy = replace(policy, **{name: value})
    return policy
