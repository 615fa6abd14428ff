"""Environment → policies. A bad setting is reported once and its default is used; nothing stops.

``STORMPROOF_<SYSTEM>__<KEY>`` is for one system, ``STORMPROOF__<KEY>`` for all; ``KEY`` is one of :data:`KEYS` with its
dots written as ``__`` (``STORMPROOF_OPENAI__RETRY__ATTEMPTS=3``). Durations are seconds, or ``500ms``, ``2s``, ``1m``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stormproof.errors import SettingError
from stormproof.resilience import policy as policy_module
from stormproof.resilience.policy import (
    WINDOW_KNOBS,
    BreakerPolicy,
    BudgetPolicy,
    BulkheadPolicy,
    Policy,
    Range,
    RateLimitPolicy,
    RetryPolicy,
    default_policy,
    one_of,
    ranges,
)

SYSTEMS = ("openai", "ollama", "qdrant")
_OTHERS = ""  # functions of the user's own, whatever they are protected as

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}
_PARTS = {
    "": Policy,
    "retry.": RetryPolicy,
    "budget.": BudgetPolicy,
    "breaker.": BreakerPolicy,
    "bulkhead.": BulkheadPolicy,
    "rate_limit.": RateLimitPolicy,
}

#: Every key of a policy, what it takes, in the order in which it is listed to people.
KEYS: Mapping[str, Range] = {
    prefix + name: range_ for prefix, part in _PARTS.items() for name, range_ in ranges(part).items()
}


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|)", text)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * _UNITS[match[2]]


#: Where what is said is recorded, by the values of the official variable. The older form knew ``true``, which recorded
#: it in log records, and ``false``.
_CONTENT: Mapping[str, frozenset[str]] = {
    "": frozenset(),
    "no_content": frozenset(),
    "span_only": frozenset(("span",)),
    "event_only": frozenset(("event",)),
    "span_and_event": frozenset(("span", "event")),
    "true": frozenset(("event",)),
    "false": frozenset(),
}
CONTENT = Range(
    "one of NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT, true (as EVENT_ONLY), false (as NO_CONTENT)",
    lambda value: isinstance(value, frozenset),
)


def _content(text: str) -> frozenset[str]:
    try:
        return _CONTENT[text]
    except KeyError:
        raise ValueError(text) from None


def _switch(text: str) -> bool:
    try:
        return {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}[text]
    except KeyError:
        raise ValueError(text) from None


#: How the values of a range are written; a range of words needs none of these.
_READERS: Mapping[Range, Callable[[str], Any]] = {
    policy_module.DURATION: _duration,
    policy_module.DURATION_OR_OFF: _duration,
    policy_module.COUNT: int,
    policy_module.COUNT_OR_OFF: int,
    policy_module.WHOLE: int,
    policy_module.SHARE: float,
    policy_module.SHARE_OR_OFF: float,
    policy_module.RATE_OR_OFF: float,
    policy_module.FACTOR: float,
    policy_module.SWITCH: _switch,
    CONTENT: _content,
}

#: Settings of the whole process; each is a field of :class:`Settings`.
_PROCESS_KEYS: Mapping[str, tuple[str, Range]] = {
    "STORMPROOF_QUIET": ("quiet", policy_module.SWITCH),
    "STORMPROOF_CONSOLE": ("console", one_of("auto", "text", "json", "off")),
    "STORMPROOF_BREAKER_SPANS": ("breaker_spans", policy_module.SWITCH),
    "STORMPROOF_EXIT_TIMEOUT": ("exit_timeout", policy_module.DURATION),
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": ("content", CONTENT),
}


@dataclass(frozen=True)
class Settings:
    """What is in force.

    Attributes:
        policies: by system.
        others: for functions of the user's own: what is set for all.
        quiet: nothing is written to stderr.
        console: where spans go for people: ``auto`` shows them on stderr when no collector answers and none was
            named, ``text`` and ``json`` always, ``off`` never.
        breaker_spans: whether a change of a breaker's state makes a span of its own.
        exit_timeout: the longest that sending the last telemetry may delay the exit, in seconds.
        content: where what is said to models and by them is recorded: ``span``, ``event``, both, or nowhere.
        problems: what could not be used, one line each.
    """

    policies: Mapping[str, Policy]
    others: Policy = field(default_factory=lambda: default_policy(_OTHERS))
    quiet: bool = False
    console: str = "auto"
    breaker_spans: bool = True
    exit_timeout: float = 1.0
    content: frozenset[str] = frozenset()
    problems: tuple[str, ...] = field(default=())

    def policy_for(self, system: str) -> Policy:
        """The policy of a system, or of functions of the user's own, for which there are no settings of their own."""
        return self.policies.get(system) or (default_policy(system) if system in SYSTEMS else self.others)


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Read every ``STORMPROOF_*`` variable, and the official one for content.

    Never raises: what is wrong is in ``Settings.problems``.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    process: dict[str, Any] = {}
    chosen: dict[str, dict[str, Any]] = {system: {} for system in (*SYSTEMS, _OTHERS)}
    thresholds: dict[str, tuple[str, ...]] = {}  # the systems that each variable sets one for
    # The shorter prefix (for all systems) first, so that a system's own setting wins whatever the order.
    for name in sorted(
        (n for n in environ if n.startswith("STORMPROOF_") or n in _PROCESS_KEYS),
        key=lambda n: not n.startswith("STORMPROOF__"),
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
                if key.startswith("breaker.") and key.removeprefix("breaker.") in WINDOW_KNOBS:
                    thresholds[name] = systems
        except SettingError as error:  # noqa: PERF203  # the next setting may be right
            problems.append(str(error))
    policies = {system: _policy(system, values) for system, values in chosen.items()}
    problems.extend(_without_effect(policies, thresholds))
    return Settings(others=policies.pop(_OTHERS), policies=policies, problems=tuple(problems), **process)


def _parse(name: str, text: str, range_: Range) -> Any:
    word = text.strip().lower()
    try:
        value = None if range_.off and word == "off" else _READERS.get(range_, str)(word)
    except ValueError:
        value = range_  # which no range accepts
    if not range_.accepts(value):
        raise SettingError(f"{name}={text!r} is not {range_.allowed}; the default is used")
    return value


def _without_effect(policies: Mapping[str, Policy], thresholds: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Thresholds that were chosen for a breaker which has none: said once each, with what to do."""
    return [
        f"{name} has no effect on the adaptive breaker; set {name.rpartition('__')[0]}__STRATEGY=window as well"
        for name, systems in thresholds.items()
        if all(policies[system].breaker.strategy == "adaptive" for system in systems)
    ]


def _resolve(name: str, value: str) -> tuple[tuple[str, ...], str]:
    """The systems and the key that a variable's name means."""
    head, separator, tail = name.removeprefix("STORMPROOF").lower().partition("__")
    head, key = head.removeprefix("_"), tail.replace("__", ".")
    if not separator:
        own = [known for known in _PROCESS_KEYS if known.startswith("STORMPROOF_")]
        raise SettingError(_unknown(name, value, [*own, *map(_variable, KEYS)]))
    if head and head not in SYSTEMS:
        raise SettingError(f"{name}={value!r}: {head!r} is not a system; allowed: {', '.join(SYSTEMS)}; it is ignored")
    if key not in KEYS:
        raise SettingError(_unknown(name, value, [_variable(k, head) for k in KEYS]))
    return ((head,) if head else (*SYSTEMS, _OTHERS)), key


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
    policy = replace(default_policy(system), strict_deadline="deadline" in values)
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        if part:
            policy = replace(policy, **{part: replace(getattr(policy, part), **{name: value})})
        else:
            policy = replace(policy, **{name: value})
    return policy
