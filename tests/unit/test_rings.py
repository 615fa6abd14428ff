"""The windows against lists of everything that ever happened, counted anew at each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormproof.resilience.rings import CountRing, Ring, TimeRing


@dataclass(frozen=True)
class Ended:
    """A call that ended in this second."""

    second: int
    failed: bool
    slow: bool


def counts(ring: Ring) -> tuple[int, int, int]:
    return ring.calls, ring.failures, ring.slow_calls


def recount(calls: list[Ended]) -> tuple[int, int, int]:
    return len(calls), sum(call.failed for call in calls), sum(call.slow for call in calls)


def add(ring: Ring, *calls: tuple[float, str]) -> None:
    """``f``: failed, ``s``: slow."""
    for now, what in calls:
        ring.add(now, failed="f" in what, slow="s" in what)


outcomes = st.tuples(st.booleans(), st.booleans())


class TestCountRing:
    @given(st.integers(1, 12), st.lists(outcomes, max_size=60))
    @settings(max_examples=60, deadline=None, derandomize=True)
    def test_as_the_last_calls_counted_anew(self, size: int, calls: list[tuple[bool, bool]]) -> None:
        ring, all_calls = CountRing(size), list[Ended]()
        for number, (failed, slow) in enumerate(calls):
            ring.add(float(number), failed=failed, slow=slow)
            all_calls.append(Ended(number, failed, slow))
            assert counts(ring) == recount(all_calls[-size:])

    def test_it_begins_empty(self) -> None:
        assert counts(CountRing(3)) == (0, 0, 0)

    def test_the_oldest_makes_room_and_takes_its_marks_along(self) -> None:
        ring = CountRing(3)
        add(ring, (0, "fs"), (0, "f"), (0, "s"))
        assert counts(ring) == (3, 2, 2)
        add(ring, (0, ""))
        assert counts(ring) == (3, 1, 1)
        assert {type(count) for count in counts(ring)} == {int}  # people are shown them
        add(ring, (0, ""))
        assert counts(ring) == (3, 0, 1)
        add(ring, (0, ""))
        assert counts(ring) == (3, 0, 0)

    def test_time_alone_changes_nothing(self) -> None:
        ring = CountRing(3)
        add(ring, (0, "fs"))
        ring.advance(1e9)
        assert counts(ring) == (1, 1, 1)

    def test_it_costs_a_byte_a_call(self) -> None:
        ring = CountRing(1000)
        for number in range(5000):
            add(ring, (number, "fs"))
        assert len(ring._ring) == 1000


# A step of a time window: seconds that pass (long gaps, none, or backwards by a little, as between two threads that
# have read the clock before either of them came to the lock), then a call or only a look.
passing = st.one_of(
    st.floats(0, 3),
    st.sampled_from([0.0, 1.0, -0.001, -0.5, 7.0, 59.999, 60.0, 61.0, 1e5]),
    st.floats(-0.9, 0),
    st.floats(0, 300),
)


class TestTimeRing:
    @given(st.integers(1, 70), st.floats(0, 1e6), st.lists(st.tuples(passing, st.none() | outcomes), max_size=60))
    @settings(max_examples=120, deadline=None, derandomize=True)
    def test_as_the_calls_of_the_last_seconds_counted_anew(
        self, size: int, began: float, steps: list[tuple[float, tuple[bool, bool] | None]]
    ) -> None:
        ring, all_calls = TimeRing(size), list[Ended]()
        now, newest = began + 1, int(began)
        for passed, outcome in steps:
            now = max(0.0, now + passed, newest - 0.9)
            newest = max(newest, int(now))
            if outcome is None:
                ring.advance(now)
            else:
                failed, slow = outcome
                ring.add(now, failed=failed, slow=slow)
                # One that comes late belongs where it ended; in a window of one second that is over already.
                all_calls.append(Ended(max(int(now), newest - size + 1), failed, slow))
            assert counts(ring) == recount([call for call in all_calls if call.second > newest - size])

    @pytest.mark.parametrize("size", [1, 2, 60])
    def test_a_call_is_seen_for_as_long_as_the_window(self, size: int) -> None:
        ring = TimeRing(size)
        add(ring, (100.0, "fs"))
        ring.advance(100 + size - 0.001)
        assert counts(ring) == (1, 1, 1)
        ring.advance(100.0 + size)
        assert counts(ring) == (0, 0, 0)

    def test_a_call_at_the_end_of_a_second_leaves_with_that_second(self) -> None:
        ring = TimeRing(2)
        add(ring, (100.999, "f"), (101.0, "s"))
        ring.advance(101.999)
        assert counts(ring) == (2, 1, 1)
        ring.advance(102.0)
        assert counts(ring) == (1, 0, 1)

    @pytest.mark.parametrize("look", [True, False], ids=["a look", "a call"])
    @pytest.mark.parametrize("gap", [60.0, 61.0, 120.0, 600.0, 1e9])
    def test_it_forgets_after_any_pause(self, gap: float, look: bool) -> None:
        ring = TimeRing(60)
        for second in range(100):
            add(ring, (1000.0 + second, "fs"))
        assert counts(ring) == (60, 60, 60)
        if look:
            ring.advance(1099 + gap)
            assert counts(ring) == (0, 0, 0)
        else:
            add(ring, (1099 + gap, ""))
            assert counts(ring) == (1, 0, 0)

    def test_a_pause_of_years_takes_no_longer_than_the_window_is_wide(self) -> None:
        """Each bucket is emptied at most once: a walk over every second that passed would take minutes here."""
        emptied: list[int] = []

        class Watched(TimeRing):
            def _empty(self, bucket: int) -> None:
                emptied.append(bucket)
                super()._empty(bucket)

        ring = Watched(60)
        add(ring, (0.0, "f"))
        emptied.clear()
        ring.advance(1e12)
        assert sorted(emptied) == list(range(60))

    def test_a_call_that_comes_late_is_counted_where_it_ended(self) -> None:
        ring = TimeRing(3)
        add(ring, (102.0, ""), (101.5, "f"))
        ring.advance(103.0)
        assert counts(ring) == (2, 1, 0)
        ring.advance(104.0)  # the late one leaves with its own second
        assert counts(ring) == (1, 0, 0)

    def test_a_look_back_in_time_forgets_nothing(self) -> None:
        ring = TimeRing(3)
        add(ring, (102.0, "f"))
        ring.advance(101.0)
        ring.advance(102.0)
        assert counts(ring) == (1, 1, 0)


@pytest.mark.parametrize("make", [CountRing, TimeRing])
def test_many_calls_in_one_second_are_all_counted(make: Callable[[int], Ring]) -> None:
    ring = make(100_000)
    for number in range(3000):
        ring.add(5.0, failed=number % 3 == 0, slow=number % 2 == 0)
    assert counts(ring) == (3000, 1000, 1500)
