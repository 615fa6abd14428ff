"""What qdrant's operations are called: every public method, by REST, by gRPC and in local mode, says its own name."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.async_qdrant_remote import AsyncQdrantRemote

from stormproof.demo.proxy import FaultProxy, status
from tests.servers.qdrant_grpc import QdrantGrpc
from tests.unit.signals import attributes

from .drivers import COLLECTION, quiet_qdrant
from .shield import Shield

#: (name, collection, batch size) of an operation
Told = tuple[str, str | None, int | None]

VECTOR = [0.1, 0.2, 0.3, 0.4]
IDS = models.PointIdsList(points=[1])
DELETION = models.DeleteOperation(delete=IDS)
REPLICA = models.Replica(shard_id=1, peer_id=1)


def points() -> list[models.PointStruct]:
    return [models.PointStruct(id=n, vector=VECTOR, payload={"a": "b"}) for n in (1, 2, 3)]


def vectors() -> models.VectorParams:
    return models.VectorParams(size=4, distance=models.Distance.DOT)


def of_this_release(name: str, **values: Any) -> Any:
    """A model, where it is known."""
    model = getattr(models, name, None)
    return None if model is None else model(**values)


#: Method → its arguments. All methods of all supported releases stand here or in EXEMPT.
CALLS: dict[str, tuple[Any, ...]] = {
    "batch_update_points": (COLLECTION, [DELETION, DELETION]),
    "clear_payload": (COLLECTION, IDS),
    "cluster_collection_update": (COLLECTION, of_this_release("DropReplicaOperation", drop_replica=REPLICA)),
    "cluster_status": (),
    "cluster_telemetry": (),
    "collection_cluster_info": (COLLECTION,),
    "collection_exists": (COLLECTION,),
    "count": (COLLECTION,),
    "create_collection": ("another", vectors()),
    "create_full_snapshot": (),
    "create_payload_index": (COLLECTION, "a", models.PayloadSchemaType.KEYWORD),
    "create_shard_key": (COLLECTION, "key"),
    "create_shard_snapshot": (COLLECTION, 1),
    "create_snapshot": (COLLECTION,),
    "create_vector_name": (
        COLLECTION,
        "name",
        of_this_release("DenseVectorNameConfig", dense={"size": 4, "distance": "Dot"}),
    ),
    "delete": (COLLECTION, IDS),
    "delete_collection": (COLLECTION,),
    "delete_full_snapshot": ("name",),
    "delete_payload": (COLLECTION, ["a"], IDS),
    "delete_payload_index": (COLLECTION, "a"),
    "delete_shard_key": (COLLECTION, "key"),
    "delete_shard_snapshot": (COLLECTION, 1, "name"),
    "delete_snapshot": (COLLECTION, "name"),
    "delete_vector_name": (COLLECTION, "name"),
    "delete_vectors": (COLLECTION, ["name", "other"], IDS),
    "discover": (COLLECTION, 1),
    "discover_batch": (COLLECTION, [of_this_release("DiscoverRequest", target=1, limit=1)] * 2),
    "facet": (COLLECTION, "a"),
    "get_aliases": (),
    "get_collection": (COLLECTION,),
    "get_collection_aliases": (COLLECTION,),
    "get_collections": (),
    "get_locks": (),
    "get_optimizations": (COLLECTION,),
    "info": (),
    "list_full_snapshots": (),
    "list_shard_keys": (COLLECTION,),
    "list_shard_snapshots": (COLLECTION, 1),
    "list_snapshots": (COLLECTION,),
    "lock_storage": ("reason",),
    "overwrite_payload": (COLLECTION, {"a": 1}, IDS),
    "query_batch_points": (COLLECTION, [of_this_release("QueryRequest", query=VECTOR)] * 2),
    "query_points": (COLLECTION, VECTOR),
    "query_points_groups": (COLLECTION, "a", VECTOR),
    "recommend": (COLLECTION, [1]),
    "recommend_batch": (COLLECTION, [of_this_release("RecommendRequest", positive=[1], limit=1)] * 2),
    "recommend_groups": (COLLECTION, "a", [1]),
    "recover_current_peer": (),
    "recover_shard_snapshot": (COLLECTION, 1, "file:///nowhere"),
    "recover_snapshot": (COLLECTION, "file:///nowhere"),
    "recreate_collection": (COLLECTION, vectors()),
    "remove_peer": (1,),
    "retrieve": (COLLECTION, [1, 2]),
    "scroll": (COLLECTION,),
    "search": (COLLECTION, VECTOR),
    "search_batch": (COLLECTION, [of_this_release("SearchRequest", vector=VECTOR, limit=1)] * 2),
    "search_groups": (COLLECTION, VECTOR, "a"),
    "search_matrix_offsets": (COLLECTION,),
    "search_matrix_pairs": (COLLECTION,),
    "set_payload": (COLLECTION, {"a": 1}, IDS),
    "update_collection": (COLLECTION, models.OptimizersConfigDiff()),
    "update_collection_aliases": ([],),
    "update_vectors": (COLLECTION, [models.PointVectors(id=n, vector=VECTOR) for n in (1, 2, 3)]),
    "upload_collection": (COLLECTION, [VECTOR] * 3, None, [1, 2, 3]),
    "upload_points": (COLLECTION, points()),
    "upload_records": (COLLECTION, points()),
    "upsert": (COLLECTION, points()),
}
EXEMPT = {
    "close": "calls nobody",
    "migrate": "is made of other methods' calls",
    "unlock_storage": "is a lock_storage on the wire",
    **dict.fromkeys(
        (
            "get_embedding_size",
            "get_fastembed_sparse_vector_params",
            "get_fastembed_vector_params",
            "get_sparse_vector_field_name",
            "get_vector_field_name",
            "list_image_models",
            "list_late_interaction_multimodal_models",
            "list_late_interaction_text_models",
            "list_sparse_models",
            "list_text_models",
            "set_model",
            "set_sparse_model",
        ),
        "asks fastembed, not the server",
    ),
    **dict.fromkeys(("add", "query", "query_batch"), "of fastembed, made of other methods' calls"),
}
#: What carries several at once.
BATCHES = {
    "batch_update_points": 2,
    "discover_batch": 2,
    "query_batch_points": 2,
    "recommend_batch": 2,
    "search_batch": 2,
    "update_vectors": 3,
    "upload_collection": 3,
    "upload_points": 3,
    "upload_records": 3,
    "upsert": 3,
}
#: Methods that make other methods' calls over the network. In local mode they make none: they are one operation.
OTHERS: dict[str, list[Told]] = {
    "recreate_collection": [("delete_collection", COLLECTION, None), ("create_collection", COLLECTION, None)],
    **{method: [("upsert", COLLECTION, 3)] for method in ("upload_collection", "upload_points", "upload_records")},
}
#: Those of this release.
TABLE = {method: arguments for method, arguments in CALLS.items() if hasattr(QdrantClient, method)}

both_ways = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "aio"])


def usual(method: str) -> list[Told]:
    """Its own name, the collection that it was given, and how many it carries."""
    collection = next((argument for argument in CALLS[method] if argument in (COLLECTION, "another")), None)
    return [(method, collection, BATCHES.get(method))]


def told(shield: Shield) -> list[Told]:
    """What the operations said that were seen since the last time."""
    spans = [
        span for span in shield.signals.spans if span.kind is SpanKind.CLIENT and "db.system.name" in attributes(span)
    ]
    shield.signals.clear()
    keys = ("db.operation.name", "db.collection.name", "db.operation.batch.size")
    return [tuple(attributes(span).get(key) for key in keys) for span in spans]  # type: ignore[misc]


def each_method(shield: Shield, make: Callable[[], Any], prepare: Callable[[Any], object]) -> dict[str, list[Told]]:
    """Method → what its call said. Whether the call succeeds is no matter here."""

    async def run() -> dict[str, list[Told]]:
        found = {}
        client = make()
        for method, arguments in TABLE.items():
            with suppress_instrumentation():
                await _awaited(prepare(client))
            told(shield)
            with suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is deprecated, or not for local mode
                await _awaited(getattr(client, method)(*arguments))
            found[method] = told(shield)
        await _awaited(client.close())
        return found

    return asyncio.run(run())


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def nothing(_: Any) -> None:
    """No preparation."""


@pytest.fixture
def quick(shield: Shield) -> Shield:
    shield.again(RETRY__ATTEMPTS=1)
    return shield


@pytest.fixture
def rest(proxy_of: Callable[[str], FaultProxy]) -> FaultProxy:
    """A server that has done whatever it was asked for."""
    proxy = proxy_of("qdrant")
    proxy.chance("*", ".", status(200, body={"result": True, "status": "ok", "time": 0.0}), 1)
    return proxy


@pytest.fixture
def grpc_server() -> Iterator[QdrantGrpc]:
    with QdrantGrpc() as server:
        yield server


@pytest.mark.parametrize("client", [QdrantClient, AsyncQdrantClient])
def test_every_public_method_is_in_the_table(client: type) -> None:
    methods = {name for name, value in inspect.getmembers(client) if callable(value) and not name.startswith("_")}
    assert methods <= CALLS.keys() | EXEMPT.keys()
    assert not CALLS.keys() & EXEMPT.keys()


@both_ways
def test_by_rest(quick: Shield, rest: FaultProxy, is_async: bool) -> None:
    found = each_method(quick, lambda: quiet_qdrant(rest.url, is_async=is_async), nothing)
    assert found == {method: OTHERS.get(method) or usual(method) for method in TABLE}


@both_ways
def test_by_grpc(quick: Shield, rest: FaultProxy, grpc_server: QdrantGrpc, is_async: bool) -> None:
    def prepare(_: Any) -> None:
        with suppress(ValueError):  # it is there still
            grpc_server.fill(COLLECTION, points())

    found = each_method(quick, lambda: grpc_server.client(is_async=is_async, port=rest.port), prepare)
    expected = {method: OTHERS.get(method) or usual(method) for method in TABLE}
    if is_async and "await grpc.CreateShardKey" in inspect.getsource(AsyncQdrantRemote.create_shard_key):
        expected["create_shard_key"] = []  # it awaits a message: a bug of the oldest releases
    assert found == expected


@both_ways
def test_in_local_mode(quick: Shield, is_async: bool) -> None:
    async def prepare(client: Any) -> None:
        with suppress(ValueError):
            await _awaited(client.create_collection(COLLECTION, vectors_config=vectors()))

    make = AsyncQdrantClient if is_async else QdrantClient
    found = each_method(quick, lambda: make(":memory:"), prepare)
    # Newer clients hand the points on as an iterator, which is the engine's alone to read.
    assert found.pop("upload_points")[0][:2] == ("upload_points", COLLECTION)
    assert found == {method: usual(method) for method in TABLE if method != "upload_points"}


@pytest.mark.parametrize(
    "columns",
    [models.Batch(ids=[1, 2, 3], vectors=[VECTOR] * 3), points()[:1]],
    ids=["columns", "a single point"],
)
def test_the_size_of_a_batch(quick: Shield, rest: FaultProxy, grpc_server: QdrantGrpc, columns: Any) -> None:
    expected = [("upsert", COLLECTION, 3 if isinstance(columns, models.Batch) else None)]
    for client in (quiet_qdrant(rest.url), grpc_server.client(), QdrantClient(":memory:")):
        with suppress(Exception):
            client.upsert(COLLECTION, columns)
        client.close()
        assert told(quick) == expected
