"""On and off in any order: each leaves the others at work, and at the end the client's own functions are back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from stormproof.demo.proxy import FaultProxy
from tests.clients.drivers import Driver
from tests.clients.shield import Shield
from tests.clients.test_install import SLOTS, owner_of

from .others import Other, innermost
from .trees import PAIRS, scope

ProxyOf = Callable[[str], FaultProxy]

#: Both ways to call are spliced into alike; streams pass the same functions.
_WHOLE = [(driver, other) for driver, other in PAIRS if not driver.streams]


@pytest.mark.parametrize(("driver", "other"), _WHOLE, ids=str)
@pytest.mark.parametrize(
    "order", list(itertools.product(["ours", "theirs"], repeat=2)), ids=" first, leaves first: ".join
)
def test_who_stays_is_at_work_and_then_all_is_bare(
    shield: Shield, proxy_of: ProxyOf, driver: Driver, other: Other, order: tuple[str, str]
) -> None:
    first, leaves_first = order
    url = proxy_of(driver.system).url
    shield.off()
    bare = {slot: _held(slot) for slot in SLOTS}
    steps = {"ours": (shield.on, shield.off), "theirs": (lambda: other.on(**shield.signals.providers), other.off)}
    second = {"ours": "theirs", "theirs": "ours"}
    steps[first][0]()
    steps[second[first]][0]()
    assert _scopes(shield, driver, url) == ({other.scope}, True)
    steps[leaves_first][1]()
    if leaves_first == "ours":
        assert _scopes(shield, driver, url) == ({other.scope}, False)
    elif other.takes_itself_out:
        assert _scopes(shield, driver, url) == ({f"stormproof.{driver.system}"}, True)
    steps[second[leaves_first]][1]()
    assert _scopes(shield, driver, url) == (set() if other.takes_itself_out else {other.scope}, False)
    assert all(innermost(_held(slot)) is bare[slot] for slot in SLOTS)
    if other.takes_itself_out:
        assert all(_held(slot) is bare[slot] for slot in SLOTS)


@pytest.mark.parametrize("leaving", list(itertools.permutations(["ours", *_WHOLE[0][1:], *_WHOLE[1][1:]])), ids=str)
def test_three_leave_in_any_order(shield: Shield, proxy_of: ProxyOf, leaving: tuple[Any, ...]) -> None:
    """openinference, which wraps the function that we splice into, and the official one, which wraps another."""
    import openai

    driver = _WHOLE[0][0]
    url = proxy_of("openai").url
    shield.off()
    bare = openai.OpenAI.request
    present = [who for who in leaving if who != "ours"]
    for other in present:
        other.on(**shield.signals.providers)
    shield.on()
    for who in leaving:
        shield.off() if who == "ours" else who.off()
        present = [other for other in present if other is not who]
        scopes, _ = _scopes(shield, driver, url)
        assert scopes >= {other.scope for other in present}
    assert openai.OpenAI.request is openai.AzureOpenAI.request is bare


def _held(slot: Any) -> Any:
    return getattr(owner_of(slot), slot[2])


def _scopes(shield: Shield, driver: Driver, url: str) -> tuple[set[str], bool]:
    """Who makes spans of a call, apart from HTTP's and our attempts'; and whether there is an attempt."""
    shield.signals.clear()
    driver.call(url)
    attempts = {span.name for span in shield.signals.spans if span.name.startswith("attempt ")}
    found = {scope(span) for span in shield.signals.spans if span.name not in attempts}
    return {name for name in found if not name.endswith(".httpx")}, bool(attempts)
