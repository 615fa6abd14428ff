"""The two sides of the fault proxy, and the relay that passes an answer from one to the other.

Written on asyncio streams and h11: h11 keeps the state of HTTP, this module moves the bytes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http.client import responses
from typing import Any

import h11

from stormproof.demo.faults import End, Fault, error_body

_READ_SIZE = 65536
_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_HOP_BY_HOP = (b"connection", b"keep-alive", b"proxy-connection")

Event = h11.Request | h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage
Sent = Callable[[int], None]


class Peer:
    """One side of the proxy: a connection and the state of HTTP on it."""

    def __init__(
        self, role: type[h11.CLIENT | h11.SERVER], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.http = h11.Connection(role)
        self._reader = reader
        self._writer = writer
        # With no buffer of its own, `drain` means that the kernel has it: no reset can overtake it then.
        writer.transport.set_write_buffer_limits(high=0)

    async def next_event(self) -> Event | None:
        """Return the next event, or None when the peer has closed its connection in good order."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self._reader.read(_READ_SIZE))
        if isinstance(event, (h11.Request, h11.InformationalResponse, h11.Response, h11.Data, h11.EndOfMessage)):
            return event
        return None

    async def read_body(self) -> bytes:
        """Read the body of the request that was just received."""
        parts: list[bytes] = []
        while isinstance(event := await self.next_event(), h11.Data):
            parts.append(bytes(event.data))
        return b"".join(parts)

    async def send(self, event: Event) -> None:
        """Send one event and wait until the kernel has all of it."""
        if data := self.http.send(event):
            self._writer.write(data)
            await self._writer.drain()

    async def send_raw(self, data: bytes) -> None:
        """Send bytes past HTTP; the connection is good for nothing afterwards."""
        self._writer.write(data)
        await self._writer.drain()

    async def end(self, how: End) -> None:
        """Do this with the connection in the middle of an answer."""
        if how == "hang":
            await asyncio.Event().wait()
        elif how == "reset":
            self.reset()
        else:
            await self.close()

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work, and give it up when the peer closes its connection meanwhile."""
        job, gone = asyncio.ensure_future(work), asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                raise ConnectionResetError("the client went away")
            await job
        finally:
            job.cancel()
            gone.cancel()
            await asyncio.gather(job, gone, return_exceptions=True)

    async def _gone(self) -> None:
        with suppress(OSError):
            while data := await self._reader.read(_READ_SIZE):
                self.http.receive_data(data)

    def reset(self) -> None:
        """Close at once and with RST."""
        with suppress(OSError):
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close in good order, unless that is done already."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


async def open_peer(host: str, port: int) -> Peer:
    """Connect to the upstream."""
    return Peer(h11.CLIENT, *await asyncio.open_connection(host, port))


async def forward(upstream: Peer, request: h11.Request, body: bytes) -> None:
    """Send a request upstream, with its body in one piece and on a connection that ends with it."""
    dropped = (*_HOP_BY_HOP, b"transfer-encoding", b"content-length")
    headers = [(name, value) for name, value in request.headers.raw_items() if name.lower() not in dropped]
    headers.append((b"Connection", b"close"))
    if body or request.method in (b"POST", b"PUT", b"PATCH"):
        headers.append((b"Content-Length", b"%d" % len(body)))
    await upstream.send(h11.Request(method=request.method, target=request.target, headers=headers))
    if body:
        await upstream.send(h11.Data(data=body))
    await upstream.send(h11.EndOfMessage())


async def answer(client: Peer, request: h11.Request, fault: Fault, sent: Sent) -> None:
    """Answer in the upstream's place with what a `status` fault says."""
    body = error_body(fault, request.target.decode("ascii"))
    headers = {
        "content-type": "application/json",
        **{name.lower(): fault.headers[name] for name in fault.headers},
    }
    headers["content-length"] = str(len(body))
    sent(fault.code)
    reason = responses.get(fault.code, "")
    await client.send(h11.Response(status_code=fault.code, headers=list(headers.items()), reason=reason))
    if request.method != b"HEAD":
        await client.send(h11.Data(data=body))
    await client.send(h11.EndOfMessage())


async def swallow(upstream: Peer) -> None:
    """Read the upstream's answer to its end and keep nothing of it."""
    while not isinstance(await _next(upstream), h11.EndOfMessage):
        pass


class Relay:
    """Passes an upstream's answer on to the client as it comes, or slowly, up to where a `drop` cuts it off."""

    def __init__(self, client: Peer, fault: Fault | None, sent: Sent) -> None:
        self._client = client
        self._cut = fault if fault and fault.kind == "drop" else None
        self._pause = fault.seconds if fault and fault.kind == "slow" else 0.0
        self._sent = sent
        self._chunked = True
        self._to_come: int | None = None
        self._chunks = 0
        self._bytes = 0

    async def run(self, upstream: Peer) -> None:
        """Pass on one answer."""
        while True:
            event = await _next(upstream)
            if isinstance(event, h11.Response):
                await self._head(event)
            elif isinstance(event, h11.Data):
                await self._data(event)
            elif isinstance(event, h11.EndOfMessage):
                await self._end()
                return
            if self._cut is not None and self._reached(self._cut):
                await self._client.end(self._cut.then)
                return

    async def _head(self, response: h11.Response) -> None:
        headers = [(name, value) for name, value in response.headers.raw_items() if name.lower() not in _HOP_BY_HOP]
        length = next((value for name, value in headers if name.lower() == b"content-length"), None)
        self._to_come = None if length is None else int(length)
        self._sent(response.status_code)
        await self._client.send(h11.Response(status_code=response.status_code, headers=headers, reason=response.reason))

    async def _data(self, event: h11.Data) -> None:
        data = bytes(event.data)
        if self._cut is not None:
            data = data[: self._allowed(len(data))]
        if data:
            await asyncio.sleep(self._pause)
            await self._client.send(h11.Data(data=data))
        self._bytes += len(data)
        self._chunks += 1 if self._to_come is not None else event.chunk_end

    def _allowed(self, size: int) -> int:
        """Return how much of a piece may be passed on: never the last byte of a body of known length."""
        limits = [size]
        if self._cut is not None and self._cut.after_bytes is not None:
            limits.append(self._cut.after_bytes - self._bytes)
        if self._to_come is not None:
            limits.append(self._to_come - 1 - self._bytes)
        return max(0, min(limits))

    def _reached(self, cut: Fault) -> bool:
        if cut.after_bytes is not None:
            return self._bytes >= cut.after_bytes
        return self._chunks >= (cut.after_chunks or 0)

    async def _end(self) -> None:
        if self._cut is not None:
            await self._client.end(self._cut.then)
            return
        await self._client.send(h11.EndOfMessage())


async def _next(upstream: Peer) -> Event:
    event = await upstream.next_event()
    if event is None:
        raise ConnectionResetError("the upstream closed the connection in the middle of its answer")
    return event
