"""ollama: spliced into ``_request`` and ``_request_raw`` (0.3: ``_request`` and ``_stream``) of both clients.

The client has no retries of its own. Its streams are generators that begin at the first ``next()``; so are ours.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from types import ModuleType
from typing import Any

from stormproof.clients import deletes
from stormproof.clients.facts import several, taken
from stormproof.clients.patching import Splices, begin, harmless, protecting
from stormproof.clients.streams import EXHAUSTED, AsyncReader, Reader, each_async
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

#: Seconds. The client's own default is no timeout at all; a frozen server would hold a call for ever.
_TIMEOUT = 600.0
_BUSY = 503
_STREAM_ENDED_WITH_ERROR = -1  # ResponseError.status_code of an error line inside a stream
_SPECIAL_STATUSES = {409: (Weight.SUCCESS, Retry.NEVER)}

_OPERATIONS = {
    "/api/chat": "chat",
    "/api/generate": "text_completion",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/api/tags": "list",
}
#: The others are called as the client's methods are.
_METHODS = frozenset(
    ("show", "ps", "pull", "push", "create", "copy", "delete", "web_search", "web_fetch", "systemone", "version")
)
_ANSWERS = ("chat", "text_completion", "embeddings")
_REQUEST_FACTS = frozenset(("model", "dimensions"))
_OPTIONS = frozenset(("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty"))


class Ollama:
    """How to read ollama's calls, results and errors."""

    system = "ollama"

    def classify(self, error: BaseException) -> Verdict:
        name = type(error).__name__
        if name == "ResponseError":
            return _response_error_verdict(error)
        # ConnectionError hides httpx's error, but keeps it as its context.
        verdict = error_verdict(error) or (error_verdict(error.__context__) if error.__context__ else None)
        if verdict is not None:
            return verdict
        if isinstance(error, ConnectionError):
            return Verdict(Weight.FAILURE, Retry.ALWAYS, error_type=name)
        if isinstance(error, (ValueError, AttributeError, TypeError)):  # the server answered, but not as expected
            return Verdict(Weight.SUCCESS, error_type=name)
        return Verdict(Weight.IGNORED, error_type=name)

    def response_facts(self, call: Call, result: Any) -> Facts:
        if hasattr(result, "is_success") and call.operation in _ANSWERS:  # 0.3 hands httpx's response on
            result = result.json()
        return self.answer_facts(call, result)

    def request_facts(self, operation: str, body: dict[str, Any]) -> Facts:
        return _request_facts(body)

    def answer_facts(self, call: Call, answer: Any) -> Facts:
        return _facts_of(answer)

    def observe(self, operation: Operation, item: Any) -> None:
        if item.get("done"):
            operation.facts.update(_facts_of(item))

    def is_open(self, call: Call, result: Any) -> bool:
        return call.streaming

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        import ollama

        # Those who expect a status catch the one, those who expect that there may be no server the other.
        bases = (ollama.ResponseError, ConnectionError)
        error: Exception = refused_type(refusal, "Ollama", bases)(refused_message(refusal, target.name), 503)
        error.target = target.name  # type: ignore[attr-defined]
        return error


def patch(module: ModuleType, runner: Runner) -> Splices:
    """Splice into ollama. ``module`` is the imported ``ollama._client``."""
    requests = _Requests(_client(runner), runner)
    splices = Splices()
    splices.add(module.Client, "_request", requests.run)
    splices.add(module.AsyncClient, "_request", requests.run_async)
    if hasattr(module.Client, "_request_raw"):  # since 0.4
        splices.add(module.Client, "_request_raw", requests.run)
        splices.add(module.AsyncClient, "_request_raw", requests.run_async)
    else:
        splices.add(module.Client, "_stream", requests.stream)
        splices.add(module.AsyncClient, "_stream", requests.awaited_stream)
    return splices


def _client(runner: Runner) -> Ollama:
    if not runner.keeps_content:
        return Ollama()
    from stormproof.clients.ollama_content import OllamaWithContent

    return OllamaWithContent()


class _Requests:
    """What takes the place of the clients' request methods."""

    def __init__(self, client: Ollama, runner: Runner) -> None:
        self._client = client
        self._runner = runner

    def run(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("stream"):
            return self.stream(functools.partial(original, stream=True), api, args, _without_stream(kwargs))
        operation = begin(self._runner, self._describe, api, args, kwargs)
        if operation is None:
            return original(api, *args, **kwargs)

        def send(operation: Operation, attempt: Attempt) -> Any:
            new_args, new_kwargs = harmless(_prepared, api, args, kwargs, operation, otherwise=(args, kwargs))
            try:
                with protecting():
                    return original(api, *new_args, **new_kwargs)
            except Exception as error:
                done = harmless(_done_before, operation, error, otherwise=())
                if not done:
                    raise
                return done[0]

        return self._runner.run(operation, send)

    async def run_async(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("stream"):
            return self.stream_async(functools.partial(original, stream=True), api, args, _without_stream(kwargs))
        operation = begin(self._runner, self._describe, api, args, kwargs)
        if operation is None:
            return await original(api, *args, **kwargs)

        async def send(operation: Operation, attempt: Attempt) -> Any:
            new_args, new_kwargs = harmless(_prepared, api, args, kwargs, operation, otherwise=(args, kwargs))
            try:
                with protecting():
                    return await original(api, *new_args, **new_kwargs)
            except Exception as error:
                done = harmless(_done_before, operation, error, otherwise=())
                if not done:
                    raise
                return done[0]

        return await self._runner.run_async(operation, send)

    def stream(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        def send(operation: Operation, attempt: Attempt) -> list[Any]:
            new_args, new_kwargs = harmless(_prepared, api, args, kwargs, operation, otherwise=(args, kwargs))
            with protecting():
                items = original(api, *new_args, **new_kwargs)
                return [items, next(items, EXHAUSTED)]

        bare = functools.partial(original, api, *args, **kwargs)
        return _read(self._runner, self._client, self._describing(api, args, kwargs), send, bare)

    def stream_async(
        self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        async def send(operation: Operation, attempt: Attempt) -> list[Any]:
            new_args, new_kwargs = harmless(_prepared, api, args, kwargs, operation, otherwise=(args, kwargs))
            with protecting():
                items = await original(api, *new_args, **new_kwargs)
                return [items, await anext(items, EXHAUSTED)]

        bare = functools.partial(original, api, *args, **kwargs)
        return _read_async(self._runner, self._client, self._describing(api, args, kwargs), send, bare)

    def _describing(self, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Call]:
        """Of a stream, which is asked for here and begins later, perhaps elsewhere."""
        return functools.partial(self._describe, api, args, kwargs, self._runner.capture())

    async def awaited_stream(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """0.3 awaits its stream before it iterates."""
        return self.stream_async(original, api, args, kwargs)

    def _describe(
        self, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any], origin: Mapping[str, Any] | None = None
    ) -> Call:
        path = next((a for a in args if isinstance(a, str) and "/" in a), str(kwargs.get("url", "")))
        body = kwargs.get("json") or {}
        host, port = address(path) if "://" in path else address_of(api._client.base_url)
        operation = _operation_name(path, is_check="HEAD" in args)
        facts = {} if self._runner.listeners.is_idle else self._client.request_facts(operation, body)
        rewind_to = rewind_points(kwargs.get("content"))
        return Call(
            client=self._client,
            operation=operation,
            host=host,
            port=port,
            subject=facts.get("model"),
            streaming=bool(body.get("stream")),
            attempts=1 if rewind_to is None else None,
            facts=facts,
            own={"rewind_to": rewind_to or []},
            **(origin or {}),
        )


# -- streams: generators, as the client's own. No name of theirs holds an item while they wait for the next -----------


def _read(
    runner: Runner, client: Ollama, describe: Callable[[], Call], send: Any, bare: Callable[[], Any]
) -> Iterator[Any]:
    operation = begin(runner, describe)
    if operation is None:  # could not be described, which was reported: the stream as it is
        yield from bare()
        return
    opened = runner.run(operation, send)
    operation = operation.live
    if operation.is_over:  # a fallback's value: what the app is to iterate over
        yield from opened
        return
    reader = Reader(operation, opened[0], client.observe)
    try:
        if opened[1] is not EXHAUSTED:
            yield reader.took(opened.pop())
        yield from reader
    finally:
        reader.close()


async def _read_async(
    runner: Runner, client: Ollama, describe: Callable[[], Call], send: Any, bare: Callable[[], Any]
) -> AsyncIterator[Any]:
    operation = begin(runner, describe)
    opened = await bare() if operation is None else await runner.run_async(operation, send)
    operation = operation and operation.live
    if operation is None or operation.is_over:
        async for item in each_async(opened):
            yield item
        return
    reader = AsyncReader(operation, opened[0], client.observe)
    try:
        if opened[1] is not EXHAUSTED:
            yield reader.took(opened.pop())
        with suppress(StopAsyncIteration):
            while True:
                yield await reader.__anext__()
    finally:
        await reader.aclose()


# -- the request ---------------------------------------------------------------------------------------------------


def _without_stream(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "stream"}


def _operation_name(path: str, *, is_check: bool) -> str:
    if path in _OPERATIONS:
        return _OPERATIONS[path]
    name = path.rpartition("/")[2]
    if "/blobs/" in path:
        return "check_blob" if is_check else "create_blob"
    return name if name in _METHODS else "_OTHER"


def _request_facts(body: dict[str, Any]) -> Facts:
    facts = taken(body, _REQUEST_FACTS)
    facts["provider"] = "ollama"
    if not facts.get("model"):  # 0.3 calls a model that is not asked but managed a name
        facts |= taken({"model": body.get("name")}, _REQUEST_FACTS)
    if body.get("stream") is True:
        facts["stream"] = True
    if body.get("format"):  # "json", or a schema
        facts["output_type"] = "json"
    options = body.get("options")
    if not options:
        return facts
    facts |= taken(options, _OPTIONS)
    if isinstance(options.get("num_predict"), int):
        facts["max_tokens"] = options["num_predict"]
    if options.get("stop"):
        facts["stop_sequences"] = several(options["stop"])
    return facts


def _prepared(
    api: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operation: Operation | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one attempt: a timeout that ends, a file from its beginning, and where to send it."""
    if operation is None:
        return args, kwargs
    endpoint = operation.call.endpoint
    if operation.attempts > 1 or endpoint is not None:
        rewind(operation.call.own["rewind_to"])
    if endpoint is not None:
        headers = headers_elsewhere(operation.call.headers, kwargs.get("headers"))
        kwargs = {**kwargs, "auth": None, "headers": headers}
        args = tuple(endpoint.rstrip("/") + a if isinstance(a, str) and a.startswith("/") else a for a in args)
    own = kwargs.get("timeout", api._client.timeout)
    limit = operation.attempt_timeout
    if limit is None and getattr(own, "read", own) is None:
        limit = _TIMEOUT
    return args, kwargs if limit is None else {**kwargs, "timeout": clamped(own, limit)}


def _done_before(operation: Operation, error: Exception) -> tuple[Any, ...]:
    """The answer to a delete that an earlier attempt has carried out, in a tuple; an empty one if that is not so."""
    is_done = operation.call.operation == "delete" and deletes.is_done(operation, error)
    return (deletes.ollama_answer(error),) if is_done else ()


# -- the answer ----------------------------------------------------------------------------------------------------


def _facts_of(result: Any) -> Facts:
    get = getattr(result, "get", None)
    if get is None:  # an httpx response of a call without a body of interest
        return {}
    facts: Facts = {}
    for fact, key in (
        ("response_model", "model"),
        ("input_tokens", "prompt_eval_count"),
        ("output_tokens", "eval_count"),
    ):
        value = get(key)
        if isinstance(value, (str, int)):
            facts[fact] = value
    if get("done_reason"):
        facts["finish_reasons"] = [get("done_reason")]
    return facts


# -- errors --------------------------------------------------------------------------------------------------------


def _response_error_verdict(error: Any) -> Verdict:
    if error.status_code == _STREAM_ENDED_WITH_ERROR:
        return Verdict(Weight.FAILURE, error_type="ResponseError")
    headers = getattr(getattr(error.__context__, "response", None), "headers", {})
    verdict = status_verdict(error.status_code, headers, _SPECIAL_STATUSES)
    if verdict.hint is not None and verdict.status == _BUSY:  # and it says until when: not broken
        return replace(verdict, weight=Weight.IGNORED)
    return verdict
