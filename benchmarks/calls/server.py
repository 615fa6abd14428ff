"""A server that answers each path's request with its bytes, and does nothing else: it is not to be what limits."""

from __future__ import annotations

import asyncio
import re
import sys

from benchmarks.calls.clients import headers
from benchmarks.calls.paths import PATHS, Path

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def _answer(path: Path) -> bytes:
    head = b"".join(name + b": " + value + b"\r\n" for name, value in headers(path))
    if path.streams:
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in path.answer) + b"0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\n" + head + b"transfer-encoding: chunked\r\n\r\n" + body
    return b"HTTP/1.1 200 OK\r\n" + head + b"content-length: %d\r\n\r\n" % len(path.answer[0]) + path.answer[0]


class _Connection(asyncio.Protocol):
    """Tells the paths apart by what the URL's first segment says: ``/7/v1/chat/completions`` is the seventh path."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._seen, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._seen) < whole:
                return
            number = int(self._seen.split(b" ", 2)[1].split(b"/", 2)[1])
            self._seen = self._seen[whole:]
            self._transport.write(self._answers[number])


async def _serve() -> None:
    answers = [_answer(path) for path in PATHS.values()]
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(answers), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until whoever started this is gone


def url(port: int, name: str) -> str:
    """Where the path of this name is answered."""
    return f"http://127.0.0.1:{port}/{list(PATHS).index(name)}"


if __name__ == "__main__":
    asyncio.run(_serve())
