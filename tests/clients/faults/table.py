"""What is expected of each fault, written down by hand from the contract of the clients.

A row says what happens when the fault hits every attempt of a call that may be carried out twice, where three
attempts are allowed and the breaker never opens. What may not be carried out twice: ``test_replay.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.client import responses
from typing import Any

import ollama

from stormproof.demo.proxy import drop, hang, raw, reset, reset_after, slow, status
from tests.servers import rough
from tests.servers.qdrant_grpc import abort
from tests.servers.qdrant_grpc import hang as grpc_hang

from .situations import (
    Situation,
    at_once,
    backlog_full,
    frozen,
    in_grpc,
    in_the_middle,
    in_tls,
    killed,
    never_read,
    no_such_host,
    on_the_socket,
    on_the_wire,
    refused,
    self_signed,
)
from .ways import Way

#: Python calls it so since 3.13, as RFC 9110 does.
_PHRASES = {**responses, 422: "Unprocessable Content"}

ATTEMPTS = 3


@dataclass(frozen=True)
class Expected:
    """How a call ends.

    Attributes:
        attempts: that were made.
        gave_up: why there was no further one; None for a call that succeeds.
        breaker: what each attempt counted for it: ``success``, ``failure``, or ``ignored``, which is neither.
        wait: who chose the waits between the attempts: ``backoff``, ``server``, or None where there were none.
        reached: how many of the attempts the server saw the beginning of; None for all of them.
    """

    attempts: int
    gave_up: str | None
    breaker: str
    wait: str | None = None
    reached: int | None = None


RETRIED = Expected(ATTEMPTS, "attempts", "failure", "backoff")
RETRIED_AND_NOT_COUNTED = replace(RETRIED, breaker="ignored")
RETRIED_AND_ALIVE = replace(RETRIED, breaker="success")
RETRIED_AS_TOLD = replace(RETRIED_AND_NOT_COUNTED, wait="server")
UNREACHED = replace(RETRIED, reached=0)
TOLD_TO_WAIT_TOO_LONG = Expected(1, "hint_too_long", "ignored")
ALIVE_AND_SAYS_NO = Expected(1, "not_retryable", "success")
SAYS_NOTHING_OF_THE_SERVER = Expected(1, "not_retryable", "ignored")
BROKEN_FOR_GOOD = Expected(1, "not_retryable", "failure")
BROKEN_AFTER_AN_ITEM = Expected(1, "stream_started", "failure")
SUCCEEDS = Expected(1, None, "success")


@dataclass(frozen=True)
class Row:
    """A fault.

    Attributes:
        whole, stream: how it is put up for the two kinds of answer; or why it makes no sense there.
        but: what is different for a client.
        only: the clients that it is about; by default those that speak HTTP.
        alone: what the last attempt meets, if that is something else.
        is_race: whether reading, writing or the missing end tells the client first differs from time to time.
    """

    group: str
    name: str
    whole: Situation | str
    stream: Situation | str
    expected: Expected
    but: Mapping[str, Expected] = field(default_factory=dict)
    only: Sequence[str] = ("openai", "ollama", "qdrant")
    alone: Situation | None = None
    is_race: bool = False

    def __str__(self) -> str:
        return self.name

    def situation(self, way: Way) -> Situation | str:
        return self.stream if way.streams else self.whole

    def expected_of(self, way: Way) -> Expected:
        return self.but.get(way.client, self.expected)

    def is_about(self, way: Way) -> bool:
        # Only openai and ollama stream: what is about streams alone is not about a client that has none.
        return way.client in self.only and (way.system != "qdrant" or not isinstance(self.whole, str))


def _row(group: str, name: str, situation: Situation, expected: Expected, **more: Any) -> Row:
    """A fault that is the same whichever kind of answer is asked for."""
    return Row(group, name, situation, more.pop("stream", situation), expected, **more)


# -- the connection ------------------------------------------------------------------------------------------------

_CONNECTION = "No connection"
_CONNECTIONS = [
    _row(_CONNECTION, "connection refused", refused, UNREACHED),
    _row(_CONNECTION, "connect timeout", backlog_full, UNREACHED),
    _row(_CONNECTION, "TLS handshake not answered", in_tls(rough.say_nothing), UNREACHED),
    _row(_CONNECTION, "TLS answered in plain text", in_tls(rough.answer_in_plain_text), UNREACHED),
    _row(_CONNECTION, "TLS with an unknown certificate", self_signed, UNREACHED),
    _row(_CONNECTION, "name not found", no_such_host, UNREACHED),
]

# -- the request and the answer ------------------------------------------------------------------------------------

_JSON = {"content-type": "application/json"}
_EVENTS = {"content-type": "text/event-stream"}
_NO_LENGTH = "a stream has no Content-Length"
_NO_STREAM = "only a stream has a middle"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_TOO_SHORT = raw(_HEAD + b'content-length: 5\r\n\r\n{"result": null}')

_LOST = "Connection lost, or too slow"
_LOSSES = [
    _row(_LOST, "reset before the request was read", on_the_socket(rough.reset_unread), RETRIED, is_race=True),
    _row(_LOST, "reset in the middle of the request", on_the_socket(rough.reset_after_the_head), RETRIED, is_race=True),
    _row(_LOST, "reset after the request", on_the_wire(reset()), RETRIED, is_race=True),
    _row(_LOST, "reset after it was carried out", on_the_wire(reset_after()), RETRIED, is_race=True),
    _row(_LOST, "write timeout", never_read, RETRIED),
    _row(_LOST, "read timeout", at_once(hang()), RETRIED),
    _row(_LOST, "server frozen (SIGSTOP)", frozen, RETRIED),
    _row(_LOST, "server killed (SIGKILL)", killed, replace(RETRIED, reached=1), alone=refused),
    _row(_LOST, "closed in the middle of the head", on_the_wire(raw(b"HTTP/1.1 200 OK\r\ncontent-ty")), RETRIED),
    _row(_LOST, "an answer that is not HTTP", on_the_wire(raw(b"220 ready\r\n")), RETRIED),
    _row(_LOST, "reset before the body", on_the_wire(drop(after_bytes=0)), RETRIED, is_race=True),
    Row(_LOST, "reset in the middle of the body", on_the_wire(drop(after_bytes=9)), _NO_LENGTH, RETRIED, is_race=True),
    Row(_LOST, "Content-Length too long", on_the_wire(drop(after_bytes=10**6, then="close")), _NO_LENGTH, RETRIED),
    _row(_LOST, "body slower than the read timeout", at_once(slow(5)), RETRIED),
    _row(_LOST, "body slow, but in time", on_the_wire(slow(0.005)), SUCCEEDS),
    Row(
        _LOST, "reset in mid-stream", _NO_STREAM, on_the_wire(drop(after_chunks=2)), BROKEN_AFTER_AN_ITEM, is_race=True
    ),
    Row(
        _LOST, "closed in mid-stream", _NO_STREAM, on_the_wire(drop(after_chunks=2, then="close")), BROKEN_AFTER_AN_ITEM
    ),
    Row(
        _LOST, "silent in mid-stream", _NO_STREAM, in_the_middle(drop(after_chunks=2, then="hang")),
        BROKEN_AFTER_AN_ITEM,
    ),
]  # fmt: skip

# -- answers that cannot be read -----------------------------------------------------------------------------------

_UNREADABLE = "An answer that cannot be read"
_STREAMED_GARBAGE = {
    "openai": status(200, _EVENTS, b"data: {oops\n\n"),
    "ollama": status(200, {"content-type": "application/x-ndjson"}, b"{oops\n"),
}
#: ollama 0.3 reads the answer when its request is over: what it cannot read is the app's affair.
_READ_LATER = {} if hasattr(ollama.Client, "_request_raw") else {"ollama": SUCCEEDS}
_ANSWERS = [
    Row(
        _UNREADABLE, "invalid JSON", on_the_wire(status(200, _JSON, b"{oops")), "see: invalid JSON in a stream",
        ALIVE_AND_SAYS_NO, _READ_LATER,
    ),
    Row(
        _UNREADABLE, "invalid JSON in a stream", _NO_STREAM, on_the_wire(_STREAMED_GARBAGE), ALIVE_AND_SAYS_NO
    ),
    Row(
        _UNREADABLE, "Content-Length too short", on_the_wire(_TOO_SHORT), _NO_LENGTH, ALIVE_AND_SAYS_NO, _READ_LATER
    ),
    Row(
        _UNREADABLE, "JSON of another shape", on_the_wire(status(200, _JSON, {"message": 1, "result": "x"})),
        "the items would be of another shape, which is their reader's affair", ALIVE_AND_SAYS_NO,
        {"openai": SUCCEEDS, **_READ_LATER},
    ),
    Row(
        _UNREADABLE, "body badly compressed",
        on_the_wire(status(200, {**_JSON, "content-encoding": "gzip"}, b"no gzip")),
        on_the_wire(status(200, {**_EVENTS, "content-encoding": "gzip"}, b"no gzip")), SAYS_NOTHING_OF_THE_SERVER,
    ),
]  # fmt: skip

# -- statuses ------------------------------------------------------------------------------------------------------

_STATUS = "Status"
_STATUSES = {
    400: ALIVE_AND_SAYS_NO,
    401: ALIVE_AND_SAYS_NO,
    403: ALIVE_AND_SAYS_NO,
    404: ALIVE_AND_SAYS_NO,
    408: RETRIED_AND_NOT_COUNTED,
    409: ALIVE_AND_SAYS_NO,
    422: ALIVE_AND_SAYS_NO,
    429: RETRIED_AND_NOT_COUNTED,
    500: RETRIED,
    501: SAYS_NOTHING_OF_THE_SERVER,
    502: RETRIED,
    503: RETRIED,
    504: RETRIED,
    505: SAYS_NOTHING_OF_THE_SERVER,
    529: RETRIED,
}


def _status_row(code: int) -> Row:
    but = {"openai": RETRIED_AND_NOT_COUNTED} if code == 409 else {}
    name = f"{code} {_PHRASES.get(code, 'Site is overloaded')}"
    return _row(_STATUS, name, on_the_wire(status(code)), _STATUSES[code], but=but)


def _answered(name: str, fault: Any, expected: Expected, *only: str) -> Row:
    return _row(_STATUS, name, on_the_wire(fault), expected, **({"only": only} if only else {}))


_NO_MORE_MONEY = {"error": {"message": "no quota", "type": "insufficient_quota", "code": "insufficient_quota"}}
_STATUS_ROWS = [
    *map(_status_row, _STATUSES),
    _answered("400, `x-should-retry: true`", status(400, {"x-should-retry": "true"}), RETRIED_AND_ALIVE),
    _answered("503, `x-should-retry: false`", status(503, {"x-should-retry": "false"}), BROKEN_FOR_GOOD),
    _answered("429 `insufficient_quota`", status(429, body=_NO_MORE_MONEY), SAYS_NOTHING_OF_THE_SERVER, "openai"),
    _answered("404, model missing", status(404, body={"error": "model 'tiny' not found"}), ALIVE_AND_SAYS_NO, "ollama"),
    _answered("500, model is being loaded", status(500, body={"error": "llm server loading model"}), RETRIED, "ollama"),
]  # fmt: skip

# -- hints to wait -------------------------------------------------------------------------------------------------

_HINT = "Hints to wait"


def _in(hours: float) -> str:
    return format_datetime(datetime.now(timezone.utc) + timedelta(hours=hours), usegmt=True)


def _told(name: str, headers: dict[str, str], expected: Expected, *only: str, code: int = 429, **but: Expected) -> Row:
    more = {"only": only} if only else {}
    return _row(_HINT, name, on_the_wire(status(code, headers)), expected, but=but, **more)


_RESETS = {"x-ratelimit-reset-requests": "10ms", "x-ratelimit-reset-tokens": "20ms"}
_HINT_ROWS = [
    _told("429, `retry-after` in seconds", {"retry-after": "0.02"}, RETRIED_AS_TOLD),
    _told("429, `retry-after-ms`", {"retry-after-ms": "20"}, RETRIED_AS_TOLD),
    _told("429, `retry-after`: a date in an hour", {"retry-after": _in(hours=1)}, TOLD_TO_WAIT_TOO_LONG),
    _told("429, `retry-after`: a date that has passed", {"retry-after": _in(hours=-1)}, RETRIED_AND_NOT_COUNTED),
    _told("429, `retry-after`: a year", {"retry-after": "31536000"}, TOLD_TO_WAIT_TOO_LONG),
    _told("429, `retry-after: 0`", {"retry-after": "0"}, RETRIED_AND_NOT_COUNTED),
    *(
        _told(f"429, `retry-after: {value}`", {"retry-after": value}, RETRIED_AND_NOT_COUNTED)
        for value in ("-1", "soon", "", "nan", "inf", "1e400")
    ),
    _told("429, `x-ratelimit-reset-…`", _RESETS, RETRIED_AS_TOLD, "openai"),
    _told(
        "503, `retry-after` in seconds", {"retry-after": "0.02"}, replace(RETRIED, wait="server"), code=503,
        ollama=RETRIED_AS_TOLD,  # busy
    ),
    _told(
        "503, `retry-after`: a year", {"retry-after": "31536000"}, replace(TOLD_TO_WAIT_TOO_LONG, breaker="failure"),
        code=503, ollama=TOLD_TO_WAIT_TOO_LONG,
    ),
]  # fmt: skip

# -- errors inside a stream ----------------------------------------------------------------------------------------

_IN_STREAM = "Errors inside a stream"
_WHOLE = "only a stream can carry an error after a good beginning"
_EVENT = 'data: {"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}}\n\n'
_CHUNK = (
    'data: {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": '
    '[{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}\n\n'
)
_ERROR_LINE = '{"error": "an error was encountered while running the model"}\n'
_LINE = (
    '{"model": "tiny", "created_at": "2024-01-01T00:00:00Z", "message": {"role": "assistant", "content": "a"}, '
    '"done": false}\n'
)


def _streamed(name: str, system: str, headers: dict[str, str], body: str) -> Row:
    return Row(_IN_STREAM, name, _WHOLE, on_the_wire(status(200, headers, body)), BROKEN_FOR_GOOD, only=(system,))


_IN_STREAMS = [
    _streamed("an error event at once", "openai", _EVENTS, _EVENT),
    _streamed("an error event after an item", "openai", _EVENTS, _CHUNK + _EVENT),
    _streamed("an error line at once", "ollama", _JSON, _ERROR_LINE),
    _streamed("an error line after an item", "ollama", _JSON, _LINE + _ERROR_LINE),
]

# -- gRPC ----------------------------------------------------------------------------------------------------------

_GRPC = "gRPC"
_CODES = {
    "CANCELLED": SAYS_NOTHING_OF_THE_SERVER,
    "UNKNOWN": BROKEN_FOR_GOOD,
    "INVALID_ARGUMENT": ALIVE_AND_SAYS_NO,
    "DEADLINE_EXCEEDED": RETRIED,
    "NOT_FOUND": ALIVE_AND_SAYS_NO,
    "ALREADY_EXISTS": ALIVE_AND_SAYS_NO,
    "PERMISSION_DENIED": ALIVE_AND_SAYS_NO,
    "UNAUTHENTICATED": ALIVE_AND_SAYS_NO,
    "RESOURCE_EXHAUSTED": RETRIED_AND_NOT_COUNTED,
    "FAILED_PRECONDITION": ALIVE_AND_SAYS_NO,
    "ABORTED": RETRIED_AND_NOT_COUNTED,
    "OUT_OF_RANGE": ALIVE_AND_SAYS_NO,
    "UNIMPLEMENTED": ALIVE_AND_SAYS_NO,
    "INTERNAL": BROKEN_FOR_GOOD,
    "UNAVAILABLE": RETRIED,
    "DATA_LOSS": BROKEN_FOR_GOOD,
}


def _grpc(name: str, situation: Situation, expected: Expected, **more: Any) -> Row:
    return _row(_GRPC, name, situation, expected, only=("qdrant-grpc",), **more)


def _hinted(code: str, hint: str, expected: Expected) -> Row:
    return _grpc(f"{code}, `retry-after: {hint}`", in_grpc(abort(code, trailing={"retry-after": hint})), expected)


_GRPC_ROWS = [
    _grpc("connection refused", refused, UNREACHED),
    _grpc("deadline exceeded", in_grpc(grpc_hang()), RETRIED),
    _grpc("server frozen (SIGSTOP)", frozen, replace(RETRIED, reached=1)),  # attempts share a connection
    _grpc("server killed (SIGKILL)", killed, replace(RETRIED, reached=1), alone=refused),
    _grpc("UNAVAILABLE after it was carried out", in_grpc(abort("UNAVAILABLE", after=True)), RETRIED),
    *(_grpc(code, in_grpc(abort(code)), expected) for code, expected in _CODES.items()),
    *(_hinted(code, "0.02", RETRIED_AS_TOLD) for code in ("RESOURCE_EXHAUSTED", "ABORTED")),
    *(_hinted(code, "31536000", TOLD_TO_WAIT_TOO_LONG) for code in ("RESOURCE_EXHAUSTED", "ABORTED")),
    *(_hinted("RESOURCE_EXHAUSTED", hint, RETRIED_AND_NOT_COUNTED) for hint in ("-1", "soon")),
]

ROWS = [*_CONNECTIONS, *_LOSSES, *_ANSWERS, *_STATUS_ROWS, *_HINT_ROWS, *_IN_STREAMS, *_GRPC_ROWS]
