"""The HTTP/1.1 server under every stand-in: routes in, plain or streamed answers out.

Built on the standard library alone, so that the demo needs nothing which the clients do not bring. It keeps
connections alive, sends at once (no Nagle), streams chunk by chunk, and on `stop` closes every connection and
waits for its handlers, so that neither threads nor sockets are left behind.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from typing_extensions import Self

_logger = logging.getLogger(__name__)
_POLL = 0.05  # how often the accept loop looks whether it should stop
_STOP_TIMEOUT = 5.0


class WireError(Exception):
    """Raised by a handler to answer with an error in the service's own shape."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Request:
    """One request, its body read to the end and its header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def object(self) -> dict[str, Any]:
        """Return the body as a JSON object; an empty body counts as an empty one."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise WireError(400, f"We could not parse the JSON body of your request: {error}") from error
        if not isinstance(value, dict):
            raise WireError(400, "The body of your request must be a JSON object.")
        return value


@dataclass(frozen=True)
class Response:
    """One answer: either a whole `body`, or `chunks` that are sent as they come."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: Iterable[bytes] | None = None


Handler = Callable[..., Response]


@dataclass(frozen=True)
class Route:
    """A method, a pattern that the whole path must match, and the handler that gets request and groups."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler


def route(method: str, pattern: str, handler: Handler) -> Route:
    """Make a route; each group of the pattern becomes an argument of the handler."""
    return Route(method, re.compile(pattern), handler)


def dump_json(value: object) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with one JSON value."""
    return Response(status, dump_json(value), headers=headers or {})


def ndjson_response(values: Iterable[object]) -> Response:
    """Stream one JSON value a line, as Ollama does."""
    chunks = (dump_json(value) + b"\n" for value in values)
    return Response(content_type="application/x-ndjson", chunks=chunks)


def sse_response(values: Iterable[object]) -> Response:
    """Stream server-sent events that end with `[DONE]`, as OpenAI does."""

    def events() -> Iterable[bytes]:
        for value in values:
            yield b"data: " + dump_json(value) + b"\n\n"
        yield b"data: [DONE]\n\n"

    return Response(content_type="text/event-stream", chunks=events())


class WireServer:
    """A server in a background thread, used as a context manager; subclasses give `routes` and `error`."""

    server_header = "stormproof-stand-in"

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._address = (host, port)
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None

    def routes(self) -> Sequence[Route]:
        """Return the routes; the first that matches wins."""
        raise NotImplementedError

    def error(self, status: int, message: str) -> Response:
        """Return an error in the service's own shape."""
        return json_response({"error": message}, status)

    def handle(self, request: Request) -> Response:
        """Answer one request; a failing handler becomes the service's own 500."""
        try:
            return self._dispatch(request)
        except WireError as error:
            return self.error(error.status, error.message)
        except Exception as error:
            _logger.exception("%s failed on %s %s", type(self).__name__, request.method, request.path)
            return self.error(500, f"{type(error).__name__}: {error}")

    def _dispatch(self, request: Request) -> Response:
        known_path = False
        for candidate in self._routes:
            match = candidate.pattern.fullmatch(request.path)
            if match is None:
                continue
            known_path = True
            if candidate.method == request.method:
                return candidate.handler(request, *(unquote(group) for group in match.groups()))
        if known_path:
            raise WireError(405, f"Method {request.method} is not allowed on {request.path}")
        raise WireError(404, f"Invalid URL ({request.method} {request.path})")

    @property
    def port(self) -> int:
        """The port that is listened on; known once started."""
        if self._listener is None:
            raise RuntimeError(f"{type(self).__name__} is not started")
        return self._listener.server_port

    @property
    def url(self) -> str:
        """The root address, without a slash at its end."""
        return f"http://{self._address[0]}:{self.port}"

    def start(self) -> Self:
        """Bind, and serve in a background thread from now on."""
        self._routes = tuple(self.routes())
        self._listener = _Listener(self._address, self)
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(_POLL,), name=type(self).__name__, daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop accepting, close every connection and wait for the handlers; harmless when not started."""
        listener, thread = self._listener, self._thread
        if listener is None or thread is None:
            return
        self._listener = self._thread = None
        listener.shutdown()
        listener.server_close()
        thread.join(_STOP_TIMEOUT)
        listener.close_connections(_STOP_TIMEOUT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()


class _Listener(ThreadingHTTPServer):
    """A listening socket that knows its open connections, so that they can be closed when it stops."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], wire: WireServer) -> None:
        self.wire = wire
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(address, _ConnectionHandler)

    def server_bind(self) -> None:
        # The one in HTTPServer asks the resolver for a name, which can take seconds without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def close_connections(self, timeout: float) -> None:
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, timeout)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _logger.error("%s: connection failed", type(self.wire).__name__, exc_info=sys.exc_info())


class _ConnectionHandler(BaseHTTPRequestHandler):
    """One connection; a client that goes away is nothing to talk about."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        return

    def version_string(self) -> str:
        return self.server.wire.server_header

    def _exchange(self) -> None:
        self._write(self.server.wire.handle(self._read()))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _exchange  # noqa: N815

    def _read(self) -> Request:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = b"".join(self._read_chunks())
        else:
            body = self.rfile.read(int(headers.get("content-length") or 0))
        return Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)

    def _read_chunks(self) -> Iterable[bytes]:
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _write(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", response.content_type)
        if response.chunks is None:
            self.send_header("content-length", str(len(response.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body)
            return
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for chunk in response.chunks:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")
