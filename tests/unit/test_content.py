"""The listener of what is said, and how parts are made: nothing that cannot be read, or said in JSON, gets anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry import trace

from stormproof.clients import content
from stormproof.resilience.events import Fanout
from stormproof.telemetry import names
from stormproof.telemetry.content import Content
from stormproof.telemetry.spans import Spans

from .helpers import FakeClient, Trouble, VirtualClock, World
from .signals import Signals, attributes

SAID = [{"role": "user", "parts": [{"type": "text", "content": "two?"}]}]
OFFICIAL = "opentelemetry.instrumentation.genai.openai"
OPENINFERENCE = "openinference.instrumentation.openai"
INPUT, OUTPUT = names.CONTENT["messages"], names.CONTENT["answers"]


@pytest.fixture
def signals() -> Signals:
    return Signals()


@pytest.fixture
def world(clock: VirtualClock, signals: Signals) -> World:
    recording = Content(("span", "event"), signals.logger_provider, "1")
    listeners = recording, Spans(signals.tracer_provider, "1", breaker_spans=True)
    return World(clock, Fanout(*listeners), is_async=False, client=FakeClient("openai"))


def said(signals: Signals) -> dict[str, Any]:
    """By the only operation's span; an event says the same."""
    found = attributes(signals.operation())
    on_span = {name: json.loads(found[name]) for name in names.CONTENT.values() if name in found}
    [event] = signals.logs
    assert {name for name in names.CONTENT.values() if name in event.attributes} == on_span.keys()
    return on_span


def test_question_and_answer(world: World, signals: Signals) -> None:
    world.run(world.begin(facts={"messages": SAID}), {"answers": lambda: SAID})
    assert said(signals) == {INPUT: SAID, OUTPUT: SAID}


def test_what_failed_has_its_error_in_the_event(world: World, signals: Signals) -> None:
    with pytest.raises(Trouble):
        world.run(world.begin(facts={"messages": SAID}), *[Trouble()] * 9)
    assert said(signals) == {INPUT: SAID}
    assert signals.logs[0].attributes[names.ERROR_TYPE] == "503"


def test_an_answer_is_let_go_of_when_it_is_told(world: World) -> None:
    operation = world.begin(facts={"messages": SAID})
    world.run(operation, {"answers": lambda: SAID, "response_id": "r1"})
    assert operation.facts == {"response_id": "r1"}


def test_what_has_no_messages_is_nothing_to_tell_of(world: World, signals: Signals) -> None:
    world.run(world.begin(), {"answers": lambda: SAID})
    assert not {INPUT, OUTPUT} & attributes(signals.operation()).keys()
    assert signals.logs == []


def _unreadable() -> Any:
    raise KeyError("content")


def _endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("answers", [_unreadable, _endless, lambda: [float("nan")], lambda: [{(1, 2): 3}], list])
def test_what_cannot_be_told_is_left_out(world: World, signals: Signals, answers: Any) -> None:
    world.run(world.begin(facts={"messages": SAID}), {"answers": answers})
    assert said(signals) == {INPUT: SAID}


def test_half_a_character_and_an_object_of_the_apps(world: World, signals: Signals) -> None:
    world.run(world.begin(facts={"messages": SAID}), {"answers": lambda: ["é\ud83d", object()]})
    assert said(signals)[OUTPUT] == ["é?", None]


@pytest.mark.parametrize(("scope", "events"), [(OFFICIAL, 0), (OPENINFERENCE, 1)])
def test_anothers_span_keeps_what_it_says_and_its_event(
    world: World, signals: Signals, scope: str, events: int
) -> None:
    tracer = trace.get_tracer(scope, tracer_provider=signals.tracer_provider)
    with tracer.start_as_current_span("theirs", attributes={INPUT: "theirs"}):
        world.run(world.begin(facts={"messages": SAID}), {"answers": lambda: SAID})
    found = attributes(signals.operation())
    assert (found[INPUT], json.loads(found[OUTPUT])) == ("theirs", SAID)
    assert len(signals.logs) == events


class TestParts:
    def test_what_cannot_be_read_is_left_out_and_the_rest_is_not(self) -> None:
        assert content.each(lambda value: content.text(value["text"]), [{}, {"text": "a"}, 7]) == content.text("a")

    @pytest.mark.parametrize("value", [iter([1]), "text", None, {"a": 1}])
    def test_only_lists_are_read_from(self, value: Any) -> None:
        assert list(content.listed(value)) == []

    @pytest.mark.parametrize(
        ("arguments", "read"), [('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1}), ("{", "{"), (None, None)]
    )
    def test_arguments(self, arguments: Any, read: Any) -> None:
        assert content.tool_call("c", "f", arguments)["arguments"] == read

    def test_there_is_room_for_so_many_characters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(content, "MOST_CHARACTERS", 5)
        pieces, kept, more = content.Pieces(), list[str](), list[str]()
        for piece in ("one", None, "two", "3"):
            pieces.keep(kept, piece)
        pieces.keep(more, "4")
        assert (kept, more) == (["one"], [])
