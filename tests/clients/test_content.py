"""Prompts and answers: where the official variable asks for them, and nowhere else. Which form they have there is for
``test_content_forms``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import httpx
import pytest
from opentelemetry.context import attach, detach, set_value
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import stormproof
from stormproof import Fallback, Policy, RetryPolicy, notice
from stormproof.demo.proxy import FaultProxy, drop, status
from stormproof.telemetry import names
from tests.unit.signals import Signals, attributes

from .content import CONTENT, INPUT, OUTPUT, VARIABLE, in_events, on_span, record, written
from .drivers import DRIVERS, MESSAGES, Driver, every_stream, every_way
from .shield import Shield

ProxyOf = Callable[[str], FaultProxy]

QUESTION = MESSAGES[0]["content"]
ANSWER = "One two three four."
ASKED = {INPUT: [{"role": "user", "parts": [{"type": "text", "content": QUESTION}]}]}


def answered(words: str = ANSWER, **more: Any) -> dict[str, Any]:
    """What is said of a call of the drivers that got this."""
    return {**ASKED, OUTPUT: [{"role": "assistant", "parts": [{"type": "text", "content": words}], **more}]}


WHOLE = answered(finish_reason="stop")

in_every_place = pytest.mark.parametrize(
    ("value", "places"),
    [
        (None, ()),
        ("", ()),
        ("NO_CONTENT", ()),
        ("false", ()),
        ("SPAN_ONLY", ("span",)),
        ("EVENT_ONLY", ("event",)),
        ("true", ("event",)),
        ("span_and_event", ("span", "event")),
    ],
)
every_model = pytest.mark.parametrize("driver", [d for d in DRIVERS if d.system != "qdrant"], ids=str)


def everything_else(signals: Signals) -> str:
    """All that was emitted, but for the content of operations and of the event."""
    operations = signals.operations()
    parts: list[Any] = []
    for span in signals.ended:
        hidden = CONTENT if span in operations else frozenset()
        parts += [span.name, span.status.description, [(event.name, event.attributes) for event in span.events]]
        parts += [(name, value) for name, value in attributes(span).items() if name not in hidden]
    for log in signals.logs:
        hidden = CONTENT if log.event_name == names.INFERENCE_DETAILS else frozenset()
        parts += [log.body, [(name, value) for name, value in log.attributes.items() if name not in hidden]]
    return repr([*parts, signals.collect()])


def no_word_in(text: str) -> bool:
    return not any(word in text for word in ("two?", "three", "Context:", ANSWER))


@in_every_place
@every_way
def test_it_is_where_it_is_asked_for(
    shield: Shield, proxy_of: ProxyOf, driver: Driver, value: str | None, places: Sequence[str]
) -> None:
    record(shield, value)
    driver.call(proxy_of(driver.system).url)
    is_model = driver.system != "qdrant"
    assert on_span(shield) == (WHOLE if is_model and "span" in places else {})
    assert in_events(shield) == ([WHOLE] if is_model and "event" in places else [])
    assert no_word_in(everything_else(shield.signals))


@pytest.mark.parametrize(("value", "places"), [(None, ()), ("SPAN_AND_EVENT", ("span", "event"))])
@every_model
def test_a_call_that_recovered_has_it_once_and_one_that_failed_has_the_question(
    shield: Shield, proxy_of: ProxyOf, driver: Driver, value: str | None, places: Sequence[str]
) -> None:
    shield.set("STORMPROOF__RETRY__ATTEMPTS", 2)
    record(shield, value)
    proxy = proxy_of(driver.system)
    body = (
        {"error": {"message": f"{ANSWER} is no question", "type": "t"}}
        if driver.system == "openai"
        else {"error": ANSWER}
    )
    proxy.plan("POST", driver.path, [status(503, body=body)] * 3)
    with suppress(driver.status_error):
        driver.call(proxy.url)
    driver.call(proxy.url)
    failed, recovered = shield.signals.operations()
    assert [attributes(span)["resilience.attempt.count"] for span in (failed, recovered)] == [2, 2]
    spans = [written(attributes(span)) for span in (failed, recovered)]
    assert spans == ([ASKED, WHOLE] if "span" in places else [{}, {}])
    assert in_events(shield) == ([ASKED, WHOLE] if "event" in places else [])
    assert no_word_in(everything_else(shield.signals))


@every_model
def test_the_event_has_what_the_span_has_and_belongs_to_it(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    record(shield)
    driver.call(proxy_of(driver.system).url)
    operation = shield.signals.operation()
    [event] = [log for log in shield.signals.logs if log.event_name == names.INFERENCE_DETAILS]
    assert (event.trace_id, event.span_id) == (operation.context.trace_id, operation.context.span_id)
    assert event.severity_text == "DEBUG"
    ours = {name for name in attributes(operation) if not name.startswith("resilience.")}
    assert event.attributes.keys() == ours
    assert {event.attributes[name] for name in ("gen_ai.request.model", "gen_ai.operation.name")} == {
        attributes(operation)[name] for name in ("gen_ai.request.model", "gen_ai.operation.name")
    }


def leaving(driver: Driver) -> Callable[[Any], None]:
    def leave(client: Any) -> None:
        stream = driver.start(client)
        for _ in range(3):
            next(stream)
        stream.close()

    return leave


def leaving_async(driver: Driver) -> Callable[[Any], Any]:
    async def leave(client: Any) -> None:
        stream = await driver.start(client)
        for _ in range(3):
            await anext(stream)
        await (stream.aclose() if hasattr(stream, "aclose") else stream.close())

    return leave


class TestStreams:
    @every_stream
    def test_one_that_breaks_has_what_had_come(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        record(shield)
        proxy = proxy_of(driver.system)
        proxy.plan("POST", driver.path, [drop(after_chunks=3)])
        with pytest.raises((*driver.connection_errors, httpx.TransportError)):
            driver.call(proxy.url)
        said = on_span(shield)
        [answer] = said[OUTPUT]
        assert "finish_reason" not in answer
        assert ANSWER.startswith(answer["parts"][0]["content"])
        assert in_events(shield) == [said]

    @every_stream
    def test_one_that_is_left_has_what_had_come(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        record(shield, "SPAN_ONLY")
        driver.use(proxy_of(driver.system).url, leaving_async(driver) if driver.is_async else leaving(driver))
        [answer] = on_span(shield)[OUTPUT]
        assert 0 < len(answer["parts"][0]["content"]) < len(ANSWER)
        assert ANSWER.startswith(answer["parts"][0]["content"])

    @every_stream
    def test_no_more_is_kept_than_there_is_room_for(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("stormproof.clients.content.MOST_CHARACTERS", 9)
        record(shield, "SPAN_ONLY")
        assert "".join(filter(None, driver.call(proxy_of(driver.system).url))) == ANSWER
        assert on_span(shield) == answered("One two", finish_reason="stop")


class TestWhereThereIsNoSpan:
    @every_model
    def test_what_is_not_sampled_is_in_the_event_alone(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        record(shield)
        shield.off()
        unsampled = Signals(ALWAYS_OFF)
        stormproof.instrument(**unsampled.providers)
        driver.call(proxy_of(driver.system).url)
        assert unsampled.ended == []
        assert [log.event_name for log in unsampled.logs] == [names.INFERENCE_DETAILS]

    @every_model
    def test_what_is_suppressed_is_nowhere(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        record(shield)
        token = attach(set_value("suppress_instrumentation", True))
        try:
            driver.call(proxy_of(driver.system).url)
        finally:
            detach(token)
        assert shield.signals.operations() == []
        assert in_events(shield) == []


@every_model
def test_what_falls_back_has_no_answer_and_its_fallback_has(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
    record(shield)
    shield.off()
    first, second = proxy_of(driver.system), proxy_of(driver.system)
    elsewhere = second.url + ("/v1" if driver.system == "openai" else "")
    policy = Policy(retry=RetryPolicy(attempts=1), fallback=Fallback(endpoint=elsewhere))
    first.plan("POST", driver.path, [status(503)])
    stormproof.instrument(**shield.signals.providers, policies={driver.system: policy})
    shield.expected_complaints = ["any"]
    driver.call(first.url)
    assert [written(attributes(span)) for span in shield.signals.operations()] == [ASKED, WHOLE]


def test_a_bad_value_is_said_once_and_records_nothing(
    shield: Shield, proxy_of: ProxyOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notice, "_said", {})
    shield.set("STORMPROOF_QUIET", "0")
    record(shield, "everything")
    driver = DRIVERS[0]
    driver.call(proxy_of(driver.system).url)
    driver.call(proxy_of(driver.system).url)
    said = [line for line in capsys.readouterr().err.splitlines() if VARIABLE in line]
    allowed = "NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT, true (as EVENT_ONLY), false (as NO_CONTENT)"
    assert said == [f"stormproof: {VARIABLE}='everything' is not one of {allowed}; the default is used"]
    assert not any(written(attributes(span)) for span in shield.signals.operations())
    assert in_events(shield) == []
