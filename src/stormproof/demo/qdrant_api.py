"""Qdrant's REST operations, carried out by the local engine that ships in qdrant-client.

Importing this module imports qdrant_client, which takes seconds: `qdrant_wire.py` does so when it is
started. Bodies are parsed with qdrant-client's own models. Operations that only older clients know are
offered when the installed engine has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient
from qdrant_client.http import models

from stormproof.demo.qdrant_wire import UPDATED
from stormproof.demo.wire import WireError

Body = dict[str, Any]
Operation = Callable[..., object]

_COLLECTION = "/collections/([^/]+)"
_POINTS = _COLLECTION + "/points"
_OLD_SEARCHES = (
    ("search", "search_batch", "SearchRequest"),
    ("recommend", "recommend_batch", "RecommendRequest"),
    ("discover", "discover_batch", "DiscoverRequest"),
)


class LocalApi:
    """The operations by method and path; not safe for concurrent calls, as the engine is not."""

    def __init__(self) -> None:
        self._engine = QdrantClient(":memory:")

    def close(self) -> None:
        """Give the engine's memory back."""
        self._engine.close()

    def operations(self) -> Iterator[tuple[str, str, Operation]]:
        """Yield method, path pattern and function; the function gets the body and the path's groups."""
        yield "GET", "/collections", self._list_collections
        yield "GET", "/aliases", lambda _: self._engine.get_aliases()
        yield "POST", "/collections/aliases", self._change_aliases
        yield "GET", _COLLECTION + "/exists", self._exists
        yield "PUT", _COLLECTION, self._create_collection
        yield "DELETE", _COLLECTION, lambda _, name: self._engine.delete_collection(name)
        for method, path, operation in self._in_collection():
            yield method, path, self._checked(operation)

    def _in_collection(self) -> Iterator[tuple[str, str, Operation]]:
        yield "GET", _COLLECTION, lambda _, name: self._engine.get_collection(name)
        yield "PATCH", _COLLECTION, lambda _body, _name: True
        yield "GET", _COLLECTION + "/aliases", lambda _, name: self._engine.get_collection_aliases(name)
        yield "GET", _COLLECTION + "/snapshots", lambda _body, _name: []
        yield "PUT", _COLLECTION + "/index", lambda _body, _name: UPDATED
        yield "DELETE", _COLLECTION + "/index/([^/]+)", lambda _body, _name, _field: UPDATED
        yield "POST", _COLLECTION + "/facet", self._facet
        yield "PUT", _POINTS, self._upsert
        yield "POST", _POINTS, self._retrieve
        yield "POST", _POINTS + "/count", self._count
        yield "POST", _POINTS + "/scroll", self._scroll
        yield "POST", _POINTS + "/delete", self._delete
        yield "POST", _POINTS + "/batch", self._batch
        yield "POST", _POINTS + "/payload", self._set_payload
        yield "PUT", _POINTS + "/payload", self._overwrite_payload
        yield "POST", _POINTS + "/payload/delete", self._delete_payload
        yield "POST", _POINTS + "/payload/clear", self._clear_payload
        yield "PUT", _POINTS + "/vectors", self._update_vectors
        yield "POST", _POINTS + "/vectors/delete", self._delete_vectors
        yield "POST", _POINTS + "/search/matrix/pairs", self._matrix_pairs
        yield "POST", _POINTS + "/search/matrix/offsets", self._matrix_offsets
        yield "POST", _POINTS + "/query", self._query
        yield "POST", _POINTS + "/query/batch", self._query_batch
        yield "POST", _POINTS + "/query/groups", self._query_groups
        for path, engine_name, model_name in _OLD_SEARCHES:
            if hasattr(self._engine, engine_name):
                one, many = self._old_searches(engine_name, model_name)
                yield "POST", f"{_POINTS}/{path}", one
                yield "POST", f"{_POINTS}/{path}/batch", many
        yield "GET", _POINTS + "/([^/]+)", self._get_point

    def _checked(self, operation: Operation) -> Operation:
        def run(body: Body, name: str, *rest: str) -> object:
            if not self._engine.collection_exists(name):
                raise WireError(404, f"Not found: Collection `{name}` doesn't exist!")
            return operation(body, name, *rest)

        return run

    # Collections

    def _list_collections(self, _body: Body) -> object:
        return self._engine.get_collections()

    def _exists(self, _body: Body, name: str) -> object:
        return {"exists": self._engine.collection_exists(name)}

    def _create_collection(self, body: Body, name: str) -> object:
        if self._engine.collection_exists(name):
            raise WireError(409, f"Wrong input: Collection `{name}` already exists!")
        parsed = models.CreateCollection(**body)
        return self._engine.create_collection(
            name,
            vectors_config=parsed.vectors or {},
            sparse_vectors_config=parsed.sparse_vectors,
            **_given(parsed, "metadata"),
        )

    def _change_aliases(self, body: Body) -> object:
        return self._engine.update_collection_aliases(models.ChangeAliasesOperation(**body).actions)

    # Points

    def _upsert(self, body: Body, name: str) -> object:
        parsed = _parse(models.PointInsertOperations, body)
        points = parsed.points if hasattr(parsed, "points") else parsed.batch
        self._engine.upsert(name, points, **_given(parsed, "update_filter", "update_mode"))
        return UPDATED

    def _retrieve(self, body: Body, name: str) -> object:
        parsed = models.PointRequest(**body)
        return self._engine.retrieve(
            name,
            parsed.ids,
            with_payload=True if parsed.with_payload is None else parsed.with_payload,
            with_vectors=parsed.with_vector or False,
        )

    def _get_point(self, _body: Body, name: str, point_id: str) -> object:
        wanted = int(point_id) if point_id.isdigit() else point_id
        found = self._engine.retrieve(name, [wanted], with_vectors=True)
        if not found:
            raise WireError(404, f"Not found: Point with id {point_id} does not exists!")
        return found[0]

    def _count(self, body: Body, name: str) -> object:
        return self._engine.count(name, models.CountRequest(**body).filter)

    def _scroll(self, body: Body, name: str) -> object:
        parsed = models.ScrollRequest(**body)
        points, following = self._engine.scroll(
            name,
            scroll_filter=parsed.filter,
            with_vectors=parsed.with_vector or False,
            **_given(parsed, "limit", "offset", "order_by", "with_payload"),
        )
        return {"points": points, "next_page_offset": following}

    def _delete(self, body: Body, name: str) -> object:
        self._engine.delete(name, _selector(body))
        return UPDATED

    def _batch(self, body: Body, name: str) -> object:
        operations = _parse(models.UpdateOperations, body).operations
        self._engine.batch_update_points(name, operations)
        return [UPDATED for _ in operations]

    def _set_payload(self, body: Body, name: str) -> object:
        parsed = models.SetPayload(**body)
        self._engine.set_payload(name, parsed.payload, _selector(body), **_given(parsed, "key"))
        return UPDATED

    def _overwrite_payload(self, body: Body, name: str) -> object:
        self._engine.overwrite_payload(name, models.SetPayload(**body).payload, _selector(body))
        return UPDATED

    def _delete_payload(self, body: Body, name: str) -> object:
        self._engine.delete_payload(name, models.DeletePayload(**body).keys, _selector(body))
        return UPDATED

    def _clear_payload(self, body: Body, name: str) -> object:
        self._engine.clear_payload(name, _selector(body))
        return UPDATED

    def _update_vectors(self, body: Body, name: str) -> object:
        parsed = models.UpdateVectors(**body)
        self._engine.update_vectors(name, parsed.points, **_given(parsed, "update_filter"))
        return UPDATED

    def _delete_vectors(self, body: Body, name: str) -> object:
        self._engine.delete_vectors(name, models.DeleteVectors(**body).vector, _selector(body))
        return UPDATED

    # Searches

    def _query(self, body: Body, name: str) -> object:
        return self._engine.query_batch_points(name, [_query_request(body)])[0]

    def _query_batch(self, body: Body, name: str) -> object:
        requests = [_query_request(item) for item in body.get("searches", [])]
        return self._engine.query_batch_points(name, requests)

    def _query_groups(self, body: Body, name: str) -> object:
        parsed = models.QueryGroupsRequest(**body)
        asked = _given(parsed, "query", "using", "prefetch", "limit", "group_size", "score_threshold")
        return self._engine.query_points_groups(
            name,
            group_by=parsed.group_by,
            query_filter=parsed.filter,
            with_payload=parsed.with_payload or False,
            with_vectors=parsed.with_vector or False,
            **asked,
            **_given(parsed, "with_lookup", "lookup_from"),
        )

    def _old_searches(self, engine_name: str, model_name: str) -> tuple[Operation, Operation]:
        """Return the single and the batched form of a search that the query API has replaced."""
        search, model = getattr(self._engine, engine_name), getattr(models, model_name)

        def one(body: Body, name: str) -> object:
            return search(name, [model(**body)])[0]

        def many(body: Body, name: str) -> object:
            return search(name, [model(**item) for item in body.get("searches", [])])

        return one, many

    def _facet(self, body: Body, name: str) -> object:
        parsed = models.FacetRequest(**body)
        return self._engine.facet(name, parsed.key, facet_filter=parsed.filter, **_given(parsed, "limit"))

    def _matrix_pairs(self, body: Body, name: str) -> object:
        return self._engine.search_matrix_pairs(name, **_matrix(body))

    def _matrix_offsets(self, body: Body, name: str) -> object:
        return self._engine.search_matrix_offsets(name, **_matrix(body))


def _parse(kind: Any, body: Body) -> Any:
    return TypeAdapter(kind).validate_python(body)


def _given(parsed: BaseModel, *names: str) -> dict[str, Any]:
    """Return those of the fields that the request gave and that this version of the client knows."""
    values = {name: getattr(parsed, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _query_request(body: Body) -> models.QueryRequest:
    """Parse a query, less its search parameters: an engine that searches exactly warns about them."""
    parsed = models.QueryRequest(**{name: value for name, value in body.items() if name != "params"})
    parsed.with_payload = parsed.with_payload or False
    parsed.with_vector = parsed.with_vector or False
    return parsed


def _selector(body: Body) -> Any:
    chosen = {name: body[name] for name in ("points", "filter") if body.get(name) is not None}
    return _parse(models.PointsSelector, chosen)


def _matrix(body: Body) -> dict[str, Any]:
    parsed = models.SearchMatrixRequest(**body)
    return {"query_filter": parsed.filter, **_given(parsed, "sample", "limit", "using")}
