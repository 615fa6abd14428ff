"""What the tests of the clients have, and the others out again after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.conftest import proxy_of, shield, wires
from tests.launcher.conftest import world

from .others import OTHERS, strip

__all__ = ["proxy_of", "shield", "wires", "world"]


@pytest.fixture(autouse=True)
def bare_clients() -> Iterator[None]:
    """Nothing of the others is around the clients' functions, before and after; some do not take themselves out."""
    yield
    for other in OTHERS:
        other.off()
    strip()
