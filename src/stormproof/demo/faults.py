"""What can go wrong on the wire, and the rules that say when: scripted, by chance, or for a while.

A fault is a value, a rule hands out faults. `proxy.py` carries them out. Rules are asked under the proxy's
lock, so they may count.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

Body = Mapping[str, Any] | str | bytes | None
Kind = Literal["status", "raw", "reset", "reset_after", "hang", "drop", "delay", "slow"]
#: What becomes of the connection in the middle of an answer: reset, closed in good order, or left open without a word.
End = Literal["reset", "close", "hang"]

_OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_MESSAGES = {429: "Rate limit reached", 500: "Internal error", 502: "Bad gateway", 503: "Service unavailable"}


@dataclass(frozen=True)
class Fault:
    """One thing to do to a request instead of passing it on; made by the functions below."""

    kind: Kind
    name: str
    code: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = None
    after_chunks: int | None = None
    after_bytes: int | None = None
    then: End = "reset"
    seconds: float = 0.0


def status(code: int, headers: Mapping[str, str] | None = None, body: Body = None) -> Fault:
    """Answer with this status; the upstream never sees the request.

    Without a body, the answer carries the error object of the service whose path was asked for.
    """
    return Fault("status", f"status {code}", code=code, headers=headers or {}, body=body)


def raw(answer: bytes, then: End = "close") -> Fault:
    """Send these bytes, which need not be HTTP, in the upstream's place."""
    return Fault("raw", "raw", body=answer, then=then)


def reset() -> Fault:
    """Reset the connection; the upstream never sees the request."""
    return Fault("reset", "reset")


def reset_after() -> Fault:
    """Let the upstream carry the request out, swallow its answer and reset the connection."""
    return Fault("reset_after", "reset_after")


def hang() -> Fault:
    """Never answer; ends when the client goes away or the proxy stops."""
    return Fault("hang", "hang")


def drop(after_chunks: int | None = None, after_bytes: int | None = None, then: End = "reset") -> Fault:
    """Pass on the head and the first part of the body, then reset the connection, or close it, or say no more.

    The end of the body is always held back, so that the client can never take what it got for the whole.
    """
    if (after_chunks is None) == (after_bytes is None):
        raise ValueError("drop needs exactly one of after_chunks and after_bytes")
    return Fault("drop", "drop", after_chunks=after_chunks, after_bytes=after_bytes, then=then)


def delay(seconds: float) -> Fault:
    """Wait this long before the request is passed on."""
    return Fault("delay", "delay", seconds=seconds)


def slow(seconds: float) -> Fault:
    """Wait this long before each part of the answer's body is passed on."""
    return Fault("slow", "slow", seconds=seconds)


def error_body(fault: Fault, path: str) -> bytes:
    """Return the body of a `status` fault, by default in the shape that the client of this path reads."""
    if isinstance(fault.body, bytes):
        return fault.body
    if isinstance(fault.body, str):
        return fault.body.encode()
    return json.dumps(fault.body if fault.body is not None else _shaped(fault.code, path)).encode()


def _shaped(code: int, path: str) -> dict[str, Any]:
    message = f"{_MESSAGES.get(code, 'Error')} (injected)"
    if path.startswith("/api/"):
        return {"error": message}
    if path.startswith(("/v1/", "/openai/")):
        kind = _OPENAI_TYPES.get(code, "invalid_request_error" if code < 500 else "server_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return {"status": {"error": message}, "time": 0.0}


@dataclass(frozen=True)
class Decision:
    """What a rule decided for a request: a fault, or None to let it pass."""

    fault: Fault | None


class Rule(Protocol):
    """Says what happens to a request, or None when this rule has nothing to say about it."""

    def decide(self, method: str, path: str) -> Decision | None:
        """Decide; called once for each request that no earlier rule decided."""


@dataclass(frozen=True)
class Match:
    """Picks requests by method (`*` for any) and by a regular expression that is searched for in the path."""

    method: str
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, method: str, path_regex: str) -> Match:
        """Make one from what the caller wrote."""
        return cls(method.upper(), re.compile(path_regex))

    def __call__(self, method: str, path: str) -> bool:
        """Tell whether the request is meant."""
        return self.method in ("*", method) and self.pattern.search(path) is not None


class Plan:
    """Hands out its faults in order, one a request, and then none; None lets one request pass.

    The first `start_after` matching requests are left to the later rules.
    """

    def __init__(self, match: Match, faults: Iterable[Fault | None], start_after: int = 0) -> None:
        self._match = match
        self._left = deque(faults)
        self._to_pass = start_after

    def decide(self, method: str, path: str) -> Decision | None:
        """Take the next fault of the script."""
        if not self._left or not self._match(method, path):
            return None
        if self._to_pass > 0:
            self._to_pass -= 1
            return None
        return Decision(self._left.popleft())


class Chance:
    """Hands out a fault at a given rate; the same seed gives the same sequence."""

    def __init__(
        self, match: Match, faults: Fault | Sequence[Fault] | Callable[[], Fault], rate: float, seed: int
    ) -> None:
        self._match = match
        self._faults = faults
        self._rate = rate
        # Reproducible on purpose, and nothing secret.
        self._random = random.Random(seed)

    def decide(self, method: str, path: str) -> Decision | None:
        """Throw the dice; requests that are spared go on to the later rules."""
        if not self._match(method, path) or self._random.random() >= self._rate:
            return None
        if isinstance(self._faults, Fault):
            return Decision(self._faults)
        if callable(self._faults):
            return Decision(self._faults())
        return Decision(self._random.choice(self._faults))


class Outage:
    """Fails every request for some seconds, from the one that follows the first `start_after` on.

    It goes on beyond that time until it has failed `at_least` so many.
    """

    def __init__(self, match: Match, start_after: int, lasting: float, fault: Fault, at_least: int = 0) -> None:
        self._match = match
        self._to_pass = start_after
        self._to_fail = at_least
        self._lasting = lasting
        self._fault = replace(fault, name="outage")
        self._ends: float | None = None

    def decide(self, method: str, path: str) -> Decision | None:
        """Fail the request while the outage lasts."""
        if not self._match(method, path):
            return None
        if self._to_pass > 0:
            self._to_pass -= 1
            return None
        now = time.monotonic()
        if self._ends is None:
            self._ends = now + self._lasting
        if now >= self._ends and self._to_fail <= 0:
            return None
        self._to_fail -= 1
        return Decision(self._fault)
