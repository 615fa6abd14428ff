"""The retry budget and the backoff, over all their inputs."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from stormproof.resilience.backoff import full_jitter
from stormproof.resilience.budget import Budget
from stormproof.resilience.policy import BudgetPolicy, RetryPolicy

from .test_breaker import at_once


@given(
    capacity=st.integers(1, 20),
    payback=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    steps=st.lists(st.booleans(), max_size=200),
)
def test_it_never_gives_more_than_it_has(capacity: int, payback: float, steps: list[bool]) -> None:
    budget = Budget(BudgetPolicy(capacity=capacity, payback=payback))
    tokens = float(capacity)
    for retries in steps:
        if retries:
            assert budget.withdraw() is (tokens >= 1)
            tokens -= tokens >= 1
        else:
            budget.deposit()
            tokens = min(capacity, tokens + payback)
        assert budget.share_left == tokens / capacity


def test_threads_share_it_exactly() -> None:
    budget = Budget(BudgetPolicy(capacity=100, payback=0))
    taken = at_once(8, lambda: sum(budget.withdraw() for _ in range(50)))
    assert sum(taken) == 100


def test_a_budget_without_capacity_is_empty() -> None:
    budget = Budget(BudgetPolicy(capacity=0))
    assert (budget.share_left, budget.withdraw()) == (0.0, False)


durations = st.floats(0.001, 1000)


@given(base=durations, cap=durations, failures=st.integers(1, 10_000), seed=st.integers())
def test_full_jitter_stays_within_its_bounds(base: float, cap: float, failures: int, seed: int) -> None:
    wait = full_jitter(RetryPolicy(base=base, cap=cap), failures, random.Random(seed))
    assert 0 <= wait <= cap
    assert failures > 60 or wait <= base * 2 ** (failures - 1)


def test_full_jitter_uses_all_of_its_range() -> None:
    policy, rng = RetryPolicy(base=1, cap=4), random.Random(1)
    for failures, bound in ((1, 1), (2, 2), (3, 4), (9, 4)):
        waits = [full_jitter(policy, failures, rng) for _ in range(500)]
        assert min(waits) < bound * 0.05
        assert bound * 0.95 < max(waits) <= bound
