"""qdrant-client over REST: spliced into ``ApiClient.send``, and ``request`` for the URL's template and parameters."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from contextvars import ContextVar
from types import ModuleType, SimpleNamespace
from typing import Any

from opentelemetry.instrumentation.utils import suppress_instrumentation

from stormproof.clients import qdrant_operations as operations
from stormproof.clients import transport
from stormproof.clients.patching import Splices, begin, harmless, protecting
from stormproof.clients.qdrant_uploads import pass_uploader
from stormproof.clients.transport import address, clamped, error_verdict, headers_elsewhere, status_verdict
from stormproof.errors import refused_message, refused_type
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Refusal, Retry, Verdict, Weight
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Target

_SPECIAL_STATUSES = {409: (Weight.SUCCESS, Retry.NEVER)}
#: How the client speaks of a 429 whose hint is no whole number, such as a date.
_UNREAD_HINT = "Retry-After header value is not a valid integer: "

#: (method, template, path parameters) of the request that is being made, from ``request`` to ``send``.
_request: ContextVar[tuple[str, str, dict[str, Any]] | None] = ContextVar("stormproof_qdrant_request", default=None)
#: How many points, queries or operations it carries; only the API's functions have them before they are JSON.
_batch: ContextVar[int | None] = ContextVar("stormproof_qdrant_batch", default=None)

#: The functions of the REST API that take several at once, and what they are called.
_BATCHES = {
    "upsert_points": "upsert",
    "update_vectors": "update_vectors",
    "batch_update": "batch_update_points",
    "query_batch_points": "query_batch_points",
    "search_batch_points": "search_batch",
    "recommend_batch_points": "recommend_batch",
    "discover_batch_points": "discover_batch",
}


class Qdrant:
    """How to read qdrant-client's calls, results and errors."""

    system = "qdrant"

    def classify(self, error: BaseException) -> Verdict:
        name = type(error).__name__
        if name == "UnexpectedResponse":
            return status_verdict(error.status_code or 0, error.headers or {}, _SPECIAL_STATUSES)  # type: ignore[attr-defined]
        if name == "ResourceExhaustedResponse":
            return _rate_limited(str(error.retry_after_s))  # type: ignore[attr-defined]
        if name == "QdrantException" and str(error).startswith(_UNREAD_HINT):
            return _rate_limited(str(error).removeprefix(_UNREAD_HINT))
        source = getattr(error, "source", error)
        verdict = error_verdict(source)
        if verdict is not None:
            return verdict
        if name == "ResponseHandlingException":  # an answer came, but not one that the models understand
            return Verdict(Weight.SUCCESS, error_type=type(source).__name__)
        return Verdict(Weight.IGNORED, error_type=name)

    def response_facts(self, call: Call, result: Any) -> Facts:
        return {}

    def is_open(self, call: Call, result: Any) -> bool:
        return False

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        return _refused_error(target.name, refusal)


def _rate_limited(retry_after: str) -> Verdict:
    hint = transport.retry_after({"retry-after": retry_after})
    return Verdict(Weight.IGNORED, Retry.ALWAYS, "429", 429, hint, rate_limited=True)


def patch(module: ModuleType, runner: Runner) -> Splices:
    """Splice into the REST client. ``module`` is the imported ``qdrant_client.http.api_client``."""
    requests = _Requests(runner)
    splices = Splices()
    splices.add(module.ApiClient, "request", _remember_template)
    splices.add(module.AsyncApiClient, "request", _remember_template_async)
    splices.add(module.ApiClient, "send", requests.run)
    splices.add(module.AsyncApiClient, "send", requests.run_async)
    return splices


def _remember_template(original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    token = _request.set((kwargs.get("method", ""), kwargs.get("url", ""), kwargs.get("path_params") or {}))
    try:
        return original(api, *args, **kwargs)
    finally:
        _request.reset(token)


async def _remember_template_async(original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    token = _request.set((kwargs.get("method", ""), kwargs.get("url", ""), kwargs.get("path_params") or {}))
    try:
        return await original(api, *args, **kwargs)
    finally:
        _request.reset(token)


class _Requests:
    """What takes the place of ``send``."""

    def __init__(self, runner: Runner) -> None:
        self._client = Qdrant()
        self._runner = runner

    def run(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = begin(self._runner, _describe, self._client, api, args, kwargs)
        if operation is None:
            return original(api, *args, **kwargs)

        def send(operation: Operation, attempt: Attempt) -> Any:
            harmless(_prepare, args, kwargs, operation, otherwise=None)
            with protecting():
                return original(_without_credentials(api, operation), *args, **kwargs)

        try:
            return self._runner.run(operation, send)
        except Exception as error:
            pass_uploader(error)
            raise

    async def run_async(self, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = begin(self._runner, _describe, self._client, api, args, kwargs)
        if operation is None:
            return await original(api, *args, **kwargs)

        async def send(operation: Operation, attempt: Attempt) -> Any:
            harmless(_prepare, args, kwargs, operation, otherwise=None)
            with protecting():
                return await original(_without_credentials(api, operation), *args, **kwargs)

        return await self._runner.run_async(operation, send)


def patch_api(module: ModuleType, runner: Runner) -> Splices:
    """Note the size of a batch. ``module`` is an imported ``qdrant_client.http.api.…_api``."""
    splices = Splices()
    apis = [api for name, api in vars(module).items() if name.startswith(("Sync", "Async")) and isinstance(api, type)]
    for api in apis:
        for name, operation in _BATCHES.items():
            if name in vars(api):
                note = _note_batch_async if inspect.iscoroutinefunction(vars(api)[name]) else _note_batch
                splices.add(api, name, functools.partial(note, operation))
    return splices


def _note_batch(operation: str, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    token = _batch.set(harmless(_batch_size, operation, args, kwargs, otherwise=None))
    try:
        return original(api, *args, **kwargs)
    finally:
        _batch.reset(token)


async def _note_batch_async(
    operation: str, original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    token = _batch.set(harmless(_batch_size, operation, args, kwargs, otherwise=None))
    try:
        return await original(api, *args, **kwargs)
    finally:
        _batch.reset(token)


def _batch_size(operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    sizes = (operations.batch_size(operation, model) for model in (*args, *kwargs.values()))
    return next((size for size in sizes if size is not None), None)


def patch_version_check(module: ModuleType, runner: Runner) -> Splices:
    """Keep the client's look at the server's version, made in a thread of its own, from being a trace of its own.

    ``module`` is one that has imported the function by name.
    """
    splices = Splices()

    def get_server_version(original: Any, uri: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with suppress_instrumentation():
            return original(uri, *args, **kwargs)

    if hasattr(module, "get_server_version"):  # since 1.13
        splices.add(module, "get_server_version", get_server_version)
    return splices


# -- the request ---------------------------------------------------------------------------------------------------


def _describe(client: Qdrant, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    request = kwargs["request"] if "request" in kwargs else args[0]
    method, template, parameters = _request.get() or (request.method, request.url.path, {})
    operation = operations.of_rest(method, template)
    host, port = address(request.url)
    collection = parameters.get("collection_name")
    collection = str(collection) if collection is not None else None
    return Call(
        client=client,
        operation=operation,
        host=host,
        port=port,
        subject=collection,
        replay_safe=_is_replay_safe(operation, request),
        facts=operations.facts(collection, _batch.get()),
    )


def _is_replay_safe(operation: str, request: Any) -> bool:
    if operation == "upsert" and (b'"update_filter"' in request.content or b'"update_mode"' in request.content):
        return False
    return request.method == "GET" or operations.is_idempotent(operation)


def _prepare(args: tuple[Any, ...], kwargs: dict[str, Any], operation: Operation) -> None:
    """The request of one attempt: how long it may take, and where to send it."""
    request = kwargs["request"] if "request" in kwargs else args[0]
    limit = operation.attempt_timeout
    if limit is not None:
        timeouts = request.extensions.get("timeout", {})
        names = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {name: clamped(timeouts.get(name), limit) for name in names}
    endpoint = operation.call.endpoint
    if endpoint is not None and operation.attempts == 1:
        request.url = type(request.url)(endpoint.rstrip("/") + request.url.raw_path.decode("ascii"))
        request.headers["host"] = request.url.netloc.decode("ascii")
        request.headers.update(headers_elsewhere(operation.call.headers))


def _without_credentials(api: Any, operation: Operation) -> Any:
    """The client to send with: for another server, one whose token is not sent along."""
    if operation.call.endpoint is None:
        return api
    borrowed = copy.copy(api)
    name = "_client" if hasattr(api, "_client") else "_async_client"
    setattr(borrowed, name, SimpleNamespace(send=functools.partial(getattr(api, name).send, auth=None)))
    return borrowed


# -- errors --------------------------------------------------------------------------------------------------------


def _refused_error(target: str, refusal: Refusal) -> Exception:
    base = sys.modules["qdrant_client.http.exceptions"].ResponseHandlingException
    kind = refused_type(refusal, "Qdrant", (base,), __str__=_source_of)
    error: Exception = kind(ConnectionError(refused_message(refusal, target)))
    error.target = target  # type: ignore[attr-defined]
    return error


def _source_of(error: Any) -> str:
    return str(error.source)
