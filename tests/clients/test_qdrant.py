"""qdrant-client: names of its calls, what is not sent twice, and uploads, whose retries are taken over."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.parallel_processor import ParallelWorkerPool

from stormproof.demo.proxy import FaultProxy, reset_after, status
from stormproof.demo.sink import OtlpSink
from tests.unit.signals import attributes, get, has

from .drivers import COLLECTION, quiet_qdrant
from .shield import Shield

POINTS = f"/collections/{COLLECTION}/points"
VECTOR = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def proxy(proxy_of: Callable[[str], FaultProxy]) -> FaultProxy:
    return proxy_of("qdrant")


@pytest.fixture
def client(shield: Shield, proxy: FaultProxy) -> Iterator[Any]:
    client = quiet_qdrant(proxy.url)
    yield client
    client.close()


def some(number: int) -> list[models.PointStruct]:
    return [models.PointStruct(id=n, vector=VECTOR, payload={"text": "secret"}) for n in range(number)]


CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("get_collections", lambda client: client.get_collections()),
    (f"get_collection {COLLECTION}", lambda client: client.get_collection(COLLECTION)),
    (f"collection_exists {COLLECTION}", lambda client: client.collection_exists(COLLECTION)),
    (f"upsert {COLLECTION}", lambda client: client.upsert(COLLECTION, some(2))),
    (f"retrieve {COLLECTION}", lambda client: client.retrieve(COLLECTION, [1])),
    (f"scroll {COLLECTION}", lambda client: client.scroll(COLLECTION)),
    (f"count {COLLECTION}", lambda client: client.count(COLLECTION)),
    (f"set_payload {COLLECTION}", lambda client: client.set_payload(COLLECTION, {"a": 1}, [1])),
    (f"delete {COLLECTION}", lambda client: client.delete(COLLECTION, [3])),
    (f"create_payload_index {COLLECTION}", lambda client: client.create_payload_index(COLLECTION, "a", "keyword")),
]
if hasattr(QdrantClient, "query_points"):
    CALLS.append((f"query_points {COLLECTION}", lambda client: client.query_points(COLLECTION, VECTOR)))
if hasattr(QdrantClient, "search"):
    CALLS.append((f"search {COLLECTION}", lambda client: client.search(COLLECTION, VECTOR)))


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
def test_each_call_recovers_even_from_a_lost_answer_and_is_named_as_its_method(
    shield: Shield, client: Any, proxy: FaultProxy, name: str, call: Callable[[Any], Any]
) -> None:
    proxy.plan("*", ".", [status(503), reset_after()])
    call(client)
    operation, attempts = shield.signals.operation(), shield.signals.attempts()
    assert operation.name == name
    assert len(proxy.exchanges) == len(attempts) == 3
    assert has(
        operation,
        db__system__name="qdrant",
        db__operation__name=name.split(maxsplit=1)[0],
        db__collection__name=COLLECTION if COLLECTION in name else None,
        resilience__attempt__count=3,
    )
    assert get(attempts, "db.response.status_code")[0] == "503"
    assert "secret" not in str([dict(attributes(span)) for span in shield.signals.spans])


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.create_collection("new", vectors_config=_vectors()),
        lambda client: client.update_collection_aliases([]),
        lambda client: client.create_snapshot(COLLECTION),
    ],
    ids=["create_collection", "update_collection_aliases", "create_snapshot"],
)
def test_what_must_not_be_done_twice_is_not(shield: Shield, client: Any, proxy: FaultProxy, call: Any) -> None:
    proxy.chance("*", ".", reset_after(), 1)
    with pytest.raises(ResponseHandlingException):
        call(client)
    assert len(proxy.exchanges) == 1
    assert has(shield.signals.operation(), resilience__retry__gave_up="not_replay_safe")
    client.close()


def test_it_is_tried_again_where_it_was_surely_not_done(shield: Shield, client: Any, proxy: FaultProxy) -> None:
    proxy.plan("PUT", ".", [status(503)])
    client.create_collection("surely", vectors_config=_vectors())
    client.delete_collection("surely")
    assert has(shield.signals.operations()[0], resilience__attempt__count=2, error__type=None)


def test_an_upsert_with_a_condition_is_not_sent_twice(shield: Shield, client: Any, proxy: FaultProxy) -> None:
    proxy.chance("PUT", POINTS, reset_after(), 1)
    body = {"points": [{"id": 1, "vector": VECTOR}], "update_filter": {"must": []}}
    with pytest.raises(ResponseHandlingException):
        client.http.client.request(
            type_=models.CollectionsResponse,
            method="PUT",
            url="/collections/{collection_name}/points",
            path_params={"collection_name": COLLECTION},
            content=json.dumps(body),
        )
    assert len(proxy.exchanges) == 1
    assert has(shield.signals.operation(), db__operation__name="upsert", resilience__retry__gave_up="not_replay_safe")


def test_an_answer_that_makes_no_sense_says_that_the_server_lives(
    shield: Shield, client: Any, proxy: FaultProxy
) -> None:
    proxy.chance("*", ".", status(200, body={"result": "what?"}), 1)
    with pytest.raises(ResponseHandlingException):
        client.get_collections()
    assert len(proxy.exchanges) == 1
    assert shield.target("qdrant").breaker.calls["success"] == 1


class TestUploads:
    """By itself the client sends a failing batch three or four times, and for ever on 429 with ``Retry-After: 0``."""

    def upload(self, client: Any, number: int = 3, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it warns of each retry of its own
            client.upload_points(COLLECTION, some(number), batch_size=1, wait=True, **options)

    @pytest.mark.parametrize("own", [{}, {"max_retries": 0}, {"max_retries": 9}], ids=str)
    def test_a_failing_batch_costs_exactly_the_policys_number(
        self, shield: Shield, client: Any, proxy: FaultProxy, own: dict[str, int]
    ) -> None:
        shield.again(RETRY__ATTEMPTS=3)
        proxy.chance("PUT", POINTS, status(503), 1)
        with pytest.raises(UnexpectedResponse, match="503"):
            self.upload(client, **own)
        assert len(proxy.exchanges) == 3
        assert has(shield.signals.operation(), resilience__attempt__count=3, error__type="503")

    def test_only_the_batch_that_failed_is_sent_again(self, shield: Shield, client: Any, proxy: FaultProxy) -> None:
        proxy.plan("PUT", POINTS, [None, status(503), status(503), reset_after()])
        self.upload(client)
        assert get(shield.signals.operations(), "resilience.attempt.count") == [1, 4, 1]
        ids = [json.loads(exchange.body)["points"][0]["id"] for exchange in proxy.exchanges]
        assert ids == [0, 1, 1, 1, 1, 2]

    def test_upload_collection(self, shield: Shield, client: Any, proxy: FaultProxy) -> None:
        proxy.plan("PUT", POINTS, [status(503), None, status(503)])
        client.upload_collection(COLLECTION, [VECTOR] * 2, ids=[1, 2], batch_size=1)
        assert get(shield.signals.operations(), "resilience.attempt.count") == [2, 2]

    def test_a_storm_of_retry_after_0_comes_to_an_end(self, shield: Shield, client: Any, proxy: FaultProxy) -> None:
        shield.again(DEADLINE="2s")
        proxy.chance("PUT", POINTS, status(429, {"Retry-After": "0"}), 1)
        began = time.monotonic()
        with pytest.raises(Exception, match=r"Rate limit|Too Many"):
            self.upload(client)
        assert time.monotonic() - began < 8
        assert len(proxy.exchanges) <= 4

    def test_a_hint_is_waited_out_by_us_alone(self, shield: Shield, client: Any, proxy: FaultProxy) -> None:
        proxy.plan("PUT", POINTS, [status(429, {"Retry-After": "1"})])
        self.upload(client, 1)
        first, second = proxy.exchanges
        assert second.started - first.started >= 1
        assert attributes(shield.signals.operation())["resilience.retry.total_delay"] >= 1

    def test_an_open_breaker_ends_the_upload(self, shield: Shield, client: Any, proxy: FaultProxy) -> None:
        shield.again(BREAKER__STRATEGY="window", BREAKER__FAILURES=1)
        proxy.chance("PUT", POINTS, status(503), 1)
        with pytest.raises(UnexpectedResponse):
            self.upload(client)
        with pytest.raises(ResponseHandlingException, match="circuit open"):
            self.upload(client)
        assert len(proxy.exchanges) == 1

    def test_the_error_is_the_clients_own_and_unchained(self, shield: Shield, client: Any, proxy: FaultProxy) -> None:
        proxy.chance("PUT", POINTS, status(400), 1)
        with pytest.raises(UnexpectedResponse) as raised:
            self.upload(client)
        assert (raised.value.__cause__, raised.value.__context__) == (None, None)
        assert len(proxy.exchanges) == 1


PARALLEL = """
import sys
from qdrant_client import QdrantClient, models

if __name__ == "__main__":
    client = QdrantClient(url=sys.argv[1])
    points = [models.PointStruct(id=n, vector=[0.1] * 4) for n in range(40)]
    client.upload_points("docs", points, batch_size=10, parallel=2, wait=True)
    print(client.count("docs").count)
"""


#: Older pools kill their workers with SIGTERM as soon as the last answer is in: what these have not sent is lost.
WORKERS_MAY_FINISH = "completed" in inspect.getsource(ParallelWorkerPool.unordered_map)


def test_worker_processes_of_an_upload_are_protected_too(proxy: FaultProxy, tmp_path: Any) -> None:
    script = tmp_path / "upload.py"
    script.write_text(PARALLEL)
    proxy.plan("PUT", POINTS, [status(503), status(503)])
    with OtlpSink() as sink:
        environment = {
            "PATH": "/usr/bin:/bin",
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "STORMPROOF__RETRY__BASE": "1ms",
        }
        launcher = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
        done = subprocess.run(
            [sys.executable, "-c", launcher, sys.executable, str(script), proxy.url],
            env=environment, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        batches = [exchange for exchange in proxy.exchanges if exchange.method == "PUT"]
        assert (int(done.stdout) >= 40, len(batches)) == (True, 4 + 2)
        if WORKERS_MAY_FINISH:
            uploads = sink.wait_for(lambda s: found if len(found := _named(s, f"upsert {COLLECTION}")) == 4 else None)
            assert sum(span.attributes["resilience.attempt.count"] for span in uploads) == len(batches)


@pytest.mark.parametrize("make", [QdrantClient, AsyncQdrantClient])
def test_the_look_at_the_servers_version_is_no_trace_of_its_own(
    shield: Shield, proxy: FaultProxy, recwarn: pytest.WarningsRecorder, make: Any
) -> None:
    client = make(url=proxy.url)
    for thread in threading.enumerate():
        if "_check_compatibility" in thread.name:
            thread.join()
    closing = client.close()
    if closing is not None:
        asyncio.run(closing)
    assert shield.signals.spans == []
    assert {exchange.path for exchange in proxy.exchanges} <= {"/"}


def _vectors() -> models.VectorParams:
    return models.VectorParams(size=4, distance=models.Distance.DOT)


def _named(sink: OtlpSink, name: str) -> list[Any]:
    return [span for span in sink.spans if span.name == name]
