"""qdrant-client over gRPC: spliced into the stubs, on whose classes a descriptor stands before each multicallable.

So clients are protected whenever they were made, and bare again once the descriptor is gone. A call through a
multicallable is one operation; ``future()`` is passed through. A fallback's endpoint is not taken: a channel leads to
one server.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import grpc
import grpc.aio
import wrapt

from stormproof.clients import qdrant_operations as operations
from stormproof.clients.patching import Splices, begin, harmless
from stormproof.clients.qdrant import Qdrant, patch_version_check
from stormproof.clients.qdrant_calls import ProtectedCall
from stormproof.clients.qdrant_uploads import pass_uploader
from stormproof.clients.qdrant_uploads import patch as patch_uploads
from stormproof.clients.transport import clamped, retry_after
from stormproof.errors import refused_message, refused_type
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.call import Call
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Refusal, Retry, Verdict, Weight
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Target

_Proxy: Any = wrapt.ObjectProxy

_FAILED = (Weight.FAILURE, Retry.NEVER)
_PERHAPS_CARRIED_OUT = (Weight.FAILURE, Retry.IF_REPLAY_SAFE)
_TURNED_AWAY = (Weight.IGNORED, Retry.ALWAYS)

#: What a code means; with any other, the server is alive and says no.
_CODES = {
    "UNAVAILABLE": _PERHAPS_CARRIED_OUT,
    "DEADLINE_EXCEEDED": _PERHAPS_CARRIED_OUT,
    "RESOURCE_EXHAUSTED": _TURNED_AWAY,
    "ABORTED": _TURNED_AWAY,
    "INTERNAL": _FAILED,
    "UNKNOWN": _FAILED,
    "DATA_LOSS": _FAILED,
    "CANCELLED": (Weight.IGNORED, Retry.NEVER),
}
#: What grpc-core says of a call for which it never had a connection; of one that was cut it says something else.
_NEVER_SENT = "failed to connect to all addresses"
#: And of a message that this side will not send or take: it says RESOURCE_EXHAUSTED too, but waiting does not help.
_TOO_LARGE = "larger than max"

_TARGET = re.compile(r"(?:(?:dns|ipv4|ipv6):(?://[^/]*/)?)?\[?(?P<host>.*?)\]?(?::(?P<port>\d+))?")
_DEFAULT_PORT = 443  # of grpc's name resolver
_UNKNOWN_ADDRESS = ("unknown", 0)

#: Where qdrant's channels lead, and the stubs over them: channels do not tell in all releases, nor when intercepted.
_addresses: WeakKeyDictionary[Any, tuple[str, int]] = WeakKeyDictionary()


class QdrantGrpc(Qdrant):
    """How to read gRPC's errors."""

    def classify(self, error: BaseException) -> Verdict:
        if type(error).__name__ == "ResourceExhaustedResponse":  # what the client's interceptor makes of a hint
            hint = retry_after({"retry-after": str(error.retry_after_s)})  # type: ignore[attr-defined]
            return _verdict("RESOURCE_EXHAUSTED", "", hint)
        if not isinstance(error, grpc.RpcError):
            return Verdict(Weight.IGNORED, error_type=type(error).__name__)
        trailing = {key.lower(): str(value) for key, value in error.trailing_metadata() or ()}
        return _verdict(error.code().name, error.details() or "", retry_after(trailing))

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        kind = refused_type(refusal, "QdrantGrpc", (grpc.aio.AioRpcError,))  # which is a grpc.RpcError
        nothing = grpc.aio.Metadata()
        message = refused_message(refusal, target.name)
        error: Exception = kind(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details=message)
        error.target = target.name  # type: ignore[attr-defined]
        return error


def _verdict(code: str, details: str, hint: float | None) -> Verdict:
    weight, retry = _CODES.get(code, (Weight.SUCCESS, Retry.NEVER))
    verdict = Verdict(weight, retry, error_type=code, status=code, timed_out=code == "DEADLINE_EXCEEDED")
    if code == "UNAVAILABLE" and details.startswith(_NEVER_SENT):
        return replace(verdict, retry=Retry.ALWAYS)
    if code == "RESOURCE_EXHAUSTED" and _TOO_LARGE in details:
        return replace(verdict, retry=Retry.NEVER)
    if verdict.weight is Weight.IGNORED and verdict.retry is Retry.ALWAYS:
        return replace(verdict, hint=hint, rate_limited=code == "RESOURCE_EXHAUSTED")
    return verdict


def patch(module: ModuleType, runner: Runner) -> Splices:
    """Splice into a service's stub. ``module`` is an imported ``qdrant_client.grpc.…_pb2_grpc``."""
    splices = Splices()
    for name, stub in list(vars(module).items()):
        if name.endswith("Stub"):
            service = name.removesuffix("Stub")
            splices.add(stub, "__init__", _pass_address_on)
            for method in vars(getattr(module, f"{service}Servicer")):
                if not method.startswith("_"):
                    splice: Any = _RpcSplice(stub, method, _Rpc(method, _Requests(runner, service, method)))
                    splice.put_in()
                    splices.splices.append(splice)
    return splices


def patch_remote(module: ModuleType, runner: Runner) -> Splices:
    """Note where channels lead, and quieten the version check. ``module``: ``qdrant_client.(async_)qdrant_remote``."""
    splices = patch_version_check(module, runner)
    _note_channels(splices, module)
    return splices


def patch_uploader(module: ModuleType, runner: Runner) -> Splices:
    """As ``qdrant_uploads.patch``, which makes channels too. ``module``: ``qdrant_client.uploader.grpc_uploader``."""
    splices = patch_uploads(module, runner)
    _note_channels(splices, module)
    return splices


def _note_channels(splices: Splices, module: ModuleType) -> None:
    for name, function in list(vars(module).items()):
        if getattr(function, "__name__", "") in ("get_channel", "get_async_channel"):
            splices.replace(module, name, _noting_address)


def _noting_address(get_channel: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(get_channel)
    def make_channel(*args: Any, **kwargs: Any) -> Any:
        channel = get_channel(*args, **kwargs)
        harmless(functools.partial(_note_address, channel, *args, **kwargs), otherwise=None)
        return channel

    return make_channel


def _note_address(channel: Any, host: str, port: int, *_: Any, **__: Any) -> None:
    _addresses[channel] = (host, port)


def _pass_address_on(original: Any, stub: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    original(stub, *args, **kwargs)
    harmless(_note_stub, stub, *args, *kwargs.values(), otherwise=None)


def _note_stub(stub: Any, channel: Any) -> None:
    if channel in _addresses:
        _addresses[stub] = _addresses[channel]


class _Rpc:
    """Stands on a stub's class: who asks for the multicallable that each stub has of its own gets it protected."""

    def __init__(self, name: str, requests: _Requests) -> None:
        self._name = name
        self._requests = requests

    def __get__(self, stub: Any, owner: type | None = None) -> Any:
        if stub is None:
            return self
        try:
            multicallable = vars(stub)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None
        if isinstance(multicallable, grpc.aio.UnaryUnaryMultiCallable):
            return _AsyncMultiCallable(multicallable, self._requests, _address(stub, multicallable))
        if isinstance(multicallable, grpc.UnaryUnaryMultiCallable):
            return _MultiCallable(multicallable, self._requests, _address(stub, multicallable))
        return multicallable

    def __set__(self, stub: Any, multicallable: Any) -> None:
        vars(stub)[self._name] = multicallable


@dataclass(frozen=True)
class _RpcSplice:
    """As ``patching.Splice``, of an attribute that the class does not have by itself."""

    owner: Any
    name: str
    rpc: _Rpc
    is_wrapped = False

    def put_in(self) -> None:
        setattr(self.owner, self.name, self.rpc)

    def take_out(self) -> None:
        if vars(self.owner).get(self.name) is self.rpc:
            delattr(self.owner, self.name)


class _Protected(_Proxy):  # type: ignore[misc]
    """A multicallable that is protected where it waits for the answer; all else is the client's own."""

    def __init__(self, multicallable: Any, requests: _Requests, address: tuple[str, int]) -> None:
        super().__init__(multicallable)
        self._self_requests = requests
        self._self_address = address


class _MultiCallable(_Protected):
    """Of a synchronous channel."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._self_requests.run(self.__wrapped__, self._self_address, args, kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._self_requests.run(self.__wrapped__.with_call, self._self_address, args, kwargs)


class _AsyncMultiCallable(_Protected):
    """Of an asynchronous one; what it returns stands in for the client's own call."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        requests, original, address = self._self_requests, self.__wrapped__, self._self_address
        return ProtectedCall(lambda call: requests.run_async(call, original, address, args, kwargs))


class _Requests:
    """What makes the calls of one method."""

    def __init__(self, runner: Runner, service: str, method: str) -> None:
        self._client = QdrantGrpc()
        self._runner = runner
        self._operation = operations.of_grpc(service, method)

    def run(
        self, invoke: Callable[..., Any], address: tuple[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        operation = self._begin(address, args, kwargs)
        if operation is None:
            return invoke(*args, **kwargs)

        def send(operation: Operation, attempt: Attempt) -> Any:
            positional, named = harmless(_within, operation, args, kwargs, otherwise=(args, kwargs))
            return invoke(*positional, **named)

        try:
            return self._runner.run(operation, send)
        except Exception as error:
            pass_uploader(error)
            raise

    async def run_async(
        self,
        call: ProtectedCall,
        invoke: Callable[..., Any],
        address: tuple[str, int],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        operation = self._begin(address, args, kwargs)
        if operation is None:
            return await call.follow(invoke(*args, **kwargs))

        async def send(operation: Operation, attempt: Attempt) -> Any:
            positional, named = harmless(_within, operation, args, kwargs, otherwise=(args, kwargs))
            return await call.follow(invoke(*positional, **named))

        return await self._runner.run_async(operation, send)

    def _begin(self, address: tuple[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation | None:
        operation = begin(self._runner, self._describe, address, args, kwargs)
        if operation is not None:
            fallback = operation.policy.fallback
            operation.can_fall_back = fallback is None or fallback.endpoint is None
        return operation

    def _describe(self, address: tuple[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        request = args[0] if args else kwargs["request"]
        host, port = address
        collection = getattr(request, "collection_name", None)
        return Call(
            client=self._client,
            operation=self._operation,
            host=host,
            port=port,
            subject=collection,
            replay_safe=operations.is_idempotent(self._operation) and not _is_conditional(request),
            facts=operations.facts(collection, operations.batch_size(self._operation, request)),
        )


def _is_conditional(request: Any) -> bool:
    """Whether an upsert depends on what is stored already."""
    if type(request).__name__ != "UpsertPoints":
        return False
    return any(field.name in ("update_filter", "update_mode") for field, _ in request.ListFields())


def _within(
    operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one attempt: how long it may take."""
    limit = operation.attempt_timeout
    if limit is None:
        return args, kwargs
    if len(args) > 1:
        return (args[0], clamped(args[1], limit), *args[2:]), kwargs
    return args, {**kwargs, "timeout": clamped(kwargs.get("timeout"), limit)}


def _address(stub: Any, multicallable: Any) -> tuple[str, int]:
    """Where a stub's channel leads."""
    address = _addresses.get(stub)
    if address is None:  # its channel was made before us, or by the app
        address = harmless(_asked, multicallable, otherwise=_UNKNOWN_ADDRESS)
        _addresses[stub] = address
    return address


def _asked(multicallable: Any) -> tuple[str, int]:
    while hasattr(multicallable, "_thunk"):  # beneath an interceptor
        multicallable = multicallable._thunk(multicallable._method)
    # Neither an asynchronous channel of older releases nor another instrumentation's wrapper tells.
    target = getattr(getattr(multicallable, "_channel", None), "target", b"")
    return _parsed((target() if callable(target) else target).decode())


def _parsed(target: str) -> tuple[str, int]:
    match = _TARGET.fullmatch(target)
    if not target or match is None:
        return _UNKNOWN_ADDRESS
    return match["host"], int(match["port"] or _DEFAULT_PORT)
