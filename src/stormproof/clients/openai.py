"""openai: spliced into ``SyncAPIClient.request`` and ``AsyncAPIClient.request``, which every HTTP call passes.

The client's own retries are taken over: each attempt runs with ``max_retries=0`` on a copy of its options.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import Any

from stormproof.clients import deletes
from stormproof.clients.openai_answers import answer_facts, observe, raw_answer
from stormproof.clients.openai_calls import body_of, is_replay_safe, request_facts, request_of
from stormproof.clients.patching import Splices, begin, harmless
from stormproof.clients.streams import EXHAUSTED, AsyncReader, Observe, Reader, Watch, watch_close, watch_response
from stormproof.clients.transport import (
    address,
    address_of,
    clamped,
    error_verdict,
    headers_elsewhere,
    rewind,
    rewind_points,
    status_verdict,
)
from stormproof.errors import refused_message, refused_type
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Refusal, Retry, Verdict, Weight
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Target

_DEFAULT_MAX_RETRIES = 2  # a client-level value of 2 cannot be told from the default
_RATE_LIMITED = 429
_NO_MORE_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
_SPECIAL_STATUSES = {409: (Weight.IGNORED, Retry.ALWAYS)}


class OpenAI:
    """How to read openai's calls, results and errors."""

    system = "openai"
    request_facts = staticmethod(request_facts)
    observe = staticmethod(observe)

    def classify(self, error: BaseException) -> Verdict:
        name = type(error).__name__
        response = getattr(error, "response", None)
        if response is not None and _is_a(error, "APIStatusError"):
            return _status_verdict(error, response)
        cause = error.__cause__ if _is_a(error, "APIConnectionError") else error
        verdict = error_verdict(cause) if cause is not None else None
        if verdict is not None:
            return verdict
        if _is_a(error, "APIConnectionError"):
            return Verdict(Weight.FAILURE, Retry.IF_REPLAY_SAFE, error_type=name)
        if _is_a(error, "APIResponseValidationError") or name in _FINISHED_BADLY:
            return Verdict(Weight.SUCCESS, error_type=name)
        if _is_a(error, "APIError"):  # an error event inside a stream
            return Verdict(Weight.FAILURE, error_type=getattr(error, "code", None) or name)
        return Verdict(Weight.IGNORED, error_type=name)

    def response_facts(self, call: Call, result: Any) -> Facts:
        response = _http_response(result)
        return self.answer_facts(call, result) if response is None else self.raw_facts(call, response)

    def raw_facts(self, call: Call, response: Any) -> Facts:
        return self.answer_facts(call, raw_answer(call, response))

    def answer_facts(self, call: Call, answer: Any) -> Facts:
        return answer_facts(answer)

    def is_open(self, call: Call, result: Any) -> bool:
        if _is_model(result.__class__):
            return False
        if isinstance(result, tuple) or hasattr(result, "_iterator"):
            return True
        response = _http_response(result)
        return response is not None and not response.is_closed

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        method, url = call.own["request"]
        if "://" not in url:
            url = f"{str(call.own['base_url']).rstrip('/')}/{url.lstrip('/')}"
        return _refused_error(target.name, (method, url), refusal)


_FINISHED_BADLY = ("LengthFinishReasonError", "ContentFilterFinishReasonError")


def patch(module: ModuleType, runner: Runner) -> Splices:
    """Splice into openai. ``module`` is the imported ``openai._base_client``."""
    requests = _Requests(_client(runner), runner)
    splices = Splices()
    splices.add(module.SyncAPIClient, "request", requests.run)
    splices.add(module.AsyncAPIClient, "request", requests.run_async)
    return splices


def _client(runner: Runner) -> OpenAI:
    if not runner.keeps_content:
        return OpenAI()
    from stormproof.clients.openai_content import OpenAIWithContent

    return OpenAIWithContent()


class _Requests:
    """What takes the place of ``request``. A stream is reopened if it fails before its first item."""

    def __init__(self, client: OpenAI, runner: Runner) -> None:
        self._client = client
        self._runner = runner

    def run(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = begin(self._runner, self._describe, api, args, kwargs)
        if operation is None:
            return original(api, *args, **kwargs)

        def send(operation: Operation, attempt: Attempt) -> Any:
            new_args, new_kwargs = harmless(_prepared, api, args, kwargs, operation, attempt, otherwise=(args, kwargs))
            try:
                return _numbered(original(api, *new_args, **new_kwargs), attempt)
            except Exception as error:
                done = harmless(_done_before, operation, error, args, kwargs, otherwise=())
                if not done:
                    raise
                return done[0]

        def reopen(operation: Operation, attempt: Attempt) -> tuple[Any, Iterator[Any]]:
            items = _replaced(result, send(operation, attempt))
            return next(items, EXHAUSTED), items

        result = self._runner.run(operation, send)
        operation = operation.live
        if not operation.is_over:
            retry = functools.partial(self._runner.resume, operation, reopen)
            harmless(_watch, self._client, result, operation, retry, Reader, otherwise=None)
        return result

    async def run_async(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = begin(self._runner, self._describe, api, args, kwargs)
        if operation is None:
            return await original(api, *args, **kwargs)

        async def send(operation: Operation, attempt: Attempt) -> Any:
            new_args, new_kwargs = harmless(_prepared, api, args, kwargs, operation, attempt, otherwise=(args, kwargs))
            try:
                return _numbered(await original(api, *new_args, **new_kwargs), attempt)
            except Exception as error:
                done = harmless(_done_before, operation, error, args, kwargs, otherwise=())
                if not done:
                    raise
                return done[0]

        async def reopen(operation: Operation, attempt: Attempt) -> tuple[Any, AsyncIterator[Any]]:
            items = _replaced(result, await send(operation, attempt))
            return await anext(items, EXHAUSTED), items

        result = await self._runner.run_async(operation, send)
        operation = operation.live
        if not operation.is_over:
            retry = functools.partial(self._runner.resume_async, operation, reopen)
            harmless(_watch, self._client, result, operation, retry, AsyncReader, otherwise=None)
        return result

    def _describe(self, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        options = _options(args, kwargs)
        host, port = address(options.url) if "://" in options.url else address_of(api.base_url)
        request, body = request_of(options.method, options.url), body_of(options)
        facts = {} if self._runner.listeners.is_idle else self._client.request_facts(api, request, options.url, body)
        per_request, per_client = _explicit_attempts(options.max_retries), _attempts_of_client(api)
        rewind_to = _rewind_points(options)
        return Call(
            client=self._client,
            operation=request.operation,
            host=host,
            port=port,
            subject=facts.get("model"),
            replay_safe=per_request is not None or per_client is not None or is_replay_safe(request, body),
            streaming=bool(kwargs.get("stream")),
            attempts=1 if rewind_to is None else per_request,
            client_attempts=per_client,
            facts=facts,
            own={
                "request": (options.method, options.url),
                "base_url": api.base_url,
                "rewind_to": rewind_to or [],
                "is_official": request.operation != request.template,
            },
        )


# -- the request --------------------------------------------------------------------------------------------------


def _rewind_points(options: Any) -> list[tuple[Any, int]] | None:
    given = vars(options)  # asking a model for what it has not is dear
    content, files = given.get("content"), given.get("files")
    return [] if content is None and files is None else rewind_points([content, files])


def _options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kwargs["options"] if "options" in kwargs else args[1]


def _explicit_attempts(max_retries: Any) -> int | None:
    """What the user asked for with ``max_retries``; None if nothing."""
    return max_retries + 1 if isinstance(max_retries, int) else None


def _attempts_of_client(api: Any) -> int | None:
    """As :func:`_explicit_attempts`, by the client's own setting; also by that of ``with_options``, which copies it."""
    return None if api.max_retries == _DEFAULT_MAX_RETRIES else _explicit_attempts(api.max_retries)


def _prepared(
    api: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operation: Operation, attempt: Attempt
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one attempt, with a changed copy of the options: paginators use the original again."""
    options = _copy(_options(args, kwargs))
    options.max_retries = 0
    if options.idempotency_key is None and options.method.lower() != "get":
        options.idempotency_key = _idempotency_key(api, operation)
    if attempt.number > 1 or operation.call.endpoint is not None:
        rewind(operation.call.own["rewind_to"])
    if attempt.number > 1:
        headers = options.headers if isinstance(options.headers, Mapping) else {}
        if not any(name.lower() == "x-stainless-retry-count" for name in headers):
            options.headers = {**headers, "x-stainless-retry-count": str(attempt.number - 1)}
    if operation.call.endpoint is not None:
        options.url = operation.call.endpoint.rstrip("/") + options.url
        own = options.headers if isinstance(options.headers, Mapping) else {}
        options.headers = headers_elsewhere(operation.call.headers, own, api.default_headers)
    limit = operation.attempt_timeout
    if limit is not None:
        given = options.timeout
        options.timeout = clamped(api.timeout if type(given).__name__ == "NotGiven" else given, limit)
    if "options" in kwargs:
        return args, {**kwargs, "options": options}
    return (args[0], options, *args[2:]), kwargs


def _copy(options: Any) -> Any:
    return options.model_copy() if hasattr(options, "model_copy") else options.copy()


def _idempotency_key(api: Any, operation: Operation) -> str:
    """One key for all attempts; made by the client, at the first."""
    own = operation.call.own
    if "idempotency_key" not in own:
        own["idempotency_key"] = api._idempotency_key()
    key: str = own["idempotency_key"]
    return key


def _done_before(
    operation: Operation, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """The answer to a delete that an earlier attempt has carried out, in a tuple; an empty one if that is not so."""
    options = _options(args, kwargs)
    if options.method.lower() != "delete" or not deletes.is_done(operation, error):
        return ()
    with suppress(deletes.NothingKnownError):
        return (deletes.openai_answer(kwargs["cast_to"] if "cast_to" in kwargs else args[0], options),)
    return ()


# -- the answer ---------------------------------------------------------------------------------------------------


def _numbered(result: Any, attempt: Attempt) -> Any:
    """A raw response tells how many retries were taken: ours, now."""
    if attempt.number > 1 and hasattr(result, "retries_taken"):
        result.retries_taken = attempt.number - 1
    return result


@lru_cache(maxsize=512)
def _is_model(kind: type) -> bool:
    """Whether results of this type are answers in full: asking one of pydantic's models for what it has not is dear."""
    return hasattr(kind, "__pydantic_fields_set__")


def _http_response(result: Any) -> Any:
    """The httpx response that a result stands on, if it stands on one."""
    if _is_model(result.__class__):
        return None
    response = getattr(result, "http_response", None) or getattr(result, "response", result)
    return response if hasattr(response, "is_closed") else None


def _watch(client: OpenAI, result: Any, operation: Operation, retry: Any, reader_type: Any) -> None:
    if hasattr(result, "_iterator"):
        reader = reader_type(operation, result._iterator, client.observe, retry)
        result._iterator = reader
        watch_close(result.response, reader.closed)  # helpers of the client do that behind the stream's back
        return
    watch = watch_response(_http_response(result), operation, functools.partial(client.raw_facts, operation.call))
    if hasattr(result, "parse"):
        vars(result)["parse"] = _parsing(result.parse, watch, client.observe)


def _parsing(parse: Any, watch: Watch, observe: Observe) -> Any:
    """A raw response makes its stream only when it is asked to: then the items are watched instead of the bytes."""

    def watched(parsed: Any) -> Any:
        if hasattr(parsed, "_iterator"):
            parsed._iterator = watch.items(parsed._iterator, observe)
        return parsed

    @functools.wraps(parse)
    def parse_watched(*args: Any, **kwargs: Any) -> Any:
        parsed = parse(*args, **kwargs)
        return harmless(watched, parsed, otherwise=parsed)

    @functools.wraps(parse)
    async def parse_watched_async(*args: Any, **kwargs: Any) -> Any:
        parsed = await parse(*args, **kwargs)
        return harmless(watched, parsed, otherwise=parsed)

    return parse_watched_async if inspect.iscoroutinefunction(parse) else parse_watched


def _replaced(stream: Any, new: Any) -> Any:
    """Let the stream that the app holds go on with the answer of a new one; returns the new one's iterator."""
    stream.response = new.response
    watch_close(new.response, stream._iterator.closed)
    return new._iterator


# -- errors -------------------------------------------------------------------------------------------------------


def _is_a(error: BaseException, name: str) -> bool:
    """Whether the error is of openai's class ``name``, without importing openai here."""
    return any(c.__name__ == name and c.__module__.startswith("openai") for c in type(error).__mro__)


def _status_verdict(error: Any, response: Any) -> Verdict:
    verdict = status_verdict(response.status_code, response.headers, _SPECIAL_STATUSES)
    if verdict.status != _RATE_LIMITED:
        return verdict
    if error.code in _NO_MORE_MONEY or error.type in _NO_MORE_MONEY:
        name = str(error.code or error.type)
        return replace(verdict, retry=Retry.NEVER, error_type=name, hint=None, rate_limited=False)
    return verdict if verdict.hint is not None else replace(verdict, hint=_reset_hint(response.headers))


def _reset_hint(headers: Mapping[str, str]) -> float | None:
    """Seconds from ``x-ratelimit-reset-requests`` or ``-tokens`` ("1s", "6m0s", "120ms"), the longer of the two."""
    waits = [_span(headers.get(f"x-ratelimit-reset-{what}", "")) for what in ("requests", "tokens")]
    return max((wait for wait in waits if wait is not None), default=None)


def _span(text: str) -> float | None:
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    return sum(float(n) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for n, unit in parts) if parts else None


def _refused_error(target: str, request: tuple[str, str], refusal: Refusal) -> Exception:
    import openai

    base = sys.modules["openai._base_client"]
    request_type = (getattr(base, "httpx2", None) or base.httpx).Request
    error: Exception = refused_type(refusal, "OpenAI", (openai.APIConnectionError,))(
        message=refused_message(refusal, target), request=request_type(request[0].upper(), request[1])
    )
    error.target = target  # type: ignore[attr-defined]
    return error
