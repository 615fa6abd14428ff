"""The retry budget against a model of it: what is taken and paid back is exact, by however many at once."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stormproof.resilience.budget import Budget
from stormproof.resilience.policy import BudgetPolicy

from .limits import at_once


class BudgetMachine(RuleBasedStateMachine):
    """``tokens`` are counted in fractions. The paybacks are sums of powers of two, so that floats are exact too."""

    @initialize(capacity=st.integers(1, 8), payback=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    def make(self, capacity: int, payback: float) -> None:
        self.budget = Budget(BudgetPolicy(capacity=capacity, payback=payback))
        self.capacity, self.payback = Fraction(capacity), Fraction(payback)
        self.tokens = self.capacity

    @rule()
    def withdraw(self) -> None:
        expected = self.tokens >= 1
        assert self.budget.withdraw() is expected
        self.tokens -= expected

    @rule()
    def deposit(self) -> None:
        self.budget.deposit()
        self.tokens = min(self.capacity, self.tokens + self.payback)

    @rule()
    def drain(self) -> None:
        while self.tokens >= 1:
            self.withdraw()

    @rule()
    def refill(self) -> None:
        """As after a fork: the lock may be held by a thread that is not here."""
        self.budget._lock.acquire()
        self.budget.refill()
        self.tokens = self.capacity

    @invariant()
    def it_has_what_the_model_has(self) -> None:
        if not hasattr(self, "budget"):
            return
        assert 0 <= self.tokens <= self.capacity
        assert self.budget.share_left == float(self.tokens) / float(self.capacity)
        assert self.budget.is_full is (self.tokens == self.capacity)


BudgetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBudget = BudgetMachine.TestCase


def test_threads_take_exactly_what_there_is() -> None:
    budget = Budget(BudgetPolicy(capacity=100, payback=0.0))
    taken = at_once(8, lambda: sum(budget.withdraw() for _ in range(50)))
    assert sum(taken) == 100
    assert budget.share_left == 0.0


def test_threads_pay_back_exactly_what_they_pay() -> None:
    budget = Budget(BudgetPolicy(capacity=1000, payback=0.5))
    while budget.withdraw():
        pass

    def pay() -> None:
        for _ in range(100):
            budget.deposit()

    at_once(8, pay)
    assert budget.share_left == 0.4


def test_what_is_left_is_less_than_a_token_is_not_enough() -> None:
    budget = Budget(BudgetPolicy(capacity=1, payback=0.5))
    assert [budget.withdraw(), budget.withdraw()] == [True, False]
    budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
