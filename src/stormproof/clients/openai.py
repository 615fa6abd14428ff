"""openai: spliced into ``SyncAPIClient.request`` and ``AsyncAPIClient.request``, which every HTTP call passes.

The client's own retries are taken over: each attempt runs with ``max_retries=0`` on a copy of its options.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from stormproof.clients.patching import Splices, begin, harmless
from stormproof.clients.streams import EXHAUSTED, AsyncReader, Reader, then, then_async, watch_response
from stormproof.clients.transport import (
    address,
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

#: The official operation names; every other path names itself (``post files/{id}``).
_OPERATIONS = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
}
#: POSTs that leave nothing behind on the server. ``/responses`` counts among them only with ``store=False``.
_WITHOUT_TRACE = ("/chat/completions", "/completions", "/embeddings", "/moderations", "/audio/", "/images/")
_ID = re.compile(r"^(?:[a-z]+[-_](?=.*\d)[\w-]+|[0-9a-f-]{16,}|ft:.+|.*\d{4,}.*)$", re.IGNORECASE)
_REQUEST_FACTS = (
    "model",
    "temperature",
    "top_p",
    "max_tokens",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "dimensions",
)


class OpenAI:
    """How to read openai's calls, results and errors."""

    system = "openai"

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
        facts: Facts = {}
        _add_identity(facts, result)
        _add_usage(facts, getattr(result, "usage", None))
        choices = getattr(result, "choices", None)
        if choices:
            facts["finish_reasons"] = [choice.finish_reason for choice in choices]
        return facts

    def is_open(self, call: Call, result: Any) -> bool:
        if isinstance(result, tuple) or hasattr(result, "_iterator"):
            return True
        response = _http_response(result)
        return response is not None and not response.is_closed

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        return _refused_error(target.name, call.own["request"], refusal)


_FINISHED_BADLY = ("LengthFinishReasonError", "ContentFilterFinishReasonError")


def patch(module: ModuleType, runner: Runner) -> Splices:
    """Splice into openai. ``module`` is the imported ``openai._base_client``."""
    requests = _Requests(runner)
    splices = Splices()
    splices.add(module.SyncAPIClient, "request", requests.run)
    splices.add(module.AsyncAPIClient, "request", requests.run_async)
    return splices


class _Requests:
    """What takes the place of ``request``. A stream is reopened if it fails before its first item."""

    def __init__(self, runner: Runner) -> None:
        self._client = OpenAI()
        self._runner = runner

    def run(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = begin(self._runner, _describe, self._client, api, args, kwargs)
        if operation is None:
            return original(api, *args, **kwargs)

        def send(operation: Operation, attempt: Attempt) -> Any:
            new_args, new_kwargs = harmless(_prepared, api, args, kwargs, operation, attempt, otherwise=(args, kwargs))
            return _numbered(original(api, *new_args, **new_kwargs), attempt)

        def reopen(operation: Operation, attempt: Attempt) -> tuple[Any, Iterator[Any]]:
            items = _replaced(result, send(operation, attempt))
            return next(items, EXHAUSTED), items

        result = self._runner.run(operation, send)
        operation = operation.live
        if not operation.is_over:
            retry = functools.partial(self._runner.resume, operation, reopen)
            harmless(_watch, result, operation, retry, Reader, otherwise=None)
        return result

    async def run_async(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = begin(self._runner, _describe, self._client, api, args, kwargs)
        if operation is None:
            return await original(api, *args, **kwargs)

        async def send(operation: Operation, attempt: Attempt) -> Any:
            new_args, new_kwargs = harmless(_prepared, api, args, kwargs, operation, attempt, otherwise=(args, kwargs))
            return _numbered(await original(api, *new_args, **new_kwargs), attempt)

        async def reopen(operation: Operation, attempt: Attempt) -> tuple[Any, AsyncIterator[Any]]:
            items = _replaced(result, await send(operation, attempt))
            return await anext(items, EXHAUSTED), items

        result = await self._runner.run_async(operation, send)
        operation = operation.live
        if not operation.is_over:
            retry = functools.partial(self._runner.resume_async, operation, reopen)
            harmless(_watch, result, operation, retry, AsyncReader, otherwise=None)
        return result


# -- the request --------------------------------------------------------------------------------------------------


def _describe(client: OpenAI, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    options = _options(args, kwargs)
    host, port = address(api.base_url)
    body = options.json_data if isinstance(options.json_data, dict) else {}
    explicit = _explicit_retries(api, options)
    rewind_to = rewind_points([getattr(options, "content", None), getattr(options, "files", None)])
    model = body.get("model")
    return Call(
        client=client,
        operation=_operation_name(options),
        host=host,
        port=port,
        subject=model if isinstance(model, str) else None,
        replay_safe=explicit is not None or _is_replay_safe(options, body),
        streaming=bool(kwargs.get("stream")),
        attempts=1 if rewind_to is None else None if explicit is None else explicit + 1,
        facts=_request_facts(api, body),
        own={"request": (options.method, str(api.base_url).rstrip("/") + options.url), "rewind_to": rewind_to or []},
    )


def _options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kwargs["options"] if "options" in kwargs else args[1]


def _explicit_retries(api: Any, options: Any) -> int | None:
    """What the user asked for with ``max_retries``, per request or per client; None if nothing."""
    if isinstance(options.max_retries, int):
        return options.max_retries
    retries: int = api.max_retries
    return retries if retries != _DEFAULT_MAX_RETRIES else None


def _operation_name(options: Any) -> str:
    path = options.url.partition("?")[0]
    if path in _OPERATIONS and options.method.lower() == "post":
        return _OPERATIONS[path]
    segments = ("{id}" if _ID.match(segment) else segment for segment in path.split("/") if segment)
    return f"{options.method.lower()} {'/'.join(segments)}"


def _is_replay_safe(options: Any, body: Mapping[str, Any]) -> bool:
    if options.method.lower() in ("get", "delete"):
        return True
    if options.url.startswith("/responses"):
        return body.get("store") is False and not body.get("conversation")
    return str(options.url).startswith(_WITHOUT_TRACE)


def _request_facts(api: Any, body: Mapping[str, Any]) -> Facts:
    facts: Facts = {fact: body[fact] for fact in _REQUEST_FACTS if isinstance(body.get(fact), (str, int, float))}
    facts["provider"] = "azure.ai.openai" if "Azure" in type(api).__name__ else "openai"
    if isinstance(body.get("max_completion_tokens"), int):
        facts["max_tokens"] = body["max_completion_tokens"]
    stop = body.get("stop")
    if stop:
        facts["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    if isinstance(body.get("n"), int) and body["n"] != 1:
        facts["choice_count"] = body["n"]
    if isinstance(body.get("encoding_format"), str):
        facts["encoding_formats"] = [body["encoding_format"]]
    return facts


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


# -- the answer ---------------------------------------------------------------------------------------------------


def _numbered(result: Any, attempt: Attempt) -> Any:
    """A raw response tells how many retries were taken: ours, now."""
    if attempt.number > 1 and hasattr(result, "retries_taken"):
        result.retries_taken = attempt.number - 1
    return result


def _http_response(result: Any) -> Any:
    """The httpx response that a result stands on, if it stands on one."""
    response = getattr(result, "http_response", None) or getattr(result, "response", result)
    return response if hasattr(response, "is_closed") else None


def _watch(result: Any, operation: Operation, retry: Any, reader_type: Any) -> None:
    if not hasattr(result, "_iterator"):
        watch_response(_http_response(result), operation)
        return
    reader = reader_type(operation, result._iterator, _observe, retry)
    result._iterator = reader
    _watch_close(result.response, reader)


def _replaced(stream: Any, new: Any) -> Any:
    """Let the stream that the app holds go on with the answer of a new one; returns the new one's iterator."""
    stream.response = new.response
    _watch_close(new.response, stream._iterator)
    return new._iterator


def _watch_close(response: Any, reader: Any) -> None:
    """Helpers of the client close the response itself, behind the stream's back."""
    if isinstance(reader, AsyncReader):
        vars(response)["aclose"] = then_async(response.aclose, reader.closed)
    else:
        vars(response)["close"] = then(response.close, reader.closed)


def _observe(operation: Operation, chunk: Any) -> None:
    facts = operation.facts
    if operation.items == 1:
        _add_identity(facts, chunk)
    choices = getattr(chunk, "choices", None)
    if choices and choices[0].finish_reason is not None:
        facts["finish_reasons"] = [choice.finish_reason for choice in choices]
    usage = getattr(chunk, "usage", None)
    if usage is not None:
        _add_usage(facts, usage)


def _add_identity(facts: Facts, answer: Any) -> None:
    for fact, attribute in (("response_id", "id"), ("response_model", "model")):
        value = getattr(answer, attribute, None)
        if isinstance(value, str):
            facts[fact] = value


def _add_usage(facts: Facts, usage: Any) -> None:
    """Tokens, whichever of the two vocabularies the endpoint has (chat's or responses')."""
    for fact, names in (
        ("input_tokens", ("prompt_tokens", "input_tokens")),
        ("output_tokens", ("completion_tokens", "output_tokens")),
    ):
        for name in names:
            value = getattr(usage, name, None)
            if isinstance(value, int):
                facts[fact] = value


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
