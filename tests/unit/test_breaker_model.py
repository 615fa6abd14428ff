"""The breaker against a model of it: any history of calls, waits and outcomes must lead both to the same place."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stormproof.resilience.breaker import Breaker, Permit, State, StateChange
from stormproof.resilience.outcome import Weight
from stormproof.resilience.policy import BreakerPolicy

from .helpers import VirtualClock


class Model:
    """The rules as one would tell them, without locks or care for speed."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.state = State.CLOSED
        self.failures = 0
        self.good_probes = 0
        self.opened_at = 0.0
        self.epoch = 0
        self.running: dict[int, tuple[int, float | None]] = {}  # permit → epoch, when its probe began

    def move(self, state: State) -> None:
        self.state, self.good_probes = state, 0
        self.epoch += 1

    def acquire(self, now: float) -> bool | None:
        """Whether the permit is a probe's; None when refused."""
        if self.state is State.OPEN and now >= self.opened_at + self.policy.open_for:
            self.move(State.HALF_OPEN)
        if self.state is State.CLOSED:
            return False
        if self.state is State.OPEN:
            return None
        probes = [begun for epoch, begun in self.running.values() if epoch == self.epoch and begun is not None]
        patient = [begun for begun in probes if now < begun + self.policy.open_for]
        return True if len(patient) < self.policy.probes else None

    def settle(self, epoch: int, weight: Weight, now: float) -> None:
        if epoch != self.epoch or weight is Weight.IGNORED:
            return
        if weight is Weight.SUCCESS:
            self.failures = 0 if self.state is State.CLOSED else self.failures
            self.good_probes += self.state is State.HALF_OPEN
            if self.good_probes >= self.policy.successes and self.state is State.HALF_OPEN:
                self.failures = 0
                self.move(State.CLOSED)
            return
        self.failures += 1
        if self.state is State.HALF_OPEN or self.failures >= self.policy.failures:
            self.opened_at = now
            self.move(State.OPEN)


class BreakerMachine(RuleBasedStateMachine):
    """Any number of calls in flight, each settled at any time or never."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.permits: dict[int, Permit] = {}
        self.changes: list[StateChange] = []
        self.numbers = 0
        self.outcomes: dict[str, int] = dict.fromkeys(("success", "failure", "ignored", "rejected"), 0)

    @initialize(
        failures=st.integers(1, 4),
        successes=st.integers(1, 3),
        probes=st.integers(1, 3),
        open_for=st.sampled_from([1, 5]),
    )
    def begin(self, **knobs: Any) -> None:
        policy = BreakerPolicy(**knobs)
        self.model = Model(policy)
        self.breaker = Breaker("b", policy, self.clock, self.changes.append)

    @rule()
    def call(self) -> None:
        expected = self.model.acquire(self.clock())
        permit = self.breaker.acquire()
        if permit is None:
            assert expected is None
            self.outcomes["rejected"] += 1
            return
        assert permit.probe is expected
        self.numbers += 1
        self.permits[self.numbers] = permit
        self.model.running[self.numbers] = (self.model.epoch, self.clock() if expected else None)

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), weight=st.sampled_from(Weight), again=st.booleans())
    def settle(self, data: Any, weight: Weight, again: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.permits)))
        permit = self.permits.pop(number)
        epoch, _ = self.model.running.pop(number)
        self.model.settle(epoch, weight, self.clock())
        self.breaker.settle(permit, weight)
        if again:
            self.breaker.settle(permit, Weight.FAILURE)  # a second time does nothing
        self.outcomes[weight.value] += 1

    @rule(seconds=st.sampled_from([0.5, 1, 4, 10]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.breaker.state is self.model.state
        assert self.breaker.in_flight == len(self.permits)
        assert self.breaker.calls == self.outcomes
        assert sum(self.breaker.transitions.values()) == len(self.changes)

    @invariant()
    def changes_form_a_chain(self) -> None:
        states = [State.CLOSED, *(change.state for change in self.changes)]
        assert [change.previous for change in self.changes] == states[:-1]
        assert states[-1] is self.breaker.state


BreakerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestBreakerModel = BreakerMachine.TestCase
