"""What may be chosen: every knob, its default and its range, in one place. All durations are seconds.

Settings from the environment are read by the same ranges (``settings.py``), so that code and environment agree on
what is allowed. A value that is not raises ``ValueError`` with the key, the value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from stormproof.resilience.fallback import Fallback

T = TypeVar("T")

MOST = 100_000


@dataclass(frozen=True)
class Range:
    """What a knob takes. ``choices``: its words, if it takes words; ``off``: None switches it off."""

    allowed: str
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()
    off: bool = False


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


DURATION = Range("a duration above 0, such as 500ms, 2s, 1m or seconds", lambda value: _number(value) and value > 0)
COUNT = Range(
    f"a whole number from 1 to {MOST}",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST,
)
WHOLE = Range(
    f"a whole number from 0 to {MOST}",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST,
)
SHARE = Range("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
RATE = Range("a number above 0", lambda value: _number(value) and value > 0)
FACTOR = Range("a number from 1", lambda value: _number(value) and value >= 1)
SWITCH = Range("true or false", lambda value: isinstance(value, bool))


def or_off(range_: Range) -> Range:
    """As ``range_``; None, written ``off``, switches the knob off."""
    return Range(f"{range_.allowed}, or off", lambda value: value is None or range_.accepts(value), off=True)


#: A knob's range without its ``off``, to find how it is written.
_POSITIVE_SHARE = Range("a number above 0, up to 1", lambda value: _number(value) and 0 < value <= 1)
DURATION_OR_OFF = or_off(DURATION)
COUNT_OR_OFF = or_off(COUNT)
SHARE_OR_OFF = or_off(_POSITIVE_SHARE)
RATE_OR_OFF = or_off(RATE)


def one_of(*choices: str) -> Range:
    """One of a few words."""
    return Range("one of " + ", ".join(choices), lambda value: value in choices, choices)


def _knob(default: T, range_: Range) -> T:
    value: T = field(default=default, metadata={"range": range_})
    return value


class _Checked:
    """Refuses values out of range, by name."""

    def __post_init__(self) -> None:
        for name, range_ in ranges(type(self)).items():
            value = getattr(self, name)
            if not range_.accepts(value):
                raise ValueError(f"{type(self).__name__}.{name}={value!r} is not {range_.allowed}")


def ranges(part: type) -> Mapping[str, Range]:
    """The ranges of a policy part's knobs, by name, in their order. Knobs that only code can set have none."""
    return {knob.name: knob.metadata["range"] for knob in fields(part) if "range" in knob.metadata}


@dataclass(frozen=True)
class RetryPolicy(_Checked):
    """How often and how patiently a failed attempt is repeated.

    The wait before attempt n + 1 grows with n as ``backoff`` says, from ``base`` up to ``cap``, and is drawn as
    ``jitter`` says (``backoff.py``). A server's hint is waited out first.

    Attributes:
        attempts: how many in all, the first included.
        backoff: ``exponential`` (base · 2**(n-1)), ``linear`` (base · n) or ``constant`` (base).
        jitter: ``full``, ``equal``, ``decorrelated`` or ``none``.
        base: seconds; the first step of the backoff.
        cap: seconds; the longest single wait that is chosen here.
        on: told of each error; True: retry it, False: do not, None: as the client's own table says.
        on_result: told of each result that is not a stream; True: it is not good enough, try again. The last result is
            handed out whatever it is.
    """

    attempts: int = _knob(4, COUNT)
    backoff: Literal["exponential", "linear", "constant"] = _knob(
        "exponential", one_of("exponential", "linear", "constant")
    )
    jitter: Literal["full", "equal", "decorrelated", "none"] = _knob(
        "full", one_of("full", "equal", "decorrelated", "none")
    )
    base: float = _knob(0.2, DURATION)
    cap: float = _knob(10.0, DURATION)
    on: Callable[[Exception], bool | None] | None = None
    on_result: Callable[[Any], bool] | None = None


@dataclass(frozen=True)
class BudgetPolicy(_Checked):
    """A token bucket that bounds the extra load of retries on one target.

    Each retry takes one token, each success pays ``payback`` tokens back (gRPC proposal A6, retry throttling). A retry
    that a rate limiter asked for takes none where the breaker paces it.

    The capacity is that of the AWS SDKs' standard mode. Far smaller ones undo what the adaptive breaker is for: in the
    simulated ramp a bucket of 100 runs dry, and 8 % of the calls after the overload are lost (``docs/overload.md``).
    """

    capacity: int = _knob(500, COUNT)
    payback: float = _knob(0.5, SHARE)


@dataclass(frozen=True)
class BreakerPolicy(_Checked):
    """When calls to a target are held back or refused, and how its recovery is probed.

    Attributes:
        enabled: False: the breaker stays ``disabled`` and everything is let through.
        strategy: ``adaptive`` learns from successes and failures what the target can take (``adaptive.py``) and has no
            knobs; ``window`` is the classical breaker with thresholds (``window.py``), which the knobs below belong to.
        observe_only: states change and are shown, but no call is refused or delayed.
        slow_after: seconds; a call that took longer is slow. One that the app cancels later than this is a failure.
        failures: this many in a row open it.
        failure_rate: this share of failures in the window opens it.
        slow_rate: this share of slow calls in the window opens it.
        window: ``time``: the last ``size`` seconds; ``count``: the last ``size`` calls.
        size: seconds or calls.
        minimum_calls: the rates mean nothing before this many calls in the window.
        open_for: seconds until the first probe.
        open_factor: each opening without recovery in between lasts this many times longer.
        open_cap: seconds; the longest opening.
        open_jitter: share by which an opening is drawn longer or shorter, so that processes do not probe together.
        probes: calls let through at a time while half-open.
        successes: good probes that close it.
        half_open_for: seconds; a half-open breaker that has not decided by then opens again.
    """

    enabled: bool = _knob(True, SWITCH)
    strategy: Literal["adaptive", "window"] = _knob("adaptive", one_of("adaptive", "window"))
    observe_only: bool = _knob(False, SWITCH)
    slow_after: float = _knob(60.0, DURATION)
    failures: int | None = _knob(5, COUNT_OR_OFF)
    failure_rate: float | None = _knob(0.5, SHARE_OR_OFF)
    slow_rate: float | None = _knob(None, SHARE_OR_OFF)
    window: Literal["time", "count"] = _knob("time", one_of("time", "count"))
    size: int = _knob(60, COUNT)
    minimum_calls: int = _knob(20, COUNT)
    open_for: float = _knob(30.0, DURATION)
    open_factor: float = _knob(2.0, FACTOR)
    open_cap: float = _knob(120.0, DURATION)
    open_jitter: float = _knob(0.1, SHARE)
    probes: int = _knob(1, COUNT)
    successes: int = _knob(2, COUNT)
    half_open_for: float = _knob(30.0, DURATION)


#: The knobs of :class:`BreakerPolicy` that have no effect under the adaptive strategy.
WINDOW_KNOBS = tuple(
    name for name in ranges(BreakerPolicy) if name not in ("enabled", "strategy", "observe_only", "slow_after")
)


@dataclass(frozen=True)
class BulkheadPolicy(_Checked):
    """How many attempts may be in flight to a target at once.

    Attributes:
        limit: None: any number.
        queue: how many more callers may wait for their turn; beyond that a call is refused at once.
        max_wait: seconds; the longest a caller waits for its turn.
    """

    limit: int | None = _knob(None, COUNT_OR_OFF)
    queue: int = _knob(100, WHOLE)
    max_wait: float = _knob(5.0, DURATION)


@dataclass(frozen=True)
class RateLimitPolicy(_Checked):
    """How many attempts a second are sent to a target: a token bucket.

    Attributes:
        rate: attempts a second in the long run; None: any number.
        burst: attempts that may be sent at once after a pause.
        max_wait: seconds; a call that would have to wait longer is refused at once.
    """

    rate: float | None = _knob(None, RATE_OR_OFF)
    burst: int = _knob(1, COUNT)
    max_wait: float = _knob(5.0, DURATION)


DEADLINE = 30.0
#: Seconds within which a call's waits and new attempts must fit: a vector search is awaited by someone.
DEADLINES = {"qdrant": 10.0}

#: Tells a knob that was not set from one that was set to its default.
_UNSET: Any = object()


@dataclass(frozen=True)
class Policy(_Checked):
    """Everything that decides how a call of one system runs.

    Attributes:
        enabled: False leaves the client's calls exactly as they are.
        deadline: no wait and no new attempt goes beyond this many seconds after the call's start. By default 30 (see
            :func:`default_policy` for the systems that differ).
        strict_deadline: also cut running attempts at the deadline. By default on where a deadline was chosen: the
            default deadline never cuts an answer short that the client alone would have waited for.
        timeout: upper limit of one attempt; None leaves the client's own timeout.
        fallback: what the app gets instead of an error; None: the error.
    """

    enabled: bool = _knob(True, SWITCH)
    deadline: float = _knob(_UNSET, DURATION)
    strict_deadline: bool = _UNSET
    timeout: float | None = _knob(None, DURATION_OR_OFF)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    budget: BudgetPolicy = field(default_factory=BudgetPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    bulkhead: BulkheadPolicy = field(default_factory=BulkheadPolicy)
    rate_limit: RateLimitPolicy = field(default_factory=RateLimitPolicy)
    fallback: Fallback | None = None

    def __post_init__(self) -> None:
        is_chosen = self.deadline is not _UNSET
        if not is_chosen:
            object.__setattr__(self, "deadline", DEADLINE)
        if self.strict_deadline is _UNSET:
            object.__setattr__(self, "strict_deadline", is_chosen)
        super().__post_init__()


def default_policy(system: str) -> Policy:
    """What is in force for a system where nothing was chosen."""
    return Policy(deadline=DEADLINES.get(system, DEADLINE), strict_deadline=False)
