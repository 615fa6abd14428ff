"""Turns and pauses: as a thread, as a task of asyncio, as a task of trio. Real waits, of milliseconds at the most."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

from stormproof.resilience import waiting
from stormproof.resilience.waiting import TaskTurn, ThreadTurn

from .limits import LONG, Crew

SHORT = 0.005

#: Runs a coroutine function on the one loop or on the other.
Run = Callable[[Callable[[], Any]], Any]

on_each_loop = pytest.mark.parametrize("run", [lambda main: asyncio.run(main()), trio.run], ids=["asyncio", "trio"])


class TestThread:
    def test_a_turn_that_was_given_is_not_waited_for(self) -> None:
        turn = ThreadTurn()
        assert not turn.given
        assert turn.give()
        assert turn.given
        turn.wait(LONG)

    def test_it_wakes_who_waits(self) -> None:
        turn, crew = ThreadTurn(), Crew()
        crew.start("owner", lambda: turn.wait(LONG))
        turn.give()
        assert crew.join() == {"owner": None}

    def test_it_is_waited_for_so_long(self) -> None:
        turn, began = ThreadTurn(), time.monotonic()
        turn.wait(SHORT)
        assert SHORT <= time.monotonic() - began < LONG
        assert not turn.given

    def test_a_pause_takes_its_time(self) -> None:
        began = time.monotonic()
        waiting.pause(SHORT)
        assert SHORT <= time.monotonic() - began < LONG


@on_each_loop
class TestTask:
    def test_a_turn_that_was_given_is_not_waited_for(self, run: Run) -> None:
        async def main() -> None:
            turn = TaskTurn()
            assert not turn.given
            assert turn.give()
            assert turn.given
            await turn.wait(LONG)

        run(main)

    def test_another_thread_wakes_who_waits(self, run: Run) -> None:
        async def main() -> None:
            turn = TaskTurn()
            threading.Thread(target=turn.give).start()
            await turn.wait(LONG)
            assert turn.given

        run(main)

    def test_given_twice_is_given_once(self, run: Run) -> None:
        async def main() -> None:
            turn = TaskTurn()
            assert (turn.give(), turn.give()) == (True, True)
            await turn.wait(LONG)
            await waiting.pause_task(0)

        run(main)

    def test_it_is_waited_for_so_long_and_again(self, run: Run) -> None:
        async def main() -> None:
            turn, began = TaskTurn(), time.monotonic()
            await turn.wait(SHORT)
            assert not turn.given
            await turn.wait(SHORT)
            assert 2 * SHORT <= time.monotonic() - began < LONG
            turn.give()
            await turn.wait(LONG)

        run(main)

    def test_nobody_waits_on_a_loop_that_is_closed(self, run: Run) -> None:
        async def main() -> TaskTurn:
            return TaskTurn()

        assert not run(main).give()

    def test_a_turn_that_nobody_could_be_given_is_not_given(self, run: Run) -> None:
        """Else its owner, when it is collected, would leave where it has never been."""

        async def main() -> TaskTurn:
            return TaskTurn()

        turn = run(main)
        turn.give()
        assert not turn.given

    def test_a_pause_takes_its_time_and_leaves_the_loop_to_others(self, run: Run) -> None:
        async def main() -> None:
            began = time.monotonic()
            await waiting.pause_task(SHORT)
            assert SHORT <= time.monotonic() - began < LONG

        run(main)


def test_a_task_of_asyncio_is_not_taken_for_one_of_trio() -> None:
    """trio is loaded here, and runs nothing."""

    async def main() -> object:
        return waiting._running_trio()

    assert asyncio.run(main()) is None
    assert trio.run(main) is trio


def test_where_trio_is_not_loaded_it_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "trio")
    assert waiting._running_trio() is None
    assert "trio" not in sys.modules


def test_a_turn_that_is_given_too_late_does_no_harm() -> None:
    async def main() -> None:
        turn = TaskTurn()
        task = asyncio.ensure_future(turn.wait(LONG))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        turn._future.cancel()
        assert turn.give()
        await asyncio.sleep(0)

    asyncio.run(main())
