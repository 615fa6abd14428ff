"""10,000 operations of each client, a fifth of the requests met by faults: all is counted, nothing is left over.

Threads, tasks, whole answers and streams (some left early) all at once, as a service would.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from qdrant_client import models

import stormproof
from stormproof import install
from tests.clients.drivers import COLLECTION, DRIVERS, Driver, Qdrant, quiet_qdrant
from tests.soak.far_side import FarSide  # by its full name: it is pickled

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

OPERATIONS = 10_000
FAULT_RATE = 0.2
#: How many of them go by before memory is first looked at: caches and pools are full by then.
WARM_UP = 3_000
#: What may be more at the end than after the warm-up, in blocks of Python's allocator: a fifth of one an operation.
#: The caches of interpreter, SDK and clients move by a few hundred from run to run; what is kept moves by thousands.
MORE_BLOCKS = 1_400
#: Threads for the clients that block, tasks for those that do not; every third stream is left after its first item.
THREADS = 3
TASKS = 6


class Grpc(Qdrant):
    """Qdrant's client over gRPC."""

    path = "Points/Count"
    status_error = grpc.RpcError
    connection_errors = (grpc.RpcError,)

    def client(self, url: str, **options: Any) -> Any:
        return quiet_qdrant(url, is_async=self.is_async, grpc_port=urlsplit(url).port, prefer_grpc=True, **options)


WAYS: dict[str, list[Driver]] = {
    **{system: [driver for driver in DRIVERS if driver.system == system] for system in ("openai", "ollama", "qdrant")},
    "grpc": [Grpc(is_async=False), Grpc(is_async=True)],
}


class Tally(SpanProcessor):
    """Counts spans instead of keeping them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open = 0
        self.operations = 0
        self.attempts = 0
        self.attempt_spans = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        with self._lock:
            self.open += 1

    def on_end(self, span: ReadableSpan) -> None:
        attempts = (span.attributes or {}).get("resilience.attempt.count")
        with self._lock:
            self.open -= 1
            self.attempt_spans += span.name.startswith("attempt ")
            if isinstance(attempts, int):
                self.operations += 1
                self.attempts += attempts


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tally]:
    """stormproof, on, and what became of its spans."""
    monkeypatch.setenv("STORMPROOF__RETRY__BASE", "1ms")
    monkeypatch.setenv("STORMPROOF_QUIET", "1")
    tally = Tally()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(tally)
    meter_provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    stormproof.instrument(tracer_provider=tracer_provider, meter_provider=meter_provider)
    yield tally
    stormproof.uninstrument()


@pytest.fixture
def forgiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of generators of the client that the garbage collector finds at work.

    A stream of openai that is left keeps its generators in a cycle, with or without us. A collector that runs in one
    thread has them closed one by one in the thread of their loop, and comes upon those that are closing just then.
    """
    tell = sys.unraisablehook

    def tell_of_others(unraisable: Any) -> None:
        file = getattr(getattr(unraisable.object, "ag_code", None), "co_filename", "")
        theirs = "/site-packages/" in file and str(unraisable.exc_value) == "async generator already executing"
        if not theirs:
            tell(unraisable)

    monkeypatch.setattr(sys, "unraisablehook", tell_of_others)


class Crowd:
    """Makes operations of one system in all its ways at once, until so many have been made."""

    def __init__(self, drivers: list[Driver], url: str) -> None:
        self._drivers, self._url = drivers, url
        self.failures: Counter[str] = Counter()
        self.made = 0

    def make(self, operations: int) -> None:
        """So many more."""
        share = operations // len(self._drivers)
        with ThreadPoolExecutor(len(self._drivers) * THREADS) as pool:
            work = []
            for driver in self._drivers:
                if driver.is_async:
                    work.append(pool.submit(self._in_tasks, driver, share))
                else:
                    work += [pool.submit(self._in_a_thread, driver, part) for part in _split(share, THREADS)]
            for made in work:
                made.result()
        self.made += share * len(self._drivers)

    def _in_a_thread(self, driver: Driver, count: int) -> None:
        def work(client: Any) -> None:
            for number in range(count):
                with self._noting_failures(driver):
                    _ask(driver, client, leave=number % 3 == 0)

        driver.use(self._url, work)

    def _in_tasks(self, driver: Driver, count: int) -> None:
        numbers = iter(range(count))

        async def task(client: Any) -> None:
            for number in numbers:
                with self._noting_failures(driver):
                    await _ask_async(driver, client, leave=number % 3 == 0)

        async def work(client: Any) -> None:
            await asyncio.gather(*(task(client) for _ in range(TASKS)))

        driver.use(self._url, work)

    @contextmanager
    def _noting_failures(self, driver: Driver) -> Iterator[None]:
        try:
            yield
        except (*driver.connection_errors, driver.status_error) as error:
            self.failures[type(error).__name__] += 1


def _split(count: int, parts: int) -> list[int]:
    return [count // parts + (part < count % parts) for part in range(parts)]


def _ask(driver: Driver, client: Any, *, leave: bool) -> None:
    answer = driver.start(client)
    if driver.streams:
        for _ in answer:
            if leave:
                answer.close()
                break


async def _ask_async(driver: Driver, client: Any, *, leave: bool) -> None:
    answer = await driver.start(client)
    if driver.streams:
        async for _ in answer:
            if leave:
                await (answer.aclose if hasattr(answer, "aclose") else answer.close)()
                break


def _blocks() -> int:
    """Blocks in use by Python's allocator; resident memory moves by megabytes without us, too."""
    gc.collect()
    return sys.getallocatedblocks()


def _prepare(driver: Driver, url: str) -> None:
    """What the calls need to find."""
    if isinstance(driver, Qdrant):
        vectors = models.VectorParams(size=4, distance=models.Distance.DOT)
        driver.use(url, lambda client: client.create_collection(COLLECTION, vectors))


@pytest.mark.usefixtures("forgiving")
@pytest.mark.parametrize("system", WAYS)
def test_ten_thousand_operations(system: str, tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    drivers = WAYS[system]
    with FarSide(system, drivers[0].path, FAULT_RATE) as far:
        _prepare(drivers[0], far.url)
        before = (tally.operations, tally.attempts, tally.attempt_spans)
        far.begin()
        crowd = Crowd(drivers, far.url)
        crowd.make(WARM_UP)
        blocks = _blocks()
        crowd.make(OPERATIONS - crowd.made)
        more_blocks = _blocks() - blocks
        requests, faults = far.counts()
        with capsys.disabled():
            print(
                f"\n{system}: {crowd.made} operations, {requests} requests, {faults} of them met by a fault, "
                f"{crowd.failures.total()} operations failed {dict(crowd.failures)}; after {WARM_UP} operations "
                f"{more_blocks:+d} blocks of memory"
            )
        operations, attempts, attempt_spans = (
            now - then
            for now, then in zip((tally.operations, tally.attempts, tally.attempt_spans), before, strict=True)
        )
        assert operations == crowd.made == OPERATIONS
        assert requests == attempts == attempt_spans
        assert faults == pytest.approx(FAULT_RATE * requests, rel=0.1)
        assert crowd.failures.total() < OPERATIONS * 0.02
        assert tally.open == 0
        (target,) = (target for target in install.targets() if target.system == drivers[0].system)
        assert target.breaker.in_flight == 0
        assert more_blocks < MORE_BLOCKS
