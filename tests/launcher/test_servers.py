"""Servers that run an app in several processes, under the launcher: calls work in each, and their spans arrive."""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stormproof.demo.sink import OtlpSink, Span

from .launch import Program, script
from .world import ASK, World

_WSGI = """
import json, os
{before}
def app(environ, start_response):
    body = json.dumps([os.getpid(), ask()]).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
"""
_ASGI = """
import json, os, ollama
messages = [{"role": "user", "content": "Context: A socket is an end.\\n\\nQuestion: What is a socket?"}]
async def app(scope, receive, send):
    assert scope["type"] == "http"
    answer = await ollama.AsyncClient().chat("m", messages)
    body = json.dumps([os.getpid(), answer["message"]["content"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
_GUNICORN = ("gunicorn", "service:app", "--workers=2", "--bind=127.0.0.1:0")
_UVICORN = ("uvicorn", "service:app", "--workers=2", "--port=0", "--lifespan=off")


def _start(world: World, app: str, command: tuple[str, ...]) -> tuple[Program, str]:
    """The server, and the address that it says it listens at."""
    assert world.ollama.url
    assert world.sink.url
    script(world.folder / "service.py", ASK, app)
    binary = str(Path(sys.executable).with_name(command[0]))
    # HOME is where gunicorn puts a socket. A worker of uvicorn's is killed by the signal that it is stopped with, and
    # sends nothing any more: the spans must go out while it runs.
    folder = str(world.folder)
    program = world.launch([binary, *command[1:]], PYTHONPATH=folder, HOME=folder, OTEL_BSP_SCHEDULE_DELAY="100")
    url = program.find_error(r"(?:Listening at|running on):? (http://[\d.:]+)")
    world.network.call(_wait_until_it_accepts, url)
    return program, url


def _wait_until_it_accepts(url: str) -> None:
    """uvicorn names its port before anybody listens there."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    ends = time.monotonic() + 30
    with socket.socket() as probe:
        while probe.connect_ex((host, int(port))) != 0:
            assert time.monotonic() < ends, "it said that it listens, and does not"
            time.sleep(0.02)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


def _ask_until_all_have_answered(world: World, url: str, workers: int) -> int:
    """How many requests it took until each worker had answered one."""
    seen: set[int] = set()
    asked = 0
    while len(seen) < workers:
        assert asked < 400, f"only {len(seen)} of {workers} workers answer"
        # In the network of the test: threads begin in the network of the one that starts them.
        for pid, answer in world.network.call(_in_parallel, url, 4):
            assert answer == "A socket is an end."
            seen.add(pid)
        asked += 4
    return asked


def _in_parallel(url: str, times: int) -> list[Any]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(_get, [url] * times))


def _operations(sink: OtlpSink) -> list[Span]:
    return [span for span in sink.spans if span.name == "chat m"]


def _all_of(spans: list[Span], count: int) -> list[Span] | None:
    return spans if len(spans) >= count else None


@pytest.mark.parametrize(
    ("app", "command"),
    [
        (_WSGI.format(before=""), _GUNICORN),
        (_WSGI.format(before=""), (*_GUNICORN, "--preload")),
        (_WSGI.format(before="ask()"), (*_GUNICORN, "--preload")),
        (_WSGI.format(before=""), (*_GUNICORN, "--worker-class=gthread", "--threads=4")),
        (_ASGI, _UVICORN),
    ],
    ids=["gunicorn", "preload", "preload after a call", "gthread", "uvicorn"],
)
def test_each_worker_is_protected_and_seen(world: World, app: str, command: tuple[str, ...]) -> None:
    world.stumble(world.ollama)
    program, url = _start(world, app, command)
    asked = _ask_until_all_have_answered(world, url, workers=2)
    calls = asked + ("ask()\ndef" in app)
    operations = world.sink.wait_for(lambda sink: _all_of(_operations(sink), calls))
    program.kill()
    result = program.finish()
    assert result.code == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert len(_operations(world.sink)) == calls
    assert not [span for span in operations if span.attributes.get("error.type")]
    attempts = sum(int(span.attributes["resilience.attempt.count"]) for span in operations)
    assert attempts == world.ollama.count("POST", "/api/chat") == calls + 2
    assert len({span.resource["service.instance.id"] for span in operations}) >= 2
    assert len({span.span_id for span in world.sink.spans}) == len(world.sink.spans)


def test_a_breaker_that_opened_before_the_fork_is_closed_in_the_workers(world: World) -> None:
    """The parent's experience is not the child's: its connections and its moment were others."""
    before = "import stormproof\\nask()\\nfor breaker in stormproof.breakers.values():\\n    breaker.force_open()\\n"
    app = _WSGI.format(before=before.replace("\\n", "\n"))
    program, url = _start(world, app, (*_GUNICORN, "--preload"))
    asked = _ask_until_all_have_answered(world, url, workers=2)
    program.kill()
    assert program.finish().code == 0
    assert world.ollama.count("POST", "/api/chat") == asked + 1
