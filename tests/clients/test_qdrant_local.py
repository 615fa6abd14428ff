"""qdrant-client's local mode: each public method is one operation, seen and not touched."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind
from qdrant_client import AsyncQdrantClient, QdrantClient, models

import stormproof
from stormproof import Fallback, Policy
from stormproof.resilience.policy import RetryPolicy
from tests.unit.signals import attributes, failed, has, is_child

from .drivers import COLLECTION, quiet_qdrant
from .shield import Shield

VECTOR = [0.1, 0.2, 0.3, 0.4]

both_ways = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "aio"])


class Local:
    """A client in local mode with a filled collection; its methods are called to their ends."""

    def __init__(self, *, is_async: bool, **where: Any) -> None:
        make = AsyncQdrantClient if is_async else QdrantClient
        self.client: Any = make(**(where or {"location": ":memory:"}))
        with suppress_instrumentation():
            self("create_collection", COLLECTION, vectors_config=_vectors())
            self("upsert", COLLECTION, some(3))

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            result = getattr(self.client, method)(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        if isinstance(self.client, AsyncQdrantClient):
            return asyncio.run(call())
        return getattr(self.client, method)(*args, **kwargs)


@pytest.fixture
def local(shield: Shield, is_async: bool) -> Iterator[Local]:
    local = Local(is_async=is_async)
    yield local
    local("close")


def some(number: int) -> list[models.PointStruct]:
    return [models.PointStruct(id=n, vector=VECTOR, payload={"text": "secret"}) for n in range(number)]


@both_ways
class TestLocalMode:
    def test_one_operation_and_nothing_else(self, shield: Shield, local: Local, is_async: bool) -> None:
        assert local("count", COLLECTION).count == 3
        (span,) = shield.signals.spans
        assert (span.name, span.kind) == (f"count {COLLECTION}", SpanKind.CLIENT)
        assert dict(attributes(span)) == {
            "db.system.name": "qdrant",
            "db.operation.name": "count",
            "db.collection.name": COLLECTION,
        }
        metrics = {name: points for name, points in shield.signals.collect().items() if points}
        assert set(metrics) == {"db.client.operation.duration"}
        (point,) = metrics["db.client.operation.duration"]
        assert (point.count, dict(point.attributes)) == (1, dict(attributes(span)))
        assert shield.targets() == []
        assert shield.signals.logs == []

    def test_the_result_is_what_it_would_be_without_us(self, shield: Shield, local: Local, is_async: bool) -> None:
        asked: list[Any] = [
            ("count", COLLECTION),
            ("scroll", COLLECTION),
            ("retrieve", COLLECTION, [1]),
            ("get_collections",),
        ]
        protected = [local(*call) for call in asked]
        shield.off()
        assert [local(*call) for call in asked] == protected

    def test_an_error_is_the_engines_own_and_said_once(self, shield: Shield, local: Local, is_async: bool) -> None:
        policy = Policy(retry=RetryPolicy(on=lambda _: True), fallback=Fallback(value=None, on=ValueError))
        stormproof.instrument(policies={"qdrant": policy})
        with pytest.raises(ValueError, match="not found") as raised:
            local("count", "nowhere")
        assert (raised.value.__cause__, raised.value.__context__) == (None, None)
        (span,) = shield.signals.spans
        assert failed(span)
        assert has(span, error__type="ValueError", resilience__retry__gave_up=None)
        (record,) = shield.signals.logs
        assert (record.event_name, record.body) == ("db.client.operation.exception", "count failed: ValueError")
        (point,) = shield.signals.points("db.client.operation.duration")
        assert point.attributes["error.type"] == "ValueError"

    def test_no_block_of_the_apps_makes_more_of_it(self, shield: Shield, local: Local, is_async: bool) -> None:
        with (
            stormproof.policy(on=lambda _: True, attempts=3, fallback=Fallback(value=None, on=ValueError)),
            pytest.raises(ValueError, match="not found"),
        ):
            local("count", "nowhere")
        with stormproof.policy(enabled=False):
            local("count", COLLECTION)
        assert [span.name for span in shield.signals.spans] == ["count nowhere"]

    def test_what_a_method_calls_makes_no_second_operation(self, shield: Shield, local: Local, is_async: bool) -> None:
        work = local.client._client.recreate_collection(COLLECTION, vectors_config=_vectors())
        if is_async:
            asyncio.run(_awaited(work))
        assert [span.name for span in shield.signals.spans] == [f"recreate_collection {COLLECTION}"]

    def test_the_apps_iterators_are_left_to_the_engine(self, shield: Shield, local: Local, is_async: bool) -> None:
        points = iter(some(10))
        local("upload_points", COLLECTION, (point for point in points))
        assert next(points, None) is None
        assert local("count", COLLECTION).count == 10
        uploading = shield.signals.spans[0]
        assert uploading.name == f"upload_points {COLLECTION}"
        assert has(uploading, db__operation__batch__size=None)

    def test_what_the_apps_iterators_do_meanwhile_is_seen(self, shield: Shield, local: Local, is_async: bool) -> None:
        other = Local(is_async=False)

        def points() -> Iterator[models.PointStruct]:
            other("count", COLLECTION)
            yield from some(1)

        work = local.client._client.upload_points(COLLECTION, points())  # the client looks at the first one before
        if inspect.isawaitable(work):
            asyncio.run(_awaited(work))
        other("close")
        uploading, counting = shield.signals.spans
        assert counting.name == f"count {COLLECTION}"
        assert is_child(counting, uploading)

    def test_nothing_is_seen_where_instrumentation_is_suppressed(
        self, shield: Shield, local: Local, is_async: bool
    ) -> None:
        with suppress_instrumentation():
            local("count", COLLECTION)
        assert shield.signals.spans == []
        assert shield.signals.points("db.client.operation.duration") == []

    # The client leaves the database open in which it looks up whether threads may share one; since 3.13 that is told.
    @pytest.mark.filterwarnings("ignore:Exception ignored in. <sqlite3:pytest.PytestUnraisableExceptionWarning")
    def test_a_path(self, shield: Shield, is_async: bool, tmp_path: Any) -> None:
        local = Local(is_async=is_async, path=str(tmp_path))
        assert local("count", COLLECTION).count == 3
        local("close")
        assert [span.name for span in shield.signals.spans] == [f"count {COLLECTION}"]

    def test_signatures_are_kept(self, shield: Shield, local: Local, is_async: bool) -> None:
        engine = type(local.client._client)
        ours = {name: inspect.signature(value) for name, value in vars(engine).items() if inspect.isfunction(value)}
        shield.off()
        assert {name: inspect.signature(getattr(engine, name)) for name in ours} == ours
        assert not any(hasattr(getattr(engine, name), "__wrapped__") for name in ours)
        shield.on()


def test_beside_a_server_each_has_its_own(shield: Shield, proxy_of: Any) -> None:
    proxy = proxy_of("qdrant")
    remote, local = quiet_qdrant(proxy.url), Local(is_async=False)
    remote.count(COLLECTION)
    local("count", COLLECTION)
    remote.close()
    local("close")
    first, *_, last = shield.signals.spans
    assert has(first, server__port=proxy.port, resilience__attempt__count=1)
    assert has(last, server__port=None, resilience__attempt__count=None)
    assert [target.port for target in shield.targets()] == [proxy.port]


async def _awaited(work: Any) -> Any:
    return await work


def _vectors() -> models.VectorParams:
    return models.VectorParams(size=4, distance=models.Distance.DOT)
