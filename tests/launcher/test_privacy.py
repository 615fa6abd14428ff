"""Nothing leaves the machine unasked, and no prompt, answer or key is in what is sent or shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stormproof.demo.proxy import status

from .world import CHAT, WAYS_IN, World

#: Notes every name that is resolved and every address that is connected to, from before the launcher begins.
_WATCH = """
import atexit, os, sys
def _watch(event, args):
    if event == "socket.getaddrinfo":
        seen = str(args[0])
    elif event in ("socket.connect", "socket.sendto", "socket.gethostbyname", "socket.gethostbyaddr"):
        seen = str(args[1][0] if isinstance(args[-1], tuple) else args[-1])
    else:
        return
    with open(os.environ["TEST_SEEN"], "a") as file:
        file.write(seen + "\\n")
sys.addaudithook(_watch)
"""
_FLUSH = "import opentelemetry.trace\nopentelemetry.trace.get_tracer_provider().force_flush()"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_SECRETS = ("sk-secret-0815", "Zebra", "Okapi")

_SAY_SECRETS = """
import asyncio, os
import ollama, openai
from qdrant_client import QdrantClient, models
prompt = "Context: A Zebra is an animal. An Okapi is an animal.\\n\\nQuestion: What is a Zebra?"
messages = [{"role": "user", "content": prompt}]
client = openai.OpenAI()
for call in (
    lambda: ollama.chat("m", messages),
    lambda: list(ollama.chat("m", messages, stream=True)),
    lambda: ollama.embed("m", prompt),
    lambda: client.chat.completions.create(model="c", messages=messages),
    lambda: list(client.chat.completions.create(model="c", messages=messages, stream=True)),
    lambda: client.embeddings.create(model="e", input=prompt),
):
    try:
        call()
    except Exception:
        pass
qdrant = QdrantClient(url=os.environ["QDRANT_URL"], api_key="sk-secret-0815")
qdrant.create_collection("docs", models.VectorParams(size=2, distance=models.Distance.COSINE))
qdrant.upsert("docs", [models.PointStruct(id=1, vector=[1.0, 0.5], payload={"text": "Zebra"})])
named = models.Filter(must=[models.FieldCondition(key="text", match=models.MatchValue(value="Zebra"))])
points, _ = qdrant.scroll("docs", scroll_filter=named)
print(points[0].payload["text"])
"""


@pytest.mark.parametrize(("way", "protocol"), [*((way, "http/protobuf") for way in WAYS_IN), ("launcher", "grpc")])
def test_no_connection_beyond_loopback_until_an_endpoint_is_named(world: World, way: str, protocol: str) -> None:
    """No cloud metadata, no prices, no home: whoever is connected to or looked up is this machine."""
    assert world.ollama.url
    seen = world.folder / "seen"
    parts = (_WATCH, WAYS_IN[way], CHAT, _FLUSH)
    variables = {"TEST_SEEN": str(seen), "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    if way == "launcher":
        result = world.run(*parts, PYTHONPATH=_watching_distro(world.folder / "watching"), **variables)
    else:
        result = world.run(*parts, way="bare", **variables)
    assert result.code == 0, result.stderr
    assert "spans are shown here instead" in result.stderr
    found = set(seen.read_text(encoding="utf-8").split())
    assert "localhost" in found  # the default endpoint was looked for
    assert found <= _LOOPBACK


def _watching_distro(folder: Path) -> str:
    """What the launcher looks at before it comes to us: not a distro, but what is imported with it watches."""
    info = folder / "watching-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: watching\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[opentelemetry_distro]\nwatching = watching:Nothing\n", encoding="utf-8")
    (folder / "watching.py").write_text(f"{_WATCH}\nclass Nothing:\n    pass\n", encoding="utf-8")
    return str(folder)


def test_the_watch_sees_what_it_should(world: World) -> None:
    """Lest the test above pass for want of eyes."""
    seen = world.folder / "seen"
    elsewhere = "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 9), 0.01)\nexcept OSError:\n    pass"
    world.run(_WATCH, elsewhere, TEST_SEEN=str(seen))
    assert "192.0.2.1" in seen.read_text(encoding="utf-8").split()


@pytest.mark.parametrize("fails", [False, True])
def test_no_content_and_no_key_is_sent_or_shown(world: World, fails: bool) -> None:
    assert world.ollama.url
    assert world.openai.url
    assert world.qdrant.url
    if fails:
        body = {"error": {"message": "Zebra is no word", "type": "invalid_request_error"}}
        world.openai.plan("POST", ".", [status(400, body=body), status(503, body=body)])
        world.ollama.plan(
            "POST", ".", [status(503, body={"error": "Zebra"})] * 3 + [status(400, body={"error": "Zebra"})]
        )
    sink = world.sink
    result = world.run(_SAY_SECRETS, STORMPROOF_CONSOLE="json", PYTHONWARNINGS="ignore")
    assert (result.code, result.stdout) == (0, "Zebra\n"), result.stderr
    assert len(sink.spans) > 20
    assert sink.metrics
    assert bool(sink.logs) == fails
    sent = json.dumps([str(sink.spans), str(sink.metrics), str(sink.logs)])
    for secret in _SECRETS:
        assert secret not in sent
        assert secret not in result.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:sk-secret-0815@127.0.0.1:1/?key=sk-secret-0815"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "user:sk-secret-0815@127.0.0.1:1?key=sk-secret-0815"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization Bearer sk-secret-0815"},
    ],
)
def test_the_collectors_key_is_not_shown_where_something_is_wrong(world: World, variables: dict[str, str]) -> None:
    assert world.ollama.url
    result = world.run(CHAT, **variables)
    assert result.code == 0
    assert result.notices
    assert "sk-secret" not in result.stderr


def test_the_first_line_says_that_content_is_off(world: World) -> None:
    assert world.ollama.url
    assert world.run(CHAT).said[0].endswith("content off")


def test_content_is_sent_where_it_is_asked_for_and_no_key_or_payload_is(world: World) -> None:
    assert world.ollama.url
    assert world.openai.url
    assert world.qdrant.url
    sink = world.sink
    variables = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_AND_EVENT", "PYTHONWARNINGS": "ignore"}
    result = world.run(_SAY_SECRETS, **variables)
    assert (result.code, result.stdout) == (0, "Zebra\n"), result.stderr
    assert result.said[0].endswith("content in spans and in events")
    saying = {span.name for span in sink.spans if "Okapi" in str(span)}
    assert saying == {"chat m", "chat c"}
    events = [log for log in sink.logs if "Okapi" in str(log)]
    assert len(events) == 4
    assert "Zebra" not in str(sink.metrics)
    assert "sk-secret-0815" not in json.dumps([str(sink.spans), str(sink.metrics), str(sink.logs), result.stderr])


def test_without_the_variable_nothing_that_reads_content_is_even_loaded(world: World) -> None:
    assert world.openai.url
    loaded = "import sys\nprint([name for name in sys.modules if 'stormproof' in name and 'content' in name])"
    chat = (
        "import openai\nopenai.OpenAI().chat.completions.create(model='c', messages=[{'role': 'user', 'content': 'x'}])"
    )
    assert world.run(chat, loaded).stdout == "[]\n"
