"""What is read from an item is ours; the item is the app's, whatever becomes of the reading."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from stormproof.clients.streams import Reader


def test_an_item_that_cannot_be_read_reaches_the_app(caplog: pytest.LogCaptureFixture) -> None:
    operation = Mock(is_over=False)

    def observe(_operation: Any, item: Any) -> None:
        raise AttributeError(f"{item!r} has no finish_reason")

    assert list(Reader(operation, iter(["a", "b"]), observe, Mock())) == ["a", "b"]
    assert operation.item.call_count == 2
    operation.succeed.assert_called_once_with()
    operation.fail.assert_not_called()
    assert len([record for record in caplog.records if record.name == "stormproof"]) == 1
    caplog.clear()
