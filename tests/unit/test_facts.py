"""What a request's body tells is recorded in the types of the conventions, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from stormproof.clients.facts import several, taken


@pytest.mark.parametrize(
    ("name", "value", "fact"),
    [
        ("temperature", 0, 0.0),
        ("temperature", 0.5, 0.5),
        ("top_k", 40, 40.0),
        ("seed", 7, 7),
        ("model", "tiny", "tiny"),
    ],
)
def test_a_value_has_the_type_of_its_attribute(name: str, value: Any, fact: Any) -> None:
    found = taken({name: value, "other": 1}, [name])
    assert found == {name: fact}
    assert type(found[name]) is type(fact)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "0.5"), ("temperature", True), ("seed", 7.5), ("seed", False), ("model", 3), ("model", None)],
)
def test_one_of_another_type_is_left_out(name: str, value: Any) -> None:
    assert taken({name: value}, [name]) == {}


def test_one_that_is_not_there_is_left_out() -> None:
    assert taken({}, ["model", "seed"]) == {}


@pytest.mark.parametrize(("value", "found"), [("END", ["END"]), (["a", "b"], ["a", "b"]), (("a",), ["a"])])
def test_what_may_be_given_alone(value: Any, found: list[str]) -> None:
    assert several(value) == found
