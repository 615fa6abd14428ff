"""Each client in each of its ways beside the instrumentations that there are for it, and the trees that come of it."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from tests.clients.drivers import COLLECTION, DRIVERS, Driver, Qdrant
from tests.clients.shield import Shield
from tests.unit.signals import Signals

from .others import OTHERS, Other


class Scroll(Qdrant):
    """A call that traceloop's instrumentation knows; it does not know ``count``."""

    operation = "scroll"
    path = f"/collections/{COLLECTION}/points/scroll"

    def start(self, client: Any) -> Any:
        return client.scroll(COLLECTION)


#: traceloop's spans of qdrant's async client end before the call begins (``test_trees.py``).
PAIRS = [
    (driver, other)
    for driver in (*DRIVERS[:8], Scroll(is_async=False))
    for other in OTHERS
    if other.system == driver.system
]
ORDERS = ("ours first", "theirs first", "both late")

every_pair = pytest.mark.parametrize(("driver", "other"), PAIRS, ids=str)
every_order = pytest.mark.parametrize("order", ORDERS)


def scope(span: ReadableSpan) -> str:
    assert span.instrumentation_scope is not None
    return span.instrumentation_scope.name


def tree(signals: Signals) -> list[str]:
    """Every span, its ancestors before it: ``chat m/attempt chat/POST``."""
    by_id = {span.context.span_id: span for span in signals.spans if span.context is not None}

    def path(span: ReadableSpan) -> str:
        parent = by_id.get(span.parent.span_id) if span.parent is not None else None
        return span.name if parent is None else f"{path(parent)}/{span.name}"

    return [path(span) for span in signals.spans]


def call(shield: Shield, driver: Driver, url: str, order: str, *others: Other) -> Any:
    """The driver's call, with all switched on in this order; ``both late``: its client was made before."""
    shield.off()
    shield.signals.clear()
    if order != "both late":
        _switch_on(shield, order, others)
        return driver.call(url)

    def ask(client: Any) -> Any:
        _switch_on(shield, order, others)
        return driver.ask_async(client) if driver.is_async else driver.ask(client)

    return driver.use(url, ask)


def _switch_on(shield: Shield, order: str, others: tuple[Other, ...]) -> None:
    if order == "ours first":
        shield.on()
    for other in others:
        other.on(**shield.signals.providers)
    if order != "ours first":
        shield.on()
