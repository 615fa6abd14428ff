"""What may be chosen: every knob and its default, in one place. All durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a failed attempt is repeated.

    The wait before attempt n + 1 is drawn from U(0, min(cap, base * 2**(n - 1))): "full jitter" (Marc Brooker,
    "Exponential Backoff And Jitter", 2015). A server's hint is waited out first.
    """

    attempts: int = 4
    base: float = 0.2
    cap: float = 10.0


@dataclass(frozen=True)
class BudgetPolicy:
    """A token bucket that bounds the extra load of retries on one target.

    Each retry takes one token, each success pays ``payback`` tokens back (gRPC proposal A6, retry throttling).
    """

    capacity: float = 100.0
    payback: float = 0.5


@dataclass(frozen=True)
class BreakerPolicy:
    """When calls to a target are refused at once, and how its recovery is probed.

    ``failures`` in a row open the breaker; after ``open_for`` seconds up to ``probes`` concurrent probes are let
    through; ``successes`` good probes close it, one bad probe opens it again.
    """

    enabled: bool = True
    failures: int = 5
    successes: int = 1
    open_for: float = 2.0
    probes: int = 1


@dataclass(frozen=True)
class Policy:
    """Everything that decides how a call of one system runs.

    Attributes:
        enabled: False leaves the client's calls exactly as they are.
        deadline: no wait and no new attempt goes beyond this many seconds after the call's start.
        strict_deadline: also cut running attempts at the deadline. On when the deadline was chosen by the user;
            the default deadline never cuts an answer short that the client alone would have waited for.
        timeout: upper limit of one attempt; None leaves the client's own timeout.
    """

    enabled: bool = True
    deadline: float = 30.0
    strict_deadline: bool = False
    timeout: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    budget: BudgetPolicy = field(default_factory=BudgetPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
