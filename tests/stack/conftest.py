"""The real parts that these tests share: collector with Jaeger, Prometheus, Ollama, and Qdrant's wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from collector.stack import Stack
from stormproof.demo.qdrant_wire import QdrantWire
from tests.servers.ollama import RealOllama


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def ollama() -> Iterator[RealOllama]:
    with RealOllama() as ollama:
        yield ollama


@pytest.fixture
def qdrant() -> Iterator[QdrantWire]:
    """Qdrant's real wire over qdrant-client's own local engine: no server binary is to be had from the registries."""
    with QdrantWire() as qdrant:
        yield qdrant
