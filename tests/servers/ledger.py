"""A server that carries out whatever it is asked for, and keeps a list of what it has carried out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stormproof.demo.wire import Request, Response, Route, WireServer, json_response

#: What is done with one request, which has been carried out if the turn says so.
Turn = Callable[["Ledger"], Response]


class Ledger(WireServer):
    """Answers every request with the same JSON object, after the turns that were planned.

    A turn says whether the work is done, and what comes of it then.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__()
        self.done: list[Request] = []
        self._answer = answer
        self._changed = threading.Condition()
        self._turns: deque[tuple[bool, Turn]] = deque()
        self._stopped = threading.Event()

    def plan(self, turns: Iterable[tuple[bool, Turn]]) -> None:
        self._turns.extend(turns)

    def wait_for(self, count: int) -> bool:
        """Wait until so much has been carried out; tell whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.done) >= count, 10)

    def routes(self) -> Sequence[Route]:
        """Return none: every path is answered."""
        return ()

    def handle(self, request: Request) -> Response:
        """Carry it out, or do what was planned for this turn."""
        with self._changed:
            does_it, turn = self._turns.popleft() if self._turns else (True, None)
            if does_it:
                self.done.append(request)
                self._changed.notify_all()
        return json_response(self._answer) if turn is None else turn(self)

    def stop(self) -> None:
        self._stopped.set()
        super().stop()

    def hang(self) -> Response:
        self._stopped.wait()
        raise ConnectionResetError


def _lose() -> Response:
    raise ConnectionResetError


#: Carried out, and then the answer is lost: in what way.
LOST_ANSWERS: Mapping[str, tuple[bool, Turn]] = {
    "closed": (True, lambda _: _lose()),
    "502": (True, lambda _: json_response({"error": "bad gateway"}, 502)),
    "504": (True, lambda _: json_response({"error": "gateway timeout"}, 504)),
    "read timeout": (True, Ledger.hang),
}
#: Surely not carried out.
TURNED_DOWN: Mapping[str, tuple[bool, Turn]] = {
    "429": (False, lambda _: json_response({"error": "slow down"}, 429)),
    "503": (False, lambda _: json_response({"error": "not now"}, 503)),
}
NOT_FOUND: tuple[bool, Turn] = (False, lambda _: json_response({"error": "not found"}, 404))
