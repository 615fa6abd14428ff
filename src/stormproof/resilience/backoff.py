"""How long to wait before the next attempt.

Full, equal and decorrelated jitter are Marc Brooker's ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from stormproof.resilience.policy import RetryPolicy

# 2**60 seconds is beyond any cap; a larger exponent would only overflow the float.
_MAX_EXPONENT = 60

_GROWTH: Mapping[str, Callable[[float, int], float]] = {
    "exponential": lambda base, failures: base * 2.0 ** min(failures - 1, _MAX_EXPONENT),
    "linear": lambda base, failures: base * failures,
    "constant": lambda base, _: base,
}


def backoff(policy: RetryPolicy, failures: int, previous: float, rng: random.Random) -> float:
    """A wait in seconds after the ``failures``-th failure (from 1). ``previous``: the wait before that, 0 for none.

    - ``full`` jitter: U(0, step), ``equal``: U(step / 2, step), ``none``: step, where the step grows with the failures;
    - ``decorrelated``: U(base, 3 · previous), which grows by itself; ``policy.backoff`` is not used.
    """
    if policy.jitter == "decorrelated":
        return min(policy.cap, rng.uniform(policy.base, max(policy.base, 3.0 * previous)))
    step = min(policy.cap, _GROWTH[policy.backoff](policy.base, failures))
    if policy.jitter == "full":
        return rng.uniform(0.0, step)
    return rng.uniform(step / 2.0, step) if policy.jitter == "equal" else step
