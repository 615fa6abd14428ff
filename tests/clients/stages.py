"""What the test of the contract has happen: each stage plays a system, or a side of one, through what may become of it.

Always the same comes out, in its names: see ``emitted.txt``.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx
import ollama
import openai
from opentelemetry import trace

import stormproof
from stormproof import BreakerPolicy, BulkheadPolicy, Fallback, Policy, RateLimitPolicy, RetryPolicy
from stormproof.demo.proxy import FaultProxy, drop, status
from stormproof.resilience.targets import Target
from tests import contract
from tests.servers.qdrant_grpc import QdrantGrpc, abort
from tests.servers.tolerant import TolerantWire
from tests.unit.limits import LONG
from tests.unit.signals import Signals

from .drivers import COLLECTION, DRIVERS, MESSAGES, Driver, quiet_qdrant
from .shapes import Shapes
from .shield import Shield
from .test_openai_attributes import CHAT, CHAT_STREAM, INCOMPLETE, RESPONSE, USAGE, events
from .test_qdrant_local import Local, some

ProxyOf = Callable[[str], FaultProxy]

#: Too long for any deadline.
_NEVER = {"Retry-After": "1000"}


class Stage:
    """Calls of one driver (None: of a function of the user's own) by a policy, met by faults; and what was emitted."""

    def __init__(self, shield: Shield, proxy_of: ProxyOf, driver: Driver | None) -> None:
        self.proxy_of = proxy_of
        self.signals = Signals()
        self.lines: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.violations: list[str] = []
        self._shield, self._driver = shield, driver
        self._proxy = proxy_of(driver.system) if driver is not None else None
        self._system = driver.system if driver is not None else "protect"

    @property
    def target(self) -> Target:
        return self._shield.target(self._system)

    def tracer(self, scope: str) -> trace.Tracer:
        """Of the app's own, or of another instrumentation."""
        return self.signals.tracer_provider.get_tracer(scope)

    def choose(self, **policy: Any) -> None:
        """From now on, on a target that has seen nothing."""
        chosen = Policy(**{"retry": RetryPolicy(base=0.001), **policy})
        stormproof.uninstrument()
        policies = {self._system: chosen} if self._driver is not None else {}
        stormproof.instrument(**self.signals.providers, policies=policies)
        if self._driver is None:
            self._search = stormproof.protect("jira", policy=chosen)

    def ask_for_content(self, where: str) -> None:
        """From the next choice on."""
        self._shield.set("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", where)

    def call(self, *faults: Any, **options: Any) -> None:
        """One call; its first attempts are answered like this."""
        with suppress(Exception):  # what the app gets is the matter of other tests
            if self._driver is None or self._proxy is None:
                self._search.call(_searching([*faults, status(200)]))
            else:
                self._proxy.plan("POST", self._driver.path, faults)
                self._driver.call(self._proxy.url, **options)

    def look(self) -> None:
        """Note everything that was emitted; what is observed is so only now."""
        self.lines |= Shapes(self.signals).lines()
        for each in contract.emitted(self.signals):
            if each.group is not None:
                self.attributes |= {(each.group.id, name) for name in each.attributes}
        self.violations += contract.violations(self.signals)
        self.violations += [f"span {name} was never ended" for name in self.signals.open_spans]


def _searching(answers: list[Any]) -> Callable[[], None]:
    def search() -> None:
        answer, request = answers.pop(0), httpx.Request("GET", "https://jira.example")
        httpx.Response(answer.code, headers=answer.headers, request=request).raise_for_status()

    return search


# -- what policies do --------------------------------------------------------------------------------------------------


def _policies(stage: Stage) -> None:
    for act in (_retries, _fallback, _bulkhead, _rate_limit, _breaker, _pace):
        act(stage)
        stage.look()


def _retries(stage: Stage) -> None:
    stage.choose(breaker=BreakerPolicy(strategy="window"))  # which does not pace calls after a 429
    stage.call()
    stage.call(status(503))
    stage.call(status(429, {"Retry-After": "0.001"}))
    stage.call(status(400))


def _fallback(stage: Stage) -> None:
    stage.choose(fallback=Fallback(value="nothing found"), retry=RetryPolicy(attempts=1))
    stage.call(status(503))


def _bulkhead(stage: Stage) -> None:
    stage.choose(bulkhead=BulkheadPolicy(limit=1, queue=1))
    stage.call()
    bulkhead = stage.target.bulkhead
    assert bulkhead is not None
    assert bulkhead.enter()
    waiting = threading.Thread(target=stage.call)
    waiting.start()
    while not bulkhead.queued:
        waiting.join(0.001)
    bulkhead.leave()
    waiting.join(LONG)


def _rate_limit(stage: Stage) -> None:
    stage.choose(rate_limit=RateLimitPolicy(rate=0.001, burst=1))
    stage.call()
    stage.call()


def _breaker(stage: Stage) -> None:
    stage.choose(breaker=BreakerPolicy(strategy="window", failures=1, open_for=LONG))
    stage.call(status(503))
    stage.call()
    stage.target.close()


def _pace(stage: Stage) -> None:
    stage.choose()
    stage.call()
    stage.call(status(429, _NEVER))


# -- what clients tell -------------------------------------------------------------------------------------------------


def _openai(stage: Stage) -> None:
    """Each request and answer under a model's name of its own, by which its lines are known."""
    stage.choose()
    with TolerantWire(CHAT) as wire, openai.OpenAI(base_url=f"{wire.url}/v1", api_key="none") as client:
        for ask in (_chat, _chat_stream, _responses, _agents, _other_requests):
            ask(client, wire)
        wire.answer = CHAT
        with openai.AzureOpenAI(
            azure_endpoint=wire.url, azure_deployment="deployed", api_version="2024-06-01", api_key="none"
        ) as deployed:
            deployed.post("/chat/completions", body={"messages": MESSAGES}, cast_to=object)
    stage.look()


def _chat(client: openai.OpenAI, wire: TolerantWire) -> None:
    client.chat.completions.create(
        model="whole",
        messages=MESSAGES,
        temperature=0,
        top_p=1,
        max_tokens=9,
        frequency_penalty=1,
        presence_penalty=1,
        stop=["."],
        seed=1,
        n=2,
        response_format={"type": "json_object"},
        service_tier="auto",
    )
    client.chat.completions.create(model="newer", messages=MESSAGES, extra_body={"max_completion_tokens": 9})
    client.chat.completions.with_raw_response.create(model="raw", messages=MESSAGES)


def _chat_stream(client: openai.OpenAI, wire: TolerantWire) -> None:
    wire.answer = CHAT_STREAM
    list(client.chat.completions.create(model="stream", messages=MESSAGES, stream=True))


def _responses(client: openai.OpenAI, wire: TolerantWire) -> None:
    """By hand: not all releases have them."""

    def ask(model: str, **body: Any) -> Any:
        body = {"model": model, "input": "hello", **body}
        streamed: dict[str, Any] = {"stream": True, "stream_cls": openai.Stream[object]} if "stream" in body else {}
        return client.post("/responses", body=body, cast_to=object, **streamed)

    wire.answer = RESPONSE
    ask("response", max_output_tokens=9, conversation="conv", text={"format": {"type": "json_schema"}})
    wire.answer = INCOMPLETE
    ask("incomplete", conversation={"id": "conv"})
    wire.answer = events("response.completed", RESPONSE)
    list(ask("response stream", stream=True))


def _agents(client: openai.OpenAI, wire: TolerantWire) -> None:
    wire.answer = {**CHAT, "name": "Ada"}
    client.beta.assistants.create(model="assistant", name="Ada")
    wire.answer = {"id": "run-1", "model": "served", "status": "completed", "usage": USAGE}
    client.beta.threads.runs.create("thread_x", model="run", assistant_id="asst_x")


def _other_requests(client: openai.OpenAI, wire: TolerantWire) -> None:
    wire.answer = {**CHAT, "data": []}
    client.embeddings.create(model="embeddings", input="x", dimensions=3, encoding_format="float")
    client.images.generate(model="image", prompt="a cat")


_OLLAMA_OPTIONS: Mapping[str, Any] = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 3,
    "seed": 1,
    "frequency_penalty": 1.0,
    "presence_penalty": 1.0,
    "num_predict": 9,
    "stop": ["."],
}


_OLLAMA_ANSWER: Mapping[str, Any] = {
    "model": "served",
    "done_reason": "stop",
    "prompt_eval_count": 7,
    "message": {"role": "assistant", "content": "hi"},
    "embeddings": [[0.5]],
}


def _ollama(stage: Stage) -> None:
    stage.choose()
    stage.call()
    stage.call(drop(after_chunks=3))
    _asked_for_and_read_later(stage)
    _with_ollama(stage, lambda client: client.chat("whole", MESSAGES, format="json", options=_OLLAMA_OPTIONS))
    stage.look()


def _asked_for_and_read_later(stage: Stage) -> None:
    """The call begins with the reading; its parent is who asked."""
    client, tracer = _OLLAMA_STREAM.client(stage.proxy_of("ollama").url), stage.tracer("app")
    with tracer.start_as_current_span("who asks"):
        items = _OLLAMA_STREAM.start(client)
    list(items)
    _OLLAMA_STREAM.close(client)


def _ollama_dimensions(stage: Stage) -> None:
    """Not all releases send them."""
    stage.choose()
    _with_ollama(stage, lambda client: client.embed("embed", "x", dimensions=3))
    stage.look()


def _with_ollama(stage: Stage, work: Callable[[Any], Any]) -> None:
    with TolerantWire(_OLLAMA_ANSWER) as wire:
        _OLLAMA.use(wire.url, work)


def _content(stage: Stage) -> None:
    """What is said, as it is asked for: on the spans and in the event, beside all that both have anyway."""
    stage.ask_for_content("SPAN_AND_EVENT")
    _openai(stage)
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    _with_ollama(stage, lambda client: client.chat("chat", MESSAGES, tools=tools, options=_OLLAMA_OPTIONS))
    _with_ollama(stage, lambda client: client.generate("generate", "two?", system="Be brief."))
    stage.call(status(400))
    stage.ask_for_content("NO_CONTENT")
    stage.look()


def _qdrant(stage: Stage) -> None:
    stage.choose()
    client = quiet_qdrant(stage.proxy_of("qdrant").url)
    client.upsert(COLLECTION, some(3)[1:])  # which are there: others count them
    client.get_collections()
    client.close()
    stage.look()


def _qdrant_grpc(stage: Stage) -> None:
    stage.choose()
    with QdrantGrpc() as server:
        server.fill(COLLECTION, some(3))
        server.plan("Points/Upsert", [abort("UNAVAILABLE")])
        client = server.client()
        client.upsert(COLLECTION, some(2))
        client.close()
    stage.look()


def _qdrant_local(stage: Stage) -> None:
    stage.choose()
    local = Local(is_async=False)
    local("upsert", COLLECTION, some(2))
    with suppress(ValueError):
        local("count", "none")
    local("close")
    stage.look()


# -- who else is there -------------------------------------------------------------------------------------------------


def _a_resend(stage: Stage) -> None:
    stage.choose()
    stage.call(status(503))
    stage.look()


def _owned(stage: Stage) -> None:
    """Below the spans of another instrumentation; the last has ended before the call has."""
    stage.choose()
    tracer = stage.tracer("openinference.instrumentation.openai")
    with tracer.start_as_current_span("theirs"):
        stage.call(status(503))
    stage.look()
    with tracer.start_as_current_span("theirs, which fails"):
        stage.call(status(400))
    stage.look()
    with (
        tracer.start_as_current_span("theirs, which ends early", end_on_exit=False) as span,
        httpx.Client(event_hooks={"request": [lambda _: span.end()]}) as ending,
    ):
        stage.call(status(503), http_client=ending)
    stage.look()


_OPENAI, _OPENAI_ASYNC_STREAM, _OLLAMA, _QDRANT = DRIVERS[0], DRIVERS[3], DRIVERS[4], DRIVERS[8]
_OPENAI_STREAM, _OLLAMA_STREAM = DRIVERS[1], DRIVERS[5]

#: By name: the driver that the stage's calls are made by, and what happens.
STAGES: Mapping[str, tuple[Driver | None, Callable[[Stage], None]]] = {
    "openai": (_OPENAI, _policies),
    "qdrant": (_QDRANT, _policies),
    "a function of one's own": (None, _policies),
    "openai, asynchronous": (_OPENAI_ASYNC_STREAM, _a_resend),
    "openai: requests and answers": (_OPENAI, _openai),
    "openai and ollama: content": (_OPENAI, _content),
    "ollama: requests and answers": (_OLLAMA_STREAM, _ollama),
    "qdrant: requests": (_QDRANT, _qdrant),
    "qdrant over gRPC": (_QDRANT, _qdrant_grpc),
    "qdrant in local mode": (_QDRANT, _qdrant_local),
    "below another instrumentation": (_OPENAI_STREAM, _owned),
}
if "dimensions" in inspect.signature(ollama.Client.embed).parameters:
    STAGES = {**STAGES, "ollama: dimensions": (_OLLAMA, _ollama_dimensions)}
