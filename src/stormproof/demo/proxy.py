"""A proxy that injects faults between a client and a server, and keeps a record of every request it saw.

It understands HTTP/1.1 (parsed by h11), so that faults hit requests and not mere connections: the third
embedding gets the 503, whatever connection it comes on. Resets are real ones (`SO_LINGER` 0 makes the
kernel send RST). It never makes up an answer that was not asked for: an upstream that fails makes it reset
the client's connection.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
from typing_extensions import Self

from stormproof.demo.faults import (
    Chance,
    Fault,
    Match,
    Outage,
    Plan,
    Rule,
    delay,
    drop,
    error_body,
    hang,
    raw,
    reset,
    reset_after,
    slow,
    status,
)
from stormproof.demo.relay import Peer, Relay, answer, forward, open_peer, swallow

__all__ = [
    "Exchange",
    "Fault",
    "FaultProxy",
    "delay",
    "drop",
    "hang",
    "raw",
    "reset",
    "reset_after",
    "slow",
    "status",
]

_STOP_TIMEOUT = 5.0


@dataclass
class Exchange:
    """One request as the proxy saw it; `status` is what the client was sent, None for nothing."""

    number: int
    connection: int
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    fault: str | None
    started: float
    status: int | None = None

    def sent(self, status: int) -> None:
        """Note the status, just before the client gets it."""
        self.status = status


class FaultProxy:
    """Stands before `upstream_url`; used as a context manager. Safe to arm and to read from any thread.

    The rules are asked in the order in which they were armed; the first that decides, decides.
    """

    def __init__(self, upstream_url: str, host: str = "127.0.0.1", port: int = 0) -> None:
        upstream = urlsplit(upstream_url)
        if upstream.scheme != "http" or upstream.hostname is None:
            raise ValueError(f"the upstream must be an http:// address, not {upstream_url!r}")
        self._upstream = (upstream.hostname, upstream.port or 80)
        self._address = (host, port)
        self._changed = threading.Condition()
        self._rules: list[Rule] = []
        self._exchanges: list[Exchange] = []
        self._numbers = 0
        self._connections = 0
        self._serving: dict[asyncio.Task[None], Peer] = {}
        self._thread: threading.Thread | None = None

    # Arming

    def plan(self, method: str, path_regex: str, faults: Iterable[Fault | None], start_after: int = 0) -> None:
        """Apply these faults to the matching requests in order (None lets one pass), then none.

        The first `start_after` of them are left to the rules that are armed later.
        """
        self._arm(Plan(Match.of(method, path_regex), faults, start_after))

    def chance(
        self,
        method: str,
        path_regex: str,
        faults: Fault | Sequence[Fault] | Callable[[], Fault],
        rate: float,
        seed: int = 0,
    ) -> None:
        """Apply a fault to each matching request with this probability."""
        self._arm(Chance(Match.of(method, path_regex), faults, rate, seed))

    def outage(
        self,
        path_regex: str,
        start_after: int = 0,
        lasting: float = 1.0,
        fault: Fault | None = None,
        at_least: int = 0,
    ) -> None:
        """Reset every matching request for `lasting` seconds, once `start_after` of them have passed.

        On a slow machine it lasts longer: until it has met `at_least` so many.
        """
        self._arm(Outage(Match.of("*", path_regex), start_after, lasting, fault or reset(), at_least))

    def disarm(self) -> None:
        """Forget every rule; requests that are being failed right now go on failing."""
        with self._changed:
            self._rules.clear()

    def _arm(self, rule: Rule) -> None:
        with self._changed:
            self._rules.append(rule)

    # What was seen

    @property
    def exchanges(self) -> list[Exchange]:
        """Every request so far, in the order of arrival."""
        with self._changed:
            return list(self._exchanges)

    def count(self, method: str, path_regex: str) -> int:
        """Return how many requests matched (`*` stands for any method)."""
        match = Match.of(method, path_regex)
        return sum(match(seen.method, seen.path) for seen in self.exchanges)

    def wait_for(self, method: str, path_regex: str, count: int = 1, timeout: float = 10.0) -> bool:
        """Wait until that many matching requests have arrived; tell whether they did."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count(method, path_regex) >= count, timeout)

    def clear(self) -> None:
        """Forget the requests seen so far; their numbers go on."""
        with self._changed:
            self._exchanges.clear()

    def _record(self, request: h11.Request, body: bytes, connection: int) -> tuple[Exchange, Fault | None]:
        method = request.method.decode("ascii")
        path, _, query = request.target.decode("ascii").partition("?")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        with self._changed:
            decisions = (rule.decide(method, path) for rule in self._rules)
            decision = next((decided for decided in decisions if decided is not None), None)
            fault = decision.fault if decision else None
            self._numbers += 1
            exchange = Exchange(
                number=self._numbers,
                connection=connection,
                method=method,
                path=path,
                query=query,
                headers=headers,
                body=body,
                fault=fault.name if fault else None,
                started=time.monotonic(),
            )
            self._exchanges.append(exchange)
            self._changed.notify_all()
        return exchange, fault

    # Life

    @property
    def port(self) -> int:
        """The port that is listened on; known once started."""
        if self._thread is None:
            raise RuntimeError("FaultProxy is not started")
        return self._port

    @property
    def url(self) -> str:
        """The root address, without a slash at its end."""
        return f"http://{self._address[0]}:{self.port}"

    def start(self) -> Self:
        """Bind, and serve in a thread of its own from now on."""
        started: Future[int] = Future()
        thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), name="FaultProxy", daemon=True)
        thread.start()
        self._port = started.result()
        self._thread = thread
        return self

    def stop(self) -> None:
        """Stop accepting and cut every connection; harmless when not started."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(_STOP_TIMEOUT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    async def _run(self, started: Future[int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            server = await asyncio.start_server(self._accept, *self._address, backlog=128)
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(server.sockets[0].getsockname()[1])
        await self._stopping.wait()
        server.close()
        serving = dict(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for client in serving.values():
            client.reset()  # a task that was cancelled before it began has closed nothing
        await asyncio.sleep(0)  # the loop closes them in its next round

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        client = Peer(h11.SERVER, reader, writer)
        task = asyncio.ensure_future(self._serve(client, self._connections))
        self._serving[task] = client
        task.add_done_callback(self._serving.pop)

    async def _serve(self, client: Peer, connection: int) -> None:
        """Serve one client connection until either side has enough of it."""
        try:
            while isinstance(request := await client.next_event(), h11.Request):
                exchange, fault = self._record(request, await client.read_body(), connection)
                await client.while_connected(self._exchange(client, request, exchange, fault))
                if client.http.our_state is not h11.DONE:
                    return
                client.http.start_next_cycle()
        except (OSError, h11.ProtocolError):
            client.reset()
        finally:
            await client.close()

    async def _exchange(self, client: Peer, request: h11.Request, exchange: Exchange, fault: Fault | None) -> None:
        """Carry out the fault, or pass the request on."""
        if fault is None or fault.kind in ("drop", "delay", "slow"):
            await asyncio.sleep(fault.seconds if fault and fault.kind == "delay" else 0.0)
            await self._forward(request, exchange, Relay(client, fault, exchange.sent).run)
        elif fault.kind == "status":
            await answer(client, request, fault, exchange.sent)
        elif fault.kind == "raw":
            await client.send_raw(error_body(fault, exchange.path))
            await client.end(fault.then)
        elif fault.kind == "hang":
            await asyncio.Event().wait()
        else:
            if fault.kind == "reset_after":
                await self._forward(request, exchange, swallow)
            client.reset()

    async def _forward(
        self, request: h11.Request, exchange: Exchange, receive: Callable[[Peer], Awaitable[None]]
    ) -> None:
        """Send the request upstream and have its answer received."""
        upstream = await open_peer(*self._upstream)
        try:
            await forward(upstream, request, exchange.body)
            await receive(upstream)
        finally:
            await upstream.close()
