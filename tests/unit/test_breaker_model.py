"""The classical breaker against a naive one: any history of calls, waits, outcomes and orders by hand leads both alike.

The model keeps every call in lists and counts anew at each step; it was written from BreakerPolicy's documentation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stormproof.resilience.breaker import Permit, State
from stormproof.resilience.outcome import SUCCESS, Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy

from .breakers import FAILURE, IGNORED, TIMEOUT, Handle, rate_limited, window

OUTCOMES = {"success": SUCCESS, "failure": FAILURE, "timeout": TIMEOUT, "ignored": IGNORED, "limited": rate_limited(1)}

SLOW_AFTER = 2.0
BY_HAND = (State.FORCED_OPEN, State.DISABLED)


@dataclass
class Sent:
    """A call in flight, as the model knows it."""

    period: int  # in which of the breaker's states it was sent
    probe: bool


@dataclass
class Model:
    """The rules as one would tell them, without locks or care for speed."""

    policy: BreakerPolicy
    state: State = State.CLOSED
    period: int = 0  # counts the changes of state
    ended: list[tuple[float, bool, bool]] = field(default_factory=list)  # when, failed, slow: since it closed
    opened_at: float = 0.0
    openings: int = 0
    half_open_at: float = 0.0
    good_probes: int = 0
    in_flight: list[Sent] = field(default_factory=list)
    transitions: Counter[tuple[State, State]] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    def move(self, state: State, reason: str) -> None:
        self.transitions[self.state, state] += 1
        self.reasons.append(reason)
        self.state = state
        self.period += 1
        self.good_probes = 0

    def is_open_for(self) -> float:
        growth = self.policy.open_factor ** (self.openings - 1)
        return min(self.policy.open_for * growth, max(self.policy.open_cap, self.policy.open_for))

    def trip(self, reason: str, now: float) -> None:
        self.opened_at, self.ended = now, []
        self.openings += 1
        self.move(State.OPEN, reason)

    def ask(self, now: float) -> Sent | None:
        """None: refused."""
        if self.state is State.FORCED_OPEN:
            return None
        if self.state is State.OPEN and now >= self.opened_at + self.is_open_for():
            self.move(State.HALF_OPEN, "probe_due")
            self.half_open_at = now
        probe, refused = False, self.state is State.OPEN
        if self.state is State.HALF_OPEN:
            if now >= self.half_open_at + self.policy.half_open_for:
                self.trip("half_open_timeout", now)
                refused = True
            else:
                running = sum(sent.probe and sent.period == self.period for sent in self.in_flight)
                probe = running < self.policy.probes
                refused = not probe
        if refused and not self.policy.observe_only:
            return None
        self.in_flight.append(Sent(self.period, probe))
        return self.in_flight[-1]

    def window(self, now: float) -> list[tuple[float, bool, bool]]:
        if self.policy.window == "count":
            return self.ended[-self.policy.size :]
        return [one for one in self.ended if int(one[0]) > int(now) - self.policy.size]

    def end(self, sent: Sent, verdict: Verdict, slow: bool, now: float) -> None:
        self.in_flight.remove(sent)
        if sent.period != self.period or self.state in BY_HAND or verdict.weight is Weight.IGNORED:
            return
        failed = verdict.weight is Weight.FAILURE
        if self.state is State.CLOSED:
            self.ended.append((now, failed, slow))
            reason = self.too_much(now)
            if reason:
                self.trip(reason, now)
        elif sent.probe and (failed or (slow and self.policy.slow_rate is not None)):
            self.trip("probe_failed", now)
        elif sent.probe:
            self.good_probes += 1
            if self.good_probes == self.policy.successes:
                self.move(State.CLOSED, "probes_succeeded")
                self.openings = 0

    def too_much(self, now: float) -> str | None:
        policy, last = self.policy, [failed for _, failed, _ in self.ended]
        if policy.failures is not None and last[-policy.failures :] == [True] * policy.failures:
            return "consecutive_failures"
        window = self.window(now)
        if len(window) < policy.minimum_calls:
            return None
        for share, at, reason in ((policy.failure_rate, 1, "failure_rate"), (policy.slow_rate, 2, "slow_call_rate")):
            if share is not None and sum(bool(one[at]) for one in window) / len(window) >= share:
                return reason
        return None

    def by_hand(self, state: State) -> None:
        self.ended, self.openings = [], 0
        if self.state is not state:
            self.move(state, "closed_by_hand" if state is State.CLOSED else state.value)


POLICIES = st.fixed_dictionaries(
    {
        "observe_only": st.sampled_from([False, False, False, True]),
        "failures": st.sampled_from([None, 1, 2, 3, 5]),
        "failure_rate": st.sampled_from([None, 0.25, 0.5, 1.0]),
        "slow_rate": st.sampled_from([None, 0.25, 0.5, 1.0]),
        "window": st.sampled_from(["time", "count"]),
        "size": st.sampled_from([4, 7, 10]),
        "minimum_calls": st.sampled_from([1, 2, 4]),
        "open_for": st.sampled_from([1.0, 5.0]),
        "open_factor": st.sampled_from([1.0, 2.0]),
        "open_cap": st.sampled_from([0.5, 3.0, 120.0]),
        "probes": st.integers(1, 3),
        "successes": st.integers(1, 3),
        "half_open_for": st.sampled_from([2.0, 30.0]),
    }
)


class WindowMachine(RuleBasedStateMachine):
    """Any number of calls in flight, each settled at any time or never."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[Permit, Sent]] = []
        self.calls = dict.fromkeys(("success", "failure", "ignored", "rejected"), 0)

    @initialize(knobs=POLICIES)
    def begin(self, knobs: dict[str, Any]) -> None:
        self.breaker: Handle[Any] = window(slow_after=SLOW_AFTER, **knobs)
        self.model = Model(self.breaker.breaker._policy)

    @rule(times=st.sampled_from([1, 1, 1, 2, 5]))
    def call(self, times: int) -> None:
        for _ in range(times):
            expected = self.model.ask(self.breaker.clock())
            permit, wait = self.breaker.ask()
            if expected is None:
                assert wait < 0.0
                assert not permit.granted
                self.calls["rejected"] += 1
                self.breaker.breaker.withdraw(permit)
                self.breaker.end(permit)  # one that was refused settles nothing
            else:
                assert wait == 0.0
                assert permit.probe is expected.probe
                self.running.append((permit, expected))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(sorted(OUTCOMES)), slow=st.booleans(), again=st.booleans())
    def end(self, data: Any, outcome: str, slow: bool, again: bool) -> None:
        permit, sent = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.settle(permit, sent, outcome, slow)
        if again:
            self.breaker.end(permit, FAILURE)  # a second time does nothing

    @precondition(lambda self: len(self.running) > 1)
    @rule(outcomes=st.lists(st.sampled_from(["success", "failure", "failure"]), min_size=2, max_size=8))
    def end_some(self, outcomes: list[str]) -> None:
        for outcome in outcomes[: len(self.running)]:
            permit, sent = self.running.pop(0)
            self.settle(permit, sent, outcome, slow=False)

    def settle(self, permit: Permit, sent: Sent, outcome: str, slow: bool) -> None:
        verdict = OUTCOMES[outcome]
        self.model.end(sent, verdict, slow, self.breaker.clock())
        self.breaker.end(permit, verdict, SLOW_AFTER + 0.001 if slow else SLOW_AFTER)
        self.calls[verdict.weight.value] += 1

    @rule(slow=st.booleans())
    def pass_by(self, slow: bool) -> None:
        """A call that goes the short way, and ends at once."""
        now = self.breaker.clock()
        generation = self.breaker.breaker.enter(now)
        assert (generation >= 0) is (self.model.state is State.CLOSED)
        if generation >= 0:
            sent = self.model.ask(now)
            assert sent is not None
            self.model.end(sent, SUCCESS, slow, now)
            self.breaker.breaker.leave(generation, now - (SLOW_AFTER + 0.001 if slow else SLOW_AFTER), now)
            self.calls["success"] += 1

    @rule(seconds=st.sampled_from([0.4, 1.0, 1.0, 2.0, 4.0, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.breaker.wait(seconds)

    @rule()
    def wait_for_the_probe(self) -> None:
        self.breaker.until_probe()

    @rule(state=st.sampled_from([State.FORCED_OPEN, State.DISABLED, State.CLOSED, State.CLOSED]))
    def by_hand(self, state: State) -> None:
        orders = {State.FORCED_OPEN: "force_open", State.DISABLED: "disable", State.CLOSED: "close"}
        was_closed = self.model.state is State.CLOSED
        if state is State.CLOSED and was_closed:
            return  # those in flight still count: nothing has changed
        getattr(self.breaker.breaker, orders[state])()
        self.model.by_hand(state)

    @invariant()
    def agrees_with_the_model(self) -> None:
        now = self.breaker.clock()
        snapshot = self.breaker.breaker.snapshot()
        seen = self.model.window(now) if self.model.state is State.CLOSED else []
        assert snapshot.state is self.model.state
        assert snapshot.in_flight == len(self.model.in_flight) == len(self.running)
        assert snapshot.calls == self.calls
        assert snapshot.window.calls == len(seen)
        assert snapshot.window.failures == sum(failed for _, failed, _ in seen)
        assert snapshot.window.slow_calls == sum(slow for _, _, slow in seen)
        assert (snapshot.waiting, snapshot.rate) == (0, None)
        if self.model.state is State.OPEN:
            left = max(0.0, self.model.opened_at + self.model.is_open_for() - now)
            assert abs(snapshot.next_probe - left) < 1e-9
        else:
            assert snapshot.next_probe == 0.0

    @invariant()
    def tells_what_the_model_tells(self) -> None:
        changes = self.breaker.changes
        states = [State.CLOSED, *(change.state for change in changes)]
        assert [change.previous for change in changes] == states[:-1]
        assert self.breaker.reasons == self.model.reasons
        assert self.breaker.breaker.transitions == self.model.transitions


# Without shrinking, which takes minutes: take ``phases`` out to look into a failure.
WindowMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=50, deadline=None, derandomize=True, phases=[Phase.generate]
)
TestWindowModel = WindowMachine.TestCase
