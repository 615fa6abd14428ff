"""The other end of the soak, in a process of its own, so that what is measured here is the app's side alone."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection

from typing_extensions import Self

from stormproof.demo.ollama_wire import OllamaWire
from stormproof.demo.openai_wire import OpenAIWire
from stormproof.demo.proxy import FaultProxy, drop, reset, reset_after, status
from stormproof.demo.qdrant_wire import QdrantWire
from stormproof.demo.wire import WireServer
from tests.servers.qdrant_grpc import QdrantGrpc, abort

_WIRES: dict[str, type[WireServer]] = {"openai": OpenAIWire, "ollama": OllamaWire, "qdrant": QdrantWire}

#: No 429, no RESOURCE_EXHAUSTED: a rate limit is learnt and kept to, which would only make the soak slow.
_FAULTS = (status(503), status(500), status(502), reset(), reset_after(), drop(after_bytes=1))
_GRPC_FAULTS = (abort("UNAVAILABLE"), abort("UNAVAILABLE", after=True), abort("ABORTED"))
#: More than will be made.
_MOST_CALLS = 50_000

#: Switches the faults on and forgets what was seen before; tells (requests, faults among them).
Begin = Callable[[], None]
Counts = Callable[[], tuple[int, int]]


class FarSide:
    """A server with faults before it. ``url`` is where it is; ``begin`` switches the faults on.

    ``path`` is whose requests are met by faults, and counted: of HTTP, or a method of gRPC (system ``grpc``). The
    ``seed`` decides which of them.
    """

    def __init__(self, system: str, path: str, rate: float, seed: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, system, path, rate, seed), daemon=True)

    def begin(self) -> None:
        """From now on faults are injected, and requests counted."""
        self._ask("begin")

    def counts(self) -> tuple[int, int]:
        """(requests, faults among them) since ``begin``."""
        return self._ask("counts")

    def _ask(self, what: str) -> tuple[int, int]:
        self._ours.send(what)
        assert self._ours.poll(30), "the far side does not answer"
        answer: tuple[int, int] = self._ours.recv()
        return answer

    def __enter__(self) -> Self:
        self._process.start()
        assert self._ours.poll(60), "the far side did not start"
        self.url: str = self._ours.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()  # which ends it
        self._process.join(10)
        assert self._process.exitcode == 0


def _serve(pipe: Connection, system: str, path: str, rate: float, seed: int) -> None:
    with ExitStack() as stack:
        serve = _serve_grpc if system == "grpc" else _serve_http
        url, begin, counts = serve(stack, system, path, rate, seed)
        pipe.send(url)
        while True:
            try:
                what = pipe.recv()
            except EOFError:
                return
            if what == "begin":
                begin()
            pipe.send(counts())


def _serve_http(stack: ExitStack, system: str, path: str, rate: float, seed: int) -> tuple[str, Begin, Counts]:
    wire = stack.enter_context(_WIRES[system]())
    proxy = stack.enter_context(FaultProxy(wire.url))

    def begin() -> None:
        proxy.clear()
        proxy.chance("POST", path, _FAULTS, rate, seed)

    def counts() -> tuple[int, int]:
        seen = [exchange.fault for exchange in proxy.exchanges if exchange.path == path]
        return len(seen), len(seen) - seen.count(None)

    return proxy.url, begin, counts


def _serve_grpc(stack: ExitStack, _: str, method: str, rate: float, seed: int) -> tuple[str, Begin, Counts]:
    server = stack.enter_context(QdrantGrpc())
    dice = random.Random(seed)

    def begin() -> None:
        server.calls.clear()
        server.plan(method, [dice.choice(_GRPC_FAULTS) if dice.random() < rate else None for _ in range(_MOST_CALLS)])

    def counts() -> tuple[int, int]:
        seen = [call.fault for call in server.calls if call.method == method]
        return len(seen), len(seen) - seen.count(None)

    return f"http://{server.host}:{server.port}", begin, counts
