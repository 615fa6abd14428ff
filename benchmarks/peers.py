"""The libraries that ``core.py`` compares with: each set up as its own documentation shows a plain in-memory breaker.

Thresholds and listeners are the library's defaults, or what its first example chooses. Only the time that a breaker
stays open is longer here, so that it is still open when its refusals are timed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

Call = Callable[[], Any]
AsyncCall = Callable[[], Awaitable[Any]]
#: Protects a function by a breaker of its own; a decorator.
Guard = Callable[[Any], Any]
#: A call, and how many of its outcomes were counted so far.
Counted = tuple[Call, Callable[[], int]]

ATTEMPTS = 4
HOUR = 3600
MANY = 1_000_000

#: What can be compared.
WINDOW, PERMITS, BUDGET, RETRIES, ASYNC = "window", "permits", "budget", "retries", "async"
FEATURES = {
    WINDOW: "opens on a share of failures",
    PERMITS: "limits a half-open breaker's probes",
    BUDGET: "bounds what retries add to the load",
    RETRIES: "repeats what failed",
    ASYNC: "protects coroutines",
}


class BrokenError(Exception):
    """What a failing call raises."""


def work() -> int:
    """A call that succeeds."""
    return 1


async def work_async() -> int:
    """As :func:`work`."""
    return 1


def fail() -> int:
    """A call that fails."""
    raise BrokenError


async def fail_async() -> int:
    """As :func:`fail`."""
    raise BrokenError


@dataclass(frozen=True)
class Peer:
    """What is measured of a library. What is None, it does not have.

    Attributes:
        package: whose version is shown.
        features: those of ``FEATURES`` that are at work in what is measured.
        guard, guard_async: protect a function, a coroutine function.
        opened, opened_async: make a call that is refused because its breaker is open.
        counted: makes a call whose successes are counted; a failing one, where only failures are.
        note: what a reader of the figures should know.
    """

    package: str
    features: tuple[str, ...]
    guard: Guard | None = None
    guard_async: Guard | None = None
    opened: Callable[[], Call] | None = None
    opened_async: Callable[[], AsyncCall] | None = None
    counted: Callable[[], Counted] | None = None
    note: str = ""


def tripped(guard: Guard) -> Call:
    """A call that is refused: it has failed until its breaker opened."""
    call: Call = guard(fail)
    _exhaust(call)
    return call


def tripped_async(guard: Guard) -> AsyncCall:
    """As :func:`tripped`."""
    call: AsyncCall = guard(fail_async)

    async def await_it() -> None:
        await call()

    _exhaust(lambda: asyncio.run(await_it()))
    return call


def _exhaust(call: Call) -> None:
    for _ in range(1000):
        try:
            call()
        except BrokenError:  # noqa: PERF203  # each failure counts
            continue
        except Exception:
            return
    raise AssertionError("failures do not open this breaker")


def _pybreaker() -> Peer:
    from pybreaker import CircuitBreaker

    def guard(function: Any) -> Any:
        return CircuitBreaker(fail_max=5, reset_timeout=HOUR)(function)

    def counted() -> Counted:
        breaker = CircuitBreaker(fail_max=MANY)
        return breaker(fail), lambda: breaker.fail_counter

    return Peer(
        "pybreaker",
        (PERMITS,),
        guard,
        opened=lambda: tripped(guard),
        counted=counted,
        note="holds its lock over the whole call: threads take turns; its async is for Tornado",
    )


def _purgatory() -> Peer:
    from purgatory import AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory

    def guard(function: Any) -> Any:
        return SyncCircuitBreakerFactory(default_threshold=5, default_ttl=HOUR)("peer")(function)

    def guard_async(function: Any) -> Any:
        return AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=HOUR)("peer")(function)

    def counted() -> Counted:
        factory = SyncCircuitBreakerFactory(default_threshold=MANY)
        return factory("peer")(fail), lambda: factory.get_breaker("peer").context.failure_count or 0

    return Peer(
        "purgatory",
        (ASYNC,),
        guard,
        guard_async,
        lambda: tripped(guard),
        counted=counted,
        note="has no lock; raises one error again and again, which keeps the traceback of every refusal",
    )


def _circuitbreaker() -> Peer:
    from circuitbreaker import CircuitBreaker

    def guard(function: Any) -> Any:
        return CircuitBreaker(failure_threshold=5, recovery_timeout=HOUR)(function)

    def counted() -> Counted:
        breaker = CircuitBreaker(failure_threshold=MANY)
        return breaker(fail), lambda: int(breaker.failure_count)

    return Peer("circuitbreaker", (ASYNC,), guard, guard, lambda: tripped(guard), counted=counted, note="has no lock")


def _aiobreaker() -> Peer:
    from aiobreaker import CircuitBreaker

    def guard(function: Any) -> Any:
        return CircuitBreaker(fail_max=5, timeout_duration=timedelta(seconds=HOUR))(function)

    def counted() -> Counted:
        breaker = CircuitBreaker(fail_max=MANY)
        return breaker(fail), lambda: int(breaker.fail_counter)

    return Peer("aiobreaker", (ASYNC,), guard, guard, lambda: tripped(guard), counted=counted, note="has no lock")


def _interlock() -> Peer:
    from interlock import CircuitBreaker

    def guard(function: Any) -> Any:
        return CircuitBreaker(name="peer", config=_interlock_config())(function)

    def counted() -> Counted:
        breaker = CircuitBreaker(name="peer", config=_interlock_config(window_size=MANY))
        return breaker(work), lambda: breaker.snapshot().total_calls

    return Peer("interlock-cb", (WINDOW, PERMITS, ASYNC), guard, guard, lambda: tripped(guard), counted=counted)


def _interlock_pipeline() -> Peer:
    from interlock import CircuitBreaker, Pipeline

    def guard(function: Any, *, is_open: bool = False) -> Any:
        breaker = CircuitBreaker(name="peer", config=_interlock_config())
        if is_open:
            breaker.force_open()
        return Pipeline.builder().retry(attempts=ATTEMPTS).circuit_breaker(breaker).build()(function)

    return Peer(
        "interlock-cb",
        (WINDOW, PERMITS, RETRIES, ASYNC),
        guard,
        guard,
        lambda: guard(work, is_open=True),
        note="its pipeline of a retry by tenacity and a breaker",
    )


def _interlock_config(window_size: int = 100) -> Any:
    from interlock import Config

    return Config(
        failure_rate_threshold=0.5,
        minimum_number_of_calls=20,
        slow_call_duration_threshold=2.0,
        slow_call_rate_threshold=0.3,
        wait_duration_in_open=HOUR,
        window_size=window_size,
    )


def _fluxgate() -> Peer:
    from fluxgate import AsyncCircuitBreaker, CircuitBreaker
    from fluxgate.retries import Cooldown
    from fluxgate.trippers import FailureRate, FailureStreak, MinRequests, SlowRate
    from fluxgate.windows import CountWindow

    tripper = FailureStreak(5) | (MinRequests(20) & (FailureRate(0.5) | SlowRate(0.3, threshold=1.0)))

    def guard(function: Any) -> Any:
        return CircuitBreaker(tripper=tripper, retry=Cooldown(HOUR))(function)

    def guard_async(function: Any) -> Any:
        return AsyncCircuitBreaker(tripper=tripper, retry=Cooldown(HOUR))(function)

    def counted() -> Counted:
        breaker = CircuitBreaker(window=CountWindow(MANY))
        return breaker(work), lambda: breaker.info().metrics.total_count

    return Peer(
        "fluxgate",
        (WINDOW, PERMITS, ASYNC),
        guard,
        guard_async,
        lambda: tripped(guard),
        counted=counted,
        note="is documented as not for threads",
    )


def _hyx() -> Peer:
    from hyx.circuitbreaker import consecutive_breaker

    def guard_async(function: Any) -> Any:
        return consecutive_breaker(exceptions=Exception, failure_threshold=5, recovery_time_secs=HOUR)(function)

    return Peer(
        "hyx",
        (ASYNC,),
        guard_async=guard_async,
        opened_async=lambda: tripped_async(guard_async),
        note="protects coroutines only; its refusal is timed in a coroutine",
    )


def _hyx_with_retry() -> Peer:
    from hyx.circuitbreaker import consecutive_breaker
    from hyx.retry import retry

    def guard_async(function: Any) -> Any:
        breaker = consecutive_breaker(exceptions=Exception, failure_threshold=5, recovery_time_secs=HOUR)
        return retry(on=BrokenError, attempts=ATTEMPTS)(breaker(function))

    return Peer("hyx", (RETRIES, ASYNC), guard_async=guard_async, note="its retry around its breaker")


def _tenacity() -> Peer:
    def guard(function: Any) -> Any:
        return _retried()(function)

    return Peer("tenacity", (RETRIES, ASYNC), guard, guard, note="has no breaker")


def _stamina() -> Peer:
    import stamina

    def guard(function: Any) -> Any:
        return stamina.retry(on=BrokenError, attempts=ATTEMPTS)(function)

    return Peer("stamina", (RETRIES, ASYNC), guard, guard, note="has no breaker")


def _assembled() -> Peer:
    import aiobreaker
    import pybreaker

    def guard(function: Any, *, is_open: bool = False) -> Any:
        breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=HOUR)
        if is_open:
            breaker.open()
        return _retried(pybreaker.CircuitBreakerError)(breaker(function))

    def guard_async(function: Any) -> Any:
        breaker = aiobreaker.CircuitBreaker(fail_max=5, timeout_duration=timedelta(seconds=HOUR))
        return _retried(aiobreaker.CircuitBreakerError)(breaker(function))

    return Peer(
        "pybreaker",
        (PERMITS, RETRIES, ASYNC),
        guard,
        guard_async,
        lambda: guard(work, is_open=True),
        note="by hand: tenacity around pybreaker, for coroutines around aiobreaker, which limits no probes",
    )


def _retried(*unless: type[BaseException]) -> Any:
    """Tenacity's retry, with the waits that its documentation recommends where a service is shared."""
    from tenacity import retry, retry_if_not_exception_type, stop_after_attempt, wait_random_exponential

    return retry(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        retry=retry_if_not_exception_type(unless),
        reraise=True,
    )


PEERS: dict[str, Callable[[], Peer]] = {
    "pybreaker": _pybreaker,
    "purgatory": _purgatory,
    "circuitbreaker": _circuitbreaker,
    "aiobreaker": _aiobreaker,
    "interlock-cb": _interlock,
    "interlock-cb, pipeline": _interlock_pipeline,
    "fluxgate": _fluxgate,
    "hyx": _hyx,
    "hyx, with retry": _hyx_with_retry,
    "tenacity": _tenacity,
    "stamina": _stamina,
    "assembled": _assembled,
}


def available() -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can be used here, and why the others cannot."""
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for name, make in PEERS.items():
        try:
            peers[name] = make()
        except Exception as error:  # noqa: PERF203  # whatever is wrong with one must not hide the others
            missing[name] = f"{type(error).__name__}: {error}"
    return peers, missing
