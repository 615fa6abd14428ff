"""``make attributes`` finds what is emitted, in whatever way it is written."""

from __future__ import annotations

import ast

import pytest

from tests.mutation.emissions import Language, emissions, without

MADE = """
def identity(operation):
    return {names.SYSTEM: operation.system}
"""
FACTS = 'FACTS: Mapping[str, str] = {"model": MODEL}'

FORMS = {
    "x = {names.A: 1, **others}": ["x = {**others}"],
    "x = {names.FACTS[fact]: value for fact, value in facts.items()}": ["x = {}"],
    "x |= {names.A: 1, names.B: 2}": ["x |= {names.B: 2}", "x |= {names.A: 1}"],
    "x[names.A], x[names.B] = a, b": ["(x[names.B],) = (b,)", "(x[names.A],) = (a,)"],
    "x[names.A] = y[names.B] = 1": ["pass"],
    "x = (*others, (names.A, 1))": ["x = (*others,)"],
    "x = identity(operation)": ["x = {}"],
    "x = {**identity(operation), names.A: 1}": ["x = {**identity(operation)}", "x = {**{}, names.A: 1}"],
    "x, y = identity(operation), 1": ["x, y = ({}, 1)"],
    "x.update(identity(operation))": ["x.update({})"],
    "span.set_attribute(names.A, 1)": ["pass"],
    "span.set_attributes(cached)": ["pass"],
    "span.add_event(names.A, cached)": ["pass"],
    "span.add_link(opening)": ["pass"],
    "duration.record(1.0, cached, context)": ["pass"],
    "counter(names.A, [observe])": ["pass"],
    "self.tracer.start_span(names.A, attributes=cached)": ["pass", "self.tracer.start_span(names.A)"],
    "emit(LogRecord(body=body, attributes=identity(operation)))": [
        "pass",
        "emit(LogRecord(attributes=identity(operation)))",
        "emit(LogRecord(body=body, attributes={}))",
    ],
    'facts["anything"] = 1': ["pass"],
    'known = {"model": model, "else": 1}': ["known = {'else': 1}"],
    'known["model"] = model': ["pass"],
    "facts.update(taken(body))": ["pass"],
    'table = (("model", "name"),)': ["table = ()"],
    "x = {other: 1}": [],
    "x[other] = 1": [],
    "log.warning(other)": [],
}


@pytest.mark.parametrize(("code", "expected"), FORMS.items())
def test_each_form_is_found_and_left_out(code: str, expected: list[str]) -> None:
    language = Language.of([MADE, FACTS])
    found = [without(code, number, language) for number in range(len(emissions(code, language)))]
    assert sorted(found) == sorted(ast.unparse(ast.parse(each)) for each in expected)
