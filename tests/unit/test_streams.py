"""What is read from an item is ours; the item is the app's, whatever becomes of the reading."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from stormproof.clients.streams import Reader, watch_close


def test_an_item_that_cannot_be_read_reaches_the_app(caplog: pytest.LogCaptureFixture) -> None:
    operation = Mock(is_over=False, **{"listeners.is_idle": False})

    def observe(_operation: Any, item: Any) -> None:
        raise AttributeError(f"{item!r} has no finish_reason")

    assert list(Reader(operation, iter(["a", "b"]), observe, Mock())) == ["a", "b"]
    assert operation.item.call_count == 2
    operation.succeed.assert_called_once_with()
    operation.fail.assert_not_called()
    assert len([record for record in caplog.records if record.name == "stormproof"]) == 1
    caplog.clear()


class Response:
    """As httpx's, as far as it is closed."""

    stream = iter(())

    def __init__(self) -> None:
        self.closings = 0

    def close(self) -> None:
        self.closings += 1


class TestWatchClose:
    def test_it_is_told_and_leaves_no_trace(self) -> None:
        response = Response()
        told: list[int] = []
        watch_close(response, lambda: told.append(response.closings), read=lambda: b"")
        close = response.close
        close()
        assert (response.closings, told) == (1, [0])
        assert vars(response) == {"closings": 1}
        close()  # whoever holds it may call it again, from another thread at the same time
        assert (response.closings, told) == (2, [0, 1])

    def test_what_others_have_put_over_it_stays(self) -> None:
        response = Response()
        watch_close(response, lambda: None)
        ours = response.close
        vars(response)["close"] = theirs = Mock(side_effect=ours)
        response.close()
        assert response.closings == 1
        assert response.close is theirs
