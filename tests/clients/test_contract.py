"""The contract both ways: every test's ``shield`` sees that nothing is emitted that the schema does not have; here all
that it has is emitted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from qdrant_client import models

import stormproof
from stormproof import BreakerPolicy, BulkheadPolicy, Fallback, Policy, RateLimitPolicy, RetryPolicy
from stormproof.demo.proxy import FaultProxy, drop, status
from stormproof.resilience.targets import Target
from stormproof.telemetry import names
from tests import contract
from tests.servers.tolerant import TolerantWire
from tests.unit.limits import LONG

from .drivers import COLLECTION, DRIVERS, MESSAGES, MODEL, quiet_qdrant
from .shield import Shield
from .test_openai_attributes import CHAT
from .test_qdrant_local import Local, some

ProxyOf = Callable[[str], FaultProxy]
Seen = set[tuple[str, str]]

SYSTEMS = ("openai", "qdrant", "protect")


class Stage:
    """Has a system called by a policy and met by faults, and keeps what it emitted."""

    def __init__(self, shield: Shield, proxy: FaultProxy | None, system: str) -> None:
        self.seen: Seen = set()
        self._shield, self._proxy, self._system = shield, proxy, system

    @property
    def target(self) -> Target:
        return self._shield.target(self._system)

    def choose(self, **policy: Any) -> None:
        """From now on, on a target that has seen nothing."""
        self._shield.off()
        chosen = Policy(**{"retry": RetryPolicy(base=0.001), **policy})
        if self._proxy is None:
            self._shield.on()
            self._search = stormproof.protect("jira", policy=chosen)
        else:
            stormproof.instrument(**self._shield.signals.providers, policies={self._system: chosen})

    def call(self, *codes: int, headers: dict[str, str] | None = None) -> None:
        """One call; its first attempts are answered with these statuses."""
        if self._proxy is not None:
            driver = next(driver for driver in DRIVERS if driver.system == self._system)
            self._proxy.plan("POST", driver.path, [status(code, headers) for code in codes])
            with suppress(Exception):  # what the app gets is the matter of other tests
                driver.call(self._proxy.url)
            return
        answers = [*codes, 200]

        def search() -> None:
            request = httpx.Request("GET", "https://jira.example")
            httpx.Response(answers.pop(0), headers=headers, request=request).raise_for_status()

        with suppress(Exception):
            self._search.call(search)

    def look(self) -> None:
        """Note everything that was emitted; what is observed is so only now."""
        for each in contract.emitted(self._shield.signals):
            assert each.group is not None
            self.seen |= {(each.group.id, name) for name in each.attributes}


@pytest.fixture
def stages(shield: Shield, proxy_of: ProxyOf) -> list[Stage]:
    return [Stage(shield, proxy_of(system) if system != "protect" else None, system) for system in SYSTEMS]


def wanted() -> Seen:
    return {
        (group.id, attribute)
        for kind in ("span", "metric", "event")
        for group in contract.of_type(kind)
        for attribute in group.attributes
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # openai's assistants: agents have names there
def test_everything_in_the_schema_is_emitted(shield: Shield, stages: list[Stage], proxy_of: ProxyOf) -> None:
    shield.expected_complaints = ["any"]  # a policy in place of another, an empty budget
    for stage in stages:
        for play in (_retries, _fallback, _bulkhead, _rate_limit, _breaker, _pace):
            play(stage)
            stage.look()
    shield.set("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_AND_EVENT")
    shield.again()
    others = Stage(shield, None, "openai")
    _ask_openai_for_everything()
    _ask_ollama(proxy_of("ollama"))
    _ask_qdrant(proxy_of("qdrant"))
    others.look()
    seen = set().union(*(stage.seen for stage in (*stages, others)))
    assert wanted() - seen == set()


def _retries(stage: Stage) -> None:
    stage.choose()
    stage.call(503)
    stage.call(400)


def _fallback(stage: Stage) -> None:
    stage.choose(fallback=Fallback(value="nothing found"), retry=RetryPolicy(attempts=1))
    stage.call(503)


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
    stage.choose(breaker=BreakerPolicy(strategy="window", failures=1))
    stage.call(503, 503)
    stage.call()


def _pace(stage: Stage) -> None:
    stage.choose(deadline=0.01)
    stage.call()
    stage.call(429, headers={"Retry-After": "1"})


def _ask_openai_for_everything() -> None:
    with TolerantWire(CHAT) as wire:
        client = openai.OpenAI(base_url=f"{wire.url}/v1", api_key="none")
        client.chat.completions.create(
            model=MODEL,
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
            tools=[{"type": "function", "function": {"name": "look_up"}}],
        )
        client.post("/responses", body={"model": MODEL, "input": "x", "conversation": "conv-1"}, cast_to=object)
        client.embeddings.create(model=MODEL, input="x", dimensions=3, encoding_format="float")
        client.beta.assistants.create(model=MODEL, name="Ada")
        client.beta.threads.runs.create("thread-1", assistant_id="asst-1")
        client.close()


def _ask_ollama(proxy: FaultProxy) -> None:
    stream = next(driver for driver in DRIVERS if str(driver) == "ollama-sync-stream")
    stream.call(proxy.url)
    proxy.plan("POST", stream.path, [drop(after_chunks=3)])
    with pytest.raises(stream.connection_errors):
        stream.call(proxy.url)
    stream.use(proxy.url, lambda client: client.chat("tiny", MESSAGES, options={"top_k": 3}))
    stream.use(proxy.url, lambda client: client.generate("tiny", "two?", system="Be brief."))


def _ask_qdrant(proxy: FaultProxy) -> None:
    client = quiet_qdrant(proxy.url)
    client.upsert(COLLECTION, [models.PointStruct(id=n, vector=[0.1, 0.2, 0.3, 0.4]) for n in (1, 2, 3)])
    client.close()
    local = Local(is_async=False)
    local("upsert", COLLECTION, some(2))
    with suppress(ValueError):
        local("count", "none")
    local("close")


def test_every_name_of_the_code_is_in_the_schema_and_no_other() -> None:
    code = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str) and "." in value}
    code = {name for name in code | set(names.FACTS.values()) | set(names.CONTENT.values()) if "://" not in name}
    schema = {attribute for _, attribute in wanted()}
    schema |= {group.said["metric_name"] for group in contract.of_type("metric")}
    schema |= {group.said["name"] for group in contract.of_type("event")}
    apart = {names.DISTRO_NAME, names.DISTRO_VERSION, names.HTTP_RESEND_COUNT}  # of the resource, of the HTTP span
    assert code - apart == schema
