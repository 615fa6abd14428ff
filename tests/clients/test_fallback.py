"""Another server's answer instead of an error: the same call, made there, by each client in each of its ways."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from qdrant_client import models

import stormproof
from stormproof import BreakerPolicy, CircuitOpenError, Fallback, Policy, RetryPolicy
from stormproof.demo.proxy import FaultProxy, drop, reset, status
from stormproof.demo.qdrant_wire import QdrantWire
from tests.unit.signals import get, has, is_child

from .drivers import COLLECTION, DRIVERS, MESSAGES, MODEL, Driver, every_stream, every_way, quiet_qdrant
from .shield import Shield, sent, types_of

ProxyOf = Callable[[str], FaultProxy]

PREFIXES = {"openai": "/v1", "ollama": "", "qdrant": ""}


@pytest.fixture(scope="module")
def other_qdrant() -> Iterator[QdrantWire]:
    """A second server of vectors, with one point where the first has three."""
    with QdrantWire() as server:
        client = quiet_qdrant(server.url)
        client.create_collection(COLLECTION, models.VectorParams(size=4, distance=models.Distance.DOT))
        client.upsert(COLLECTION, [models.PointStruct(id=1, vector=[0.1, 0.2, 0.3, 0.4])])
        client.close()
        yield server


def choose(system: str, fallback: Fallback, *, attempts: int = 2, **others: Any) -> None:
    retry = RetryPolicy(attempts=attempts, base=0.001)
    stormproof.instrument(policies={system: Policy(retry=retry, fallback=fallback, **others)})


@pytest.fixture
def primary(proxy_of: ProxyOf, driver: Driver) -> FaultProxy:
    return proxy_of(driver.system)


@pytest.fixture
def backup(shield: Shield, proxy_of: ProxyOf, driver: Driver) -> FaultProxy:
    """Where calls of the driver's system fall back to."""
    backup = proxy_of(driver.system)
    choose(driver.system, Fallback(endpoint=backup.url + PREFIXES[driver.system]))
    return backup


@every_way
class TestEndpoint:
    def test_the_answer_comes_from_there(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        expected = driver.call(primary.url)
        primary.clear()
        primary.chance("POST", driver.path, status(503), 1)
        shield.signals.clear()
        answer = driver.call(primary.url)
        assert answer == expected
        assert types_of(answer) == types_of(expected)
        here, there = sent(primary, driver), sent(backup, driver)
        assert (len(here), len(there)) == (2, 1)
        assert there[0].body == here[0].body
        assert there[0].headers["host"] == f"127.0.0.1:{backup.port}"

    def test_two_operations_tell_of_it(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        primary.chance("POST", driver.path, status(503), 1)
        driver.call(primary.url)
        first, other = sorted(shield.signals.operations(), key=lambda span: len(shield.signals.attempts(span)) == 1)
        assert is_child(other, first)
        assert has(first, server__port=primary.port, resilience__fallback__type="endpoint", error__type=None)
        assert has(other, server__port=backup.port, resilience__fallback__type=None, error__type=None)
        assert get(shield.signals.attempts(first), "error.type") == ["503", "503"]
        assert get(shield.signals.attempts(other), "error.type") == [None]
        keys = ("resilience.target.name", "resilience.fallback.type", "resilience.fallback.outcome")
        name = f"{driver.system}/127.0.0.1:{primary.port}"
        assert shield.signals.values("resilience.fallback.calls", *keys) == {(name, "endpoint", "success"): 1}

    def test_each_server_has_its_own_breaker(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        primary.chance("POST", driver.path, status(503), 1)
        driver.call(primary.url)
        calls = {
            port: stormproof.breakers[f"{driver.system}/127.0.0.1:{port}"].breaker.calls
            for port in (primary.port, backup.port)
        }
        assert (calls[primary.port]["failure"], calls[primary.port]["success"]) == (2, 0)
        assert (calls[backup.port]["failure"], calls[backup.port]["success"]) == (0, 1)

    def test_if_the_breaker_is_open_nothing_is_sent_here(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        driver.call(primary.url)
        primary.clear()
        stormproof.breakers[f"{driver.system}/127.0.0.1:{primary.port}"].force_open()
        assert driver.call(primary.url)
        assert (len(sent(primary, driver)), len(sent(backup, driver))) == (0, 1)

    def test_there_it_is_tried_again_too(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        primary.chance("POST", driver.path, reset(), 1)
        backup.plan("POST", driver.path, [status(503)])
        assert driver.call(primary.url)
        assert (len(sent(primary, driver)), len(sent(backup, driver))) == (2, 2)

    def test_if_it_fails_there_too_the_app_gets_that_error(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        primary.chance("POST", driver.path, reset(), 1)
        backup.chance("POST", driver.path, status(503), 1)
        with pytest.raises(driver.status_error) as raised:
            driver.call(primary.url)
        assert raised.value.status_code == 503  # type: ignore[attr-defined]
        assert (len(sent(primary, driver)), len(sent(backup, driver))) == (2, 2)

    def test_an_answer_that_says_no_is_an_answer(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        primary.chance("POST", driver.path, status(404), 1)
        with pytest.raises(Exception, match="injected"):
            driver.call(primary.url)
        assert sent(backup, driver) == []


@every_stream
class TestStreams:
    def test_one_that_has_begun_does_not_fall_back(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        primary.chance("POST", driver.path, drop(after_chunks=3), 1)
        with pytest.raises(Exception):  # noqa: B017  # each client's own
            driver.call(primary.url)
        assert (len(sent(primary, driver)), sent(backup, driver)) == (1, [])
        assert has(shield.signals.operation(), resilience__fallback__type=None)

    def test_what_was_read_there_is_told_there(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        primary.chance("POST", driver.path, status(503), 1)
        driver.call(primary.url)
        first, other = sorted(shield.signals.operations(), key=lambda span: len(shield.signals.attempts(span)) == 1)
        finished = "gen_ai.response.finish_reasons"
        assert get([first, other], finished) == [None, ("stop",)]

    def test_there_it_can_fail_before_its_first_item_and_is_tried_again(
        self, shield: Shield, primary: FaultProxy, backup: FaultProxy, driver: Driver
    ) -> None:
        expected = driver.call(primary.url)
        primary.chance("POST", driver.path, status(503), 1)
        backup.plan("POST", driver.path, [drop(after_bytes=3)])
        assert driver.call(primary.url) == expected
        assert len(sent(backup, driver)) == 2
        assert len(sent(primary, driver)) == 3  # and not there again


@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver.system == "qdrant"], ids=str)
def test_two_servers_of_vectors(shield: Shield, proxy_of: ProxyOf, other_qdrant: QdrantWire, driver: Driver) -> None:
    proxy = proxy_of("qdrant")
    choose("qdrant", Fallback(endpoint=other_qdrant.url + "/"))
    assert driver.call(proxy.url).count == 3
    proxy.chance("POST", driver.path, status(503), 1)
    assert driver.call(proxy.url).count == 1


def test_a_batch_that_is_uploaded(shield: Shield, proxy_of: ProxyOf) -> None:
    """The uploader keeps a request of its own for each batch."""
    with QdrantWire() as other:
        for url in (proxy_of("qdrant").url, other.url):
            client = quiet_qdrant(url)
            if not client.collection_exists("uploads"):
                client.create_collection("uploads", models.VectorParams(size=2, distance=models.Distance.DOT))
            client.close()
        proxy = proxy_of("qdrant")
        choose("qdrant", Fallback(endpoint=other.url))
        proxy.chance("PUT", "/collections/uploads/points", status(503), 1)
        client = quiet_qdrant(proxy.url)
        client.upload_points("uploads", [models.PointStruct(id=n, vector=[0.1, 0.2]) for n in range(5)], batch_size=2)
        client.close()
        client = quiet_qdrant(other.url)
        assert client.count("uploads").count == 5
        client.close()


@pytest.mark.filterwarnings("ignore:.* is used with an insecure connection")
class TestCredentials:
    """What authenticates the caller here is nobody's business there."""

    @pytest.mark.parametrize("spelling", ["Authorization", "authorization", "AUTHORIZATION"])
    @every_way
    def test_those_that_were_given_for_it_are_sent_and_nobody_elses(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, spelling: str
    ) -> None:
        primary, backup = proxy_of(driver.system), proxy_of(driver.system)
        headers = {spelling: "Bearer there", "X-Team": "b"}
        choose(driver.system, Fallback(endpoint=backup.url + PREFIXES[driver.system], headers=headers))
        primary.plan("POST", driver.path, [status(503), status(503)])
        driver.call(primary.url, **{"api_key": "secret"} if driver.system != "ollama" else {})
        (there,) = sent(backup, driver)
        assert (there.headers["authorization"], there.headers["x-team"]) == ("Bearer there", "b")
        assert "secret" not in str(there.headers)
        for here in sent(primary, driver):
            assert "there" not in str(here.headers)
            assert "x-team" not in here.headers

    @every_way
    def test_without_any_none_is_sent(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        there = self.sent_there(proxy_of, driver, {"api_key": "secret"} if driver.system != "ollama" else {})
        assert there.get("authorization", "") == there.get("api-key", "") == ""

    @pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver.system == "ollama"], ids=str)
    @pytest.mark.parametrize(
        "options",
        [{"headers": {"authorization": "Bearer secret"}}, {"auth": ("user", "c2VjcmV0")}],
        ids=["headers", "auth"],
    )
    def test_however_ollama_was_given_them(
        self, shield: Shield, proxy_of: ProxyOf, driver: Driver, options: dict[str, Any]
    ) -> None:
        assert self.sent_there(proxy_of, driver, options).get("authorization", "") == ""

    @pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver.system == "qdrant"], ids=str)
    def test_however_qdrant_was_given_them(self, shield: Shield, proxy_of: ProxyOf, driver: Driver) -> None:
        options = {"auth_token_provider": lambda: "secret"}
        assert self.sent_there(proxy_of, driver, options).get("authorization", "") == ""

    @pytest.mark.parametrize("spelling", ["Authorization", "authorization"])
    def test_however_openai_was_given_them(self, shield: Shield, proxy_of: ProxyOf, spelling: str) -> None:
        primary, backup = proxy_of("openai"), proxy_of("openai")
        choose("openai", Fallback(endpoint=f"{backup.url}/v1"), attempts=1)
        primary.plan("POST", "/v1/chat/completions", [status(503)])
        with openai.OpenAI(base_url=f"{primary.url}/v1", api_key="none") as client:
            client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_headers={spelling: "Bearer secret"})
        (exchange,) = backup.exchanges
        assert "secret" in str(primary.exchanges[0].headers)
        assert "secret" not in str(exchange.headers)

    def sent_there(self, proxy_of: ProxyOf, driver: Driver, options: dict[str, Any]) -> dict[str, str]:
        """The headers that the other server was sent by a client with these options."""
        primary, backup = proxy_of(driver.system), proxy_of(driver.system)
        choose(driver.system, Fallback(endpoint=backup.url + PREFIXES[driver.system]))
        primary.plan("POST", driver.path, [status(503), status(503)])
        driver.call(primary.url, **options)
        (there,) = sent(backup, driver)
        return there.headers


class TestFiles:
    """What has been read by the attempts here is read from its beginning there."""

    CONTENT = b"once upon a time " * 1000

    def test_ollama(self, shield: Shield, proxy_of: ProxyOf, tmp_path: Path) -> None:
        primary, backup = proxy_of("ollama"), proxy_of("ollama")
        choose("ollama", Fallback(endpoint=backup.url))
        primary.chance("POST", "/api/blobs/.*", status(503), 1)
        path = tmp_path / "blob"
        path.write_bytes(self.CONTENT)
        client = ollama.Client(host=primary.url)
        if not hasattr(client, "create_blob"):
            pytest.skip("this ollama sends blobs on its own")
        # The stand-in takes none, but what it was sent is seen.
        with contextlib.closing(client._client), contextlib.suppress(ollama.ResponseError):
            client.create_blob(path)
        assert [exchange.body for exchange in primary.exchanges] == [self.CONTENT] * 2
        assert [exchange.body for exchange in backup.exchanges] == [self.CONTENT]

    def test_openai(self, shield: Shield, proxy_of: ProxyOf) -> None:
        primary, backup = proxy_of("openai"), proxy_of("openai")
        choose("openai", Fallback(endpoint=f"{backup.url}/v1"))
        primary.chance("POST", "/v1/audio/transcriptions", status(503), 1)
        client = openai.OpenAI(base_url=f"{primary.url}/v1", api_key="none")
        with client, contextlib.suppress(openai.NotFoundError):
            client.audio.transcriptions.create(model="m", file=("a.wav", io.BytesIO(self.CONTENT)))
        assert [self.CONTENT in exchange.body for exchange in (*primary.exchanges, *backup.exchanges)] == [True] * 3


class TestOtherKinds:
    """A value or a function, through one real client in both of its ways."""

    @pytest.fixture(params=[0, 2], ids=["sync", "async"])
    def driver(self, request: pytest.FixtureRequest) -> Driver:
        number: int = request.param
        return DRIVERS[number]

    def test_a_value(self, shield: Shield, primary: FaultProxy, driver: Driver) -> None:
        answer = openai.types.chat.ChatCompletion.model_validate({
            "id": "none", "created": 0, "model": MODEL, "object": "chat.completion",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "later"}}],
        })  # fmt: skip
        choose("openai", Fallback(value=answer))
        primary.chance("POST", driver.path, status(503), 1)
        assert driver.call(primary.url) == "later"
        assert has(shield.signals.operation(), resilience__fallback__type="value", error__type=None)

    def test_a_function_that_asks_another_model(self, shield: Shield, primary: FaultProxy, driver: Driver) -> None:
        """It makes a call of its own, which is protected as any other."""
        url = primary.url

        def ask_another(error: Exception) -> Any:
            assert isinstance(error, openai.InternalServerError)
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
                return client.chat.completions.create(model="another", messages=MESSAGES)

        async def ask_another_async(error: Exception) -> Any:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
                return await client.chat.completions.create(model="another", messages=MESSAGES)

        choose("openai", Fallback(function=ask_another_async if driver.is_async else ask_another))
        primary.plan("POST", driver.path, [status(503), status(503)])
        assert driver.call(url)
        first, other = sorted(shield.signals.operations(), key=lambda span: len(shield.signals.attempts(span)) == 1)
        assert (first.name, other.name) == (f"chat {MODEL}", "chat another")
        assert has(first, resilience__fallback__type="function", error__type=None)
        assert len(sent(primary, driver)) == 3

    def test_what_it_raises_is_what_the_app_gets(self, shield: Shield, primary: FaultProxy, driver: Driver) -> None:
        def give_up(error: Exception) -> None:
            raise LookupError("no answer today") from error

        choose("openai", Fallback(function=give_up, on=(CircuitOpenError,)), breaker=BreakerPolicy(enabled=False))
        driver.call(primary.url)
        stormproof.breakers[f"openai/127.0.0.1:{primary.port}"].force_open()
        with pytest.raises(LookupError, match="no answer today"):
            driver.call(primary.url)
