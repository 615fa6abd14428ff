"""The classical strategy: each knob by itself, at its boundary and one step before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stormproof.resilience.breaker import NOT_CALM, BreakerSnapshot, Permit, State, StateChange, WindowSnapshot
from stormproof.resilience.outcome import SUCCESS, Verdict
from stormproof.resilience.policy import BreakerPolicy
from stormproof.resilience.window import WindowBreaker

from .breakers import FAILURE, IGNORED, TIMEOUT, Handle, rate_limited, window

ALONE: dict[str, Any] = {"failures": None, "failure_rate": None, "slow_rate": None}  # one threshold at a time

# "f" failed, "." succeeded, "i" ignored, "s" slow success, "S" slow failure
_VERDICTS = {"f": FAILURE, ".": SUCCESS, "i": IGNORED, "s": SUCCESS, "S": FAILURE}


def play(breaker: Handle[WindowBreaker], story: str) -> None:
    """The calls of a story, each let through at once."""
    for what in story:
        breaker.run(_VERDICTS[what], latency=2.001 if what in "sS" else 2.0)


def opened(**knobs: Any) -> Handle[WindowBreaker]:
    breaker = window(**{**ALONE, "failures": 1, "open_for": 2, **knobs})
    breaker.fail()
    assert breaker.state() is State.OPEN
    return breaker


def half_open(**knobs: Any) -> tuple[Handle[WindowBreaker], Permit]:
    breaker = opened(**knobs)
    breaker.until_probe()
    probe = breaker.go()
    assert breaker.state() is State.HALF_OPEN
    return breaker, probe


class TestConsecutiveFailures:
    def test_the_default_is_five_in_a_row(self) -> None:
        breaker = window()
        breaker.fail(4)
        assert breaker.state() is State.CLOSED
        breaker.fail()
        assert breaker.state() is State.OPEN
        assert breaker.reasons == ["consecutive_failures"]

    def test_so_many_in_a_row_and_no_less(self) -> None:
        breaker = window(**ALONE | {"failures": 3})
        breaker.fail(2)
        assert breaker.state() is State.CLOSED
        breaker.fail()
        assert breaker.state() is State.OPEN

    def test_a_success_between_begins_the_count_anew(self) -> None:
        breaker = window(**ALONE | {"failures": 3})
        play(breaker, "ff.ff.ff")
        assert breaker.state() is State.CLOSED
        play(breaker, "f")
        assert breaker.state() is State.OPEN

    def test_what_is_ignored_neither_counts_nor_breaks_the_row(self) -> None:
        breaker = window(**ALONE | {"failures": 3})
        play(breaker, "ffiiii")
        assert breaker.state() is State.CLOSED
        play(breaker, "f")
        assert breaker.state() is State.OPEN

    def test_a_rate_limit_is_no_failure_here(self) -> None:
        breaker = window(**ALONE | {"failures": 1})
        breaker.run(rate_limited(3.0))
        assert (breaker.state(), breaker.breaker.calls["ignored"]) == (State.CLOSED, 1)
        assert not breaker.breaker.forgives_rate_limits

    def test_time_does_not_break_the_row(self) -> None:
        breaker = window(**ALONE | {"failures": 2})
        breaker.fail()
        breaker.wait(1e6)
        breaker.fail()
        assert breaker.state() is State.OPEN

    def test_switched_off_no_row_is_too_long(self) -> None:
        breaker = window(**ALONE)
        breaker.fail(200)
        assert breaker.state() is State.CLOSED

    def test_it_does_not_wait_for_the_minimum_of_calls(self) -> None:
        breaker = window(failures=1, minimum_calls=1000)
        breaker.fail()
        assert breaker.state() is State.OPEN


class TestFailureRate:
    def test_the_share_itself_is_too_much(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.25, "minimum_calls": 8})
        play(breaker, ".......f")  # 1 of 8
        assert breaker.state() is State.CLOSED
        play(breaker, "..........")
        play(breaker, "fff")  # 4 of 21
        assert breaker.state() is State.CLOSED
        play(breaker, "f")  # 5 of 22
        assert breaker.state() is State.CLOSED
        play(breaker, "f")  # 6 of 23: more than a quarter
        assert breaker.state() is State.OPEN
        assert breaker.reasons == ["failure_rate"]
        assert breaker.changes[0].window == WindowSnapshot(23, 6, 0)

    def test_exactly_the_share_opens(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.25, "minimum_calls": 4})
        play(breaker, "...f")
        assert breaker.state() is State.OPEN

    def test_one_in_a_hundred_thousand_less_does_not(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.25001, "minimum_calls": 4})
        play(breaker, "...f")
        assert breaker.state() is State.CLOSED

    def test_all_of_them_may_be_asked_for(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 1.0, "minimum_calls": 3, "window": "count", "size": 3})
        play(breaker, "ff.ff")
        assert breaker.state() is State.CLOSED
        play(breaker, "f")  # the success has left
        assert breaker.state() is State.OPEN

    def test_the_defaults_are_half_of_twenty(self) -> None:
        breaker = window()
        play(breaker, ".f" * 9 + ".")  # 9 of 19, never five in a row
        assert breaker.state() is State.CLOSED
        play(breaker, "f")
        assert breaker.reasons == ["failure_rate"]
        assert breaker.changes[0].window == WindowSnapshot(20, 10, 0)

    def test_below_the_minimum_the_share_means_nothing(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.5, "minimum_calls": 10})
        breaker.fail(9)
        assert breaker.state() is State.CLOSED
        breaker.fail()
        assert breaker.state() is State.OPEN

    def test_the_call_that_completes_the_minimum_decides_also_if_it_is_a_success(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.5, "minimum_calls": 10})
        breaker.fail(9)
        last = breaker.go()
        breaker.end(last)
        assert breaker.state() is State.OPEN
        assert breaker.changes[0].window == WindowSnapshot(10, 9, 0)
        assert breaker.changes[0].cause is last

    def test_what_is_ignored_is_not_in_the_share(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.5, "minimum_calls": 2})
        play(breaker, "iiiif")
        assert breaker.state() is State.CLOSED
        assert breaker.breaker.snapshot().window == WindowSnapshot(1, 1, 0)

    def test_a_window_of_seconds_forgets(self) -> None:
        """A time window that never forgets opens on failures of yesterday."""
        breaker = window(**ALONE | {"failure_rate": 0.5, "minimum_calls": 4, "size": 10})
        breaker.fail(3)
        breaker.wait(10)
        play(breaker, "f...f.")
        assert breaker.state() is State.CLOSED
        assert breaker.breaker.snapshot().window == WindowSnapshot(6, 2, 0)

    def test_a_window_of_seconds_does_not_forget_before_its_time(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.5, "minimum_calls": 4, "size": 10})
        breaker.fail(3)
        breaker.wait(9.999)
        breaker.fail()
        assert breaker.state() is State.OPEN

    def test_a_window_of_calls_forgets_the_oldest(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.75, "minimum_calls": 4, "window": "count", "size": 4})
        play(breaker, "ff..f")  # of which f..f are seen
        assert breaker.breaker.snapshot().window == WindowSnapshot(4, 2, 0)
        play(breaker, "f")  # ..ff
        assert breaker.state() is State.CLOSED
        play(breaker, "f")  # .fff
        assert breaker.state() is State.OPEN

    def test_a_window_of_calls_does_not_forget_with_time(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 1.0, "minimum_calls": 4, "window": "count", "size": 4})
        breaker.fail(3)
        breaker.wait(1e6)
        breaker.fail()
        assert breaker.state() is State.OPEN

    # Once a bug: the ring never holds ``minimum_calls``, so both shares are off without a word.
    def test_a_window_of_fewer_calls_than_the_minimum_is_enough_when_it_is_full(self) -> None:
        """Otherwise ``window=count, size=10`` would switch the shares off, with the default minimum of 20."""
        breaker = window(**ALONE | {"failure_rate": 0.5, "minimum_calls": 20, "window": "count", "size": 10})
        breaker.fail(9)
        assert breaker.state() is State.CLOSED
        breaker.fail()
        assert breaker.state() is State.OPEN

    def test_a_window_of_fewer_seconds_than_the_minimum_of_calls_needs_them_all(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.5, "window": "time", "size": 5, "minimum_calls": 8})
        play(breaker, "fffffff")
        assert breaker.state() is State.CLOSED
        play(breaker, "f")
        assert breaker.state() is State.OPEN


class TestSlowCallRate:
    def test_off_by_default(self) -> None:
        breaker = window(slow_after=2)
        play(breaker, "s" * 100)
        assert breaker.state() is State.CLOSED
        assert breaker.breaker.snapshot().window == WindowSnapshot(100, 0, 100)

    def test_slow_is_what_takes_longer(self) -> None:
        breaker = window(**ALONE | {"slow_rate": 0.5, "minimum_calls": 4, "slow_after": 2})
        breaker.run(*[SUCCESS] * 20, latency=2.0)
        assert breaker.breaker.snapshot().window.slow_calls == 0
        breaker.run(*[SUCCESS] * 19, latency=2.001)
        assert breaker.state() is State.CLOSED
        breaker.run(SUCCESS, latency=2.001)  # 20 of 40
        assert breaker.state() is State.OPEN
        assert breaker.reasons == ["slow_call_rate"]
        assert breaker.changes[0].window == WindowSnapshot(40, 0, 20)

    def test_below_the_minimum_the_share_means_nothing(self) -> None:
        breaker = window(**ALONE | {"slow_rate": 0.5, "minimum_calls": 5, "slow_after": 2})
        play(breaker, "ssss")
        assert breaker.state() is State.CLOSED
        play(breaker, "s")
        assert breaker.state() is State.OPEN

    def test_a_slow_failure_is_both(self) -> None:
        breaker = window(**ALONE | {"slow_rate": 0.5, "minimum_calls": 4, "slow_after": 2})
        play(breaker, "..SS")
        assert breaker.changes[0].window == WindowSnapshot(4, 2, 2)

    def test_the_failures_are_named_first(self) -> None:
        breaker = window(failures=4, failure_rate=0.5, slow_rate=0.5, minimum_calls=4, slow_after=2)
        play(breaker, "SSSS")
        assert breaker.reasons == ["consecutive_failures"]
        breaker = window(failures=5, failure_rate=0.5, slow_rate=0.5, minimum_calls=4, slow_after=2)
        play(breaker, "SSSS")
        assert breaker.reasons == ["failure_rate"]

    def test_a_slow_call_that_is_ignored_is_not_in_the_window(self) -> None:
        breaker = window(slow_after=2, slow_rate=0.5, minimum_calls=1)
        breaker.run(IGNORED, latency=100)
        assert breaker.state() is State.CLOSED
        assert breaker.breaker.snapshot().window == WindowSnapshot(0, 0, 0)


class TestOpening:
    def test_nothing_passes_before_its_time(self) -> None:
        breaker = opened(open_for=30)
        assert breaker.is_refused()
        breaker.wait(29.999)
        assert breaker.is_refused()
        assert breaker.breaker.calls["rejected"] == 2
        breaker.wait(0.001)
        assert not breaker.is_refused()
        assert breaker.state() is State.HALF_OPEN

    def test_a_retry_has_no_chance_before_its_time(self) -> None:
        breaker = opened(open_for=30)
        assert not breaker.breaker.may_retry(FAILURE, breaker.clock())
        breaker.wait(29.999)
        assert not breaker.breaker.may_retry(FAILURE, breaker.clock())
        breaker.wait(0.001)
        assert breaker.breaker.may_retry(FAILURE, breaker.clock())
        breaker.go()
        assert breaker.breaker.may_retry(FAILURE, breaker.clock())  # half-open: who knows

    def lengths(self, breaker: Handle[WindowBreaker], times: int) -> list[float]:
        """How long each opening is, probe after failed probe."""
        lengths = []
        for _ in range(times):
            lengths.append(breaker.breaker.snapshot().next_probe)
            breaker.until_probe()
            breaker.fail()
            assert breaker.reasons[-2:] == ["probe_due", "probe_failed"]
        return lengths

    def test_each_without_a_recovery_is_longer(self) -> None:
        assert self.lengths(opened(open_for=30), 5) == pytest.approx([30, 60, 120, 120, 120])

    def test_factor_and_cap_are_as_chosen(self) -> None:
        assert self.lengths(opened(open_for=2, open_factor=3, open_cap=50), 5) == pytest.approx([2, 6, 18, 50, 50])
        assert self.lengths(opened(open_for=2, open_factor=1), 3) == pytest.approx([2, 2, 2])

    def test_a_cap_below_the_first_opening_bounds_only_the_growth(self) -> None:
        """Who asks for ten minutes gets ten minutes, though the cap's default is two."""
        assert self.lengths(opened(open_for=600), 3) == pytest.approx([600, 600, 600])

    def test_after_a_recovery_it_begins_small_again(self) -> None:
        breaker = opened(open_for=2, successes=1)
        self.lengths(breaker, 3)
        breaker.until_probe()
        breaker.succeed()
        assert breaker.state() is State.CLOSED
        breaker.fail()
        assert self.lengths(breaker, 2) == pytest.approx([2, 4])

    @pytest.mark.parametrize(("draw", "share"), [(0.0, 0.75), (0.5, 1.0), (1.0, 1.25)])
    def test_jitter_is_drawn_to_both_sides(self, draw: float, share: float) -> None:
        breaker = window(failures=1, open_for=100, open_cap=150, open_jitter=0.25)
        breaker.rng.draw = draw
        breaker.fail()
        assert self.lengths(breaker, 3) == pytest.approx([100 * share, 150 * share, 150 * share])

    def test_jitter_is_a_tenth_by_default(self) -> None:
        breaker = window(failures=1, open_for=100, open_jitter=BreakerPolicy().open_jitter)
        breaker.rng.draw = 0.0
        breaker.fail()
        assert breaker.changes[0].next_probe == pytest.approx(90)

    # Once a bug: with a factor of 1e200 (which FACTOR allows) ``open_factor ** openings`` raises
    # OverflowError out of ``settle``, into the app's call.
    @pytest.mark.parametrize("factor", [2.0, 1e5, 1e200])
    def test_growth_without_end_does_not_overflow(self, factor: float) -> None:
        breaker = opened(open_for=1, open_factor=factor, open_cap=2)
        assert self.lengths(breaker, 80) == pytest.approx([1.0] + [2.0] * 79)

    def test_what_was_seen_is_forgotten(self) -> None:
        breaker = window(**ALONE | {"failure_rate": 0.5, "minimum_calls": 4, "open_for": 2, "successes": 1})
        breaker.fail(4)
        assert breaker.breaker.snapshot().window == WindowSnapshot(0, 0, 0)
        breaker.until_probe()
        breaker.succeed()
        assert breaker.state() is State.CLOSED
        breaker.fail(3)
        assert breaker.state() is State.CLOSED
        breaker.fail()
        assert breaker.state() is State.OPEN

    def test_a_row_is_forgotten(self) -> None:
        breaker = window(**ALONE | {"failures": 3, "open_for": 2, "successes": 1})
        breaker.fail(3)
        breaker.until_probe()
        breaker.succeed()
        breaker.fail(2)
        assert breaker.state() is State.CLOSED


class TestHalfOpen:
    @pytest.mark.parametrize("probes", [1, 3])
    def test_so_many_at_a_time(self, probes: int) -> None:
        breaker = opened(probes=probes, successes=10)
        breaker.until_probe()
        running = [breaker.go() for _ in range(probes)]
        assert all(permit.probe for permit in running)
        assert breaker.is_refused()
        breaker.end(running[0])
        assert breaker.go().probe
        assert breaker.is_refused()

    def test_one_at_a_time_and_two_good_ones_are_the_default(self) -> None:
        breaker, probe = half_open()
        assert breaker.is_refused()
        breaker.end(probe)
        assert breaker.state() is State.HALF_OPEN
        breaker.succeed()
        assert breaker.state() is State.CLOSED
        assert breaker.reasons == ["consecutive_failures", "probe_due", "probes_succeeded"]

    def test_so_many_good_ones_close_it(self) -> None:
        breaker = opened(successes=3, probes=5)
        breaker.until_probe()
        running = [breaker.go() for _ in range(5)]
        for number in range(2):
            breaker.end(running[number])
            assert breaker.state() is State.HALF_OPEN
        breaker.end(running[2])
        assert breaker.state() is State.CLOSED
        breaker.end(running[3], FAILURE)  # sent before it closed
        assert breaker.state() is State.CLOSED

    def test_a_call_is_no_probe_once_it_is_closed(self) -> None:
        breaker, probe = half_open(successes=1)
        breaker.end(probe)
        assert not breaker.go().probe

    def test_a_bad_one_opens_it_again(self) -> None:
        breaker, probe = half_open()
        breaker.end(probe, FAILURE)
        assert breaker.state() is State.OPEN
        assert breaker.reasons[-1] == "probe_failed"

    def test_good_ones_before_a_bad_one_count_for_nothing_later(self) -> None:
        breaker, probe = half_open(successes=2)
        breaker.end(probe)
        breaker.fail()
        breaker.until_probe()
        breaker.succeed()
        assert breaker.state() is State.HALF_OPEN
        breaker.succeed()
        assert breaker.state() is State.CLOSED

    def test_a_slow_probe_is_a_bad_one_where_slowness_counts(self) -> None:
        breaker, probe = half_open(slow_rate=0.5, slow_after=2)
        breaker.end(probe, latency=2.0)
        assert breaker.state() is State.HALF_OPEN
        breaker.run(SUCCESS, latency=2.001)
        assert breaker.state() is State.OPEN
        assert breaker.reasons[-1] == "probe_failed"

    def test_a_slow_probe_is_a_good_one_where_it_does_not(self) -> None:
        breaker, probe = half_open(slow_after=2, successes=1)
        breaker.end(probe, latency=1000)
        assert breaker.state() is State.CLOSED

    def test_an_ignored_probe_gives_its_place_to_the_next(self) -> None:
        breaker, probe = half_open()
        breaker.end(probe, IGNORED)
        assert breaker.state() is State.HALF_OPEN
        assert breaker.go().probe

    def test_it_does_not_stay_undecided(self) -> None:
        breaker, hung = half_open(open_for=2, half_open_for=10)
        breaker.wait(9.999)
        assert breaker.is_refused()
        assert breaker.state() is State.HALF_OPEN
        breaker.wait(0.001)
        assert breaker.is_refused()
        assert breaker.state() is State.OPEN
        assert breaker.reasons[-1] == "half_open_timeout"
        assert breaker.changes[-1].next_probe == pytest.approx(4)  # as after a bad probe
        breaker.until_probe()
        breaker.end(hung, FAILURE)  # comes back at last, from a time that is over
        assert breaker.state() is State.OPEN
        assert breaker.go().probe
        assert breaker.is_refused()  # and has freed no place

    def test_it_may_take_thirty_seconds_by_default(self) -> None:
        breaker, _ = half_open()
        breaker.wait(29.999)
        assert breaker.is_refused()
        assert breaker.state() is State.HALF_OPEN
        breaker.wait(0.001)
        assert breaker.is_refused()
        assert breaker.state() is State.OPEN

    def test_its_time_begins_anew_with_each(self) -> None:
        breaker, probe = half_open(open_for=2, half_open_for=10)
        breaker.wait(9)
        breaker.end(probe, FAILURE)
        breaker.until_probe()
        breaker.go()
        breaker.wait(9.999)
        assert breaker.is_refused()
        assert breaker.state() is State.HALF_OPEN

    def test_what_was_sent_while_closed_moves_nothing(self) -> None:
        breaker = window(**ALONE | {"failures": 1, "open_for": 2})
        early = [breaker.go() for _ in range(4)]
        breaker.fail()
        breaker.end(early[0])
        breaker.end(early[1], FAILURE)
        assert breaker.changes[-1].state is State.OPEN
        breaker.until_probe()
        breaker.go()
        breaker.end(early[2])
        breaker.end(early[3], FAILURE)
        assert breaker.state() is State.HALF_OPEN
        assert breaker.is_refused()  # they were no probes: no place was freed


class TestObserveOnly:
    def test_states_change_but_nothing_is_refused(self) -> None:
        breaker = opened(observe_only=True)
        running = [breaker.go() for _ in range(3)]
        assert not any(permit.probe for permit in running)
        assert breaker.breaker.calls["rejected"] == 0
        breaker.until_probe()
        probe, beside = breaker.go(), breaker.go()
        assert (probe.probe, beside.probe) == (True, False)
        assert breaker.state() is State.HALF_OPEN
        breaker.end(beside, FAILURE)  # only what a real breaker would have let through decides
        assert breaker.state() is State.HALF_OPEN
        breaker.end(probe)
        breaker.succeed()
        assert breaker.state() is State.CLOSED
        assert breaker.breaker.snapshot().observe_only

    def test_retries_are_left_alone(self) -> None:
        breaker = opened(observe_only=True)
        assert breaker.breaker.may_retry(FAILURE, breaker.clock())

    def test_by_hand_it_still_refuses(self) -> None:
        breaker = window(observe_only=True)
        breaker.breaker.force_open()
        assert breaker.is_refused()


class TestByHand:
    def test_forced_open_it_refuses_until_told_otherwise(self) -> None:
        breaker = window()
        breaker.breaker.force_open()
        breaker.wait(1e9)
        assert breaker.is_refused()
        assert not breaker.breaker.may_retry(SUCCESS, breaker.clock())
        assert breaker.breaker.snapshot().next_probe == 0.0
        breaker.breaker.close()
        assert not breaker.is_refused()

    def test_disabled_it_lets_everything_through_and_judges_nothing(self) -> None:
        breaker = opened()
        breaker.breaker.disable()
        assert breaker.breaker.may_retry(FAILURE, breaker.clock())
        breaker.fail(100)
        assert breaker.state() is State.DISABLED
        assert breaker.breaker.calls == {"success": 0, "failure": 101, "ignored": 0, "rejected": 0}

    def test_closing_forgets_what_was_seen(self) -> None:
        breaker = window(**ALONE | {"failures": 3})
        breaker.fail(2)
        breaker.breaker.close()  # though it is closed
        breaker.fail(2)
        assert breaker.state() is State.CLOSED
        assert breaker.changes == []

    def test_closing_forgets_how_often_it_has_opened(self) -> None:
        breaker = opened(open_for=2)
        for _ in range(3):
            breaker.until_probe()
            breaker.fail()
        breaker.breaker.close()
        breaker.fail()
        assert breaker.changes[-1].next_probe == pytest.approx(2)

    @pytest.mark.parametrize("by_hand", ["force_open", "disable", "close"])
    def test_what_was_sent_before_moves_nothing_after(self, by_hand: str) -> None:
        breaker, probe = half_open(successes=1)
        getattr(breaker.breaker, by_hand)()
        breaker.breaker.close()
        breaker.end(probe, FAILURE)
        assert breaker.state() is State.CLOSED
        assert breaker.breaker.in_flight == 0
        assert breaker.breaker.calls["failure"] == 2

    def test_what_was_sent_while_disabled_moves_nothing_after(self) -> None:
        breaker = window(failures=1)
        breaker.breaker.disable()
        running = breaker.go()
        breaker.breaker.close()
        breaker.end(running, FAILURE)
        assert breaker.state() is State.CLOSED

    def test_again_is_no_change(self) -> None:
        breaker = window()
        breaker.breaker.close()
        breaker.breaker.force_open()
        breaker.breaker.force_open()
        assert breaker.reasons == ["forced_open"]
        assert breaker.breaker.transitions == {(State.CLOSED, State.FORCED_OPEN): 1}

    def test_switched_off_by_policy_it_only_counts(self) -> None:
        breaker = window(enabled=False, failures=1)
        breaker.fail(9)
        assert (breaker.state(), breaker.breaker.calls["failure"]) == (State.DISABLED, 9)
        assert breaker.changes == []

    # Once a bug: ``_by_hand`` forgets before it makes the change, which then tells of an empty window.
    def test_a_change_by_hand_tells_what_had_been_seen(self) -> None:
        breaker = window()
        play(breaker, "f..")
        breaker.breaker.force_open()
        assert breaker.changes == [
            StateChange("b", State.CLOSED, State.FORCED_OPEN, "forced_open", WindowSnapshot(3, 1, 0))
        ]


class TestWhatIsTold:
    def test_a_whole_life(self) -> None:
        breaker = window(**ALONE | {"failures": 2, "open_for": 2, "successes": 1, "size": 10, "slow_after": 2})
        play(breaker, ".s")
        breaker.wait(10)  # both are forgotten
        play(breaker, "..S")
        last = breaker.go()
        breaker.end(last, FAILURE)
        breaker.wait(2)
        probe = breaker.go()
        breaker.wait(1)
        breaker.end(probe, TIMEOUT)
        breaker.wait(4)
        second = breaker.go()
        breaker.end(second)
        breaker.breaker.disable()
        breaker.breaker.close()
        closed, open_, half, nothing = State.CLOSED, State.OPEN, State.HALF_OPEN, WindowSnapshot(0, 0, 0)
        assert breaker.changes == [
            StateChange("b", closed, open_, "consecutive_failures", WindowSnapshot(4, 2, 1), 2.0, None, last),
            StateChange("b", open_, half, "probe_due", nothing, 0.0, None, probe),
            StateChange("b", half, open_, "probe_failed", nothing, 4.0, None, probe),
            StateChange("b", open_, half, "probe_due", nothing, 0.0, None, second),
            StateChange("b", half, closed, "probes_succeeded", nothing, 0.0, None, second),
            StateChange("b", closed, State.DISABLED, "disabled", nothing),
            StateChange("b", State.DISABLED, closed, "closed_by_hand", nothing),
        ]
        assert breaker.breaker.transitions == {
            (closed, open_): 1,
            (open_, half): 2,
            (half, open_): 1,
            (half, closed): 1,
            (closed, State.DISABLED): 1,
            (State.DISABLED, closed): 1,
        }

    def test_the_asking_call_caused_a_timeout_of_half_open(self) -> None:
        breaker, _ = half_open(half_open_for=5)
        breaker.wait(5)
        asking, wait = breaker.ask()
        assert wait < 0
        assert breaker.changes[-1].cause is asking

    def test_a_snapshot_tells_everything(self) -> None:
        breaker = window(slow_after=2, failures=3, open_for=30)
        expected = BreakerSnapshot(
            name="b",
            strategy="window",
            state=State.CLOSED,
            observe_only=False,
            window=WindowSnapshot(0, 0, 0),
            calls={"success": 0, "failure": 0, "ignored": 0, "rejected": 0},
            in_flight=0,
            rate=None,
            waiting=0,
            reason=None,
            in_state_for=0.0,
            next_probe=0.0,
        )
        assert breaker.breaker.snapshot() == expected
        breaker.wait(7)
        play(breaker, ".isf")
        breaker.go()
        seen = {"success": 2, "failure": 1, "ignored": 1, "rejected": 0}
        expected = replace(expected, in_state_for=7.0, window=WindowSnapshot(3, 1, 1), calls=seen, in_flight=1)
        assert breaker.breaker.snapshot() == expected
        play(breaker, "ff")
        breaker.wait(5)
        assert breaker.is_refused()
        assert breaker.breaker.snapshot() == replace(
            expected,
            state=State.OPEN,
            window=WindowSnapshot(0, 0, 0),
            calls={**seen, "failure": 3, "rejected": 1},
            reason="consecutive_failures",
            in_state_for=5.0,
            next_probe=25.0,
        )
        breaker.wait(100)
        assert breaker.breaker.snapshot().next_probe == 0.0

    def test_a_snapshot_forgets_what_has_left_the_window(self) -> None:
        breaker = window(size=10)
        breaker.fail(2)
        breaker.wait(10)
        assert breaker.breaker.snapshot().window == WindowSnapshot(0, 0, 0)

    def test_shares_of_nothing_are_nothing(self) -> None:
        assert (WindowSnapshot(0, 0, 0).failure_rate, WindowSnapshot(0, 0, 0).slow_rate) == (0.0, 0.0)
        assert (WindowSnapshot(4, 1, 3).failure_rate, WindowSnapshot(4, 1, 3).slow_rate) == (0.25, 0.75)


class TestPermits:
    def test_settled_once(self) -> None:
        breaker = window(**ALONE | {"failures": 2})
        permit = breaker.go()
        breaker.end(permit, FAILURE)
        breaker.end(permit, FAILURE)
        assert breaker.state() is State.CLOSED
        assert (breaker.breaker.in_flight, breaker.breaker.calls["failure"]) == (0, 1)

    def test_one_that_was_refused_settles_nothing(self) -> None:
        breaker = opened()
        refused, wait = breaker.ask()
        assert wait < 0
        breaker.end(refused)
        breaker.breaker.withdraw(refused)
        assert (breaker.breaker.in_flight, breaker.breaker.calls["success"]) == (0, 0)

    def test_it_knows_when_it_was_granted(self) -> None:
        breaker = window()
        breaker.wait(5)
        assert breaker.go().sent == breaker.clock()

    def test_nobody_waits_here(self) -> None:
        breaker = opened()
        breaker.breaker.withdraw(Permit())
        assert breaker.breaker.waiting == 0
        assert breaker.breaker.rate is None

    @pytest.mark.parametrize("verdict", [SUCCESS, FAILURE, IGNORED, TIMEOUT], ids=str)
    def test_in_flight_until_the_end(self, verdict: Verdict) -> None:
        breaker = window()
        one, two = breaker.go(), breaker.go()
        assert breaker.breaker.in_flight == 2
        breaker.end(one, verdict)
        assert breaker.breaker.in_flight == 1
        breaker.end(two)
        assert breaker.breaker.in_flight == 0


class TestTheShortWay:
    """``enter`` and ``leave``: for calls that nobody watches. What they tell must be what a permit would have told."""

    def test_open_while_closed_only(self) -> None:
        breaker, probe = half_open(successes=1)
        assert breaker.breaker.enter(breaker.clock()) == NOT_CALM
        breaker.end(probe)
        assert breaker.breaker.enter(breaker.clock()) != NOT_CALM
        assert breaker.breaker.in_flight == 1
        breaker.fail()
        assert breaker.state() is State.OPEN
        breaker.wait(1e6)
        assert breaker.breaker.enter(breaker.clock()) == NOT_CALM
        assert breaker.breaker.in_flight == 1

    @pytest.mark.parametrize("by_hand", ["force_open", "disable"])
    def test_shut_by_hand(self, by_hand: str) -> None:
        breaker = window()
        getattr(breaker.breaker, by_hand)()
        assert breaker.breaker.enter(breaker.clock()) == NOT_CALM
        breaker.breaker.close()
        assert breaker.breaker.enter(breaker.clock()) != NOT_CALM

    def test_shut_where_the_policy_switches_it_off(self) -> None:
        breaker = window(enabled=False)
        assert breaker.breaker.enter(breaker.clock()) == NOT_CALM

    def pass_by(self, breaker: Handle[WindowBreaker], took: float = 0.0) -> None:
        sent = breaker.clock()
        generation = breaker.breaker.enter(sent)
        assert generation != NOT_CALM
        breaker.breaker.leave(generation, sent, sent + took)

    def test_a_success_is_in_the_window(self) -> None:
        breaker = window(slow_after=2)
        self.pass_by(breaker, 2.0)
        self.pass_by(breaker, 2.001)
        snapshot = breaker.breaker.snapshot()
        assert (snapshot.calls["success"], snapshot.in_flight) == (2, 0)
        assert snapshot.window == WindowSnapshot(2, 0, 1)

    def test_a_success_ends_a_row_of_failures(self) -> None:
        breaker = window(**ALONE | {"failures": 2})
        breaker.fail()
        self.pass_by(breaker)
        breaker.fail()
        assert breaker.state() is State.CLOSED

    def test_slow_ones_open_it_and_it_is_told(self) -> None:
        breaker = window(**ALONE | {"slow_rate": 1.0, "minimum_calls": 2, "slow_after": 2})
        self.pass_by(breaker, 3.0)
        self.pass_by(breaker, 3.0)
        assert breaker.state() is State.OPEN
        assert breaker.reasons == ["slow_call_rate"]
        assert breaker.changes[0].cause is None

    def test_a_success_begun_before_the_trip_moves_nothing(self) -> None:
        breaker = window(**ALONE | {"failures": 1, "open_for": 2, "successes": 1})
        sent = breaker.clock()
        running = [breaker.breaker.enter(sent) for _ in range(3)]
        breaker.fail()
        breaker.breaker.leave(running[0], sent, breaker.clock())
        breaker.until_probe()
        probe = breaker.go()
        breaker.breaker.leave(running[1], sent, breaker.clock())
        assert breaker.state() is State.HALF_OPEN
        breaker.end(probe)
        breaker.breaker.leave(running[2], sent, breaker.clock())
        assert breaker.breaker.snapshot().window == WindowSnapshot(0, 0, 0)
        assert breaker.breaker.calls["success"] == 4
        assert breaker.breaker.in_flight == 0
