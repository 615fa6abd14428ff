"""The fault proxy: what the real clients see of each fault, and what the proxy's record says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import ollama
import openai
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from stormproof.demo.ollama_wire import OllamaWire
from stormproof.demo.openai_wire import OpenAIWire
from stormproof.demo.proxy import (
    Fault,
    FaultProxy,
    delay,
    drop,
    hang,
    raw,
    reset,
    reset_after,
    slow,
    status,
)
from stormproof.demo.qdrant_wire import QdrantWire

from .helpers import quiet_qdrant

ANY = ("*", ".")
VERSION = "/api/version"
MESSAGES: list[Any] = [{"role": "user", "content": "Context: One two three four.\n\nQuestion: two?"}]
WORDS = ["One", " two", " three", " four."]
BROKEN = (httpx.ReadError, httpx.RemoteProtocolError)


@pytest.fixture(scope="module")
def upstream() -> Iterator[OllamaWire]:
    with OllamaWire() as wire:
        yield wire


@pytest.fixture
def proxy(upstream: OllamaWire) -> Iterator[FaultProxy]:
    with FaultProxy(upstream.url) as proxy:
        yield proxy


@pytest.fixture
def http(proxy: FaultProxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, timeout=10) as client:
        yield client


@pytest.fixture
def qdrant() -> Iterator[tuple[FaultProxy, QdrantClient]]:
    with QdrantWire() as wire, FaultProxy(wire.url) as proxy, closing(quiet_qdrant(proxy.url)) as client:
        yield proxy, client


def chat(proxy: FaultProxy) -> Iterator[str]:
    """Stream a chat through the real client, word by word."""
    client = ollama.Client(host=proxy.url)
    try:
        for part in client.chat("any", MESSAGES, stream=True):
            yield part["message"]["content"]
    finally:
        client._client.close()


def until_broken(items: Iterable[Any], errors: Any = BROKEN) -> list[Any]:
    """Return what came before the connection broke."""
    seen: list[Any] = []
    with pytest.raises(errors):
        seen.extend(items)
    return seen


class TestPassingOn:
    def test_a_stream_arrives_as_it_was_sent(self, proxy: FaultProxy) -> None:
        assert list(chat(proxy)) == [*WORDS, ""]
        (seen,) = proxy.exchanges
        assert (seen.number, seen.method, seen.path) == (1, "POST", "/api/chat")
        assert (seen.status, seen.fault) == (200, None)
        assert json.loads(seen.body)["messages"] == MESSAGES
        assert seen.headers["content-type"] == "application/json"

    def test_chunks_are_passed_on_one_by_one(self) -> None:
        """The client has the first word before the upstream has sent its last: nothing is collected."""
        with OllamaWire(pace=0.05) as slow, FaultProxy(slow.url) as slow_proxy:
            words = chat(slow_proxy)
            assert next(words) == WORDS[0]
            assert slow_proxy.exchanges[0].status == 200
            assert list(words) == [*WORDS[1:], ""]

    def test_connections_are_kept_alive(self, proxy: FaultProxy, http: httpx.Client) -> None:
        proxy.plan(*ANY, [None, status(503), None])
        answers = [http.get(VERSION, params={"n": n}).status_code for n in range(3)]
        assert answers == [200, 503, 200]
        assert [seen.connection for seen in proxy.exchanges] == [1, 1, 1]
        assert [seen.query for seen in proxy.exchanges] == ["n=0", "n=1", "n=2"]

    def test_heads_and_chunked_bodies(self, proxy: FaultProxy, http: httpx.Client) -> None:
        assert http.head("/").status_code == 200
        body = (part for part in (b'{"model": "any", ', b'"input": "x"}'))
        assert http.post("/api/embed", content=body).status_code == 200
        assert json.loads(proxy.exchanges[1].body)["input"] == "x"

    def test_many_at_once(self, proxy: FaultProxy, http: httpx.Client) -> None:
        def call(number: int) -> int:
            return http.get(VERSION, params={"n": number}).status_code

        proxy.plan("GET", VERSION, [status(503)] * 30)
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(call, range(100)))
        assert (answers.count(503), answers.count(200)) == (30, 70)
        assert proxy.count("GET", VERSION) == 100
        assert sorted(seen.number for seen in proxy.exchanges) == list(range(1, 101))

    def test_a_client_that_leaves_is_nothing_to_talk_about(self, caplog: pytest.LogCaptureFixture) -> None:
        with OllamaWire(pace=0.02) as slow, FaultProxy(slow.url) as proxy:
            for words in (chat(proxy), chat(proxy)):
                assert next(words) == WORDS[0]
                del words
            assert list(chat(proxy)) == [*WORDS, ""]
        assert caplog.records == []

    def test_an_upstream_that_is_gone_is_a_reset(self) -> None:
        with OllamaWire() as wire:
            gone = wire.url
        with FaultProxy(gone) as proxy, pytest.raises(BROKEN):
            httpx.get(proxy.url)


class TestFaults:
    def test_a_reset_never_reaches_the_upstream(self, upstream: OllamaWire, http: httpx.Client) -> None:
        with FaultProxy(upstream.url) as behind, FaultProxy(behind.url) as proxy:
            proxy.plan(*ANY, [reset()])
            with pytest.raises(BROKEN):
                httpx.get(proxy.url + VERSION)
            assert httpx.get(proxy.url + VERSION).status_code == 200
            assert [(seen.fault, seen.status) for seen in proxy.exchanges] == [("reset", None), (None, 200)]
            assert behind.count(*ANY) == 1

    def test_a_reset_afterwards_did_its_work(self, qdrant: tuple[FaultProxy, QdrantClient]) -> None:
        config = models.VectorParams(size=2, distance=models.Distance.DOT)
        proxy, client = qdrant
        client.create_collection("c", config)
        proxy.plan("PUT", "/points$", [reset_after()])
        with pytest.raises(ResponseHandlingException) as caught:
            client.upsert("c", [models.PointStruct(id=1, vector=[1.0, 0.0])])
        assert isinstance(caught.value.source, BROKEN)
        assert client.count("c").count == 1

    def test_a_hang_ends_when_the_client_has_enough(self, proxy: FaultProxy) -> None:
        proxy.plan(*ANY, [hang()])
        with httpx.Client(base_url=proxy.url, timeout=0.3) as impatient, pytest.raises(httpx.ReadTimeout):
            impatient.get(VERSION)
        assert httpx.get(proxy.url + VERSION).status_code == 200

    def test_a_hang_ends_when_the_proxy_stops(self, upstream: OllamaWire) -> None:
        threads = threading.active_count()
        with ThreadPoolExecutor(1) as pool:
            with FaultProxy(upstream.url) as proxy:
                proxy.plan(*ANY, [hang()])
                waiting = pool.submit(httpx.get, proxy.url, timeout=30)
                assert proxy.wait_for(*ANY)
            assert isinstance(waiting.exception(30), BROKEN)
        assert threading.active_count() == threads

    @pytest.mark.parametrize("chunks", [0, 2])
    def test_a_drop_after_some_chunks(self, proxy: FaultProxy, chunks: int) -> None:
        proxy.plan(*ANY, [drop(after_chunks=chunks)])
        assert until_broken(chat(proxy)) == WORDS[:chunks]
        assert [(seen.fault, seen.status) for seen in proxy.exchanges] == [("drop", 200)]
        assert list(chat(proxy)) == [*WORDS, ""]

    @pytest.mark.parametrize("fault", [drop(after_bytes=5), drop(after_chunks=1), drop(after_bytes=10_000)])
    def test_a_drop_never_lets_the_whole_body_through(self, proxy: FaultProxy, fault: Fault) -> None:
        proxy.plan(*ANY, [fault])
        with httpx.Client(base_url=proxy.url) as client, pytest.raises(BROKEN):
            client.get(VERSION)

    def test_a_drop_of_openais_stream(self) -> None:
        with OpenAIWire() as wire, FaultProxy(wire.url) as proxy:
            proxy.plan(*ANY, [drop(after_chunks=3)])
            with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=2) as client:
                stream = client.chat.completions.create(model="any", messages=MESSAGES, stream=True)
                # openai 3 is on httpx2, whose errors are no relatives of httpx's.
                assert len(until_broken(stream, Exception)) == 3
            assert proxy.count(*ANY) == 1

    def test_a_delay_only_delays(self, proxy: FaultProxy, http: httpx.Client) -> None:
        proxy.plan(*ANY, [delay(0.2)])
        assert http.get(VERSION).elapsed.total_seconds() >= 0.2
        assert proxy.exchanges[0].fault == "delay"

    def test_a_drop_may_close_in_good_order(self, proxy: FaultProxy) -> None:
        proxy.plan(*ANY, [drop(after_bytes=5, then="close")])
        with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
            httpx.get(proxy.url + VERSION)

    def test_or_say_no_more(self, proxy: FaultProxy) -> None:
        proxy.plan(*ANY, [drop(after_bytes=5, then="hang")])
        with httpx.Client(base_url=proxy.url, timeout=0.3) as impatient, pytest.raises(httpx.ReadTimeout):
            impatient.get(VERSION)
        assert proxy.exchanges[0].status == 200

    def test_a_slow_answer_arrives_whole(self, proxy: FaultProxy, http: httpx.Client) -> None:
        proxy.plan(*ANY, [slow(0.2)])
        answer = http.get(VERSION)
        assert answer.elapsed.total_seconds() >= 0.2
        assert answer.json()["version"]

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (b"HTTP/1.1 200 OK\r\ncontent-ty", httpx.RemoteProtocolError),
            (b"220 ready\r\n", httpx.RemoteProtocolError),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", httpx.RemoteProtocolError),
        ],
    )
    def test_bytes_that_are_no_http(self, proxy: FaultProxy, answer: bytes, error: type[Exception]) -> None:
        proxy.plan(*ANY, [raw(answer)])
        with pytest.raises(error):
            httpx.get(proxy.url + VERSION)
        assert (proxy.exchanges[0].fault, proxy.exchanges[0].status) == ("raw", None)
        assert httpx.get(proxy.url + VERSION).status_code == 200

    def test_drop_wants_exactly_one_limit(self) -> None:
        with pytest.raises(ValueError, match="exactly one"):
            drop()


class TestStatus:
    def test_openai(self) -> None:
        with OpenAIWire() as wire, FaultProxy(wire.url) as proxy:
            proxy.plan(*ANY, [status(503), status(429, {"Retry-After": "2"})])
            with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0) as client:
                with pytest.raises(openai.InternalServerError, match="unavailable") as failed:
                    client.models.list()
                with pytest.raises(openai.RateLimitError) as limited:
                    client.models.list()
        assert failed.value.type == "server_error"
        assert limited.value.response.headers["retry-after"] == "2"

    def test_ollama(self, proxy: FaultProxy) -> None:
        proxy.plan(*ANY, [status(503)])
        with pytest.raises(ollama.ResponseError, match=r"^Service unavailable \(injected\)") as caught:
            list(chat(proxy))
        assert caught.value.status_code == 503

    def test_qdrant(self, qdrant: tuple[FaultProxy, QdrantClient]) -> None:
        proxy, client = qdrant
        proxy.plan(*ANY, [status(503), status(429, {"Retry-After": "2"})])
        with pytest.raises(UnexpectedResponse, match="unavailable") as failed:
            client.get_collections()
        assert failed.value.status_code == 503
        # Older clients have no error of its own for a server that asks to wait.
        with pytest.raises(Exception, match=r"Rate limit|Too Many Requests"):
            client.get_collections()

    def test_a_body_of_ones_own(self, proxy: FaultProxy, http: httpx.Client) -> None:
        quota = {"error": {"code": "insufficient_quota"}}
        proxy.plan(*ANY, [status(429, body=quota), status(502, {"Content-Type": "text/html"}, "<html>")])
        assert http.get("/v1/models").json() == quota
        page = http.get("/v1/models")
        assert (page.text, page.headers["content-type"]) == ("<html>", "text/html")


class TestRules:
    def test_a_plan_hits_only_what_it_means(self, proxy: FaultProxy, http: httpx.Client) -> None:
        proxy.plan("GET", f"^{VERSION}$", [status(503)])
        assert http.post(VERSION).status_code == 405
        assert http.get("/api/tags").status_code == 200
        assert http.get(VERSION).status_code == 503
        assert proxy.count("GET", "/api/") == 2

    def test_chance_is_reproducible(self, upstream: OllamaWire) -> None:
        def run(faults: Fault | list[Fault] | Callable[[], Fault], seed: int) -> list[int]:
            with FaultProxy(upstream.url) as proxy, httpx.Client(base_url=proxy.url) as client:
                proxy.chance("GET", VERSION, faults, 0.4, seed)
                return [client.get(VERSION).status_code for _ in range(30)]

        first = run([status(500), status(503)], seed=3)
        assert {200, 500, 503} == set(first)
        assert run([status(500), status(503)], seed=3) == first
        assert run(lambda: status(500), seed=3).count(200) == run(status(503), seed=3).count(200)

    def test_an_outage_begins_and_ends(self, proxy: FaultProxy) -> None:
        def works() -> bool:
            try:
                return httpx.get(proxy.url + VERSION).status_code == 200
            except BROKEN:
                return False

        proxy.outage(VERSION, start_after=2, lasting=0.2)
        assert [works() for _ in range(3)] == [True, True, False]
        while not works():
            pass
        failed = [seen for seen in proxy.exchanges if seen.fault == "outage"]
        assert failed == proxy.exchanges[2:-1]
        assert proxy.exchanges[-1].started - failed[0].started >= 0.2

    def test_disarming(self, proxy: FaultProxy, http: httpx.Client) -> None:
        proxy.outage(VERSION, lasting=3600)
        proxy.disarm()
        assert http.get(VERSION).status_code == 200
        proxy.clear()
        assert (proxy.exchanges, proxy.count(*ANY)) == ([], 0)
