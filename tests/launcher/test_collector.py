"""A collector that is not there, does not answer, dies or comes back: one line, no delay, no needless loss."""

from __future__ import annotations

import pytest

from stormproof.demo.sink import OtlpSink

from .launch import Program, Result
from .world import ASK, CHAT, WAYS_IN, World

_EXIT_DELAY = 1.0
_MARGIN = 2.0  # for the machine, which does other things too; the official exporters take seven seconds and more
_OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_BLRP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "100"}

#: Makes a call whenever it is told to, and ends with a code of its own.
_CALLS = """
import sys
for line in sys.stdin:
    if line == "end\\n":
        break
    print(ask())
print("done")
sys.exit(3)
"""
_TALKS = """
import logging
logging.basicConfig(level=logging.DEBUG, force=True)
"""


def _assert_one_line(result: Result, *parts: str) -> None:
    assert len(result.notices) == 1, result.stderr
    for part in parts:
        assert part in result.notices[0]
    assert result.others == [], result.stderr
    assert result.exit_delay <= _EXIT_DELAY + _MARGIN


def _end(program: Program) -> Result:
    program.tell("end")
    result = program.finish()
    assert result.code == 3, result.stderr
    return result


@pytest.mark.parametrize(("way", "protocol"), [*((way, "http/protobuf") for way in WAYS_IN), ("launcher", "grpc")])
def test_a_named_endpoint_that_refuses(world: World, way: str, protocol: str) -> None:
    assert world.ollama.url
    url = f"http://127.0.0.1:{world.closed_port()}"
    result = world.run(
        CHAT,
        "raise SystemExit(3)",
        way=way,
        OTEL_EXPORTER_OTLP_ENDPOINT=url,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    assert (result.code, result.stdout) == (3, "A socket is an end.\n")
    _assert_one_line(result, f"nothing answers at {url} (connection refused)", "is kept", "check OTEL_EXPORTER_OTLP_EN")
    assert "●" not in result.stderr  # who names an endpoint does not want the view


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_named_endpoint_that_never_answers(world: World, protocol: str) -> None:
    assert world.ollama.url
    url = f"http://127.0.0.1:{world.silent_port()}"
    result = world.run(
        CHAT,
        "raise SystemExit(3)",
        OTEL_EXPORTER_OTLP_ENDPOINT=url,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    assert (result.code, result.stdout) == (3, "A socket is an end.\n")
    _assert_one_line(result, f"nothing answers at {url} (it takes too long to answer)")


def test_something_at_the_default_endpoint_that_never_answers(world: World) -> None:
    """Then nothing is sent and nothing has been shown yet: the spans are shown after all."""
    assert world.ollama.url
    world.default_silence()
    result = world.run(CHAT, "raise SystemExit(3)")
    assert result.code == 3
    _assert_one_line(result, "http://localhost:4318 (it takes too long to answer)", "spans are shown here instead")
    assert "● chat m" in result.stderr


def test_a_collector_that_refuses_what_it_gets_is_one_line(world: World) -> None:
    assert world.ollama.url
    result = world.run(CHAT, OTEL_EXPORTER_OTLP_ENDPOINT=f"{world.ollama.url}/nowhere")
    _assert_one_line(result, "nothing is taken at", "404", "is lost")


def test_calls_do_not_wait_for_exports(world: World) -> None:
    """Each export would take ten seconds; thirty calls with an export each take none of them."""
    assert world.ollama.url
    url = f"http://127.0.0.1:{world.silent_port()}"
    timed = """
    import json, time
    longest = 0
    for _ in range(30):
        started = time.monotonic()
        ask()
        longest = max(longest, time.monotonic() - started)
    print(json.dumps(longest))
    """
    result = world.run(ASK, timed, OTEL_EXPORTER_OTLP_ENDPOINT=url, **_OFTEN)
    assert result.value() < 2
    _assert_one_line(result, "too long")


def test_an_endpoint_that_dies_while_the_program_runs(world: World) -> None:
    assert world.ollama.url
    sink = world.sink
    program = world.start(ASK, _CALLS, OTEL_EXPORTER_OTLP_TIMEOUT="1", **_OFTEN)
    program.tell()
    sink.wait_for(lambda s: s.spans and s.metrics)
    sink.stop()
    program.tell()
    program.wait_for_error("nothing answers at")
    result = _end(program)
    _assert_one_line(result, "connection re")  # refused, or reset while it died


def test_an_endpoint_that_dies_just_before_the_exit(world: World) -> None:
    """The exit is the first to notice, and is not held up all the same."""
    assert world.ollama.url
    sink = world.sink
    program = world.start(ASK, "import opentelemetry.trace as t", _FLUSHES, **_RARELY)
    program.tell()
    sink.wait_for(lambda s: s.spans)
    sink.stop()
    program.tell()
    program.wait_for("again")
    result = _end(program)
    _assert_one_line(result, "connection refused")


_RARELY = dict.fromkeys(_OFTEN, "3600000")
_FLUSHES = """
input()
ask()
t.get_tracer_provider().force_flush()
input()
ask()
print("again")
input()
print("done")
raise SystemExit(3)
"""


@pytest.mark.parametrize("times", [1, 3])
def test_a_collector_that_comes_late_gets_what_was_kept(world: World, times: int) -> None:
    """Every span once, with the values it had."""
    assert world.ollama.url
    port = world.closed_port()
    program = world.start(ASK, _CALLS, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", **_OFTEN)
    for _ in range(times):
        program.tell()
    program.wait_for_error("nothing answers at")
    sink = OtlpSink(port=port)
    world.serve(sink)
    program.tell()
    sink.wait_for(lambda s: sum(span.name == "chat m" for span in s.spans) == times + 1)
    result = _end(program)
    assert len({span.span_id for span in sink.spans}) == len(sink.spans)
    _assert_one_line(result, "connection refused")


def test_a_collector_that_comes_back_gets_what_was_kept(world: World) -> None:
    assert world.ollama.url
    first = world.sink
    port = first.port
    program = world.start(ASK, _CALLS, OTEL_EXPORTER_OTLP_TIMEOUT="1", **_OFTEN)
    program.tell()
    first.wait_for(lambda s: any(span.name == "chat m" for span in s.spans))
    first.stop()
    program.tell()
    program.wait_for_error("nothing answers at")
    second = OtlpSink(port=port)
    world.serve(second)
    second.wait_for(lambda s: any(span.name == "chat m" for span in s.spans))
    _assert_one_line(_end(program), "connection re")  # refused, or reset while it died


def test_a_collector_that_comes_just_before_the_exit_gets_what_was_kept(world: World) -> None:
    """Even if nothing new is to be sent then."""
    assert world.ollama.url
    port = world.closed_port()
    program = world.start(ASK, _CALLS, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", **_OFTEN)
    program.tell()
    program.wait_for_error("nothing answers at")
    sink = OtlpSink(port=port)
    world.serve(sink)
    result = _end(program)
    assert {span.name for span in sink.spans} >= {"chat m", "attempt chat"}
    _assert_one_line(result, "connection refused")


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("kind", ["refuses", "is silent"])
def test_the_one_line_also_where_the_program_logs_everything(world: World, kind: str, protocol: str) -> None:
    """The official exporters' loggers say nothing, at DEBUG and with the logging instrumentation in force."""
    assert world.ollama.url
    port = world.closed_port() if kind == "refuses" else world.silent_port()
    program = world.start(
        _TALKS,
        ASK,
        _CALLS,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
        OTEL_PYTHON_LOG_CORRELATION="true",
        **_OFTEN,
    )
    program.tell()
    program.tell()
    said = "nothing answers at" if kind == "refuses" else "nothing is taken at"  # somebody listens there, and no more
    program.wait_for_error(f"{said} http://127.0.0.1:{port} ")
    result = _end(program)
    assert len(result.notices) == 1
    assert not [line for line in result.others if "opentelemetry" in line or "urllib3" in line], result.stderr
    assert any("httpx" in line for line in result.others)  # the program's own log is as it was
    assert result.exit_delay <= _EXIT_DELAY + _MARGIN


def test_the_programs_log_reaches_the_collector_without_the_exporters_own(world: World) -> None:
    """No loop: sending log records must not make log records."""
    assert world.ollama.url
    sink = world.sink
    program = world.start(
        _TALKS,
        'logging.getLogger("shop").warning("sold out")',
        ASK,
        _CALLS,
        OTEL_PYTHON_LOG_CORRELATION="true",
        **_OFTEN,
    )
    program.tell()
    sink.wait_for(lambda s: any("sold out" in str(log.body) for log in s.logs))
    program.tell()
    result = _end(program)
    assert not [log for log in sink.logs if log.scope.startswith(("urllib3", "opentelemetry.exporter"))]
    assert "urllib3" not in result.stderr
    assert result.notices == []
