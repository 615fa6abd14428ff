"""Prompts and answers beside another instrumentation: its span gets what it does not say, and one event is made."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from stormproof.demo.proxy import FaultProxy
from stormproof.telemetry import names
from tests.clients.content import INPUT, OUTPUT, VARIABLE
from tests.clients.drivers import Driver
from tests.clients.shield import Shield
from tests.unit.signals import attributes

from .others import Other
from .trees import PAIRS, call, scope


@pytest.mark.parametrize(("driver", "other"), [pair for pair in PAIRS if pair[0].system != "qdrant"], ids=str)
def test_it_is_said_once(shield: Shield, proxy_of: Callable[[str], FaultProxy], driver: Driver, other: Other) -> None:
    shield.set(VARIABLE, "SPAN_AND_EVENT")
    call(shield, driver, proxy_of(driver.system).url, "ours first", other)
    operation = shield.signals.operation()
    assert scope(operation) == other.scope
    said = {name: json.loads(attributes(operation)[name]) for name in (INPUT, OUTPUT)}
    [question], [answer] = said[INPUT], said[OUTPUT]
    assert "two?" in question["parts"][0]["content"]
    assert answer["parts"][0]["content"] == "One two three four."
    assert len([log for log in shield.signals.logs if log.event_name == names.INFERENCE_DETAILS]) == 1
