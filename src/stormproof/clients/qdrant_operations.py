"""What qdrant's calls are called, whichever way they go: as the public method that makes exactly this call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stormproof.clients.facts import get

#: (method, URL template) → the name of the public method, where it is not the template's last word.
_REST = {
    ("GET", "/"): "info",
    ("GET", "/aliases"): "get_aliases",
    ("GET", "/cluster"): "cluster_status",
    ("GET", "/cluster/telemetry"): "cluster_telemetry",
    ("POST", "/cluster/recover"): "recover_current_peer",
    ("DELETE", "/cluster/peer/{peer_id}"): "remove_peer",
    ("GET", "/collections"): "get_collections",
    ("POST", "/collections/aliases"): "update_collection_aliases",
    ("GET", "/collections/{collection_name}"): "get_collection",
    ("PUT", "/collections/{collection_name}"): "create_collection",
    ("PATCH", "/collections/{collection_name}"): "update_collection",
    ("DELETE", "/collections/{collection_name}"): "delete_collection",
    ("GET", "/collections/{collection_name}/aliases"): "get_collection_aliases",
    ("GET", "/collections/{collection_name}/cluster"): "collection_cluster_info",
    ("POST", "/collections/{collection_name}/cluster"): "cluster_collection_update",
    ("GET", "/collections/{collection_name}/exists"): "collection_exists",
    ("PUT", "/collections/{collection_name}/index"): "create_payload_index",
    ("DELETE", "/collections/{collection_name}/index/{field_name}"): "delete_payload_index",
    ("GET", "/collections/{collection_name}/optimizations"): "get_optimizations",
    ("GET", "/collections/{collection_name}/points/{id}"): "retrieve",
    ("PUT", "/collections/{collection_name}/points"): "upsert",
    ("POST", "/collections/{collection_name}/points"): "retrieve",
    ("POST", "/collections/{collection_name}/points/batch"): "batch_update_points",
    ("POST", "/collections/{collection_name}/points/discover/batch"): "discover_batch",
    ("POST", "/collections/{collection_name}/points/payload"): "set_payload",
    ("PUT", "/collections/{collection_name}/points/payload"): "overwrite_payload",
    ("POST", "/collections/{collection_name}/points/payload/clear"): "clear_payload",
    ("POST", "/collections/{collection_name}/points/payload/delete"): "delete_payload",
    ("POST", "/collections/{collection_name}/points/query"): "query_points",
    ("POST", "/collections/{collection_name}/points/query/batch"): "query_batch_points",
    ("POST", "/collections/{collection_name}/points/query/groups"): "query_points_groups",
    ("POST", "/collections/{collection_name}/points/recommend/batch"): "recommend_batch",
    ("POST", "/collections/{collection_name}/points/recommend/groups"): "recommend_groups",
    ("POST", "/collections/{collection_name}/points/search/batch"): "search_batch",
    ("POST", "/collections/{collection_name}/points/search/groups"): "search_groups",
    ("POST", "/collections/{collection_name}/points/search/matrix/offsets"): "search_matrix_offsets",
    ("POST", "/collections/{collection_name}/points/search/matrix/pairs"): "search_matrix_pairs",
    ("PUT", "/collections/{collection_name}/points/vectors"): "update_vectors",
    ("POST", "/collections/{collection_name}/points/vectors/delete"): "delete_vectors",
    ("GET", "/collections/{collection_name}/shards"): "list_shard_keys",
    ("PUT", "/collections/{collection_name}/shards"): "create_shard_key",
    ("POST", "/collections/{collection_name}/shards/delete"): "delete_shard_key",
    ("GET", "/collections/{collection_name}/shards/{shard_id}/snapshots"): "list_shard_snapshots",
    ("POST", "/collections/{collection_name}/shards/{shard_id}/snapshots"): "create_shard_snapshot",
    ("DELETE", "/collections/{collection_name}/shards/{shard_id}/snapshots/{snapshot_name}"): "delete_shard_snapshot",
    ("PUT", "/collections/{collection_name}/shards/{shard_id}/snapshots/recover"): "recover_shard_snapshot",
    ("GET", "/collections/{collection_name}/snapshots"): "list_snapshots",
    ("POST", "/collections/{collection_name}/snapshots"): "create_snapshot",
    ("PUT", "/collections/{collection_name}/snapshots/recover"): "recover_snapshot",
    ("DELETE", "/collections/{collection_name}/snapshots/{snapshot_name}"): "delete_snapshot",
    ("PUT", "/collections/{collection_name}/vectors/{vector_name}"): "create_vector_name",
    ("DELETE", "/collections/{collection_name}/vectors/{vector_name}"): "delete_vector_name",
    ("GET", "/locks"): "get_locks",
    ("POST", "/locks"): "lock_storage",
    ("GET", "/snapshots"): "list_full_snapshots",
    ("POST", "/snapshots"): "create_full_snapshot",
    ("DELETE", "/snapshots/{snapshot_name}"): "delete_full_snapshot",
}

#: service/method → the name of the public method, where it is not the method's name with underscores.
_GRPC = {
    "Points/Get": "retrieve",
    "Points/CreateFieldIndex": "create_payload_index",
    "Points/DeleteFieldIndex": "delete_payload_index",
    "Points/Query": "query_points",
    "Points/QueryBatch": "query_batch_points",
    "Points/QueryGroups": "query_points_groups",
    "Points/UpdateBatch": "batch_update_points",
    "Collections/Create": "create_collection",
    "Collections/Delete": "delete_collection",
    "Collections/Get": "get_collection",
    "Collections/List": "get_collections",
    "Collections/ListAliases": "get_aliases",
    "Collections/ListCollectionAliases": "get_collection_aliases",
    "Collections/Update": "update_collection",
    "Collections/UpdateAliases": "update_collection_aliases",
    "Collections/UpdateCollectionClusterSetup": "cluster_collection_update",
    "Qdrant/HealthCheck": "info",
    "Snapshots/Create": "create_snapshot",
    "Snapshots/CreateFull": "create_full_snapshot",
    "Snapshots/Delete": "delete_snapshot",
    "Snapshots/DeleteFull": "delete_full_snapshot",
    "Snapshots/List": "list_snapshots",
    "Snapshots/ListFull": "list_full_snapshots",
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
    r"get_|list_|search|query|recommend|discover|retrieve$|count$|scroll$|facet$|info$|collection_(exists|cluster_info)$"
)

#: The operations that carry several points, queries or operations, and where a REST model, a message of gRPC or the
#: arguments of local mode have them.
_BATCHED = frozenset(
    (
        "upsert",
        "update_vectors",
        "batch_update_points",
        "query_batch_points",
        "search_batch",
        "recommend_batch",
        "discover_batch",
        "upload_points",
        "upload_records",
        "upload_collection",
    )
)
_PARTS = (
    "points",
    "records",
    "operations",
    "update_operations",
    "searches",
    "requests",
    "query_points",
    "search_points",
    "recommend_points",
    "discover_points",
    "vectors",
)


def of_rest(method: str, template: str) -> str:
    """The operation's name, of an HTTP method and a URL template."""
    path = template if template.startswith("/") else "/" + template
    known = _REST.get((method.upper(), path))
    if known:
        return known
    words = [word for word in path.split("/") if word and not word.startswith("{")]
    return words[-1] if words else method.lower()


def of_grpc(service: str, method: str) -> str:
    """The operation's name, of a service (``Points``) and its method (``Upsert``)."""
    return _GRPC.get(f"{service}/{method}") or re.sub(r"(?<!^)([A-Z])", r"_\1", method).lower()


def is_idempotent(operation: str) -> bool:
    """Whether it may be carried out twice."""
    return operation in _IDEMPOTENT_WRITES or _READS.match(operation) is not None


def batch_size(operation: str, request: Any) -> int | None:
    """How many points, queries or operations a request carries, if several.

    ``request`` has them as attributes or, a mapping, as items. Nothing is iterated: it may be the app's generator.
    """
    if operation not in _BATCHED:
        return None
    columns = get(request, "batch")  # of an upsert by REST
    request = request if columns is None else columns
    for name in ("ids", *_PARTS):
        parts = get(request, name)
        parts = getattr(parts, "ids", parts)  # the columns of an upsert in local mode
        if parts is not None and hasattr(parts, "__len__") and not isinstance(parts, Mapping):
            return len(parts) if len(parts) > 1 else None
    return None


def facts(collection: str | None, size: int | None) -> dict[str, Any]:
    """A call's facts."""
    known: dict[str, Any] = {}
    if collection is not None:
        known["collection"] = collection
    if size is not None:
        known["batch_size"] = size
    return known
