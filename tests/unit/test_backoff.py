"""How long is waited before a retry: each growth with each jitter, over all their inputs; and a server's own wish."""

from __future__ import annotations

import random
from typing import Any, Literal, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given

from stormproof.resilience.backoff import backoff
from stormproof.resilience.outcome import GaveUp, Retry, Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy, BudgetPolicy, Policy, RetryPolicy

from .helpers import Trouble, World, asked_to_wait

Growth = Literal["exponential", "linear", "constant"]
Jitter = Literal["full", "equal", "decorrelated", "none"]

seconds = st.floats(0.001, 1000)
growths = st.sampled_from(get_args(Growth))
jitters = st.sampled_from(get_args(Jitter))


class Fixed(random.Random):
    """Draws this part of each range, and notes the range."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part = part
        self.ranges: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.ranges.append((a, b))
        return a + (b - a) * self.part


def step(growth: str, base: float, failures: int) -> float:
    """The wait without jitter and without a cap, as its definition has it."""
    factor = {"exponential": 2.0 ** min(failures - 1, 900), "linear": failures, "constant": 1}
    return base * factor[growth]


@pytest.mark.parametrize(
    ("growth", "expected"),
    [
        ("exponential", [0.5, 1, 2, 4, 8, 10, 10]),
        ("linear", [0.5, 1, 1.5, 2, 2.5, 3, 3.5]),
        ("constant", [0.5] * 7),
    ],
)
def test_each_growth(growth: Growth, expected: list[float]) -> None:
    policy = RetryPolicy(backoff=growth, jitter="none", base=0.5, cap=10)
    assert [backoff(policy, n, 0.0, Fixed(0.5)) for n in range(1, 8)] == expected


@pytest.mark.parametrize(
    ("jitter", "ranges"),
    [
        ("full", [(0, 1), (0, 2), (0, 4), (0, 5), (0, 5)]),
        ("equal", [(0.5, 1), (1, 2), (2, 4), (2.5, 5), (2.5, 5)]),
        ("none", []),
    ],
)
@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_each_jitter_draws_from_its_range(jitter: Jitter, ranges: list[tuple[float, float]], part: float) -> None:
    rng, policy = Fixed(part), RetryPolicy(jitter=jitter, base=1, cap=5)
    waits = [backoff(policy, n, 0.0, rng) for n in range(1, 6)]
    assert rng.ranges == ranges
    assert waits == ([low + (high - low) * part for low, high in ranges] or [1, 2, 4, 5, 5])


def test_decorrelated_jitter_grows_from_the_wait_before() -> None:
    policy, rng = RetryPolicy(jitter="decorrelated", base=1, cap=20), Fixed(1.0)
    waits = [0.0]
    for failures in range(1, 6):
        waits.append(backoff(policy, failures, waits[-1], rng))
    assert rng.ranges == [(1, 1), (1, 3), (1, 9), (1, 27), (1, 60)]
    assert waits == [0, 1, 3, 9, 20, 20]


@pytest.mark.parametrize("growth", get_args(Growth))
def test_decorrelated_jitter_needs_no_growth(growth: Growth) -> None:
    policy = RetryPolicy(jitter="decorrelated", backoff=growth, base=1, cap=20)
    assert backoff(policy, 7, 2.0, Fixed(1.0)) == 6.0


policies = st.builds(RetryPolicy, backoff=growths, jitter=jitters, base=seconds, cap=seconds)


@given(policy=policies, failures=st.integers(1, 100_000), seed=st.integers())
def test_none_is_longer_than_its_step_or_the_cap(policy: RetryPolicy, failures: int, seed: int) -> None:
    jitter, base, cap = policy.jitter, policy.base, policy.cap
    previous = random.Random(seed).uniform(0, cap)
    wait = backoff(policy, failures, previous, random.Random(seed))
    longest = max(base, 3 * previous) if jitter == "decorrelated" else step(policy.backoff, base, failures)
    shortest = {"full": 0.0, "equal": longest / 2, "none": longest, "decorrelated": base}[jitter]
    assert min(cap, shortest, cap / 2 if jitter == "equal" else cap) <= wait <= min(cap, longest) * (1 + 1e-12)


@given(
    growth=growths,
    jitter=jitters,
    base=st.floats(1e-300, 1e308),
    cap=st.floats(1e-300, 1e308),
    failures=st.integers(1, 100_000),
)
def test_nothing_overflows(growth: Growth, jitter: Jitter, base: float, cap: float, failures: int) -> None:
    policy = RetryPolicy(backoff=growth, jitter=jitter, base=base, cap=cap)
    assert 0.0 <= backoff(policy, failures, cap, random.Random(1)) <= cap


def test_the_whole_range_is_used() -> None:
    policy, rng = RetryPolicy(base=1, cap=4), random.Random(1)
    for failures, bound in ((1, 1), (2, 2), (3, 4), (9, 4)):
        waits = [backoff(policy, failures, 0.0, rng) for _ in range(500)]
        assert min(waits) < bound * 0.05
        assert bound * 0.95 < max(waits) <= bound


# -- calls ------------------------------------------------------------------------------------------------------------


def choose(world: World, *, deadline: float = 10**6, capacity: int = 100, **retry: Any) -> None:
    """A policy whose breaker has no part in it."""
    world.policy = Policy(
        deadline=deadline,
        retry=RetryPolicy(**retry),
        budget=BudgetPolicy(capacity=capacity),
        breaker=BreakerPolicy(enabled=False),
    )


class TestCalls:
    def test_a_call_waits_as_the_policy_says(self, world: World) -> None:
        choose(world, attempts=7, jitter="none", base=0.5, cap=6)
        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, *(Trouble() for _ in range(7)))
        assert world.clock.waits == [0.5, 1, 2, 4, 6, 6]
        assert operation.total_delay == 19.5

    def test_decorrelated_jitter_remembers_the_calls_last_wait(self, world: World) -> None:
        choose(world, attempts=5, jitter="decorrelated", base=1, cap=20)
        world.target.rng = Fixed(1.0)
        for _ in range(2):  # each call from the beginning
            world.clock.waits.clear()
            with pytest.raises(Trouble):
                world.run(world.begin(), *(Trouble() for _ in range(5)))
            assert world.clock.waits == [1, 3, 9, 20]

    def test_a_hint_wins_and_the_jitter_comes_on_top(self, world: World) -> None:
        choose(world, base=0.5, jitter="full")
        world.target.rng = Fixed(0.5)
        operation = world.begin()
        assert world.run(operation, Trouble(hinted(7.0)), "fine") == "fine"
        assert world.clock.waits == [7.25]
        assert operation.attempt is not None
        assert (operation.attempt.delay, operation.attempt.delay_source) == (7.25, "server")

    def test_a_hint_is_not_what_the_next_wait_grows_from(self, world: World) -> None:
        choose(world, jitter="decorrelated", base=1, cap=100)
        world.target.rng = Fixed(1.0)
        world.run(world.begin(), Trouble(hinted(50.0)), Trouble(), "fine")
        assert world.clock.waits == [51, 3]

    def test_a_hint_is_not_bounded_by_the_cap(self, world: World) -> None:
        choose(world, jitter="none", base=1, cap=2)
        world.run(world.begin(), Trouble(hinted(30.0)), "fine")
        assert world.clock.waits == [31]

    @pytest.mark.parametrize("hint", [None, 0.0])
    def test_without_a_hint_it_is_the_backoff(self, world: World, hint: float | None) -> None:
        choose(world, jitter="none", base=1)
        operation = world.begin()
        world.run(operation, Trouble(hinted(hint)), "fine")
        assert world.clock.waits == [1]
        assert operation.attempt is not None
        assert operation.attempt.delay_source == "backoff"

    @pytest.mark.parametrize(("hint", "reason"), [(9.0, GaveUp.HINT_TOO_LONG), (None, GaveUp.DEADLINE)])
    def test_a_wait_that_would_end_with_the_deadline_is_not_begun(
        self, world: World, hint: float | None, reason: GaveUp
    ) -> None:
        choose(world, jitter="none", base=1 if hint else 10, cap=100, deadline=10)
        operation, error = world.begin(), Trouble(hinted(hint))
        with pytest.raises(Trouble) as raised:
            world.run(operation, error, "never")
        assert raised.value is error
        assert (operation.attempts, operation.gave_up, world.clock.waits) == (1, reason, [])
        assert world.target.budget.share_left == 1.0  # what is not made costs nothing

    def test_one_that_would_end_just_before_it_is(self, world: World) -> None:
        choose(world, jitter="none", base=1, deadline=10)
        assert world.run(world.begin(), Trouble(hinted(8.99)), "fine") == "fine"

    def test_an_empty_budget_is_said(self, world: World) -> None:
        choose(world, attempts=9, capacity=2, jitter="none")
        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, *(Trouble() for _ in range(9)))
        assert (operation.attempts, operation.gave_up) == (3, GaveUp.BUDGET)
        assert world.target.budget.share_left == 0.0

    def test_a_success_pays_back(self, world: World) -> None:
        choose(world, attempts=9, capacity=4, jitter="none")
        world.run(world.begin(), Trouble(), Trouble(), "fine")
        assert world.target.budget.share_left == 2.5 / 4
        world.run(world.begin(), "fine")
        assert world.target.budget.share_left == 3.0 / 4

    def test_where_the_breaker_does_not_pace_a_rate_limit_costs_as_any_failure(self, world: World) -> None:
        choose(world, attempts=3, jitter="none", base=1)
        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, *(asked_to_wait(1.0) for _ in range(9)))
        assert (operation.attempts, operation.gave_up) == (3, GaveUp.ATTEMPTS)
        assert world.target.budget.share_left == 0.98


def hinted(seconds: float | None) -> Verdict:
    return Verdict(Weight.FAILURE, Retry.ALWAYS, "503", 503, seconds)
