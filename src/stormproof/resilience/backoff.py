"""How long to wait before the next attempt."""

from __future__ import annotations

import random

from stormproof.resilience.policy import RetryPolicy

# 2**60 seconds is beyond any cap; a larger exponent would only overflow the float.
_MAX_EXPONENT = 60


def full_jitter(policy: RetryPolicy, failures: int, rng: random.Random) -> float:
    """A wait in seconds after the ``failures``-th failure (from 1): U(0, min(cap, base * 2**(failures - 1)))."""
    return rng.uniform(0.0, min(policy.cap, policy.base * 2.0 ** min(failures - 1, _MAX_EXPONENT)))
