"""Switches the other instrumentations on for the whole of another suite: ``pytest -p tests.beside.plugin``.

They wrap every call, and record nothing: their providers are the API's own that do nothing, so that what the suite
says of our spans and metrics holds as it stands, and every attempt, result, exception and stream passes through their
wrappers. That their *recording* spans are annotated in place of ours is what ``tests/beside`` itself is about.

Programs that the suite starts under the launcher would load them with the program's own provider, and their spans
would take the place of ours in what those tests look at. There they are switched off by the official variable;
``tests/beside/test_launcher.py`` starts programs with all of them on.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from .others import OFFICIAL, OPENINFERENCE, OTHERS, TRACELOOP, TRACELOOP_OLLAMA, TRACELOOP_QDRANT, Other, strip

_VARIABLE = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
_ENTRY_POINTS = "openai,ollama,qdrant_client"

#: What they do to the answers of a client, with us and without: tests → those for whom it is so.
_DISTURBED: Mapping[Sequence[str], Sequence[Other]] = {
    # They parse raw and streamed responses by themselves: the body is read before the app reads it, what is no JSON is
    # an error, and the coroutine that parses an asynchronous one is never awaited.
    (
        "test_openai.py::TestRawResponses::test_streamed",
        "test_openai_attributes.py::TestChat::test_stream",
        "test_openai_attributes.py::test_a_raw_answer_that_is_not_json",
        "test_openai_operations.py::test_each_request_is_one_operation",
        "test_contract.py::test_everything_in_the_schema_is_emitted",
    ): (OPENINFERENCE, OFFICIAL, TRACELOOP),
    # It fails where a stream's choices do not begin with the first, and reads the app's messages to their end.
    (
        "test_content_forms.py::TestChat::test_a_stream_of_several_choices",
        "test_content_forms.py::TestChat::test_an_iterator_is_left",
    ): (TRACELOOP,),
    # It does not close the asynchronous stream that it reads from: one that is left early ends once it is collected.
    ("test_streams.py::TestAsync",): (TRACELOOP_OLLAMA,),
    # Its readers hold the item that they handed on last.
    ("TestThreads::test_no_item_is_kept", "TestTasks::test_no_item_is_kept"): (TRACELOOP_OLLAMA,),
    # It counts the points of an upload by reading the app's iterator to its end: none are left to upload.
    ("test_wires.py::TestQdrant::test_uploads", "test_the_apps_iterators_are_left_to_the_engine"): (TRACELOOP_QDRANT,),
}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before any test, and before stormproof."""
    setattr(subprocess.Popen, "__init__", _start_without_them)  # noqa: B010  # for mypy
    _switch_on(OTHERS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Whoever cannot stand beside a test steps aside for it."""
    aside = _stepping_aside(item)
    if not aside:
        return (yield)
    _switch_off()
    _switch_on([other for other in OTHERS if other not in aside])
    try:
        return (yield)
    finally:
        _switch_off()
        _switch_on(OTHERS)


def _stepping_aside(item: pytest.Item) -> Sequence[Other]:
    """All of them where a test is marked ``alone``: it looks at the bare functions of a client."""
    if item.get_closest_marker("alone") is not None:
        return OTHERS
    return [
        other for tests, others in _DISTURBED.items() if any(test in item.nodeid for test in tests) for other in others
    ]


def _switch_on(others: Iterable[Other]) -> None:
    for other in others:
        other.on(
            tracer_provider=NoOpTracerProvider(),
            meter_provider=NoOpMeterProvider(),
            logger_provider=NoOpLoggerProvider(),
        )


def _switch_off() -> None:
    for other in OTHERS:
        other.off()
    strip()


def pytest_report_header(config: pytest.Config) -> str:
    """So that nobody takes such a run for an ordinary one."""
    return f"switched on beside stormproof: {', '.join(map(str, OTHERS))}"


_start: Any = subprocess.Popen.__init__


def _start_without_them(self: Any, *args: Any, env: Mapping[str, str] | None = None, **kwargs: Any) -> None:
    env = os.environ if env is None else env
    disabled = ",".join(filter(None, (env.get(_VARIABLE), _ENTRY_POINTS)))
    _start(self, *args, env={**env, _VARIABLE: disabled}, **kwargs)
