"""Stand-ins with a proxy before each, and stormproof switched on for a test and off again."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest
from qdrant_client import models

from stormproof.demo.ollama_wire import OllamaWire
from stormproof.demo.openai_wire import OpenAIWire
from stormproof.demo.proxy import FaultProxy
from stormproof.demo.qdrant_wire import QdrantWire
from stormproof.demo.wire import WireServer
from tests import contract

from .drivers import COLLECTION, quiet_qdrant
from .shield import Shield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-emitted", action="store_true", help="write emitted.txt from what is seen")


@pytest.fixture(scope="session")
def wires() -> Iterator[Mapping[str, WireServer]]:
    """The three stand-ins."""
    with OpenAIWire() as openai, OllamaWire() as ollama, QdrantWire() as qdrant:
        client = quiet_qdrant(qdrant.url)
        client.create_collection(COLLECTION, models.VectorParams(size=4, distance=models.Distance.DOT))
        client.upsert(COLLECTION, [models.PointStruct(id=n, vector=[0.1, 0.2, 0.3, 0.4]) for n in (1, 2, 3)])
        client.close()
        yield {"openai": openai, "ollama": ollama, "qdrant": qdrant}


@pytest.fixture
def proxy_of(wires: Mapping[str, WireServer]) -> Iterator[Callable[[str], FaultProxy]]:
    """Makes a proxy before the stand-in of a system."""
    with ExitStack() as stack:
        yield lambda system: stack.enter_context(FaultProxy(wires[system].url))


@pytest.fixture
def shield(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Shield]:
    """stormproof, on, with quick retries. Afterwards nothing may be left open, and nothing was complained of."""
    shield = Shield(monkeypatch)
    shield.set("STORMPROOF__RETRY__BASE", "1ms")
    shield.set("STORMPROOF_QUIET", "1")
    shield.on()
    yield shield
    gc.collect()
    targets = shield.targets()
    shield.off()
    assert not shield.signals.open_spans, "a span was never ended"
    assert not shield.signals.ended_twice
    assert contract.violations(shield.signals) == []
    assert [t.name for t in targets if t.breaker.in_flight] == [], "a permit was never given back"
    complaints = [record.getMessage() for record in caplog.get_records("call") if _is_complaint(record)]
    if shield.expected_complaints != ["any"]:
        assert complaints == shield.expected_complaints


def _is_complaint(record: logging.LogRecord) -> bool:
    ours = record.name.startswith(("stormproof", "opentelemetry"))
    return ours and record.levelno >= logging.WARNING
