"""The gRPC stubs, which an app may use itself: every method of each, by a channel that does not say where it leads."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
import wrapt
from google.protobuf import message_factory
from qdrant_client import models

from tests.servers.qdrant_grpc import QdrantGrpc, abort
from tests.unit.signals import has

from .drivers import COLLECTION
from .shield import Shield

#: Service → the client's property that is its stub, and the module that describes it.
STUBS = {
    "Points": ("grpc_points", "points_service_pb2"),
    "Collections": ("grpc_collections", "collections_service_pb2"),
    "Snapshots": ("grpc_snapshots", "snapshots_service_pb2"),
    "Qdrant": ("grpc_root", "qdrant_pb2"),
}


class Silent(grpc.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """What an instrumentation puts around a multicallable: the channel beneath it is not to be seen."""

    def __init__(self, beneath: Any) -> None:
        self.__call = beneath

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__call(*args, **kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self.__call.with_call(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        return self.__call.future(*args, **kwargs)


class SilentAsync(grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[misc]
    """As :class:`Silent`."""

    def __init__(self, beneath: Any) -> None:
        self.__call = beneath

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__call(*args, **kwargs)


@pytest.fixture
def silent_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, silent in ((grpc, Silent), (grpc.aio, SilentAsync)):

        class Channel(wrapt.ObjectProxy):  # type: ignore[type-arg]
            _self_silent: Any = silent

            def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
                return self._self_silent(self.__wrapped__.unary_unary(*args, **kwargs))

        def make(*args: Any, _make: Any = module.insecure_channel, _kind: Any = Channel, **kwargs: Any) -> Any:
            return _kind(_make(*args, **kwargs))

        monkeypatch.setattr(module, "insecure_channel", make)


def methods(service: str) -> Iterator[tuple[str, Any]]:
    """Each with an empty request."""
    described = importlib.import_module(f"qdrant_client.grpc.{STUBS[service][1]}")
    for method in described.DESCRIPTOR.services_by_name[service].methods:
        yield method.name, message_factory.GetMessageClass(method.input_type)()


@pytest.mark.usefixtures("silent_channels")
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "aio"])
@pytest.mark.parametrize("service", STUBS)
def test_every_method_is_one_operation(shield: Shield, service: str, is_async: bool) -> None:
    async def call_each(client: Any) -> None:
        stub = getattr(client._client, STUBS[service][0], None)
        if stub is None:
            pytest.skip("this release's client has no such stub")
        for name, request in methods(service):
            shield.signals.clear()
            with suppress(grpc.RpcError):
                answer = getattr(stub, name)(request)
                if inspect.isawaitable(answer):
                    await answer
            operation = shield.signals.operation()
            assert has(operation, server__address=server.host, server__port=server.port, error__type="NOT_FOUND"), name
            assert len(shield.signals.attempts()) == 1
        closing = client.close()
        if inspect.isawaitable(closing):
            await closing

    async def run() -> None:
        await call_each(server.client(is_async=is_async))

    with QdrantGrpc() as server:
        server.always("*", abort("NOT_FOUND"))
        asyncio.run(run())


@pytest.mark.usefixtures("silent_channels")
def test_an_upload_knows_where_it_goes(shield: Shield) -> None:
    """Its channel is another one, which the uploader makes."""
    points = [models.PointStruct(id=n, vector=[0.1, 0.2, 0.3, 0.4]) for n in (1, 2, 3)]
    with QdrantGrpc() as server:
        server.fill(COLLECTION, points)
        client = server.client()
        client.upload_points(COLLECTION, points)
        client.close()
    assert has(shield.signals.operation(), server__address=server.host, server__port=server.port)
