"""What failures of HTTP mean: each row of CLIENTS.md's table that concerns REST, and every way to say "later"."""

from __future__ import annotations

import importlib
import importlib.util
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from types import ModuleType
from typing import Any

import httpx
import pytest

from stormproof.clients.transport import address, clamped, error_verdict, retry_after, status_verdict
from stormproof.resilience.outcome import Retry, Weight

NEVER, ALWAYS, IF_SAFE = Retry.NEVER, Retry.ALWAYS, Retry.IF_REPLAY_SAFE
SUCCESS, FAILURE, NONE = Weight.SUCCESS, Weight.FAILURE, Weight.IGNORED

LIBRARIES = ["httpx", *(["httpx2"] if importlib.util.find_spec("httpx2") else [])]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


ERRORS = [
    ("ConnectError", ALWAYS, FAILURE),
    ("ConnectTimeout", ALWAYS, FAILURE),
    ("ReadTimeout", IF_SAFE, FAILURE),
    ("WriteTimeout", IF_SAFE, FAILURE),
    ("ReadError", IF_SAFE, FAILURE),
    ("WriteError", IF_SAFE, FAILURE),
    ("CloseError", IF_SAFE, FAILURE),
    ("RemoteProtocolError", IF_SAFE, FAILURE),
    ("ProxyError", IF_SAFE, FAILURE),
    ("PoolTimeout", ALWAYS, NONE),
    ("LocalProtocolError", NEVER, NONE),
    ("UnsupportedProtocol", NEVER, NONE),
    ("DecodingError", NEVER, NONE),
    ("TooManyRedirects", NEVER, NONE),
    ("InvalidURL", NEVER, NONE),
]


@pytest.mark.parametrize(("name", "retry", "weight"), ERRORS)
def test_errors_of_the_transport(library: ModuleType, name: str, retry: Retry, weight: Weight) -> None:
    verdict = error_verdict(getattr(library, name)("broken"))
    assert verdict is not None
    assert (verdict.retry, verdict.weight, verdict.error_type) == (retry, weight, name)
    # A full pool of connections tells of this process, not of the server.
    assert verdict.timed_out is (name in ("ReadTimeout", "WriteTimeout"))
    assert not verdict.rate_limited


def test_errors_that_are_not_the_transports(library: ModuleType) -> None:
    class ReadTimeout(Exception):
        """Of the same name, but somebody else's."""

    response = httpx.Response(503, request=httpx.Request("GET", "http://x"))
    for error in (
        ReadTimeout(),
        ValueError(),
        library.StreamConsumed(),
        httpx.HTTPStatusError("", request=response.request, response=response),
    ):
        assert error_verdict(error) is None


def test_a_subclass_is_read_as_what_it_is_and_named_by_its_own_name(library: ModuleType) -> None:
    class Mine(library.ReadTimeout):  # type: ignore[misc, name-defined]
        pass

    verdict = error_verdict(Mine("late"))
    assert verdict is not None
    assert (verdict.retry, verdict.error_type, verdict.timed_out) == (IF_SAFE, "Mine", True)


STATUSES = [
    (408, ALWAYS, NONE),
    (429, ALWAYS, NONE),
    (500, ALWAYS, FAILURE),
    (503, ALWAYS, FAILURE),
    (529, ALWAYS, FAILURE),
    (502, IF_SAFE, FAILURE),
    (504, IF_SAFE, FAILURE),
    (501, NEVER, NONE),
    (505, NEVER, NONE),
    (507, NEVER, FAILURE),
    *((status, NEVER, SUCCESS) for status in (400, 401, 403, 404, 405, 409, 410, 413, 422)),
]


@pytest.mark.parametrize(("status", "retry", "weight"), STATUSES)
def test_statuses(status: int, retry: Retry, weight: Weight) -> None:
    verdict = status_verdict(status, {})
    assert (verdict.retry, verdict.weight) == (retry, weight)
    assert (verdict.error_type, verdict.status, verdict.hint) == (str(status), status, None)
    assert (verdict.rate_limited, verdict.timed_out) == (status == 429, False)


@pytest.mark.parametrize(
    ("status", "said", "retry"), [(400, "true", ALWAYS), (503, "false", NEVER), (503, "yes", ALWAYS), (400, "", NEVER)]
)
def test_the_server_may_say_whether_to_retry(status: int, said: str, retry: Retry) -> None:
    headers = httpx.Headers({"X-Should-Retry": said})
    verdict = status_verdict(status, headers)
    assert (verdict.retry, verdict.weight) == (retry, SUCCESS if status == 400 else FAILURE)


def test_a_client_may_differ() -> None:
    verdict = status_verdict(409, {"retry-after": "3"}, {409: (NONE, ALWAYS)})
    assert (verdict.retry, verdict.weight, verdict.hint) == (ALWAYS, NONE, 3)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "0", "retry-after": "9"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e400"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 99 Foo 2024 00:00:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 99999 07:28:00 GMT"}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx.Headers(headers)) == seconds


def test_how_long_to_wait_as_a_date() -> None:
    date = datetime.now(timezone.utc) + timedelta(seconds=100)
    found = retry_after({"retry-after": format_datetime(date, usegmt=True)})
    assert found == pytest.approx(100, abs=10)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:6333/collections/a?b=c", ("localhost", 6333)),
        ("https://user:secret@api.openai.com/v1", ("api.openai.com", 443)),
        ("http://[::1]/x", ("::1", 80)),
        (httpx.URL("http://ollama:11434/api"), ("ollama", 11434)),
        ("", ("unknown", 0)),
    ],
)
def test_address(url: Any, expected: tuple[str, int]) -> None:
    assert address(url) == expected


def test_clamped(library: ModuleType) -> None:
    assert clamped(600, None) == 600
    assert clamped(None, 5) == 5
    assert clamped(3, 5) == 3
    timeout = clamped(library.Timeout(10.0, connect=2.0), 5)
    assert timeout == library.Timeout(5.0, connect=2.0)
    assert clamped(library.Timeout(None), 5) == library.Timeout(5.0)
