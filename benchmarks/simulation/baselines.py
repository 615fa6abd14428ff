"""What people use today, each with the numbers of its source."""

from __future__ import annotations

import math
import random
from collections import deque

from .engine import Call, Clock, Outcome, Policy


class NoRetry(Policy):
    """One attempt; and the frame the others fill in: how many attempts, who may retry, after which wait."""

    ATTEMPTS = 1

    def admit(self, call: Call) -> float | None:
        return 0.0

    def ended(self, call: Call, outcome: Outcome, retry_after: float | None) -> float | None:
        if outcome is Outcome.SUCCESS:
            self.succeeded(call)
            return None
        self.failed(call)
        if call.attempts >= self.ATTEMPTS or not self.may_retry(call, outcome):
            return None
        return self.wait(call, outcome, retry_after)

    def succeeded(self, call: Call) -> None:
        """An attempt succeeded."""

    def failed(self, call: Call) -> None:
        """An attempt failed."""

    def may_retry(self, call: Call, outcome: Outcome) -> bool:
        """Whether a budget allows the retry; takes from it if so."""
        return True

    def wait(self, call: Call, outcome: Outcome, retry_after: float | None) -> float | None:
        """Seconds until the retry; None: give up."""
        return 0.0

    def full_jitter(self, call: Call, base: float, cap: float) -> float:
        """U(0, min(cap, base · 2^(n-1))): Brooker, "Exponential Backoff And Jitter", 2015."""
        return self.rng.random() * min(cap, base * 2.0 ** (call.attempts - 1))


# -- retries ---------------------------------------------------------------------------------------------------------


class TenacityThree(NoRetry):
    """``@tenacity.retry(stop=stop_after_attempt(3))``, whose default wait is none: the naive retry."""

    ATTEMPTS = 3


class TenacityUsual(NoRetry):
    """``wait_random_exponential(min=1, max=60), stop_after_attempt(6)``: OpenAI's cookbook, "Handle rate limits"."""

    ATTEMPTS = 6

    def wait(self, call: Call, outcome: Outcome, retry_after: float | None) -> float:
        return self.rng.uniform(1.0, min(60.0, 2.0 ** (call.attempts - 1)))


class Stamina(NoRetry):
    """``@stamina.retry``'s defaults: 10 attempts within 45 s, waits of min(5, 0.1 · 2^(n-1) + U(0, 1))."""

    ATTEMPTS = 10

    def wait(self, call: Call, outcome: Outcome, retry_after: float | None) -> float | None:
        if self.clock() - call.started_at >= 45.0:  # noqa: PLR2004
            return None
        return min(5.0, 0.1 * 2.0 ** (call.attempts - 1) + self.rng.random())


class OpenAI(NoRetry):
    """The openai package's own: ``max_retries=2``, 0.5 to 8 s less up to a quarter, ``Retry-After`` obeyed."""

    ATTEMPTS = 3

    def wait(self, call: Call, outcome: Outcome, retry_after: float | None) -> float:
        if retry_after:
            return retry_after
        return min(8.0, 0.5 * 2.0 ** (call.attempts - 1)) * (1 - 0.25 * self.rng.random())


class LongBackoff(NoRetry):
    """Two retries spread over U(0, 20 s) and U(0, 40 s): what backoff can do when nobody minds the wait."""

    ATTEMPTS = 3

    def wait(self, call: Call, outcome: Outcome, retry_after: float | None) -> float:
        return self.full_jitter(call, 20.0, math.inf)


# -- retries with a budget -------------------------------------------------------------------------------------------


class AwsStandard(NoRetry):
    """AWS SDKs' "standard" retry mode (botocore ``retries/standard.py``).

    Three attempts, U(0, 1) · 2^(n-1) up to 20 s; 500 tokens, of which a retry takes 5, after a timeout 10. A success
    after a retry brings back what the retry took, any other brings 1.
    """

    ATTEMPTS = 3
    _CAPACITY = 500

    tokens = _CAPACITY

    def succeeded(self, call: Call) -> None:
        self.tokens = min(self._CAPACITY, self.tokens + (call.memory or 1))

    def may_retry(self, call: Call, outcome: Outcome) -> bool:
        cost = 10 if outcome is Outcome.TIMEOUT else 5
        if self.tokens < cost:
            return False
        self.tokens -= cost
        call.memory = cost
        return True

    def wait(self, call: Call, outcome: Outcome, retry_after: float | None) -> float:
        return self.full_jitter(call, 1.0, 20.0)


class GrpcThrottle(NoRetry):
    """gRPC's retry throttling (proposal A6): ``maxTokens`` 10, ``tokenRatio`` 0.1, retries only above half of them."""

    ATTEMPTS = 4
    _CAPACITY = 10.0

    tokens = _CAPACITY

    def succeeded(self, call: Call) -> None:
        self.tokens = min(self._CAPACITY, self.tokens + 0.1)

    def failed(self, call: Call) -> None:
        self.tokens = max(0.0, self.tokens - 1)

    def may_retry(self, call: Call, outcome: Outcome) -> bool:
        return self.tokens > self._CAPACITY / 2

    def wait(self, call: Call, outcome: Outcome, retry_after: float | None) -> float:
        return self.full_jitter(call, 0.1, 5.0)


class SreThrottle(NoRetry):
    """Google's "Site Reliability Engineering" (2016), chapter 21: adaptive throttling, K = 2, over about two minutes.

    With the chapter's three attempts and its budget of one retry in ten requests. The window is a decaying average.
    """

    ATTEMPTS = 3
    _K = 2.0
    _MEMORY = 60.0  # seconds; a decay of this time constant weighs about as two minutes do

    requests = accepts = retries = counted_at = 0.0

    def admit(self, call: Call) -> float | None:
        self._decay()
        self.requests += 1
        rejected = (self.requests - 1 - self._K * self.accepts) / self.requests
        return None if self.rng.random() < rejected else 0.0

    def succeeded(self, call: Call) -> None:
        self._decay()
        self.accepts += 1

    def may_retry(self, call: Call, outcome: Outcome) -> bool:
        if self.retries > 0.1 * self.requests:
            return False
        self.retries += 1
        return True

    def wait(self, call: Call, outcome: Outcome, retry_after: float | None) -> float:
        return self.full_jitter(call, 0.1, 5.0)

    def _decay(self) -> None:
        now = self.clock()
        factor = math.exp(-(now - self.counted_at) / self._MEMORY)
        self.counted_at = now
        self.requests *= factor
        self.accepts *= factor
        self.retries *= factor


# -- breakers --------------------------------------------------------------------------------------------------------


class Breaker(NoRetry):
    """A circuit breaker (Nygard, "Release It!", 2007) on the last calls, as resilience4j counts them; no retries.

    Opens when half of the last 100 attempts (20 at least) failed; after 5 s one probe decides.
    """

    MINIMUM = 20
    SHARE = 0.5
    OPEN_FOR = 5.0
    PROBES = 1

    def __init__(self, rng: random.Random, clock: Clock) -> None:
        super().__init__(rng, clock)
        self.state = "closed"
        self._open_until = 0.0
        self._probes_sent = 0
        self._probes: set[Call] = set()
        self._failures: deque[bool] = deque(maxlen=100)  # whether each of the last attempts in this state failed

    def admit(self, call: Call) -> float | None:
        if self.state == "open":
            if self.clock() < self._open_until:
                return self.refused(call)
            self._move("half-open")
        if self.state == "half-open":
            if self._probes_sent >= self.PROBES:
                return self.refused(call)
            self._probes_sent += 1
            self._probes.add(call)
        return 0.0

    def refused(self, call: Call) -> float | None:
        """What becomes of a call that the breaker refuses: None, or a wait."""
        return None

    def succeeded(self, call: Call) -> None:
        self._count(call, failed=False)

    def failed(self, call: Call) -> None:
        self._count(call, failed=True)

    def _count(self, call: Call, *, failed: bool) -> None:
        if self.state == "open" or (self.state == "half-open" and call not in self._probes):
            return
        self._probes.discard(call)
        self._failures.append(failed)
        if len(self._failures) < (self.PROBES if self.state == "half-open" else self.MINIMUM):
            return
        if sum(self._failures) >= len(self._failures) * self.SHARE:
            self._open_until = self.clock() + self.OPEN_FOR
            self._move("open")
        elif self.state == "half-open":
            self._move("closed")

    def _move(self, state: str) -> None:
        self.state = state
        self._probes_sent = 0
        self._probes.clear()
        self._failures.clear()


class Resilience4j(Breaker):
    """resilience4j's defaults: Retry (3 attempts, 500 ms) around CircuitBreaker (50 % of 100, 60 s, 10 probes).

    The retry repeats refused calls as well, as its default does.
    """

    ATTEMPTS = 3
    MINIMUM = 100
    OPEN_FOR = 60.0
    PROBES = 10
    _WAIT = 0.5

    def refused(self, call: Call) -> float | None:
        return None if self._tries_after_refusal(call) >= self.ATTEMPTS else self._WAIT

    def wait(self, call: Call, outcome: Outcome, retry_after: float | None) -> float:
        return self._WAIT

    def _tries_after_refusal(self, call: Call) -> int:
        call.memory = (call.memory or 0) + 1  # how often it was refused
        return int(call.attempts + call.memory)


class BreakerBucket(Breaker):
    """The same breaker with retries from a token bucket: 10 tokens, 1 a retry, 0.1 back a success.

    Brooker, "Fixing retries with token buckets and circuit breakers", 2022.
    """

    ATTEMPTS = 3
    _CAPACITY = 10.0

    tokens = _CAPACITY

    def succeeded(self, call: Call) -> None:
        super().succeeded(call)
        self.tokens = min(self._CAPACITY, self.tokens + 0.1)

    def may_retry(self, call: Call, outcome: Outcome) -> bool:
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


#: All of them, by name.
BASELINES: dict[str, type[Policy]] = {
    "no-retry": NoRetry,
    "tenacity-3": TenacityThree,
    "tenacity-usual": TenacityUsual,
    "stamina": Stamina,
    "openai": OpenAI,
    "aws": AwsStandard,
    "resilience4j": Resilience4j,
    "breaker": Breaker,
    "breaker-bucket": BreakerBucket,
    "grpc": GrpcThrottle,
    "sre": SreThrottle,
    "long-backoff": LongBackoff,
}
