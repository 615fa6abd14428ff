"""A server that answers whatever it is asked: for calls of which only the way to the network matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stormproof.demo.wire import Request, Response, Route, WireServer, json_response, ndjson_response, sse_response


class TolerantWire(WireServer):
    """Answers every request with the same JSON object, or with a stream of several, and notes the requests.

    ``answer`` may be changed between two requests, never during one.
    """

    def __init__(self, answer: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.answer = answer
        self.requests: list[Request] = []

    def routes(self) -> Sequence[Route]:
        """Return none: every path is answered."""
        return ()

    def handle(self, request: Request) -> Response:
        """Answer, and note what was asked."""
        self.requests.append(request)
        if isinstance(self.answer, Mapping):
            return json_response(self.answer)
        return (ndjson_response if request.path.startswith("/api/") else sse_response)(self.answer)
