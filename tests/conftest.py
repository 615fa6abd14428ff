"""What all tests share: an environment without the developer's own settings, and stderr's lines said anew."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from stormproof import notice

if settings().deadline is not None:  # a slow machine breaks nothing; mutation tests choose more themselves
    settings.register_profile("stormproof", deadline=None)
    settings.load_profile("stormproof")


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test, and what was said once before may be said again."""
    for name in os.environ:
        if name.startswith(("STORMPROOF_", "OTEL_", "OPENAI_", "OLLAMA_", "QDRANT_")) and "TEST" not in name:
            monkeypatch.delenv(name)
    monkeypatch.setattr(notice, "_said", type(notice._said)())
