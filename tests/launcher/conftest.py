"""A world for each test: a network of its own, the services in it, and the launcher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Everything a program under the launcher meets; made when asked for, gone when the test ends."""
    with ExitStack() as stack:
        yield World(stack, tmp_path)
