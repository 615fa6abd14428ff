"""What may be chosen: defaults, ranges with their very edges, and that code and environment agree."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import Any

import pytest

from stormproof.resilience import policy as policy_module
from stormproof.resilience.policy import (
    WINDOW_KNOBS,
    BreakerPolicy,
    BudgetPolicy,
    BulkheadPolicy,
    Policy,
    RateLimitPolicy,
    RetryPolicy,
    default_policy,
    ranges,
)
from stormproof.settings import KEYS, SYSTEMS, from_environment

PARTS = (RetryPolicy, BudgetPolicy, BreakerPolicy, BulkheadPolicy, RateLimitPolicy, Policy)

DEFAULTS: dict[type, dict[str, Any]] = {
    RetryPolicy: {
        "attempts": 4, "backoff": "exponential", "jitter": "full", "base": 0.2, "cap": 10.0,
        "on": None, "on_result": None,
    },
    BudgetPolicy: {"capacity": 500, "payback": 0.5},
    BreakerPolicy: {
        "enabled": True, "strategy": "adaptive", "observe_only": False, "slow_after": 60.0,
        "failures": 5, "failure_rate": 0.5, "slow_rate": None, "window": "time", "size": 60, "minimum_calls": 20,
        "open_for": 30.0, "open_factor": 2.0, "open_cap": 120.0, "open_jitter": 0.1,
        "probes": 1, "successes": 2, "half_open_for": 30.0,
    },
    BulkheadPolicy: {"limit": None, "queue": 100, "max_wait": 5.0},
    RateLimitPolicy: {"rate": None, "burst": 1, "max_wait": 5.0},
    Policy: {
        "enabled": True, "deadline": 30.0, "timeout": None, "fallback": None,
        "retry": RetryPolicy(), "budget": BudgetPolicy(), "breaker": BreakerPolicy(),
        "bulkhead": BulkheadPolicy(), "rate_limit": RateLimitPolicy(),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What a knob takes, what it does not, how it says so, and what is not taken from a variable."""

    good: list[Any]
    bad: list[Any]
    allowed: str
    unreadable: list[str]


TINY, HUGE = 5e-324, 1.7e308
NO_NUMBERS: list[Any] = [None, "1", True, False, math.nan, math.inf, -math.inf, [], 1j]
NO_TEXTS = ["", "banana", "nan", "inf", "-inf", "-1", "1 2"]

DURATION = Kind(
    [TINY, 0.001, 1, HUGE],
    [*NO_NUMBERS, 0, 0.0, -0.001],
    "a duration above 0, such as 500ms, 2s, 1m or seconds",
    [*NO_TEXTS, "0", "0s", "-1s", "1h", "1e3", "off"],
)
COUNT = Kind(
    [1, 2, 100_000],
    [*NO_NUMBERS, 0, -1, 100_001, 1.0, 1.5],
    "a whole number from 1 to 100000",
    [*NO_TEXTS, "0", "100001", "1.0", "off"],
)
WHOLE = Kind(
    [0, 1, 100_000],
    [*NO_NUMBERS, -1, 100_001, 0.0],
    "a whole number from 0 to 100000",
    [*NO_TEXTS, "100001", "0.0", "off"],
)
SHARE = Kind(
    [0, 0.0, 0.5, 1, 1.0],
    [*NO_NUMBERS, -TINY, 1.0000001, 2],
    "a number from 0 to 1",
    [*NO_TEXTS, "-0.001", "1.001", "off"],
)
POSITIVE_SHARE = Kind(
    [TINY, 0.5, 1, 1.0],
    [*NO_NUMBERS, 0, 0.0, -0.5, 1.0000001],
    "a number above 0, up to 1",
    [*NO_TEXTS, "0", "1.001"],
)
RATE = Kind([TINY, 0.5, 1, HUGE], [*NO_NUMBERS, 0, -1], "a number above 0", [*NO_TEXTS, "0"])
FACTOR = Kind([1, 1.0, 1.5, HUGE], [*NO_NUMBERS, 0.9999999, 0, -2], "a number from 1", [*NO_TEXTS, "0.999", "0", "off"])
SWITCH = Kind([True, False], [None, 0, 1, "true", "off"], "true or false", ["", "banana", "2", "yes"])


def or_off(kind: Kind) -> Kind:
    bad = [value for value in kind.bad if value is not None]
    texts = [text for text in kind.unreadable if text != "off"]
    return Kind([None, *kind.good], [*bad, "off"], f"{kind.allowed}, or off", [*texts, "none"])


def words(*choices: str) -> Kind:
    return Kind(
        list(choices),
        [None, "", choices[0].upper(), "banana", 1],
        f"one of {', '.join(choices)}",
        ["", "banana", "off"],
    )


RANGES: dict[type, dict[str, Kind]] = {
    RetryPolicy: {
        "attempts": COUNT,
        "backoff": words("exponential", "linear", "constant"),
        "jitter": words("full", "equal", "decorrelated", "none"),
        "base": DURATION,
        "cap": DURATION,
    },
    BudgetPolicy: {"capacity": COUNT, "payback": SHARE},
    BreakerPolicy: {
        "enabled": SWITCH,
        "strategy": words("adaptive", "window"),
        "observe_only": SWITCH,
        "slow_after": DURATION,
        "failures": or_off(COUNT),
        "failure_rate": or_off(POSITIVE_SHARE),
        "slow_rate": or_off(POSITIVE_SHARE),
        "window": words("time", "count"),
        "size": COUNT,
        "minimum_calls": COUNT,
        "open_for": DURATION,
        "open_factor": FACTOR,
        "open_cap": DURATION,
        "open_jitter": SHARE,
        "probes": COUNT,
        "successes": COUNT,
        "half_open_for": DURATION,
    },
    BulkheadPolicy: {"limit": or_off(COUNT), "queue": WHOLE, "max_wait": DURATION},
    RateLimitPolicy: {"rate": or_off(RATE), "burst": COUNT, "max_wait": DURATION},
    Policy: {"enabled": SWITCH, "deadline": DURATION, "timeout": or_off(DURATION)},
}


every_part = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
every_knob = pytest.mark.parametrize(
    ("part", "name", "kind"),
    [
        pytest.param(part, name, kind, id=f"{part.__name__}.{name}")
        for part, table in RANGES.items()
        for name, kind in table.items()
    ],
)


@every_part
class TestParts:
    def test_the_defaults(self, part: type) -> None:
        chosen = part()
        assert {name: getattr(chosen, name) for name in DEFAULTS[part]} == DEFAULTS[part]

    def test_no_knob_is_without_a_range_unless_only_code_can_set_it(self, part: type) -> None:
        assert set(ranges(part)) == set(RANGES[part])
        only_code = {knob.name for knob in fields(part)} - set(ranges(part))
        assert only_code == {
            RetryPolicy: {"on", "on_result"},
            Policy: {"strict_deadline", "fallback", "retry", "budget", "breaker", "bulkhead", "rate_limit"},
        }.get(part, set())

    def test_none_can_be_changed(self, part: type) -> None:
        chosen = part()
        with pytest.raises(FrozenInstanceError):
            setattr(chosen, fields(part)[0].name, None)

    def test_those_that_are_alike_are_equal(self, part: type) -> None:
        assert part() == part()
        assert hash(part()) == hash(part())


@every_knob
def test_what_is_in_range_is_taken_as_it_is(part: type, name: str, kind: Kind) -> None:
    for value in kind.good:
        assert getattr(part(**{name: value}), name) is value


@every_knob
def test_what_is_not_is_refused_by_name(part: type, name: str, kind: Kind) -> None:
    for value in kind.bad:
        with pytest.raises(ValueError) as raised:
            part(**{name: value})
        assert str(raised.value) == f"{part.__name__}.{name}={value!r} is not {kind.allowed}"


def test_a_copy_is_checked_too() -> None:
    with pytest.raises(ValueError, match=r"^RetryPolicy\.attempts=0 is not a whole number from 1 to 100000$"):
        replace(RetryPolicy(), attempts=0)


def test_the_knobs_of_the_window() -> None:
    assert WINDOW_KNOBS == (
        "failures", "failure_rate", "slow_rate", "window", "size", "minimum_calls", "open_for", "open_factor",
        "open_cap", "open_jitter", "probes", "successes", "half_open_for",
    )  # fmt: skip


class TestSystems:
    def test_a_vector_search_is_awaited_by_someone(self) -> None:
        assert default_policy("qdrant").deadline == 10
        assert default_policy("qdrant") == Policy(deadline=10.0, strict_deadline=False)

    @pytest.mark.parametrize("system", ["openai", "ollama", "anything else"])
    def test_the_others_have_half_a_minute(self, system: str) -> None:
        assert default_policy(system).deadline == 30
        assert default_policy(system) == Policy()

    def test_a_deadline_that_nobody_chose_cuts_no_answer_short(self) -> None:
        assert not any(default_policy(system).strict_deadline for system in SYSTEMS)

    def test_one_that_was_chosen_is_as_strict_from_code_as_from_the_environment(self) -> None:
        chosen = from_environment({"STORMPROOF_OPENAI__DEADLINE": "7"}).policy_for("openai")
        assert chosen.strict_deadline
        assert chosen == Policy(deadline=7.0)


PREFIXES = {
    Policy: "",
    RetryPolicy: "retry.",
    BudgetPolicy: "budget.",
    BreakerPolicy: "breaker.",
    BulkheadPolicy: "bulkhead.",
    RateLimitPolicy: "rate_limit.",
}


def written(value: Any) -> str:
    """As it is put into a variable: without an exponent, which durations do not have."""
    if value is None:
        return "off"
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def read(part: type, name: str, text: str) -> tuple[Any, tuple[str, ...]]:
    """What openai's policy makes of a variable, and what was complained of."""
    variable = f"STORMPROOF_OPENAI__{(PREFIXES[part] + name).upper().replace('.', '__')}"
    # The window, so that its knobs are not complained of as having no effect.
    settings = from_environment({"STORMPROOF__BREAKER__STRATEGY": "window", variable: text})
    policy = settings.policy_for("openai")
    chosen = policy if part is Policy else getattr(policy, PREFIXES[part].rstrip("."))
    return getattr(chosen, name), settings.problems


def default(part: type, name: str) -> Any:
    """What is in force in :func:`read` if the variable is not used."""
    return "window" if name == "strategy" else getattr(part(), name)


class TestEnvironment:
    def test_every_knob_has_its_variable(self) -> None:
        expected = {PREFIXES[part] + name: ranges(part)[name] for part, table in RANGES.items() for name in table}
        assert expected == KEYS

    @every_knob
    def test_it_takes_what_code_takes(self, part: type, name: str, kind: Kind) -> None:
        for value in kind.good:
            if value not in (TINY, HUGE):  # nobody writes those
                assert read(part, name, written(value)) == (value, ())

    @every_knob
    def test_it_refuses_what_code_refuses(self, part: type, name: str, kind: Kind) -> None:
        variable = f"STORMPROOF_OPENAI__{(PREFIXES[part] + name).upper().replace('.', '__')}"
        for text in kind.unreadable:
            problem = f"{variable}={text!r} is not {kind.allowed}; the default is used"
            assert read(part, name, text) == (default(part, name), (problem,))

    @every_knob
    def test_what_can_be_off_is_so_by_that_word(self, part: type, name: str, kind: Kind) -> None:
        can_be_off = kind.allowed.endswith(", or off")
        assert ranges(part)[name].off is can_be_off
        if can_be_off:
            assert read(part, name, " OFF ") == (None, ())


def test_a_range_says_whether_it_takes_words_and_whether_it_can_be_off() -> None:
    assert policy_module.one_of("a", "b").choices == ("a", "b")
    assert not policy_module.one_of("a", "b").off
    assert policy_module.DURATION.choices == ()
    assert not policy_module.DURATION.off
    assert policy_module.or_off(policy_module.SHARE).off


class TestRanges:
    """Made while the module is imported; here once more, so that a mutant of them is met."""

    def test_off_is_allowed_besides(self) -> None:
        range_ = policy_module.or_off(policy_module.COUNT)
        assert range_.allowed == f"{policy_module.COUNT.allowed}, or off"
        assert range_.off
        assert [range_.accepts(value) for value in (None, 1, 0, "1")] == [True, True, False, False]

    def test_one_of_a_few_words(self) -> None:
        range_ = policy_module.one_of("this", "that")
        assert range_.allowed == "one of this, that"
        assert range_.choices == ("this", "that")
        assert [range_.accepts(value) for value in ("this", "that", "other", None)] == [True, True, False, False]
