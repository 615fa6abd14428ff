"""The default breaker under any history: what must hold whatever the rate is that it has found.

Its health, its cuts and its probes are told by a model; of the pacer, which is all numbers, only the bounds are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stormproof.resilience.breaker import NOT_CALM, Permit, State
from stormproof.resilience.outcome import SUCCESS, Verdict, Weight

from .breakers import FAILURE, IGNORED, TIMEOUT, adaptive, rate_limited

BY_HAND = (State.FORCED_OPEN, State.DISABLED)
DRAWS = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@dataclass
class Model:
    """Health, cuts and probes, as docs/overload.md tells them."""

    state: State = State.CLOSED
    reasons: list[str] = field(default_factory=list)
    period: int = 0  # counts the changes of state
    health: float = 15.0
    ignore_before: float = -math.inf
    alive: bool = False
    newest_success: float = -math.inf
    probe_at: float = 0.0
    interval: float = 0.5
    gate: float = -math.inf
    credit: float = 0.0

    def move(self, state: State, reason: str) -> None:
        self.state = state
        self.reasons.append(reason)
        self.period += 1

    def probe(self, now: float, draw: float) -> bool:
        """Whether one is sent, asked for at this moment."""
        if now < self.probe_at:
            return False
        self.interval = min(2.0, 2.0 * self.interval)
        self.probe_at = now + self.interval * (0.5 + draw)
        return True

    def ended(self, permit: Permit, period: int, verdict: Verdict, now: float, draw: float) -> None:
        if self.state in BY_HAND:
            return
        latency = min(10.0, now - permit.sent)
        answers = permit.probe and period == self.period and self.state is State.OPEN
        if verdict.weight is Weight.SUCCESS:
            self.newest_success = max(self.newest_success, permit.sent)
            self.credit = self.credit + 0.1 if self.credit < 3.0 else self.credit
            self.health = min(15.0, self.health + 2.0)
            self.alive |= permit.sent >= self.ignore_before
            if answers:
                self.recover(now)
        elif verdict.rate_limited:
            if answers:
                self.recover(now)
            self.gate = max(self.gate, now + min(5.0, verdict.hint or 0.0))
            if permit.sent >= self.ignore_before and self.state is not State.OPEN:
                self.ignore_before = now + latency
                if self.state is State.CLOSED:
                    self.move(State.HALF_OPEN, "rate_limited")
        elif verdict.weight is Weight.FAILURE and self.state is not State.OPEN and permit.sent >= self.ignore_before:
            self.health -= 1.5 if verdict.timed_out else 1.0
            if self.health <= 0.0:
                self.cut(now, latency, draw)

    def recover(self, now: float) -> None:
        self.health, self.ignore_before, self.alive = 15.0, now, False
        self.move(State.HALF_OPEN, "probe_succeeded")

    def cut(self, now: float, latency: float, draw: float) -> None:
        self.health, self.ignore_before = 7.5, now + 0.7 * latency
        if not self.alive:
            self.interval = 0.5
            self.probe_at = now + 0.5 * (0.5 + draw)
            self.move(State.OPEN, "nothing_succeeds")
        elif self.state is State.CLOSED:
            self.move(State.HALF_OPEN, "overload")
        self.alive = False

    def by_hand(self, state: State, now: float) -> None:
        if state is not self.state:
            self.move(state, "closed_by_hand" if state is State.CLOSED else state.value)
        self.health, self.ignore_before, self.alive = 15.0, now, False
        self.newest_success = self.gate = -math.inf
        self.credit = 0.0


class AdaptiveMachine(RuleBasedStateMachine):
    """Callers who wait, go, end or go away, in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = adaptive()
        self.model = Model()
        self.running: list[tuple[Permit, int]] = []  # each with the period in which it was sent
        self.waiting: list[tuple[Permit, float]] = []  # each with when it is to ask again
        self.calls = dict.fromkeys(("success", "failure", "ignored", "rejected"), 0)
        self.slot = (0, -math.inf)  # the last that was reserved: its epoch, and the earliest for the next

    @initialize(failures=st.sampled_from([0, 15, 23]), successes=st.sampled_from([0, 1, 30]), steered=st.integers(0, 3))
    def begin(self, failures: int, successes: int, steered: int) -> None:
        """Healthy, cut or open; seldom with someone who steers it by hand."""
        self.steered = steered == 3
        self.call(failures + successes, math.inf, 0.5)
        for number in range(failures + successes):
            self.settle(*self.running.pop(), SUCCESS if number < successes else FAILURE, 0.5)

    # -- callers -----------------------------------------------------------------------------------------------------

    @rule(times=st.sampled_from([1, 1, 2, 5, 20]), within=st.sampled_from([math.inf, 0.5, 3.0, 30.0]), draw=DRAWS)
    def call(self, times: int, within: float, draw: float) -> None:
        for _ in range(times):
            permit = Permit()
            permit.deadline = self.breaker.clock() + within
            self.ask(permit, draw)

    @rule(before=st.sampled_from([0.0, 0.5, 5.0]), within=st.sampled_from([math.inf, 3.0]), draw=DRAWS)
    def call_again_after_a_timeout(self, before: float, within: float, draw: float) -> None:
        permit = Permit()
        permit.deadline = self.breaker.clock() + within
        permit.after_timeout_of = self.breaker.clock() - before
        self.ask(permit, draw)

    @precondition(lambda self: self.waiting)
    @rule(times=st.integers(1, 5), draw=DRAWS)
    def wake(self, times: int, draw: float) -> None:
        """Those whose time comes next."""
        for _ in range(min(times, len(self.waiting))):
            permit, due = self.waiting.pop(min(range(len(self.waiting)), key=lambda one: self.waiting[one][1]))
            self.breaker.clock.now = max(self.breaker.clock.now, due)
            self.ask(permit, draw)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def go_away(self, data: Any) -> None:
        permit, _ = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.breaker.breaker.withdraw(permit)

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        verdict=st.sampled_from([SUCCESS, SUCCESS, FAILURE, TIMEOUT, IGNORED, rate_limited(), rate_limited(3.0)]),
        times=st.sampled_from([1, 1, 5, 16]),
        draw=DRAWS,
    )
    def end(self, data: Any, verdict: Verdict, times: int, draw: float) -> None:
        for _ in range(min(times, len(self.running))):
            permit, period = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            self.settle(permit, period, verdict, draw)
            self.breaker.end(permit, FAILURE)  # a second time does nothing

    @rule(verdict=st.sampled_from([SUCCESS, FAILURE, TIMEOUT]), times=st.sampled_from([1, 5, 16]), draw=DRAWS)
    def call_and_end(self, verdict: Verdict, times: int, draw: float) -> None:
        for _ in range(times):
            before = len(self.running)
            self.call(1, math.inf, draw)
            if len(self.running) > before:
                self.settle(*self.running.pop(), verdict, draw)

    @rule(times=st.sampled_from([1, 5, 30]))
    def pass_by(self, times: int) -> None:
        """Calls that go the short way, and end at once."""
        now = self.breaker.clock()
        for _ in range(times):
            generation = self.breaker.breaker.enter(now)
            if generation != NOT_CALM:
                assert self.model.state is State.CLOSED
                assert now >= self.model.gate
                permit = Permit()
                permit.sent = now
                self.breaker.breaker.leave(generation, now, now)
                self.model.ended(permit, self.model.period, SUCCESS, now, 0.0)
                self.calls["success"] += 1

    @rule(seconds=st.sampled_from([0.1, 0.1, 0.5, 1.0, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.breaker.wait(seconds)

    @precondition(lambda self: self.model.state is State.OPEN)
    @rule(draw=DRAWS, verdict=st.sampled_from([SUCCESS, SUCCESS, rate_limited(2.0), FAILURE]))
    def probe(self, draw: float, verdict: Verdict) -> None:
        self.breaker.clock.now = max(self.breaker.clock.now, self.model.probe_at)
        self.call(1, math.inf, draw)
        self.breaker.wait(0.1)
        self.settle(*self.running.pop(), verdict, draw)

    @precondition(lambda self: self.steered)
    @rule(state=st.sampled_from([*BY_HAND, State.CLOSED, State.CLOSED]))
    def by_hand(self, state: State) -> None:
        orders = {State.FORCED_OPEN: "force_open", State.DISABLED: "disable", State.CLOSED: "close"}
        self.breaker.wait(0.001)  # what was sent at this very moment could be of before or after
        getattr(self.breaker.breaker, orders[state])()
        self.model.by_hand(state, self.breaker.clock())
        self.breaker.wait(0.001)

    # -- what they must find -----------------------------------------------------------------------------------------

    def settle(self, permit: Permit, period: int, verdict: Verdict, draw: float) -> None:
        now = self.breaker.clock()
        self.breaker.rng.draw = draw
        self.breaker.end(permit, verdict, now - permit.sent)
        self.model.ended(permit, period, verdict, now, draw)
        self.calls[verdict.weight.value] += 1

    def ask(self, permit: Permit, draw: float) -> None:
        now, model, breaker = self.breaker.clock(), self.model, self.breaker.breaker
        self.breaker.rng.draw = draw
        had_slot = permit.place == "slot" and permit.epoch == breaker._epoch
        needs_proof = permit.after_timeout_of is not None and model.state not in BY_HAND
        has_proof = model.newest_success > (permit.after_timeout_of or -math.inf) and model.health > 10
        has_time = now < (permit.proof_until or permit.deadline) and model.state is not State.OPEN
        if needs_proof and not has_proof and has_time and not self.running and model.health > 10 and model.credit >= 1:
            model.credit -= 1
            has_proof = True
        permit, wait = self.breaker.ask(permit)
        if model.state is State.HALF_OPEN and breaker.state is State.CLOSED:
            model.move(State.CLOSED, "recovered")  # that is the pacer's to decide, but not while anyone is to stay away
            assert now >= model.gate
        if wait < 0.0:
            self.calls["rejected"] += 1
        elif wait > 0.0:
            self.waiting.append((permit, now + wait))
        else:
            self.running.append((permit, model.period))
        if needs_proof and not has_proof:
            assert wait != 0.0
            assert wait <= 0.75
            assert wait < 0.0 or now + wait <= permit.deadline + 1e-5
            assert (wait < 0.0) is (now >= permit.proof_until or model.state is State.OPEN)
        elif model.state is State.FORCED_OPEN:
            assert wait < 0.0
        elif model.state is State.DISABLED:
            assert wait == 0.0
        elif model.state is State.OPEN:
            assert wait == (0.0 if model.probe(now, draw) else -1.0)
            assert permit.probe is (wait == 0.0)
        elif model.state is State.CLOSED and now >= model.gate:
            assert wait == 0.0
        else:
            self.paced(permit, wait, had_slot)

    def paced(self, permit: Permit, wait: float, had_slot: bool) -> None:
        now, breaker = self.breaker.clock(), self.breaker.breaker
        if wait < 0.0:
            assert permit.deadline < math.inf  # refused only who has no time
        elif permit.place == "line":
            assert 0.5 <= wait <= 1.0
        elif had_slot:
            assert wait == 0.0
        else:  # a slot was reserved: one after the other, at the rate of that moment, after the gate, in time
            slot, (epoch, earliest) = now + wait, self.slot
            assert slot <= permit.deadline
            assert slot >= self.model.gate - 1e-6
            if epoch == breaker._epoch:
                assert slot >= earliest - 1e-6
            self.slot = (breaker._epoch, slot + 1.0 / permit.rate)

    @invariant()
    def agrees_with_the_model(self) -> None:
        breaker, model = self.breaker.breaker, self.model
        snapshot = breaker.snapshot()
        assert snapshot.state is model.state
        assert self.breaker.reasons == model.reasons
        assert snapshot.calls == self.calls
        assert snapshot.in_flight == len(self.running)
        assert snapshot.waiting == sum(permit.place == "line" for permit, _ in self.waiting)
        if model.state not in BY_HAND:
            assert math.isclose(breaker._health, model.health)
            assert 0.0 < breaker._health <= 15.0
        if model.state is State.OPEN:
            assert math.isclose(snapshot.next_probe, max(0.0, model.probe_at - self.breaker.clock()), abs_tol=1e-9)

    @invariant()
    def is_paced_while_half_open_and_only_then(self) -> None:
        rate = self.breaker.breaker.rate
        assert (rate is not None) is (self.model.state is State.HALF_OPEN)
        assert rate is None or 0.02 <= rate < math.inf

    @invariant()
    def changes_form_a_chain(self) -> None:
        states = [State.CLOSED, *(change.state for change in self.breaker.changes)]
        assert [change.previous for change in self.breaker.changes] == states[:-1]
        assert all((change.rate is not None) is (change.state is State.HALF_OPEN) for change in self.breaker.changes)

    def teardown(self) -> None:
        """Whatever has happened: a server that is well again is found, in bounded time."""
        for permit, period in self.running:
            self.settle(permit, period, IGNORED, 0.5)
        for permit, _ in self.waiting:
            self.breaker.breaker.withdraw(permit)
        assert (self.breaker.breaker.in_flight, self.breaker.breaker.waiting) == (0, 0)
        if self.model.state in BY_HAND:
            return
        self.breaker.rng.draw = 0.5
        began = self.breaker.clock()
        self.breaker.clock.now = max(began, self.model.gate)
        if self.breaker.state() is State.OPEN:
            self.breaker.until_probe()
        self.breaker.recover_from_half_open()
        # The worst is a rate that limits have brought to 1 in 50 s: it grows by a tenth a call.
        assert self.breaker.clock() - began < 700
        assert all(self.breaker.ask()[1] == 0.0 for _ in range(100))


# Without shrinking, which takes minutes: take ``phases`` out to look into a failure.
AdaptiveMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, derandomize=True, phases=[Phase.generate]
)
TestAdaptiveModel = AdaptiveMachine.TestCase


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.5, 30.0, 1e6]), st.integers(0, 7)), max_size=80))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_healthy_target_is_never_kept_waiting(steps: list[tuple[float, int]]) -> None:
    """However many calls there are, and whenever they come and end, as long as they succeed."""
    breaker, running = adaptive(), list[Permit]()
    for passed, ends in steps:
        breaker.wait(passed)
        running.append(breaker.go())
        for _ in range(min(ends, len(running))):
            permit = running.pop(0)
            breaker.end(permit, latency=breaker.clock() - permit.sent)
        assert breaker.breaker.enter(breaker.clock()) != NOT_CALM
        assert breaker.state() is State.CLOSED
    assert breaker.changes == []


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.floats(0, 3)), min_size=10, max_size=60), DRAWS)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_paced_target_gets_no_more_than_the_rate(steps: list[tuple[float, bool, float]], draw: float) -> None:
    """Any number of callers, each of whom comes to the second when told: what is sent in a time fits the rate in it."""
    breaker = adaptive()
    breaker.rng.draw = draw
    breaker.open()
    breaker.until_probe()
    breaker.succeed()
    sent, highest = list[float](), 1.0
    callers: list[tuple[float, Permit]] = []
    for passed, succeeds, patience in steps:
        until = breaker.clock() + passed
        callers += [(breaker.clock(), _patient(breaker.clock() + patience)) for _ in range(5)]
        while callers and min(callers, key=lambda one: one[0])[0] <= until:
            callers.sort(key=lambda one: one[0])
            due, permit = callers.pop(0)
            breaker.clock.now = max(due, breaker.clock.now)
            if breaker.state() is not State.HALF_OPEN:
                break
            _, wait = breaker.ask(permit)
            highest = max(highest, breaker.breaker.rate or highest)
            if wait > 0.0:
                callers.append((breaker.clock() + wait, permit))
            elif wait == 0.0:
                sent.append(breaker.clock())
                breaker.end(permit, SUCCESS if succeeds else IGNORED)
        if breaker.state() is not State.HALF_OPEN:
            break
        breaker.clock.now = max(until, breaker.clock.now)
        for since in sent:
            assert sum(at >= since for at in sent) <= highest * (breaker.clock() - since) + 1 + 1e-6


def _patient(deadline: float) -> Permit:
    permit = Permit()
    permit.deadline = deadline
    return permit
