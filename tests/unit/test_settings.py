"""Settings: what is good is used, what is bad costs one line that helps, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from stormproof import settings
from stormproof.resilience.policy import WINDOW_KNOBS, BreakerPolicy, Policy
from stormproof.settings import KEYS, SYSTEMS, Settings, from_environment


def value_of(policy: Policy, key: str) -> Any:
    found: Any = policy
    for part in key.split("."):
        found = getattr(found, part)
    return found


#: What these keys are called in a variable's name.
WINDOW_VARIABLES = {f"breaker__{knob}" for knob in WINDOW_KNOBS}


def test_without_settings_the_defaults_are_in_force() -> None:
    chosen = from_environment({"PATH": "/bin", "STORMPROOFED": "1"})
    assert chosen == Settings(policies=chosen.policies)
    assert chosen.policy_for("openai") == Policy()
    assert chosen.policy_for("qdrant") == Policy(deadline=10.0, strict_deadline=False)
    assert chosen.policy_for("something else") == Policy()
    assert chosen.policy_for("openai").retry.attempts >= 3


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("ENABLED", "false", False),
        ("ENABLED", " ON ", True),
        ("ENABLED", "0", False),
        ("DEADLINE", "500ms", 0.5),
        ("DEADLINE", "2s", 2.0),
        ("DEADLINE", "1m", 60.0),
        ("DEADLINE", "7", 7.0),
        ("DEADLINE", " 1.5 S ", 1.5),
        ("DEADLINE", ".5", 0.5),
        ("TIMEOUT", "3", 3.0),
        ("TIMEOUT", "off", None),
        ("RETRY__ATTEMPTS", "3", 3),
        ("RETRY__ATTEMPTS", "100000", 100_000),
        ("RETRY__BACKOFF", "linear", "linear"),
        ("RETRY__BACKOFF", " Constant ", "constant"),
        ("RETRY__JITTER", "none", "none"),
        ("RETRY__JITTER", "decorrelated", "decorrelated"),
        ("RETRY__BASE", "10ms", 0.01),
        ("RETRY__CAP", "1m", 60.0),
        ("BUDGET__CAPACITY", "1", 1),
        ("BUDGET__PAYBACK", "0", 0.0),
        ("BUDGET__PAYBACK", "1", 1.0),
        ("BREAKER__ENABLED", "False", False),
        ("BREAKER__STRATEGY", "window", "window"),
        ("BREAKER__STRATEGY", "ADAPTIVE", "adaptive"),
        ("BREAKER__OBSERVE_ONLY", "on", True),
        ("BREAKER__SLOW_AFTER", "10s", 10.0),
        ("BREAKER__FAILURES", "2", 2),
        ("BREAKER__FAILURES", "off", None),
        ("BREAKER__FAILURE_RATE", "0.25", 0.25),
        ("BREAKER__FAILURE_RATE", "Off", None),
        ("BREAKER__SLOW_RATE", "1", 1.0),
        ("BREAKER__WINDOW", "count", "count"),
        ("BREAKER__SIZE", "100", 100),
        ("BREAKER__MINIMUM_CALLS", "10", 10),
        ("BREAKER__OPEN_FOR", "100ms", 0.1),
        ("BREAKER__OPEN_FACTOR", "1", 1.0),
        ("BREAKER__OPEN_CAP", "5m", 300.0),
        ("BREAKER__OPEN_JITTER", "0", 0.0),
        ("BREAKER__PROBES", "4", 4),
        ("BREAKER__SUCCESSES", "3", 3),
        ("BREAKER__HALF_OPEN_FOR", "1m", 60.0),
        ("BULKHEAD__LIMIT", "8", 8),
        ("BULKHEAD__LIMIT", "off", None),
        ("BULKHEAD__QUEUE", "0", 0),
        ("BULKHEAD__MAX_WAIT", "250ms", 0.25),
        ("RATE_LIMIT__RATE", "0.5", 0.5),
        ("RATE_LIMIT__RATE", "off", None),
        ("RATE_LIMIT__BURST", "10", 10),
        ("RATE_LIMIT__MAX_WAIT", "1s", 1.0),
    ],
)
def test_good_values(key: str, text: str, value: object) -> None:
    window = {"STORMPROOF__BREAKER__STRATEGY": "window"} if key.lower() in WINDOW_VARIABLES else {}
    own = from_environment({f"STORMPROOF_OLLAMA__{key}": text, **window})
    general = from_environment({f"STORMPROOF__{key}": text, **window})
    name = key.lower().replace("__", ".")
    assert value_of(own.policy_for("ollama"), name) == value
    assert value_of(own.policy_for("openai"), name) == value_of(Policy(), name)
    assert [value_of(general.policy_for(system), name) for system in SYSTEMS] == [value] * 3
    assert own.problems == general.problems == ()


@pytest.mark.parametrize(
    ("name", "text", "attribute", "value"),
    [
        ("STORMPROOF_QUIET", "1", "quiet", True),
        ("STORMPROOF_CONSOLE", "JSON", "console", "json"),
        ("STORMPROOF_BREAKER_SPANS", "off", "breaker_spans", False),
        ("STORMPROOF_EXIT_TIMEOUT", "250ms", "exit_timeout", 0.25),
    ],
)
def test_settings_of_the_process(name: str, text: str, attribute: str, value: object) -> None:
    chosen = from_environment({name: text})
    assert getattr(chosen, attribute) == value
    assert chosen.problems == ()


BAD = [
    ("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "banana", "whole number from 1 to 100000"),
    ("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "0", "whole number from 1 to 100000"),
    ("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "-1", "whole number from 1 to 100000"),
    ("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "100001", "whole number from 1 to 100000"),
    ("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "3.0", "whole number from 1 to 100000"),
    ("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "", "whole number from 1 to 100000"),
    ("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "three\nlines\nhere", "whole number from 1 to 100000"),
    ("STORMPROOF__RETRY__BASE", "0", "a duration above 0"),
    ("STORMPROOF__RETRY__BASE", "-1s", "a duration above 0"),
    ("STORMPROOF__RETRY__CAP", "1h", "a duration above 0"),
    ("STORMPROOF__RETRY__CAP", "nan", "a duration above 0"),
    ("STORMPROOF__DEADLINE", "inf", "a duration above 0"),
    ("STORMPROOF__DEADLINE", "1e3", "a duration above 0"),
    ("STORMPROOF__DEADLINE", "9" * 400, "a duration above 0"),
    ("STORMPROOF__TIMEOUT", "soon", "a duration above 0"),
    ("STORMPROOF__TIMEOUT", "1 000", "a duration above 0"),
    ("STORMPROOF_QDRANT__ENABLED", "maybe", "true or false"),
    ("STORMPROOF_QDRANT__ENABLED", "", "true or false"),
    ("STORMPROOF_QDRANT__ENABLED", "2", "true or false"),
    ("STORMPROOF__BUDGET__CAPACITY", "all", "whole number from 1 to 100000"),
    ("STORMPROOF__BUDGET__PAYBACK", "1.1", "a number from 0 to 1"),
    ("STORMPROOF__BUDGET__PAYBACK", "-0.1", "a number from 0 to 1"),
    ("STORMPROOF__BUDGET__PAYBACK", "nan", "a number from 0 to 1"),
    ("STORMPROOF__BREAKER__FAILURES", "5 failures", "whole number from 1 to 100000"),
    ("STORMPROOF__BREAKER__OPEN_FOR", "2 seconds", "a duration above 0"),
    ("STORMPROOF__BREAKER__FAILURES", "0", "whole number from 1 to 100000, or off"),
    ("STORMPROOF__BREAKER__FAILURE_RATE", "0", "a number above 0, up to 1, or off"),
    ("STORMPROOF__BREAKER__FAILURE_RATE", "50%", "a number above 0, up to 1, or off"),
    ("STORMPROOF__BREAKER__SLOW_RATE", "1.5", "a number above 0, up to 1, or off"),
    ("STORMPROOF__BREAKER__STRATEGY", "classical", "one of adaptive, window"),
    ("STORMPROOF__BREAKER__STRATEGY", "off", "one of adaptive, window"),
    ("STORMPROOF__BREAKER__WINDOW", "calls", "one of time, count"),
    ("STORMPROOF__BREAKER__OPEN_FACTOR", "0.5", "a number from 1"),
    ("STORMPROOF__BREAKER__OPEN_FACTOR", "inf", "a number from 1"),
    ("STORMPROOF__BREAKER__PROBES", "off", "whole number from 1 to 100000"),
    ("STORMPROOF__RETRY__ATTEMPTS", "off", "whole number from 1 to 100000"),
    ("STORMPROOF__RETRY__BACKOFF", "fibonacci", "one of exponential, linear, constant"),
    ("STORMPROOF__RETRY__JITTER", "off", "one of full, equal, decorrelated, none"),
    ("STORMPROOF__BULKHEAD__LIMIT", "0", "whole number from 1 to 100000, or off"),
    ("STORMPROOF__BULKHEAD__QUEUE", "-1", "whole number from 0 to 100000"),
    ("STORMPROOF__RATE_LIMIT__RATE", "0", "a number above 0, or off"),
    ("STORMPROOF__RATE_LIMIT__RATE", "10/s", "a number above 0, or off"),
    ("STORMPROOF__STRICT_DEADLINE", "true", "STORMPROOF__"),
    ("STORMPROOF__FALLBACK", "none", "STORMPROOF__"),
    ("STORMPROOF__RETRY__ON", "503", "STORMPROOF__RETRY__"),
    ("STORMPROOF_CONSOLE", "xml", "one of auto, text, json, off"),
    ("STORMPROOF_QUIET", "shh", "true or false"),
    ("STORMPROOF_EXIT_TIMEOUT", "never", "a duration above 0"),
    ("STORMPROOF_OPENAI__RETRY__ATTEMPT", "3", "did you mean STORMPROOF_OPENAI__RETRY__ATTEMPTS?"),
    ("STORMPROOF_OPENAI__RETRY__ATTEMPTS__NOW", "3", "did you mean STORMPROOF_OPENAI__RETRY__ATTEMPTS?"),
    ("STORMPROOF__RETRIES", "3", "STORMPROOF__RETRY__"),
    ("STORMPROOF_ATTEMPTS", "3", "STORMPROOF_"),
    ("STORMPROOF_QUITE", "1", "did you mean STORMPROOF_QUIET?"),
    ("STORMPROOF_MISTRAL__DEADLINE", "3", "openai, ollama, qdrant"),
    ("STORMPROOF_SOMETHING_ELSE_ALTOGETHER", "1", "allowed: STORMPROOF_QUIET"),
    ("STORMPROOF_", "1", "STORMPROOF_"),
    ("STORMPROOF__", "1", "STORMPROOF__"),
]


@pytest.mark.parametrize(("name", "text", "allowed"), BAD)
def test_each_bad_setting_costs_one_line_that_helps(name: str, text: str, allowed: str) -> None:
    chosen = from_environment({name: text})
    (problem,) = chosen.problems
    assert len(problem.splitlines()) == 1
    assert name in problem
    assert allowed in problem
    if name.split("__", maxsplit=1)[0] in ("STORMPROOF", "STORMPROOF_OPENAI") and "the default is used" in problem:
        assert repr(text) in problem
    defaults = from_environment({})
    assert chosen.policies == defaults.policies
    assert (chosen.quiet, chosen.console, chosen.exit_timeout) == (False, "auto", 1.0)


def test_bad_settings_do_not_hide_good_ones() -> None:
    chosen = from_environment(dict([(name, text) for name, text, _ in BAD[7:-9]], STORMPROOF_OPENAI__DEADLINE="4"))
    assert chosen.policy_for("openai").deadline == 4
    assert len(chosen.problems) == len({name for name, *_ in BAD[7:-9]})


@pytest.mark.parametrize("system_first", [True, False])
def test_the_systems_own_setting_wins_whatever_the_order(*, system_first: bool) -> None:
    variables = [("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "7"), ("STORMPROOF__RETRY__ATTEMPTS", "2")]
    chosen = from_environment(dict(variables if system_first else reversed(variables)))
    assert [chosen.policy_for(system).retry.attempts for system in SYSTEMS] == [7, 2, 2]


def test_only_a_deadline_that_was_chosen_cuts_attempts_short() -> None:
    chosen = from_environment({"STORMPROOF_OLLAMA__DEADLINE": "9"})
    assert [chosen.policy_for(system).strict_deadline for system in SYSTEMS] == [False, True, False]


def test_every_key_is_a_field_of_a_policy() -> None:
    for key, range_ in KEYS.items():
        assert range_.accepts(value_of(Policy(), key))


@pytest.mark.parametrize("knob", WINDOW_KNOBS)
def test_a_threshold_of_a_breaker_that_has_none_costs_one_line(knob: str) -> None:
    """Else someone believes in a threshold that is not in force."""
    name, value = f"STORMPROOF_QDRANT__BREAKER__{knob.upper()}", getattr(BreakerPolicy(), knob)
    chosen = from_environment({name: "off" if value is None else str(value)})
    (problem,) = chosen.problems
    assert name in problem
    assert "STORMPROOF_QDRANT__BREAKER__STRATEGY=window" in problem
    assert len(problem.splitlines()) == 1
    assert chosen.policies == from_environment({}).policies


@pytest.mark.parametrize(
    "variables",
    [
        {"STORMPROOF__BREAKER__STRATEGY": "window", "STORMPROOF__BREAKER__FAILURES": "3"},
        {"STORMPROOF_OPENAI__BREAKER__STRATEGY": "window", "STORMPROOF_OPENAI__BREAKER__FAILURES": "3"},
        {"STORMPROOF__BREAKER__ENABLED": "false", "STORMPROOF__BREAKER__OBSERVE_ONLY": "true"},
        {"STORMPROOF__BREAKER__SLOW_AFTER": "3"},
    ],
)
def test_knobs_that_have_an_effect_cost_none(variables: dict[str, str]) -> None:
    assert from_environment(variables).problems == ()


def test_the_same_threshold_for_several_systems_costs_one_line() -> None:
    (problem,) = from_environment({"STORMPROOF__BREAKER__FAILURES": "3"}).problems
    assert problem == (
        "STORMPROOF__BREAKER__FAILURES has no effect on the adaptive breaker; "
        "set STORMPROOF__BREAKER__STRATEGY=window as well"
    )


def test_problems_are_said_once_a_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from stormproof import install

    monkeypatch.setenv("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "banana")
    for _ in range(2):
        monkeypatch.setattr(install._state, "settings", None)
        assert install.current_settings().policy_for("openai") == Policy()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("stormproof: STORMPROOF_OPENAI__RETRY__ATTEMPTS='banana' is not")


def test_the_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORMPROOF_QUIET", "true")
    assert settings.from_environment().quiet
