"""The default strategy: learns from successes and failures what the target can take, and keeps to it.

Found by simulation (``benchmarks/storm.py``, ``docs/overload.md``). Its parts, each of which that page accounts for:

- a health score, a CUSUM (Page, "Continuous Inspection Schemes", 1954) that gates retries and triggers cuts;
- proof of life: after a timeout a retry waits for a success that was sent later, so that a server which is only busy
  is not sent everything twice; a caller that is alone, whom nobody can prove anything, has the credit that successes
  have earned;
- a pacer: a rate, infinite while healthy, cut to what is delivered and grown again as TCP grows its window (slow start
  and congestion avoidance: Jacobson, "Congestion Avoidance and Control", 1988);
- probes, when nothing succeeds any more;
- a gate, when the target says how long to stay away.

``closed``: not paced. ``half_open``: paced, the rate grows. ``open``: probes only.
"""

from __future__ import annotations

import math
from typing import Any

from stormproof.resilience.breaker import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    REFUSED,
    Breaker,
    Permit,
    WindowSnapshot,
)
from stormproof.resilience.outcome import Verdict, Weight

INF = math.inf

# Health: from FULL (nothing is wrong) to 0 (cut).
FULL = 15.0
GAIN, COST, TIMEOUT_COST = 2.0, 1.0, 1.5  # of a success, of a failure, of a timeout
RETRY_ABOVE = 10.0  # with less health nothing is retried
AFTER_CUT = 7.5

PROOF_WAIT = 10.0  # s; the longest a retry after a timeout waits for proof of life
PROOF_POLL = 0.25  # s; asks again after once to three times as long

CREDIT, MOST_CREDIT = 10, 30  # successes that earn a retry without proof (gRPC's token ratio), and how many are kept

TAU = 6.0  # s; memory of the delivered rate
CUT_TO = 0.9  # of the delivered rate
SLOW_START = 0.8  # of the rate before the incident: up to there the rate doubles
PEAK_DECAY = 0.9  # of the remembered rate at each cut
DRAIN = 0.7  # of the failed attempt's latency: nothing is sent meanwhile
LONGEST_LATENCY = 10.0  # s; a client's timeout of ten minutes must not silence it for seven
LOWEST_RATE = 0.25  # calls a second

DOUBLING = 1.0  # s; below the slow-start threshold
GROWTH = 0.1  # a second, above it; and the most for one call
MOST_DOUBLINGS = 20.0
OVERSHOOT = 1.2  # of the delivered rate: the most, with a backlog
OVERSHOOT_GROWTH, CALM = 0.02, 5.0  # a second, and the seconds after a cut before it sets in
BACKLOG = 0.5  # s; a slot further ahead than this means that callers queue
HEALTHY_FACTOR, HEALTHY_OFFSET = 4.0, 4.0  # rate above 4 x delivered + 4 and nobody waits: not paced any more

AHEAD = 1.0  # s; no slot is reserved further ahead: the rate will have changed by then

FIRST_PROBE, PROBE_CAP = 0.5, 2.0  # s, times U(0.5, 1.5)
RESTART = 0.5  # of the slow-start threshold, after a good probe

LIMIT_CUT, LIMIT_LOWEST = 0.8, 0.02  # at a 429; a limiter may allow very little
LONGEST_GATE = 5.0  # s; a Retry-After of an hour, for one model, must not refuse all the others' calls meanwhile

_IN_LINE, _HAS_SLOT = "line", "slot"


class Adaptive(Breaker):
    """One instance a process and target. Twenty numbers, O(1) in everything."""

    strategy = "adaptive"
    _epoch = 0

    def _forget(self, now: float) -> None:
        self._health = FULL
        self._rate = INF  # calls a second
        self._grown_at = self._next_slot = now
        self._threshold = INF  # of slow start
        self._peak = INF  # the rate before the incident
        self._delivered, self._delivered_at = 0.0, now  # successes a second, as of the last one
        self._ignore_before = now  # what was sent before this tells of what is known already
        self._alive = False  # something has succeeded since the last cut
        self._newest_success = -INF  # when the newest attempt that succeeded was sent
        self._probe_at, self._probe_interval = 0.0, FIRST_PROBE
        self._credit = 0
        self._gate = -INF
        self._epoch += 1  # who holds a slot of an older one asks again
        self._mark()

    def _mark(self) -> None:
        self._seen_before = (self._successes, self._failures, self._slow_calls)

    # -- admission ---------------------------------------------------------------------------------------------------

    def _admit(self, permit: Permit, now: float) -> float:
        if permit.after_timeout_of is not None:
            wait = self._await_proof(permit, now)
            if wait:
                return wait
        if self.state is OPEN:
            return self._probe(permit, now)
        if (self._rate == INF and now >= self._gate) or (permit.place is _HAS_SLOT and permit.epoch == self._epoch):
            self._leave(permit)
            return 0.0
        return self._pace(permit, now)

    def _await_proof(self, permit: Permit, now: float) -> float:
        """0 once something has succeeded that was sent after the attempt that timed out."""
        sent: float = permit.after_timeout_of  # type: ignore[assignment]
        if self._newest_success > sent and self._health > RETRY_ABOVE:
            permit.after_timeout_of = None
            return 0.0
        permit.proof_until = permit.proof_until or min(now + PROOF_WAIT, permit.deadline)
        if self.state is OPEN or now >= permit.proof_until:
            return REFUSED
        if self._credit >= CREDIT and self.in_flight == 0 and self._health > RETRY_ABOVE:
            self._credit -= CREDIT
            permit.after_timeout_of = None
            return 0.0
        return min(PROOF_POLL * (1.0 + 2.0 * self._rng.random()), permit.proof_until - now + 1e-6)

    def _probe(self, permit: Permit, now: float) -> float:
        if now < self._probe_at:
            return REFUSED
        self._probe_interval = min(PROBE_CAP, 2.0 * self._probe_interval)
        self._schedule_probe(now)  # for the next, whatever comes of this one: a probe that hangs blocks nothing
        permit.probe = True
        return 0.0

    def _pace(self, permit: Permit, now: float) -> float:
        self._leave(permit)
        slot = max(now, self._next_slot, self._gate)
        if slot > permit.deadline or now + self.waiting / self._rate > permit.deadline:
            return REFUSED  # it will not fit: say so now
        if slot - now > AHEAD and self._next_slot - now > max(AHEAD, 1.0 / self._rate):
            permit.place = _IN_LINE
            self.waiting += 1
            return AHEAD * (0.5 + 0.5 * self._rng.random())
        if permit.place is None:
            self._grow(now, slot, permit)
        permit.rate = self._rate
        self._next_slot = slot + 1.0 / self._rate
        if slot <= now:
            permit.place = None
            return 0.0
        permit.place, permit.epoch = _HAS_SLOT, self._epoch
        return slot - now

    def _leave(self, permit: Permit) -> None:
        if permit.place is _IN_LINE:
            self.waiting -= 1
            permit.place = None

    # -- the rate ----------------------------------------------------------------------------------------------------

    def _grow(self, now: float, slot: float, cause: Permit) -> None:
        """To the rate that will be in force at ``slot``."""
        passed = slot - self._grown_at
        if self._rate == INF or passed <= 0.0:
            return
        self._grown_at = slot
        if self._rate < self._threshold:
            left = DOUBLING * math.log2(self._threshold / self._rate) if self._threshold < INF else INF
            if passed < left:
                self._rate *= 2.0 ** min(passed / DOUBLING, MOST_DOUBLINGS)
                self._end_pacing_if_healthy(now, cause)
                return
            self._rate = self._threshold
            passed -= left
        self._rate *= math.exp(min(GROWTH, GROWTH * passed))
        if slot - now > BACKLOG:
            share = OVERSHOOT + OVERSHOOT_GROWTH * max(0.0, now - self._ignore_before - CALM)
            self._rate = max(self._threshold, min(self._rate, share * self._delivered_rate(now) + LOWEST_RATE))
        else:
            self._end_pacing_if_healthy(now, cause)

    def _end_pacing_if_healthy(self, now: float, cause: Permit) -> None:
        is_ample = self._rate > HEALTHY_FACTOR * self._delivered_rate(now) + HEALTHY_OFFSET
        if is_ample and self._next_slot <= now and self._gate <= now:
            self._rate = INF
            self._change(CLOSED, "recovered", cause, now)
            self._mark()

    def _delivered_rate(self, now: float) -> float:
        return self._delivered * math.exp(-max(0.0, now - self._delivered_at) / TAU)

    # -- results -----------------------------------------------------------------------------------------------------

    def _settled(self, permit: Permit, verdict: Verdict, now: float, latency: float) -> None:
        latency = min(latency, LONGEST_LATENCY)
        if verdict.weight is Weight.SUCCESS:
            self._succeeded(permit.generation, permit.sent, now, slow=False)
            if self._is_probe(permit):
                self._recover(permit, now)
        elif verdict.rate_limited:
            self._limited(permit, now, verdict.hint or 0.0, latency)
        elif verdict.weight is Weight.FAILURE and self.state is not OPEN and permit.sent >= self._ignore_before:
            self._health -= TIMEOUT_COST if verdict.timed_out else COST
            if self._health <= 0.0:
                self._cut(permit, now, latency)

    def _is_probe(self, permit: Permit) -> bool:
        """Of this opening: one of an earlier opening that comes back late tells nothing of this one."""
        return permit.probe and self.state is OPEN and permit.generation == self._generation

    def _succeeded(self, generation: int, sent: float, now: float, slow: bool) -> None:
        # Every healthy call comes this way: as few calls as can be.
        passed = now - self._delivered_at
        self._delivered = self._delivered * (math.exp(-passed / TAU) if passed > 0.0 else 1.0) + 1.0 / TAU
        self._delivered_at = now
        if sent > self._newest_success:  # noqa: PLR1730  # max() costs five times as much
            self._newest_success = sent
        if self._health < FULL:
            self._health = min(FULL, self._health + GAIN)
        if self._credit < MOST_CREDIT:
            self._credit += 1
        if sent >= self._ignore_before:
            self._alive = True

    def _recover(self, permit: Permit, now: float) -> None:
        """A probe was answered."""
        self._health = FULL
        self._rate = max(1.0, RESTART * self._threshold) if self._threshold < INF else 1.0
        self._grown_at = self._next_slot = self._ignore_before = now
        self._alive = False
        self._change(HALF_OPEN, "probe_succeeded", permit, now)
        self._mark()

    def _cut(self, permit: Permit, now: float, latency: float) -> None:
        self._health = AFTER_CUT
        self._ignore_before = now + DRAIN * latency
        self._epoch += 1
        if not self._alive:
            self._probe_interval = FIRST_PROBE
            self._schedule_probe(now)
            self._change(OPEN, "nothing_succeeds", permit, now)
            self._mark()
            return
        self._alive = False
        delivered = self._delivered  # as of the last success: what the target gave while it gave
        was_paced = self._rate < INF
        # A rate limit paces without an incident: then there is no peak to remember.
        self._peak = max(delivered, PEAK_DECAY * self._peak) if was_paced and self._peak < INF else delivered
        self._rate = max(LOWEST_RATE, CUT_TO * delivered)
        self._threshold = max(self._rate, SLOW_START * self._peak)
        self._grown_at = self._next_slot = now + max(DRAIN * latency, 1.0 / self._rate)
        self._begin_pacing("overload", permit, now, was_paced)

    def _limited(self, permit: Permit, now: float, hint: float, latency: float) -> None:
        """Everybody waits as told, and the rate is learnt: half of it would be lost by opening."""
        if self._is_probe(permit):
            self._recover(permit, now)  # it lives
        self._gate = max(self._gate, now + min(hint, LONGEST_GATE))
        if self.state is CLOSED:
            self._calm_from = self._gate
        if permit.sent < self._ignore_before or self.state is OPEN:
            return
        was_paced = self._rate < INF
        if was_paced:
            self._rate = max(LIMIT_LOWEST, LIMIT_CUT * min(self._rate, permit.rate))
        else:
            self._rate = max(LOWEST_RATE, self._delivered_rate(now))
        self._threshold = self._rate
        self._grown_at = now
        self._next_slot = now + 1.0 / self._rate
        self._ignore_before = now + latency
        self._epoch += 1
        self._begin_pacing("rate_limited", permit, now, was_paced)

    def _begin_pacing(self, reason: str, cause: Any, now: float, was_paced: bool) -> None:
        if not was_paced:
            self._change(HALF_OPEN, reason, cause, now)
            self._mark()

    def _schedule_probe(self, now: float) -> None:
        self._probe_at = now + self._probe_interval * (0.5 + self._rng.random())

    # -- to look at --------------------------------------------------------------------------------------------------

    @property
    def forgives_rate_limits(self) -> bool:
        return self.state in (CLOSED, OPEN, HALF_OPEN) and not self._policy.observe_only

    @property
    def rate(self) -> float | None:
        return self._rate if self._rate < INF and self.state is HALF_OPEN else None

    def _may_retry(self, verdict: Verdict, now: float) -> bool:
        if self.state is OPEN:
            return False
        return verdict.timed_out or verdict.rate_limited or self._health > RETRY_ABOVE

    def _window(self, now: float) -> WindowSnapshot:
        successes, failures, slow_calls = self._seen_before
        failed = self._failures - failures
        return WindowSnapshot(self._successes - successes + failed, failed, self._slow_calls - slow_calls)

    def _next_probe(self, now: float) -> float:
        return max(0.0, self._probe_at - now)
