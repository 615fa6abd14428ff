"""Qdrant's REST wire over qdrant-client's own local engine.

The wire is real: paths, bodies, envelopes and error shapes are Qdrant's, and the real client speaks to it
over HTTP. The engine is not the server's: it is the local mode that ships in qdrant-client (exact search,
in memory, no indexes, snapshots or cluster). What is shown here about the wire holds for Qdrant; what is
shown about search does not prove anything about the server.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import BaseModel, ValidationError
from typing_extensions import Self

from stormproof.demo.wire import Request, Response, Route, WireError, WireServer, json_response, route

if TYPE_CHECKING:
    from stormproof.demo.qdrant_api import LocalApi, Operation


UPDATED = object()
"""Returned by an operation that changes points; it becomes a numbered update result."""


class QdrantWire(WireServer):
    """Qdrant's REST API on a local port; starts empty and keeps everything in memory.

    The engine runs in this process, where the very same client may be instrumented: its own work is done with
    instrumentation suppressed, so that a test sees the application's calls only.
    """

    server_header = "stormproof-stand-in/qdrant"

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host, port)
        self._lock = threading.Lock()
        self._operation_ids = itertools.count()
        self._api: LocalApi | None = None

    def start(self) -> Self:
        """Load the engine (this imports qdrant_client), then serve."""
        from stormproof.demo.qdrant_api import LocalApi

        self._api = LocalApi()
        return super().start()

    def stop(self) -> None:
        """Stop serving and forget every collection."""
        super().stop()
        if self._api is not None:
            self._api.close()
            self._api = None

    def routes(self) -> Sequence[Route]:
        """Return the part of Qdrant's API that local mode can carry."""
        if self._api is None:
            raise RuntimeError("QdrantWire is not started")
        probes = [route("GET", f"/{name}", _healthy) for name in ("healthz", "livez", "readyz")]
        operations = [
            route(method, path, self._handler(operation)) for method, path, operation in self._api.operations()
        ]
        return [route("GET", "/", _root), *probes, *operations]

    def error(self, status: int, message: str) -> Response:
        """Return Qdrant's error envelope."""
        return json_response({"status": {"error": message}, "time": 0.0}, status)

    def _handler(self, operation: Operation) -> Any:
        def handle(request: Request, *groups: str) -> Response:
            started = time.perf_counter()
            result = self._run(operation, request, groups)
            return json_response({"result": result, "status": "ok", "time": time.perf_counter() - started})

        return handle

    def _run(self, operation: Operation, request: Request, groups: tuple[str, ...]) -> Any:
        """Carry an operation out and translate the engine's failures into Qdrant's."""
        body = request.object()
        waited = request.query.get("wait") == "true"
        try:
            with self._lock, suppress_instrumentation():
                return self._result(operation(body, *groups), waited=waited)
        except WireError:
            raise
        except ValidationError as error:
            raise WireError(400, f"Format error in JSON body: {error}") from error
        except Exception as error:
            raise WireError(400, f"Wrong input: {error}") from error

    def _result(self, value: object, *, waited: bool) -> Any:
        if value is UPDATED:
            status = "completed" if waited else "acknowledged"
            return {"operation_id": next(self._operation_ids), "status": status}
        if isinstance(value, list) and UPDATED in value:
            return [self._result(item, waited=waited) for item in value]
        return _to_json(value)


def _to_json(value: object) -> Any:
    """Return what an operation gave back, made of plain JSON values."""
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json())
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return value


def _root(_request: Request) -> Response:
    title = "qdrant - vector search engine (stand-in: real wire, local mode)"
    return json_response({"title": title, "version": version("qdrant-client")})


def _healthy(request: Request) -> Response:
    body = f"{request.path[1:]} check passed".encode()
    return Response(body=body, content_type="text/plain; charset=utf-8")
