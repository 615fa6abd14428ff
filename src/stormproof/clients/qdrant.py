"""qdrant-client over REST: spliced into ``ApiClient.send``, and ``request`` for the URL's template and parameters.

The uploaders' own retries are taken over: each batch is one call whose attempts are ours alone.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType, SimpleNamespace
from typing import Any

from opentelemetry.instrumentation.utils import suppress_instrumentation

from stormproof.clients.patching import Splices, begin, harmless, protecting
from stormproof.clients.transport import address, clamped, error_verdict, headers_elsewhere, status_verdict
from stormproof.errors import refused_message, refused_type
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Refusal, Retry, Verdict, Weight
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Target

_SPECIAL_STATUSES = {409: (Weight.SUCCESS, Retry.NEVER)}

#: (method, URL template) → the name of the public method, where it is not the template's last word.
_OPERATIONS = {
    ("GET", "/collections"): "get_collections",
    ("GET", "/collections/{collection_name}"): "get_collection",
    ("PUT", "/collections/{collection_name}"): "create_collection",
    ("PATCH", "/collections/{collection_name}"): "update_collection",
    ("DELETE", "/collections/{collection_name}"): "delete_collection",
    ("GET", "/collections/{collection_name}/exists"): "collection_exists",
    ("POST", "/collections/aliases"): "update_collection_aliases",
    ("GET", "/collections/{collection_name}/aliases"): "get_collection_aliases",
    ("GET", "/aliases"): "get_aliases",
    ("PUT", "/collections/{collection_name}/index"): "create_payload_index",
    ("DELETE", "/collections/{collection_name}/index/{field_name}"): "delete_payload_index",
    ("PUT", "/collections/{collection_name}/points"): "upsert",
    ("POST", "/collections/{collection_name}/points"): "retrieve",
    ("POST", "/collections/{collection_name}/points/delete"): "delete",
    ("POST", "/collections/{collection_name}/points/query"): "query_points",
    ("POST", "/collections/{collection_name}/points/query/batch"): "query_batch_points",
    ("POST", "/collections/{collection_name}/points/query/groups"): "query_points_groups",
    ("POST", "/collections/{collection_name}/points/search"): "search",
    ("POST", "/collections/{collection_name}/points/search/batch"): "search_batch",
    ("POST", "/collections/{collection_name}/points/search/groups"): "search_groups",
    ("POST", "/collections/{collection_name}/points/search/matrix/pairs"): "search_matrix_pairs",
    ("POST", "/collections/{collection_name}/points/search/matrix/offsets"): "search_matrix_offsets",
    ("POST", "/collections/{collection_name}/points/recommend"): "recommend",
    ("POST", "/collections/{collection_name}/points/discover"): "discover",
    ("POST", "/collections/{collection_name}/points/batch"): "batch_update_points",
    ("POST", "/collections/{collection_name}/points/payload"): "set_payload",
    ("PUT", "/collections/{collection_name}/points/payload"): "overwrite_payload",
    ("POST", "/collections/{collection_name}/points/payload/delete"): "delete_payload",
    ("POST", "/collections/{collection_name}/points/payload/clear"): "clear_payload",
    ("PUT", "/collections/{collection_name}/points/vectors"): "update_vectors",
    ("POST", "/collections/{collection_name}/points/vectors/delete"): "delete_vectors",
    ("GET", "/collections/{collection_name}/cluster"): "collection_cluster_info",
    ("POST", "/collections/{collection_name}/cluster"): "cluster_collection_update",
    ("PUT", "/collections/{collection_name}/shards"): "create_shard_key",
    ("GET", "/collections/{collection_name}/shards"): "list_shard_keys",
    ("POST", "/collections/{collection_name}/shards/delete"): "delete_shard_key",
    ("GET", "/collections/{collection_name}/snapshots"): "list_snapshots",
    ("POST", "/collections/{collection_name}/snapshots"): "create_snapshot",
    ("PUT", "/collections/{collection_name}/snapshots/recover"): "recover_snapshot",
    ("GET", "/snapshots"): "list_full_snapshots",
    ("POST", "/snapshots"): "create_full_snapshot",
    ("GET", "/cluster"): "cluster_status",
    ("GET", "/"): "info",
}
#: May be carried out twice with the same end. Everything else is repeated only if it surely was not carried out.
_IDEMPOTENT_WRITES = frozenset(
    (
        "upsert",
        "delete",
        "set_payload",
        "overwrite_payload",
        "delete_payload",
        "clear_payload",
        "update_vectors",
        "delete_vectors",
        "create_payload_index",
        "delete_payload_index",
        "delete_collection",
    )
)
_READS = re.compile(
    r"get_|list_|search|query|recommend|discover|retrieve$|count$|scroll$|facet$|info$|collection_exists$"
)

#: (method, template, path parameters) of the request that is being made, from ``request`` to ``send``.
_request: ContextVar[tuple[str, str, dict[str, Any]] | None] = ContextVar("stormproof_qdrant_request", default=None)
_in_upload: ContextVar[bool] = ContextVar("stormproof_qdrant_upload", default=False)


class _UploadFailedError(Exception):
    """Carries a batch's last error through the uploader's own retry loop, which knows only some errors."""


class Qdrant:
    """How to read qdrant-client's calls, results and errors."""

    system = "qdrant"

    def classify(self, error: BaseException) -> Verdict:
        name = type(error).__name__
        if name == "UnexpectedResponse":
            return status_verdict(error.status_code or 0, error.headers or {}, _SPECIAL_STATUSES)  # type: ignore[attr-defined]
        if name == "ResourceExhaustedResponse":
            hint = float(error.retry_after_s)  # type: ignore[attr-defined]
            return Verdict(Weight.IGNORED, Retry.ALWAYS, "429", 429, hint, rate_limited=True)
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
            if _in_upload.get():
                raise _UploadFailedError from error
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


def patch_uploader(module: ModuleType, runner: Runner) -> Splices:
    """Take over the batch uploader's retries. ``module`` is the imported ``qdrant_client.uploader.rest_uploader``."""
    splices = Splices()
    once = _one_round(module.upload_batch)

    def upload_batch(original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = inspect.signature(original).bind(api, *args, **kwargs)
        bound.arguments["max_retries"] = once
        token = _in_upload.set(True)
        try:
            return original(*bound.args, **bound.kwargs)
        except _UploadFailedError as failure:
            error = failure.__cause__ or failure
        finally:
            _in_upload.reset(token)
        raise error

    splices.add(module, "upload_batch", upload_batch)
    return splices


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


def _one_round(upload_batch: Callable[..., Any]) -> int:
    """The ``max_retries`` with which the uploader sends a batch exactly once: its loops count in two ways."""
    source = inspect.getsource(inspect.unwrap(upload_batch))
    return 0 if "<= max_retries" in source else 1


# -- the request ---------------------------------------------------------------------------------------------------


def _describe(client: Qdrant, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    request = kwargs["request"] if "request" in kwargs else args[0]
    method, template, parameters = _request.get() or (request.method, request.url.path, {})
    operation = _operation_name(method, template)
    host, port = address(request.url)
    collection = parameters.get("collection_name")
    return Call(
        client=client,
        operation=operation,
        host=host,
        port=port,
        subject=str(collection) if collection is not None else None,
        replay_safe=_is_replay_safe(operation, request),
        facts={} if collection is None else {"collection": str(collection)},
    )


def _operation_name(method: str, template: str) -> str:
    path = template if template.startswith("/") else "/" + template
    known = _OPERATIONS.get((method.upper(), path))
    if known:
        return known
    words = [word for word in path.split("/") if word and not word.startswith("{")]
    return words[-1] if words else method.lower()


def _is_replay_safe(operation: str, request: Any) -> bool:
    if operation == "upsert" and (b'"update_filter"' in request.content or b'"update_mode"' in request.content):
        return False
    return request.method == "GET" or operation in _IDEMPOTENT_WRITES or _READS.match(operation) is not None


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
