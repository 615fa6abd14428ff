"""What the tests of the servers share."""

from __future__ import annotations

import inspect
from typing import Any

from qdrant_client import QdrantClient


def quiet_qdrant(url: str) -> QdrantClient:
    """Return a client that does not ask for the server's version, which it does from a thread of its own."""
    known = inspect.signature(QdrantClient).parameters
    options: dict[str, Any] = {"check_compatibility": False} if "check_compatibility" in known else {}
    return QdrantClient(url=url, **options)
