"""What Qdrant's gRPC methods do, done by qdrant-client's local mode between the client's own converters."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, grpc_to_payload

_DONE = models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


class Engine:
    """Answers one request at a time; not safe for concurrent calls, as the engine is not."""

    def __init__(self) -> None:
        self.client: Any = QdrantClient(":memory:")
        self._operation_id = 0
        self._answers: dict[str, Callable[[Any], Any]] = {**self._of_points(), **self._of_queries(), **self._others()}

    def close(self) -> None:
        self.client.close()

    def answer(self, method: str, request: Any, operation_id: int) -> Any:
        """The answer to ``Points/Count`` and its kin. Raises what the engine raises."""
        if method not in self._answers:
            raise NotImplementedError(f"{method} is not served here")
        self._operation_id = operation_id
        return self._answers[method](request)

    def _of_points(self) -> dict[str, Callable[[Any], Any]]:
        engine = self.client
        return {
            "Points/Upsert": self._changes(lambda r: engine.upsert(r.collection_name, _points(r.points))),
            "Points/Delete": self._changes(lambda r: engine.delete(r.collection_name, _selector(r.points))),
            "Points/UpdateVectors": self._changes(
                lambda r: engine.update_vectors(
                    r.collection_name, list(map(GrpcToRest.convert_point_vectors, r.points))
                )
            ),
            "Points/DeleteVectors": self._changes(
                lambda r: engine.delete_vectors(r.collection_name, list(r.vectors.names), _selector(r.points_selector))
            ),
            "Points/SetPayload": self._changes(
                lambda r: engine.set_payload(
                    r.collection_name, grpc_to_payload(r.payload), _selector(r.points_selector)
                )
            ),
            "Points/OverwritePayload": self._changes(
                lambda r: engine.overwrite_payload(
                    r.collection_name, grpc_to_payload(r.payload), _selector(r.points_selector)
                )
            ),
            "Points/DeletePayload": self._changes(
                lambda r: engine.delete_payload(r.collection_name, list(r.keys), _selector(r.points_selector))
            ),
            "Points/ClearPayload": self._changes(
                lambda r: engine.clear_payload(r.collection_name, _selector(r.points))
            ),
            "Points/UpdateBatch": self._update_batch,
            **{
                f"Points/{name}": self._changes(lambda _: None)
                for name in ("CreateFieldIndex", "DeleteFieldIndex", "CreateVectorName", "DeleteVectorName")
            },
        }

    def _changes(self, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(request: Any) -> Any:
            change(request)
            return wire.PointsOperationResponse(result=self._done())

        return run

    def _done(self) -> Any:
        return RestToGrpc.convert_update_result(_DONE.model_copy(update={"operation_id": self._operation_id}))

    def _update_batch(self, request: Any) -> Any:
        operations = [GrpcToRest.convert_points_update_operation(operation) for operation in request.operations]
        self.client.batch_update_points(request.collection_name, operations)
        return wire.UpdateBatchResponse(result=[self._done() for _ in operations])

    def _of_queries(self) -> dict[str, Callable[[Any], Any]]:
        return {
            "Points/Get": self._get,
            "Points/Count": self._count,
            "Points/Scroll": self._scroll,
            "Points/Facet": self._facet,
            "Points/Query": lambda r: wire.QueryResponse(result=_hits(self._query(r.collection_name, [r])[0].points)),
            "Points/QueryBatch": self._query_batch,
            "Points/QueryGroups": self._query_groups,
            "Points/SearchMatrixPairs": lambda r: wire.SearchMatrixPairsResponse(
                result=RestToGrpc.convert_search_matrix_pairs(self.client.search_matrix_pairs(**_matrix(r)))
            ),
            "Points/SearchMatrixOffsets": lambda r: wire.SearchMatrixOffsetsResponse(
                result=RestToGrpc.convert_search_matrix_offsets(self.client.search_matrix_offsets(**_matrix(r)))
            ),
            "Points/Search": lambda r: wire.SearchResponse(result=self._search(r)),
            "Points/SearchBatch": lambda r: wire.SearchBatchResponse(
                result=[wire.BatchResult(result=self._search(one)) for one in r.search_points]
            ),
            "Points/SearchGroups": lambda _: wire.SearchGroupsResponse(),
            "Points/Recommend": lambda _: wire.RecommendResponse(),
            "Points/RecommendBatch": lambda r: wire.RecommendBatchResponse(
                result=[wire.BatchResult() for _ in r.recommend_points]
            ),
            "Points/RecommendGroups": lambda _: wire.RecommendGroupsResponse(),
            "Points/Discover": lambda _: wire.DiscoverResponse(),
            "Points/DiscoverBatch": lambda r: wire.DiscoverBatchResponse(
                result=[wire.BatchResult() for _ in r.discover_points]
            ),
        }

    def _get(self, request: Any) -> Any:
        ids = [GrpcToRest.convert_point_id(point) for point in request.ids]
        found = self.client.retrieve(request.collection_name, ids, **_selected(request))
        return wire.GetResponse(result=[RestToGrpc.convert_retrieved_point(record) for record in found])

    def _count(self, request: Any) -> Any:
        found = self.client.count(request.collection_name, _filter(request))
        return wire.CountResponse(result=wire.CountResult(count=found.count))

    def _scroll(self, request: Any) -> Any:
        offset = GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None
        found, following = self.client.scroll(
            request.collection_name,
            scroll_filter=_filter(request),
            limit=request.limit or 10,
            offset=offset,
            **_selected(request),
        )
        return wire.ScrollResponse(
            result=[RestToGrpc.convert_retrieved_point(record) for record in found],
            next_page_offset=None if following is None else RestToGrpc.convert_extended_point_id(following),
        )

    def _facet(self, request: Any) -> Any:
        found = self.client.facet(
            request.collection_name, request.key, facet_filter=_filter(request), limit=request.limit or 10
        )
        return wire.FacetResponse(hits=[RestToGrpc.convert_facet_value_hit(hit) for hit in found.hits])

    def _query(self, collection: str, queries: Any) -> Any:
        return self.client.query_batch_points(collection, list(map(GrpcToRest.convert_query_points, queries)))

    def _query_batch(self, request: Any) -> Any:
        found = self._query(request.collection_name, request.query_points)
        return wire.QueryBatchResponse(result=[wire.BatchResult(result=_hits(one.points)) for one in found])

    def _query_groups(self, request: Any) -> Any:
        found = self.client.query_points_groups(
            request.collection_name,
            query=GrpcToRest.convert_query(request.query) if request.HasField("query") else None,
            group_by=request.group_by,
            limit=request.limit or 3,
            group_size=request.group_size or 10,
        )
        return wire.QueryGroupsResponse(result=RestToGrpc.convert_groups_result(found))

    def _search(self, request: Any) -> Any:
        return _hits(self.client.search(request.collection_name, list(request.vector), limit=request.limit))

    def _others(self) -> dict[str, Callable[[Any], Any]]:
        engine = self.client
        return {
            "Collections/List": lambda _: wire.ListCollectionsResponse(
                collections=map(RestToGrpc.convert_collection_description, engine.get_collections().collections)
            ),
            "Collections/Get": lambda r: wire.GetCollectionInfoResponse(
                result=RestToGrpc.convert_collection_info(engine.get_collection(r.collection_name))
            ),
            "Collections/Create": lambda r: _true(
                engine.create_collection(r.collection_name, GrpcToRest.convert_vectors_config(r.vectors_config))
            ),
            "Collections/Delete": lambda r: _true(engine.delete_collection(r.collection_name)),
            "Collections/Update": _true,
            "Collections/UpdateAliases": lambda r: _true(
                engine.update_collection_aliases(list(map(GrpcToRest.convert_alias_operations, r.actions)))
            ),
            "Collections/ListAliases": lambda _: _aliases(engine.get_aliases()),
            "Collections/ListCollectionAliases": lambda r: _aliases(engine.get_collection_aliases(r.collection_name)),
            "Collections/CollectionExists": lambda r: wire.CollectionExistsResponse(
                result=wire.CollectionExists(exists=engine.collection_exists(r.collection_name))
            ),
            "Collections/CollectionClusterInfo": lambda _: wire.CollectionClusterInfoResponse(),
            "Collections/UpdateCollectionClusterSetup": lambda _: wire.UpdateCollectionClusterSetupResponse(
                result=True
            ),
            "Collections/CreateShardKey": lambda _: wire.CreateShardKeyResponse(result=True),
            "Collections/DeleteShardKey": lambda _: wire.DeleteShardKeyResponse(result=True),
            "Collections/ListShardKeys": lambda _: wire.ListShardKeysResponse(),
            "Snapshots/Create": lambda _: _snapshot(),
            "Snapshots/CreateFull": lambda _: _snapshot(),
            "Snapshots/List": lambda _: wire.ListSnapshotsResponse(),
            "Snapshots/ListFull": lambda _: wire.ListSnapshotsResponse(),
            "Snapshots/Delete": lambda _: wire.DeleteSnapshotResponse(),
            "Snapshots/DeleteFull": lambda _: wire.DeleteSnapshotResponse(),
            "Qdrant/HealthCheck": lambda _: wire.HealthCheckReply(
                title="qdrant (stand-in: real wire, local mode)", version=version("qdrant-client")
            ),
        }


def _points(points: Any) -> list[Any]:
    return [GrpcToRest.convert_point_struct(point) for point in points]


def _selector(selector: Any) -> Any:
    return GrpcToRest.convert_points_selector(selector)


def _filter(request: Any) -> Any:
    return GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None


def _selected(request: Any) -> dict[str, Any]:
    payload, vectors = request.with_payload, request.with_vectors
    return {
        "with_payload": GrpcToRest.convert_with_payload_selector(payload)
        if payload.WhichOneof("selector_options")
        else False,
        "with_vectors": GrpcToRest.convert_with_vectors_selector(vectors)
        if vectors.WhichOneof("selector_options")
        else False,
    }


def _hits(points: Any) -> list[Any]:
    return [RestToGrpc.convert_scored_point(point) for point in points]


def _matrix(request: Any) -> dict[str, Any]:
    return {
        "collection_name": request.collection_name,
        "query_filter": _filter(request),
        "sample": request.sample or 10,
        "limit": request.limit or 3,
    }


def _true(_: Any) -> Any:
    return wire.CollectionOperationResponse(result=True)


def _aliases(found: Any) -> Any:
    return wire.ListAliasesResponse(aliases=map(RestToGrpc.convert_alias_description, found.aliases))


def _snapshot() -> Any:
    return wire.CreateSnapshotResponse(snapshot_description=wire.SnapshotDescription(name="snapshot"))
