"""The retry budget and the backoff, over all their inputs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormproof.resilience.backoff import backoff
from stormproof.resilience.budget import Budget
from stormproof.resilience.policy import BudgetPolicy, RetryPolicy

from .helpers import at_once


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


def test_it_knows_when_it_is_full() -> None:
    """So that a healthy call does without paying back."""
    budget = Budget(BudgetPolicy(capacity=2, payback=0.5))
    seen = [budget.is_full]
    for step in (budget.withdraw, budget.deposit, budget.deposit, budget.deposit):
        step()
        seen.append(budget.is_full)
    assert seen == [True, False, False, True, True]


def test_one_that_is_used_up_is_refilled_as_new() -> None:
    budget = Budget(BudgetPolicy(capacity=1))
    assert [budget.withdraw(), budget.withdraw(), budget.share_left] == [True, False, 0.0]
    with budget._lock:  # held by a thread that a fork left behind
        budget.refill()
        assert (budget.share_left, budget.is_full) == (1.0, True)
        assert budget.withdraw()


durations = st.floats(0.001, 1000)
failures = st.integers(1, 10_000)
seeds = st.integers()
previous = st.floats(0, 1000)

STEPS: dict[str, Callable[[float, int], float]] = {
    "exponential": lambda base, failures: base * 2.0 ** (failures - 1),
    "linear": lambda base, failures: base * failures,
    "constant": lambda base, _: base,
}


@pytest.mark.parametrize("growth", STEPS)
@pytest.mark.parametrize(("jitter", "least"), [("full", 0.0), ("equal", 0.5), ("none", 1.0)])
@given(base=durations, cap=durations, failures=failures, previous=previous, seed=seeds)
def test_a_wait_is_a_share_of_its_step(
    *, growth: Any, jitter: Any, least: float, base: float, cap: float, failures: int, previous: float, seed: int
) -> None:
    policy = RetryPolicy(backoff=growth, jitter=jitter, base=base, cap=cap)
    wait = backoff(policy, failures, previous, random.Random(seed))
    step = cap if failures > 60 and growth == "exponential" else min(cap, STEPS[growth](base, failures))
    assert least * step <= wait <= step


@pytest.mark.parametrize("growth", STEPS)
@given(base=durations, cap=durations, failures=failures, previous=previous, seed=seeds)
def test_a_decorrelated_wait_grows_by_itself(
    *, growth: Any, base: float, cap: float, failures: int, previous: float, seed: int
) -> None:
    policy = RetryPolicy(backoff=growth, jitter="decorrelated", base=base, cap=cap)
    wait = backoff(policy, failures, previous, random.Random(seed))
    assert min(base, cap) <= wait <= min(cap, max(base, 3 * previous))
