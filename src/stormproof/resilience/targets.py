"""The targets this process talks to: each with its breaker and its retry budget."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from stormproof.resilience.breaker import Breaker, State, StateChange
from stormproof.resilience.budget import Budget
from stormproof.resilience.clock import Clock
from stormproof.resilience.policy import Policy

#: Name of the target that stands in for all others once the registry is full of busy ones.
OVERFLOW = "_OTHER"


class Target:
    """One server as one system sees it, named ``{system}/{host}:{port}``."""

    __slots__ = ("breaker", "budget", "host", "name", "policy", "port", "system")

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
    ) -> None:
        self.system = system
        self.host = host
        self.port = port
        self.name = name
        self.policy = policy
        self.budget = Budget(policy.budget)
        self.breaker = Breaker(name, policy.breaker, clock, lambda change: on_change(self, change))


class Targets:
    """A bounded registry; targets are made on first use. Safe for concurrent use.

    When it is full, the longest-known target with a closed breaker and nothing in flight makes room; if there is
    none, further targets of a system share one called ``_OTHER``.
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

    def __iter__(self) -> Iterator[Target]:
        return iter(list(self._targets.values()))

    def __len__(self) -> int:
        return len(self._targets)

    def get(self, system: str, host: str, port: int) -> Target:
        """The target of this address, made now if it is new."""
        key = (system, host, port)
        target = self._targets.get(key)
        return target if target is not None else self._add(key)

    def after_fork(self) -> None:
        """Start afresh in a forked child: its parent's locks may be held, its breakers and permits are not its own."""
        self._lock = threading.Lock()
        self._targets = {}

    def _add(self, key: tuple[str, str, int]) -> Target:
        with self._lock:
            if key not in self._targets:
                if len(self._targets) >= self._bound and not self._evict():
                    key = (key[0], OVERFLOW, 0)
                if key not in self._targets:
                    self._targets[key] = self._make(*key)
            return self._targets[key]

    def _make(self, system: str, host: str, port: int) -> Target:
        name = f"{system}/{host}:{port}" if host != OVERFLOW else f"{system}/{OVERFLOW}"
        return Target(
            system,
            host,
            port,
            name=name,
            policy=self._policy_for(system),
            clock=self._clock,
            on_change=self._on_change,
        )

    def _evict(self) -> bool:
        for key, target in self._targets.items():
            breaker = target.breaker
            is_idle = breaker.in_flight == 0 and breaker.state in (State.CLOSED, State.DISABLED)
            if is_idle and target.host != OVERFLOW:
                del self._targets[key]
                return True
        return False
