"""Forked and spawned children of a program under the launcher: their calls work, and their spans arrive."""

from __future__ import annotations

import pytest

from stormproof.demo.sink import OtlpSink

from .launch import Result
from .world import ASK, World

# Since 3.12 Python warns of every fork beside threads, and an SDK that sends has threads, ours or not.
_QUIET_FORK = "import warnings\nwarnings.filterwarnings('ignore', 'This process', DeprecationWarning)\n"
_FORK = """
import os, sys
{before}
child = os.fork()
if child == 0:
    print(ask())
    {end}
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
_POOL = """
import multiprocessing, sys
def work(number):
    return ask()
if __name__ == "__main__":
    {before}
    context = multiprocessing.get_context("{method}")
    children = [context.Process(target=work, args=(number,)) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(sum(child.exitcode for child in children))
"""
_EXECUTOR = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
def work(number):
    return ask()
if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("{method}")) as pool:
        print(list(pool.map(work, range(2))))
"""
_METHODS = ("fork", "spawn", "forkserver")


def _assert_arrived(sink: OtlpSink, result: Result, calls: int) -> None:
    """Each call once, each with its attempt, each process with a resource of its own."""
    assert result.code == 0, result.stderr
    operations = [span for span in sink.spans if span.name == "chat m"]
    assert len(operations) == calls, result.stderr
    assert len({span.span_id for span in sink.spans}) == len(sink.spans)
    attempts = {span.parent_id for span in sink.spans if span.name == "attempt chat"}
    assert attempts == {span.span_id for span in operations}
    assert len(result.said) == 1, result.stderr
    assert result.others == []


@pytest.mark.parametrize(("before", "way"), [("", "launcher"), ("ask()", "launcher"), ("ask()", "instrument")])
def test_a_forked_child_that_ends_as_a_program_does(world: World, before: str, way: str) -> None:
    world.stumble(world.ollama)
    result = (
        world.run(ASK, _QUIET_FORK, _FORK.format(before=before, end="sys.exit(0)"), way=way) if world.sink else None
    )
    assert result is not None
    _assert_arrived(world.sink, result, 2 if before else 1)


def test_a_forked_child_that_sends_while_it_runs(world: World) -> None:
    """Both have a connection to the collector of their own: none is shared."""
    assert world.ollama.url
    sink = world.sink
    flush = "import opentelemetry.trace as t\nt.get_tracer_provider().force_flush()"
    many = """
    for _ in range(20):
        ask()
        t.get_tracer_provider().force_flush()
    """
    result = world.run(
        ASK,
        f"ask()\n{flush}",
        _QUIET_FORK + "import os\nchild = os.fork()",
        many,
        "if child == 0:\n    os._exit(0)",
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
    )
    _assert_arrived(sink, result, 41)
    assert len({span.resource["service.instance.id"] for span in sink.spans}) == 2


@pytest.mark.parametrize("before", ["", "ask()"], ids=["fresh", "after a call"])
@pytest.mark.parametrize("method", _METHODS)
def test_processes_of_multiprocessing(world: World, method: str, before: str) -> None:
    assert world.ollama.url
    sink = world.sink
    result = world.run(ASK, _POOL.format(method=method, before=before))
    _assert_arrived(sink, result, 3 if before else 2)
    assert len({span.resource["service.instance.id"] for span in sink.spans}) == (3 if before else 2)


@pytest.mark.parametrize("method", _METHODS)
def test_a_pool_of_processes(world: World, method: str) -> None:
    assert world.ollama.url
    sink = world.sink
    result = world.run(ASK, _EXECUTOR.format(method=method))
    assert result.stdout == "['A socket is an end.', 'A socket is an end.']\n"
    _assert_arrived(sink, result, 2)


def test_a_child_does_not_send_again_what_its_parent_has_kept(world: World) -> None:
    assert world.ollama.url
    port = world.closed_port()
    program = world.start(
        ASK,
        "import os, sys\nask()\ninput()",
        _QUIET_FORK + _FORK.format(before="", end="sys.exit(0)"),
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
        OTEL_BSP_SCHEDULE_DELAY="50",
    )
    program.wait_for_error("nothing answers at")
    sink = OtlpSink(port=port)
    world.serve(sink)
    program.tell()
    assert program.finish().code == 0
    assert sorted(span.name for span in sink.spans if span.name == "chat m") == ["chat m"] * 2
    assert len({span.span_id for span in sink.spans}) == len(sink.spans)


def test_children_without_a_collector_end_as_fast(world: World) -> None:
    assert world.ollama.url
    result = world.run(ASK, _POOL.format(method="fork", before="ask()"))
    assert result.code == 0, result.stderr
    assert result.stderr.count("● chat m") == 3
    assert sum(line.startswith("stormproof 0") for line in result.said) == 1
