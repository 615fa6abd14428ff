"""What failures of HTTP mean, whichever client they come through: httpx and httpx2 errors, statuses, hints to wait."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from stormproof.resilience.outcome import Retry, Verdict, Weight

_TRANSPORTS = ("httpx", "httpx2")
_PORTS = {"http": 80, "https": 443}

_SERVER_ERRORS = 500
_TOO_MANY_REQUESTS = 429

_SURELY_NOT_SENT = (Weight.FAILURE, Retry.ALWAYS)
_PERHAPS_CARRIED_OUT = (Weight.FAILURE, Retry.IF_REPLAY_SAFE)
_LOCAL = (Weight.IGNORED, Retry.NEVER)

#: By the name of the error's class, the most special one first.
_ERRORS: Mapping[str, tuple[Weight, Retry]] = {
    "ConnectError": _SURELY_NOT_SENT,
    "ConnectTimeout": _SURELY_NOT_SENT,
    "PoolTimeout": (Weight.IGNORED, Retry.ALWAYS),
    "LocalProtocolError": _LOCAL,
    "UnsupportedProtocol": _LOCAL,
    "DecodingError": _LOCAL,
    "TooManyRedirects": _LOCAL,
    "InvalidURL": _LOCAL,
    "TimeoutException": _PERHAPS_CARRIED_OUT,
    "TransportError": _PERHAPS_CARRIED_OUT,
}

#: The server is alive and says what nobody understands.
_NO_JSON = (json.JSONDecodeError, UnicodeDecodeError)

_STATUSES: Mapping[int, tuple[Weight, Retry]] = {
    408: (Weight.IGNORED, Retry.ALWAYS),
    429: (Weight.IGNORED, Retry.ALWAYS),
    500: _SURELY_NOT_SENT,
    501: _LOCAL,
    502: _PERHAPS_CARRIED_OUT,
    503: _SURELY_NOT_SENT,
    504: _PERHAPS_CARRIED_OUT,
    505: _LOCAL,
    529: _SURELY_NOT_SENT,
}


def error_verdict(error: BaseException) -> Verdict | None:
    """The meaning of an httpx or httpx2 error, or of a body that is no JSON; None if it is neither."""
    if isinstance(error, _NO_JSON):
        return Verdict(Weight.SUCCESS, error_type=type(error).__name__)
    for cls in type(error).__mro__:
        if cls.__module__.partition(".")[0] in _TRANSPORTS and cls.__name__ in _ERRORS:
            weight, retry = _ERRORS[cls.__name__]
            # Without a connection the server cannot be busy with the call: that is a failure like any other.
            return Verdict(weight, retry, error_type=type(error).__name__, timed_out=cls.__name__ == "TimeoutException")
    return None


def status_verdict(
    status: int, headers: Mapping[str, str], special: Mapping[int, tuple[Weight, Retry]] | None = None
) -> Verdict:
    """The meaning of an HTTP error status. ``special`` is where a client differs from the common table."""
    if special is not None and status in special:
        weight, retry = special[status]
    elif status in _STATUSES:
        weight, retry = _STATUSES[status]
    elif status >= _SERVER_ERRORS:
        weight, retry = Weight.FAILURE, Retry.NEVER
    else:
        weight, retry = Weight.SUCCESS, Retry.NEVER  # the server is alive and says no
    should_retry = headers.get("x-should-retry")
    if should_retry in ("true", "false"):
        retry = Retry.ALWAYS if should_retry == "true" else Retry.NEVER
    hint = retry_after(headers)
    return Verdict(
        weight, retry, error_type=str(status), status=status, hint=hint, rate_limited=status == _TOO_MANY_REQUESTS
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: ``retry-after-ms``, or ``retry-after`` as seconds or HTTP date; else None."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or not text:
        return seconds
    try:
        # A date is on the wall clock, the only use of it; the wait made of it runs on the monotonic one.
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else math.nan
    except ValueError:
        return None
    return number if number >= 0 and math.isfinite(number) else None


def rewind_points(body: Any) -> list[tuple[Any, int]] | None:
    """Where the files in a request's body stand now; None if something in it is used up by being sent."""
    if body is None or isinstance(body, (str, bytes, bytearray)):
        return []
    if isinstance(body, Mapping):
        body = list(body.values())
    if isinstance(body, (list, tuple)):
        points = [rewind_points(part) for part in body]
        return None if None in points else [point for part in points for point in part or ()]
    try:
        return [(body, body.tell())] if body.seekable() else None
    except (AttributeError, OSError, ValueError):
        return None


def rewind(points: list[tuple[Any, int]]) -> None:
    """Put the files back to where they stood."""
    for file, position in points:
        file.seek(position)


#: What authenticates a caller, as the clients spell it.
_CREDENTIALS = ("Authorization", "api-key")


def headers_elsewhere(
    given: Mapping[str, str], own: Mapping[str, Any] | None = None, defaults: Iterable[str] = ()
) -> dict[str, Any]:
    """The headers for another server than the client's own: those given for it, never the client's credentials.

    ``own``: the request's; ``defaults``: names that the client would add, however they are spelled.
    """
    replaced = {name.lower(): (name, "") for name in _CREDENTIALS}
    replaced.update({name.lower(): (replaced.get(name.lower(), (name,))[0], value) for name, value in given.items()})
    headers = {name: value for name, value in (own or {}).items() if name.lower() not in replaced}
    headers.update({name: "" for name in defaults if name.lower() in replaced})
    return {**headers, **dict(replaced.values())}


def address(url: Any) -> tuple[str, int]:
    """(host, port) of a URL, which may be a string or an httpx URL. The path, query and credentials are left out."""
    parts = urlsplit(str(url))
    return parts.hostname or "unknown", parts.port or _PORTS.get(parts.scheme, 0)


#: Addresses of base URLs, by their ids; each with its URL, so that the id is not given to another.
_addresses: dict[int, tuple[Any, tuple[str, int]]] = {}
_MOST_ADDRESSES = 256


def address_of(base_url: Any) -> tuple[str, int]:
    """As :func:`address`, of a URL that a client keeps: it is taken apart only once."""
    known = _addresses.get(id(base_url))
    if known is not None and known[0] is base_url:
        return known[1]
    if len(_addresses) >= _MOST_ADDRESSES:  # an app that makes a client a call
        _addresses.clear()
    found = address(base_url)
    _addresses[id(base_url)] = (base_url, found)
    return found


def clamped(timeout: Any, limit: float | None) -> Any:
    """``timeout`` (seconds, None for no limit, or an httpx ``Timeout``) cut down to ``limit`` seconds."""
    if limit is None:
        return timeout
    if timeout is None or isinstance(timeout, (int, float)):
        return limit if timeout is None else min(timeout, limit)
    parts = {name: clamped(getattr(timeout, name), limit) for name in ("connect", "read", "write", "pool")}
    return type(timeout)(**parts)
