"""The targets this process talks to: each with its breaker, its retry budget and its limits."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stormproof.resilience.adaptive import Adaptive
from stormproof.resilience.breaker import Breaker, BreakerSnapshot, State, StateChange
from stormproof.resilience.budget import Budget
from stormproof.resilience.bulkhead import Bulkhead
from stormproof.resilience.clock import Clock
from stormproof.resilience.policy import BreakerPolicy, Policy, RetryPolicy
from stormproof.resilience.rate_limit import RateLimit
from stormproof.resilience.window import WindowBreaker

#: Name of the target that stands in for all others once the registry is full of busy ones.
OVERFLOW = "_OTHER"

#: System of the user's own functions. Their targets have no address: their name stands where the others have a host.
OWN = "protect"

#: One idle target in so many makes room at a time, so that finding them costs little however often it is full.
_EVICTED_SHARE = 10

# Without a state of its own: the app's random numbers are not used up, and forked workers do not wait in step.
_rng = random.SystemRandom()


@dataclass(frozen=True)
class LastError:
    """The newest failure of a target: its type's name, never the error itself, which would keep its frames alive.

    Attributes:
        trace_id: of the attempt; None where nothing was traced.
        at: monotonic seconds.
    """

    type: str
    at: float
    trace_id: str | None = None


@dataclass(frozen=True)
class TargetSnapshot:
    """A target at one moment.

    Attributes:
        breaker: state, window, counts, last change.
        budget: share of the retry budget that is left, from 0 to 1.
        in_flight: attempts that run now.
        queued: callers that wait for the bulkhead.
        last_error: the newest failure; None if there was none.
        last_error_age: seconds since then.
    """

    name: str
    system: str
    host: str
    port: int
    breaker: BreakerSnapshot
    budget: float
    in_flight: int
    queued: int
    last_error: LastError | None
    last_error_age: float | None


class Target:
    """One server as one system sees it, named ``{system}/{host}:{port}``, or what functions of the user's own call.

    Safe for concurrent use.
    """

    __slots__ = (
        "_clock",
        "breaker",
        "budget",
        "bulkhead",
        "has_bad_predicate",
        "host",
        "is_limited",
        "is_simple",
        "last_error",
        "last_used",
        "name",
        "policy",
        "port",
        "rate_limit",
        "rng",
        "system",
    )

    def __init__(
        self,
        system: str,
        host: str,
        port: int,
        *,
        name: str,
        policy: Policy,
        clock: Clock,
        on_change: Callable[[Target, StateChange], None],
        rng: random.Random = _rng,
    ) -> None:
        self.system = system
        self.host = host
        self.port = port
        self.name = name
        self.policy = policy
        self.rng = rng
        self.last_used = clock()
        self.last_error: LastError | None = None
        self.has_bad_predicate = False  # which was said
        self._clock = clock
        self.budget = Budget(policy.budget)
        strategy = WindowBreaker if policy.breaker.strategy == "window" else Adaptive
        self.breaker: Breaker = strategy(name, policy.breaker, clock, lambda change: on_change(self, change), rng)
        self.bulkhead = Bulkhead(policy.bulkhead) if policy.bulkhead.limit is not None else None
        self.rate_limit = RateLimit(policy.rate_limit) if policy.rate_limit.rate is not None else None
        self.is_limited = self.bulkhead is not None or self.rate_limit is not None
        #: Nothing but breaker and budget is asked before or after a call.
        self.is_simple = policy.enabled and not self.is_limited and policy.retry.on_result is None

    @property
    def policy_name(self) -> str:
        """The name that its policy is chosen by."""
        return self.host if self.system == OWN else self.system

    def snapshot(self) -> TargetSnapshot:
        """Everything that is known of it now."""
        error = self.last_error
        breaker = self.breaker.snapshot()
        return TargetSnapshot(
            name=self.name,
            system=self.system,
            host=self.host,
            port=self.port,
            breaker=breaker,
            budget=self.budget.share_left,
            in_flight=breaker.in_flight,
            queued=self.bulkhead.queued if self.bulkhead is not None else 0,
            last_error=error,
            last_error_age=self._clock() - error.at if error is not None else None,
        )

    def succeeded(self, generation: int, sent: float, now: float) -> None:
        """A call that came in the short way (``Breaker.enter``) is over."""
        self.last_used = sent
        self.breaker.leave(generation, sent, now)
        if not self.budget.is_full:
            self.budget.deposit()

    def force_open(self) -> None:
        """Refuse every call, until closed or reset."""
        self.breaker.force_open()

    def disable(self) -> None:
        """Let every call through and judge none, until closed or reset."""
        self.breaker.disable()

    def close(self) -> None:
        """Close the breaker; it decides alone again."""
        self.breaker.close()

    def reset(self) -> None:
        """As new: breaker as its policy has it, budget full, no last error. What was counted stays counted."""
        if self.policy.breaker.enabled:
            self.breaker.close()
        else:
            self.breaker.disable()
        self.budget.refill()
        self.last_error = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost if it is forgotten: no call in it, nothing decided by hand, nothing learnt."""
        breaker = self.breaker
        is_busy = breaker.in_flight or breaker.waiting or (self.bulkhead is not None and self.bulkhead.queued)
        untouched = State.CLOSED if self.policy.breaker.enabled else State.DISABLED
        return not is_busy and breaker.state is untouched

    def after_fork(self) -> None:
        """Be as new in a forked child, for a call that the forking thread may be in the middle of."""
        self.breaker.after_fork()
        self.budget.refill()
        for limit in (self.bulkhead, self.rate_limit):
            if limit is not None:
                limit.after_fork()


class Targets:
    """A bounded registry; targets are made on first use. Safe for concurrent use.

    When it is full, the least recently used of the idle ones make room; if none is idle, further targets of a system
    share one called ``_OTHER``.
    """

    def __init__(
        self,
        policy_for: Callable[[str], Policy],
        clock: Clock,
        on_change: Callable[[Target, StateChange], None],
        bound: int = 1000,
    ) -> None:
        self._policy_for = policy_for
        self._clock = clock
        self._on_change = on_change
        self._bound = bound
        self._lock = threading.Lock()
        self._targets: dict[tuple[str, str, int], Target] = {}
        self._local: dict[str, Target] = {}

    def __iter__(self) -> Iterator[Target]:
        return iter(list(self._targets.values()))

    def __len__(self) -> int:
        return len(self._targets)

    def get(self, system: str, host: str, port: int) -> Target:
        """The target of this address, made now if it is new."""
        key = (system, host, port)
        target = self._targets.get(key)
        return target if target is not None else self._add(key)

    def local(self, system: str) -> Target:
        """Where calls go that stay inside this process: one attempt, no breaker. Not among the others."""
        target = self._local.get(system)
        if target is None:
            policy = Policy(
                enabled=self._policy_for(system).enabled,
                strict_deadline=False,
                retry=RetryPolicy(attempts=1),
                breaker=BreakerPolicy(enabled=False),
            )
            target = self._local[system] = self._make(system, "local", 0, policy)
        return target

    def forget(self, name: str) -> None:
        """Make the targets whose policy is chosen by this name anew, by the policy that is in force then.

        Calls that run end where they began.
        """
        with self._lock:
            self._targets = {key: target for key, target in self._targets.items() if target.policy_name != name}
            self._local.pop(name, None)

    def after_fork(self) -> None:
        """Start afresh in a forked child: its parent's locks may be held, its breakers and permits are not its own."""
        self._lock = threading.Lock()
        for target in self._targets.values():
            target.after_fork()
        self._targets = {}
        self._local = {}

    def _add(self, key: tuple[str, str, int]) -> Target:
        with self._lock:
            if key not in self._targets:
                if len(self._targets) >= self._bound and not self._make_room():
                    key = (key[0], OVERFLOW, 0)
                if key not in self._targets:
                    self._targets[key] = self._make(*key)
            return self._targets[key]

    def _make(self, system: str, host: str, port: int, policy: Policy | None = None) -> Target:
        name = host if system == OWN and host != OVERFLOW else f"{system}/{host}"
        if system != OWN and host != OVERFLOW:
            name += f":{port}"
        return Target(
            system,
            host,
            port,
            name=name,
            policy=policy or self._policy_for(host if system == OWN else system),
            clock=self._clock,
            on_change=self._on_change,
        )

    def _make_room(self) -> bool:
        idle = [
            (target.last_used, key)
            for key, target in self._targets.items()
            if target.is_idle and target.host != OVERFLOW
        ]
        idle.sort()
        for _, key in idle[: 1 + len(idle) // _EVICTED_SHARE]:
            del self._targets[key]
        return bool(idle)
