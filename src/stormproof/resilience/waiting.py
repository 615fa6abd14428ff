"""How a caller waits before its attempt: for a while, or for its turn, as a thread or as a task of asyncio or trio.

The waits between a failure and the next attempt are stamina's (``loop.py``).
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any, Protocol


class Turn(Protocol):
    """A place in a queue. Whoever gives the turn calls :meth:`give`, from any thread; its owner waits for it."""

    given: bool

    def give(self) -> bool:
        """Wake the owner: it is its turn. False if nobody waits there any more."""
        ...


class ThreadTurn:
    """A place in a queue that a thread waits in."""

    def __init__(self) -> None:
        self.given = False
        self._event = threading.Event()

    def give(self) -> bool:
        self.given = True
        self._event.set()
        return True

    def wait(self, seconds: float) -> None:
        """Until the turn is given, at most so long."""
        self._event.wait(seconds)


class TaskTurn:
    """A place in a queue that a task waits in, on whichever loop runs it."""

    def __init__(self) -> None:
        self.given = False
        self._trio = _running_trio()
        if self._trio is None:
            self._loop = asyncio.get_running_loop()
            self._future: asyncio.Future[None] = self._loop.create_future()
        else:
            self._event = self._trio.Event()
            self._token = self._trio.lowlevel.current_trio_token()

    def give(self) -> bool:
        self.given = True
        try:
            if self._trio is None:
                self._loop.call_soon_threadsafe(self._resolve)
            else:
                self._token.run_sync_soon(self._event.set)
        except RuntimeError:  # its loop is closed
            self.given = False
            return False
        return True

    async def wait(self, seconds: float) -> None:
        """Until the turn is given, at most so long."""
        if self._trio is None:
            await asyncio.wait((self._future,), timeout=seconds)
        else:
            with self._trio.move_on_after(seconds):
                await self._event.wait()

    def _resolve(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


def pause(seconds: float) -> None:
    """Let a thread wait."""
    time.sleep(seconds)


async def pause_task(seconds: float) -> None:
    """Let a task wait."""
    trio = _running_trio()
    await (asyncio.sleep(seconds) if trio is None else trio.sleep(seconds))


def _running_trio() -> Any:
    """trio, if it runs the current task. It is never imported for this: who runs it has done so."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_run() else None
