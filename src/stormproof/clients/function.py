"""Functions of the user's own: what their errors mean, whichever library raised them.

None of the libraries is imported: an error is known by its class's name and package, by the HTTP status that it
carries, or as one of Python's own. All others are taken for bugs, or for answers, and say nothing about the target.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stormproof.clients.patching import harmless
from stormproof.clients.transport import error_verdict, status_verdict
from stormproof.errors import REFUSALS, RefusedError, refused_message
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.outcome import Refusal, Retry, Verdict, Weight
from stormproof.resilience.targets import OWN, Target

#: What the user says of an error: True: try again, False: do not, None: as the table here has it.
RetryIf = Callable[[Exception], "bool | None"]

_NOT_SENT = Verdict(Weight.FAILURE, Retry.ALWAYS)
_PERHAPS_CARRIED_OUT = Verdict(Weight.FAILURE, Retry.IF_REPLAY_SAFE)
_TIMED_OUT = replace(_PERHAPS_CARRIED_OUT, timed_out=True)

#: By package and name of the error's class. Those that wrap another error are looked into first.
_ERRORS: Mapping[tuple[str, str], Verdict] = {
    ("requests", "ConnectTimeout"): _NOT_SENT,
    ("requests", "Timeout"): _TIMED_OUT,
    ("requests", "ConnectionError"): _PERHAPS_CARRIED_OUT,
    ("requests", "ChunkedEncodingError"): _PERHAPS_CARRIED_OUT,
    ("urllib3", "NewConnectionError"): _NOT_SENT,
    ("urllib3", "ConnectTimeoutError"): _NOT_SENT,
    ("urllib3", "MaxRetryError"): _PERHAPS_CARRIED_OUT,
    ("urllib3", "ProtocolError"): _PERHAPS_CARRIED_OUT,
    ("urllib3", "ProxyError"): _PERHAPS_CARRIED_OUT,
    ("urllib3", "TimeoutError"): _TIMED_OUT,
    ("aiohttp", "ClientConnectorError"): _NOT_SENT,
    ("aiohttp", "ConnectionTimeoutError"): _NOT_SENT,
    ("aiohttp", "ServerTimeoutError"): _TIMED_OUT,
    ("aiohttp", "ClientConnectionError"): _PERHAPS_CARRIED_OUT,
    ("aiohttp", "ClientPayloadError"): _PERHAPS_CARRIED_OUT,
    ("urllib", "URLError"): _PERHAPS_CARRIED_OUT,
    ("http", "HTTPException"): _PERHAPS_CARRIED_OUT,
    ("socket", "gaierror"): _NOT_SENT,
    ("builtins", "ConnectionRefusedError"): _NOT_SENT,
    ("builtins", "ConnectionError"): _PERHAPS_CARRIED_OUT,
    ("builtins", "TimeoutError"): _TIMED_OUT,
    ("asyncio", "TimeoutError"): _TIMED_OUT,  # Python 3.10 has one for each
    ("concurrent", "TimeoutError"): _TIMED_OUT,
}
_WRAPPERS = (("requests", "ConnectionError"), ("urllib3", "MaxRetryError"), ("urllib", "URLError"))
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
_DEEPEST = 5

_FIRST_ERROR_STATUS, _LAST_ERROR_STATUS = 400, 599


class Function:
    """How to read the errors of one protected function; its results say nothing."""

    system = OWN

    def __init__(self, retry_if: RetryIf | None = None) -> None:
        self._retry_if = retry_if

    def classify(self, error: BaseException) -> Verdict:
        verdict = _verdict(error)
        if isinstance(error, RefusedError):
            return verdict
        wanted = None if self._retry_if is None else harmless(self._ask, error, otherwise=None)
        if wanted is None:
            return verdict
        if not wanted:
            return replace(verdict, retry=Retry.NEVER)
        # What the table does not know is a failure of the target if another attempt is said to help.
        is_known = verdict.status is not None or verdict.weight is not Weight.IGNORED
        return replace(verdict, retry=Retry.WANTED, weight=verdict.weight if is_known else Weight.FAILURE)

    def _ask(self, error: Any) -> bool | None:
        return self._retry_if(error)  # type: ignore[misc]  # asked only if there is one

    def response_facts(self, call: Call, result: Any) -> Facts:
        return {}

    def is_open(self, call: Call, result: Any) -> bool:
        return call.streaming

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        error = REFUSALS[refusal][0](refused_message(refusal, target.name))
        error.target = target.name
        return error


def _verdict(error: BaseException) -> Verdict:
    name = type(error).__name__
    if isinstance(error, RefusedError):  # of another target inside: it was not sent, and will not be now
        return Verdict(Weight.IGNORED, error_type=name)
    status, headers = _answer(error)
    if status is not None:
        return status_verdict(status, headers)
    verdict = error_verdict(error) or _known(error, _DEEPEST)
    return replace(verdict or Verdict(Weight.IGNORED), error_type=name)


def _known(error: BaseException, depth: int) -> Verdict | None:
    """What is known of such an error by name; None if nothing."""
    for cls in type(error).__mro__:
        key = (cls.__module__.partition(".")[0], cls.__name__)
        if key in _ERRORS:
            inner = _wrapped(error) if key in _WRAPPERS and depth else None
            return (_known(inner, depth - 1) if inner is not None else None) or _ERRORS[key]
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return _NOT_SENT
    return None


def _wrapped(error: BaseException) -> BaseException | None:
    parts = (getattr(error, "reason", None), *error.args)
    return next((part for part in parts if isinstance(part, BaseException)), None)


def _answer(error: BaseException) -> tuple[int | None, Mapping[str, str]]:
    """The HTTP status and headers that an error carries, itself or as its ``response``; None if it carries none."""
    response = getattr(error, "response", None)
    for carrier, attribute in (
        (response, "status_code"),
        (response, "status"),
        (error, "status_code"),
        (error, "status"),
        (error, "code"),  # urllib's
    ):
        status = getattr(carrier, attribute, None)
        if type(status) is int and _FIRST_ERROR_STATUS <= status <= _LAST_ERROR_STATUS:
            headers = getattr(carrier, "headers", None)
            return status, harmless(_lower, headers, otherwise={}) if headers is not None else {}
    return None, {}


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}
