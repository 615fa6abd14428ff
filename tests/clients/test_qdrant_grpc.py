"""qdrant-client over gRPC: a real channel to a real gRPC server, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.trace import SpanKind
from qdrant_client import grpc as wire
from qdrant_client import models

import stormproof
from stormproof import CircuitOpenError, Fallback, Policy
from stormproof.demo.sink import OtlpSink
from tests.servers.qdrant_grpc import QdrantGrpc, abort, hang
from tests.unit.signals import attributes, failed, get, has

from .drivers import COLLECTION
from .shield import Shield
from .test_qdrant import WORKERS_MAY_FINISH

VECTOR = [0.1, 0.2, 0.3, 0.4]
COUNT, UPSERT = "Points/Count", "Points/Upsert"

both_ways = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "aio"])


class Caller:
    """A client of one kind, each of whose methods is called to its end."""

    def __init__(self, server: QdrantGrpc, *, is_async: bool, **options: Any) -> None:
        self.server, self._is_async, self._options = server, is_async, options

    def __call__(self, method: str | Callable[[Any], Any], *args: Any, **kwargs: Any) -> Any:
        def work(client: Any) -> Any:
            return method(client) if callable(method) else getattr(client, method)(*args, **kwargs)

        if self._is_async:
            return asyncio.run(self._call(work))
        client = self.server.client(**self._options)
        try:
            return work(client)
        finally:
            client.close()

    async def _call(self, work: Callable[[Any], Any]) -> Any:
        client = self.server.client(is_async=True, **self._options)
        try:
            return await work(client)
        finally:
            await client.close()

    def count(self) -> int:
        found: int = self("count", COLLECTION).count
        return found


@pytest.fixture
def server() -> Iterator[QdrantGrpc]:
    with QdrantGrpc() as server:
        server.fill(COLLECTION, some(3))
        yield server


@pytest.fixture
def caller(shield: Shield, server: QdrantGrpc, is_async: bool) -> Caller:
    return Caller(server, is_async=is_async)


def some(number: int) -> list[models.PointStruct]:
    return [models.PointStruct(id=n, vector=VECTOR, payload={"text": "secret"}) for n in range(number)]


def stub_of(client: Any) -> Any:
    """The bare gRPC client, in all releases."""
    return client._client.grpc_points


@both_ways
class TestWhenAllIsWell:
    def test_the_result_is_what_it_would_be_without_us(
        self, shield: Shield, server: QdrantGrpc, caller: Caller, is_async: bool
    ) -> None:
        asked = [("count", (COLLECTION,)), ("retrieve", (COLLECTION, [1, 2])), ("get_collections", ())]
        protected = [caller(method, *args) for method, args in asked]
        shield.off()
        assert [caller(method, *args) for method, args in asked] == protected
        ours, bare = server.calls[:3], server.calls[3:]
        assert [(call.method, call.request, call.metadata) for call in ours] == [
            (call.method, call.request, call.metadata) for call in bare
        ]

    def test_one_operation_one_attempt_one_call(
        self, shield: Shield, server: QdrantGrpc, caller: Caller, is_async: bool
    ) -> None:
        assert caller.count() == 3
        operation, (attempt,) = shield.signals.operation(), shield.signals.attempts()
        assert server.count() == 1
        assert (operation.name, operation.kind) == (f"count {COLLECTION}", SpanKind.CLIENT)
        assert has(operation, db__collection__name=COLLECTION, resilience__attempt__count=1, error__type=None)
        for span in (operation, attempt):
            assert has(span, server__address="127.0.0.1", server__port=server.port, db__operation__name="count")
        assert "secret" not in str([dict(attributes(span)) for span in shield.signals.spans])

    def test_a_client_that_was_there_before_us_is_protected_and_bare_again_afterwards(
        self, shield: Shield, server: QdrantGrpc, is_async: bool
    ) -> None:
        async def run() -> None:
            client = server.client(is_async=is_async)
            for turn, seen in ((None, 0), (shield.on, 1), (shield.off, 1), (shield.on, 2)):
                if turn is not None:
                    turn()
                answer = client.count(COLLECTION)
                assert (await answer if is_async else answer).count == 3
                assert len(shield.signals.operations()) == seen
            closing = client.close()
            if is_async:
                await closing

        shield.off()
        asyncio.run(run())
        assert {target.port for target in shield.targets()} == {server.port}


class TestTheClientsOwnCalls:
    def test_what_is_not_called_is_the_clients_own(self, shield: Shield, server: QdrantGrpc) -> None:
        client = server.client()
        stub = stub_of(client)
        request = wire.CountPoints(collection_name=COLLECTION)
        assert isinstance(stub.Count, grpc.UnaryUnaryMultiCallable)
        answer, call = stub.Count.with_call(request, timeout=5)
        assert (answer.result.count, call.code()) == (3, grpc.StatusCode.OK)
        assert stub.Count.future(request).result().result.count == 3
        assert stub.Count(request=request).result.count == 3
        assert len(shield.signals.operations()) == 2  # a future is passed through
        with pytest.raises(AttributeError):
            stub.Unknown  # noqa: B018
        shield.off()
        assert type(stub.Count).__module__.startswith("grpc")
        assert "Count" not in vars(type(stub))
        client.close()

    def test_an_asynchronous_call_can_be_asked(self, shield: Shield, server: QdrantGrpc) -> None:
        async def run() -> None:
            client = server.client(is_async=True)
            request = wire.CountPoints(collection_name=COLLECTION)
            server.plan(COUNT, [abort("UNAVAILABLE")])
            call = stub_of(client).Count(request, timeout=5)
            told: list[Any] = []
            call.add_done_callback(told.append)
            assert isinstance(call, grpc.aio.UnaryUnaryCall)
            assert await call.code() is grpc.StatusCode.OK
            assert (await call).result.count == (await call).result.count == 3
            assert call.done()
            assert not call.cancelled()
            assert not call.cancel()
            assert told == [call]
            server.always(COUNT, abort("NOT_FOUND", "nothing here", {"told": "why"}))
            call = stub_of(client).Count(request)
            assert (await call.code(), await call.details()) == (grpc.StatusCode.NOT_FOUND, "nothing here")
            assert dict(await call.trailing_metadata()) == {"told": "why"}
            with pytest.raises(grpc.aio.AioRpcError):
                await call
            await client.close()

        asyncio.run(run())
        assert get(shield.signals.operations(), "resilience.attempt.count") == [2, 1]

    def test_an_asynchronous_call_begins_before_it_is_awaited_and_can_be_cancelled(
        self, shield: Shield, server: QdrantGrpc
    ) -> None:
        async def run() -> None:
            client = server.client(is_async=True)
            server.always(COUNT, hang())
            call = stub_of(client).Count(wire.CountPoints(collection_name=COLLECTION))
            assert await asyncio.to_thread(server.wait_for, COUNT)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert call.cancelled()
            assert await call.code() is grpc.StatusCode.CANCELLED
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.count(COLLECTION), 0.05)
            await client.close()

        asyncio.run(run())
        assert get(shield.signals.operations(), "error.type") == ["CancelledError"] * 2
        assert shield.target("qdrant").breaker.calls["ignored"] == 2


#: code → (attempts of a call that may be repeated, and of one that may not, what the breaker counts)
CODES = {
    "UNAVAILABLE": (3, 1, "failure"),
    "DEADLINE_EXCEEDED": (3, 1, "failure"),
    "RESOURCE_EXHAUSTED": (3, 3, "ignored"),
    "ABORTED": (3, 3, "ignored"),
    "INTERNAL": (1, 1, "failure"),
    "UNKNOWN": (1, 1, "failure"),
    "DATA_LOSS": (1, 1, "failure"),
    "CANCELLED": (1, 1, "ignored"),
    "NOT_FOUND": (1, 1, "success"),
    "INVALID_ARGUMENT": (1, 1, "success"),
    "ALREADY_EXISTS": (1, 1, "success"),
    "UNAUTHENTICATED": (1, 1, "success"),
    "PERMISSION_DENIED": (1, 1, "success"),
    "FAILED_PRECONDITION": (1, 1, "success"),
    "OUT_OF_RANGE": (1, 1, "success"),
    "UNIMPLEMENTED": (1, 1, "success"),
}


@both_ways
class TestCodes:
    @pytest.mark.parametrize("code", CODES)
    @pytest.mark.parametrize("is_safe", [True, False], ids=["count", "create_snapshot"])
    def test_each_code_is_retried_and_counted_as_its_meaning_is(
        self, shield: Shield, caller: Caller, code: str, is_safe: bool, is_async: bool
    ) -> None:
        shield.again(RETRY__ATTEMPTS=3, BREAKER__STRATEGY="window", BREAKER__FAILURES=100)
        caller.server.always("*", abort(code, "in detail"))
        with pytest.raises(grpc.RpcError) as raised:
            caller("count" if is_safe else "create_snapshot", COLLECTION)
        assert type(raised.value).__module__.startswith("grpc")
        assert (raised.value.code().name, raised.value.details()) == (code, "in detail")
        attempts = CODES[code][0 if is_safe else 1]
        assert caller.server.count() == len(shield.signals.attempts()) == attempts
        assert shield.target("qdrant").breaker.calls[CODES[code][2]] == attempts
        assert has(shield.signals.operation(), error__type=code, resilience__attempt__count=attempts)
        for attempt in shield.signals.attempts():
            assert has(attempt, error__type=code, db__response__status_code=code, http__response__status_code=None)
            assert failed(attempt)

    def test_two_failures_and_a_success(
        self, shield: Shield, server: QdrantGrpc, caller: Caller, is_async: bool
    ) -> None:
        server.plan("*", [abort("UNAVAILABLE"), abort("UNAVAILABLE", after=True)])
        caller("upsert", COLLECTION, some(5))
        operation, attempts = shield.signals.operation(), shield.signals.attempts()
        assert get(attempts, "error.type") == ["UNAVAILABLE", "UNAVAILABLE", None]
        assert [failed(span) for span in (operation, *attempts)] == [False, True, True, False]
        assert has(operation, db__operation__batch__size=5)
        assert caller.count() == 5

    @pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "ABORTED"])
    def test_the_server_says_when_to_come_back(self, shield: Shield, caller: Caller, code: str, is_async: bool) -> None:
        caller.server.plan(COUNT, [abort(code, trailing={"retry-after": "1"})])
        caller.count()
        first, second = caller.server.calls
        assert second.started - first.started >= 1
        assert get(shield.signals.attempts(), "resilience.retry.delay.source") == [None, "server"]
        assert get(shield.signals.attempts(), "error.type") == [code, None]

    def test_a_hint_beyond_the_deadline_ends_it_at_once(
        self, shield: Shield, server: QdrantGrpc, caller: Caller, is_async: bool
    ) -> None:
        server.always(COUNT, abort("RESOURCE_EXHAUSTED", trailing={"retry-after": "86400"}))
        with pytest.raises(Exception, match="injected"):
            caller.count()
        assert server.count() == 1
        assert has(shield.signals.operation(), resilience__retry__gave_up="hint_too_long")

    def test_a_message_that_is_too_large_is_not_sent_again(
        self, shield: Shield, server: QdrantGrpc, is_async: bool
    ) -> None:
        caller = Caller(server, is_async=is_async, grpc_options={"grpc.max_receive_message_length": 1})
        with pytest.raises(grpc.RpcError, match="larger than max"):
            caller.count()
        assert server.count() == 1
        assert has(shield.signals.operation(), error__type="RESOURCE_EXHAUSTED")

    def test_nobody_listens_and_so_nothing_was_carried_out(
        self, shield: Shield, server: QdrantGrpc, caller: Caller, is_async: bool
    ) -> None:
        server.stop()
        with pytest.raises(grpc.RpcError):
            caller("create_snapshot", COLLECTION)
        assert get(shield.signals.attempts(), "error.type") == ["UNAVAILABLE"] * 4
        assert has(shield.signals.operation(), resilience__retry__gave_up="attempts")

    @pytest.mark.parametrize("field", ["update_filter", "update_mode"])
    def test_an_upsert_with_a_condition_is_not_sent_twice(
        self, shield: Shield, server: QdrantGrpc, caller: Caller, field: str, is_async: bool
    ) -> None:
        if field not in wire.UpsertPoints.DESCRIPTOR.fields_by_name:
            pytest.skip("unknown to this release")
        condition: Any = wire.Filter() if field == "update_filter" else 1
        request = wire.UpsertPoints(collection_name=COLLECTION, **{field: condition})
        server.always(UPSERT, abort("UNAVAILABLE"))
        with pytest.raises(grpc.RpcError):
            caller(lambda client: stub_of(client).Upsert(request))
        assert server.count() == 1
        assert has(shield.signals.operation(), resilience__retry__gave_up="not_replay_safe")


@both_ways
class TestDeadlines:
    def test_a_strict_deadline_cuts_a_hanging_attempt(
        self, shield: Shield, server: QdrantGrpc, caller: Caller, is_async: bool
    ) -> None:
        shield.again(DEADLINE="400ms")
        server.always(COUNT, hang())
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as raised:
            caller.count()
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 10
        remaining = server.calls[0].time_remaining
        assert remaining is not None
        assert remaining <= 0.4
        assert has(shield.signals.operation(), resilience__retry__gave_up="deadline")

    @pytest.mark.parametrize("own", [(), (30,)], ids=["by name", "by place"])
    def test_an_attempts_timeout_is_the_shorter_one(
        self, shield: Shield, server: QdrantGrpc, is_async: bool, own: tuple[int, ...]
    ) -> None:
        if own and is_async:
            pytest.skip("takes it by name only")
        shield.again(TIMEOUT="5s")
        request = wire.CountPoints(collection_name=COLLECTION)
        named: dict[str, Any] = {} if own else {"timeout": 2}
        Caller(server, is_async=is_async)(lambda client: stub_of(client).Count(request, *own, **named))
        (call,) = server.calls
        assert call.time_remaining is not None
        assert (4 if own else 1) < call.time_remaining <= (5 if own else 2)

    def test_a_timeout_is_retried_once_the_target_has_shown_life(
        self, shield: Shield, server: QdrantGrpc, is_async: bool
    ) -> None:
        caller = Caller(server, is_async=is_async, timeout=1)
        server.plan(COUNT, [hang()])
        with ThreadPoolExecutor(1) as other_thread:
            hanging = other_thread.submit(caller.count)
            assert server.wait_for(COUNT)
            caller.count()
            assert hanging.result() == 3
        first, _ = shield.signals.operations()
        assert get(shield.signals.attempts(first), "error.type") == ["DEADLINE_EXCEEDED", None]


@both_ways
class TestRefusals:
    def test_an_open_breaker_refuses_in_the_clients_own_words(
        self, shield: Shield, server: QdrantGrpc, caller: Caller, is_async: bool
    ) -> None:
        shield.again(BREAKER__STRATEGY="window", BREAKER__FAILURES=1, BREAKER__OPEN_FOR="1m")
        server.always(COUNT, abort("UNAVAILABLE"))
        with pytest.raises(grpc.RpcError):
            caller.count()
        for expected in (grpc.RpcError, CircuitOpenError, grpc.aio.AioRpcError):
            with pytest.raises(expected, match="circuit open") as raised:
                caller.count()
        error: Any = raised.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "circuit open" in error.details()
        assert not list(error.trailing_metadata())
        assert error.target == f"qdrant/127.0.0.1:{server.port}"
        assert server.count() == 1
        assert has(shield.signals.operations()[-1], error__type="circuit_open", resilience__attempt__count=0)

    @pytest.mark.parametrize("kind", ["value", "endpoint"])
    def test_a_fallback_but_not_to_another_server(
        self, shield: Shield, server: QdrantGrpc, caller: Caller, kind: str, is_async: bool
    ) -> None:
        instead = models.CountResult(count=0)
        answer = wire.CountResponse(result=wire.CountResult(count=0))
        fallback = Fallback(value=answer) if kind == "value" else Fallback(endpoint="http://127.0.0.1:1")
        stormproof.instrument(policies={"qdrant": Policy(fallback=fallback)})
        server.always(COUNT, abort("INTERNAL"))
        if kind == "value":
            assert caller("count", COLLECTION) == instead
        else:
            with pytest.raises(grpc.RpcError, match="injected"):
                caller.count()
        assert server.count() == 1
        assert len(shield.signals.operations()) == 1


class TestUploads:
    """By itself the client sends a failing batch three or four times."""

    def upload(self, client: Any, number: int = 3, **options: Any) -> None:
        client.upload_points(COLLECTION, some(number), batch_size=1, wait=True, **options)

    @pytest.mark.parametrize("own", [{}, {"max_retries": 0}, {"max_retries": 9}], ids=str)
    def test_a_failing_batch_costs_exactly_the_policys_number(
        self, shield: Shield, server: QdrantGrpc, own: dict[str, int]
    ) -> None:
        shield.again(RETRY__ATTEMPTS=3)
        server.always(UPSERT, abort("UNAVAILABLE"))
        client = server.client()
        with pytest.raises(grpc.RpcError, match="injected") as raised:
            self.upload(client, **own)
        client.close()
        assert raised.value.__cause__ is None
        assert server.count(UPSERT) == 3

    def test_only_the_batch_that_failed_is_sent_again(self, shield: Shield, server: QdrantGrpc) -> None:
        exhausted = abort("RESOURCE_EXHAUSTED", trailing={"retry-after": "1"})
        server.plan(UPSERT, [None, abort("UNAVAILABLE"), exhausted])
        client = server.client()
        self.upload(client)
        client.close()
        assert [call.request.points[0].id.num for call in server.calls] == [0, 1, 1, 1, 2]
        assert get(shield.signals.operations(), "resilience.attempt.count") == [1, 3, 1]


PARALLEL = """
import sys
from qdrant_client import QdrantClient, models

if __name__ == "__main__":
    client = QdrantClient(host="127.0.0.1", grpc_port=int(sys.argv[1]), prefer_grpc=True)
    points = [models.PointStruct(id=n, vector=[0.1] * 4) for n in range(40)]
    client.upload_points("docs", points, batch_size=10, parallel=2, wait=True)
    print(client.count("docs").count)
"""


def test_worker_processes_of_an_upload_are_protected_too(server: QdrantGrpc, tmp_path: Any) -> None:
    script = tmp_path / "upload.py"
    script.write_text(PARALLEL)
    server.plan(UPSERT, [abort("UNAVAILABLE"), abort("RESOURCE_EXHAUSTED")])
    with OtlpSink() as sink:
        environment = {
            "PATH": "/usr/bin:/bin",
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "STORMPROOF__RETRY__BASE": "1ms",
        }
        launcher = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
        done = subprocess.run(
            [sys.executable, "-c", launcher, sys.executable, str(script), str(server.port)],
            env=environment, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Batch upload failed" not in done.stderr  # the uploader's own retry
        assert (int(done.stdout), server.count(UPSERT)) == (40, 4 + 2)
        if WORKERS_MAY_FINISH:
            name = f"upsert {COLLECTION}"
            uploads = sink.wait_for(
                lambda s: found if len(found := [x for x in s.spans if x.name == name]) == 4 else None
            )
            assert sum(span.attributes["resilience.attempt.count"] for span in uploads) == 6
            assert {span.attributes["db.operation.batch.size"] for span in uploads} == {10}
