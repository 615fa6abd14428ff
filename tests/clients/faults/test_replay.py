"""Nothing is carried out twice that may not be; what may be is sent again. The server counts what it carries out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

from stormproof.demo.proxy import FaultProxy, reset_after
from tests.clients.drivers import DRIVERS, Driver, quiet_qdrant
from tests.servers import rough
from tests.servers.ledger import LOST_ANSWERS, NOT_FOUND, TURNED_DOWN, Ledger
from tests.unit.signals import has

from .conftest import Protection
from .operations import ANSWER, FILE, OPERATIONS, Operation

#: Seconds to wait for an answer that does not come; and for one that does.
_IMPATIENT, _PATIENT = 0.15, 20.0

every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=str)
what_may_not = pytest.mark.parametrize("operation", [o for o in OPERATIONS if not o.may_be_repeated], ids=str)
lost = pytest.mark.parametrize("lost", LOST_ANSWERS)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger(ANSWER) as ledger:
        yield ledger


def make(operation: Operation, url: str, patience: float = _PATIENT, **options: Any) -> None:
    """Make the call with a client that knows its way; whether it can read the answer is not the point."""
    client = _client(operation.system, url, patience, **options)
    try:
        if not operation.available(client):
            pytest.skip("this version of the client has no such operation")
        with suppress(Exception):
            operation.call(client)
    finally:
        (client._client if operation.system == "ollama" else client).close()


def _client(system: str, url: str, patience: float, **options: Any) -> Any:
    if system == "openai":
        http_client = openai.DefaultHttpxClient(verify=False, timeout=openai.Timeout(20, read=patience))
        return openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http_client, **options)
    if system == "ollama":
        return ollama.Client(host=url, timeout=httpx.Timeout(20, read=patience), verify=False)
    client = quiet_qdrant(url, verify=False)
    client.http.client._client.timeout = httpx.Timeout(20, read=patience)
    return client


class TestAnAnswerIsLost:
    """The server has carried the request out, and the client cannot know."""

    @every_operation
    @lost
    def test_only_what_may_be_is_done_again(
        self, protection: Protection, ledger: Ledger, operation: Operation, lost: str
    ) -> None:
        protection.on(operation.system)
        ledger.plan([LOST_ANSWERS[lost]])
        make(operation, ledger.url, _IMPATIENT if lost == "read timeout" else _PATIENT)
        self._is_as_expected(protection, ledger, operation)

    @every_operation
    def test_by_a_reset(self, protection: Protection, ledger: Ledger, operation: Operation) -> None:
        protection.on(operation.system)
        with FaultProxy(ledger.url) as proxy:
            proxy.plan("*", ".", [reset_after()])
            make(operation, proxy.url)
        self._is_as_expected(protection, ledger, operation)

    def _is_as_expected(self, protection: Protection, ledger: Ledger, operation: Operation) -> None:
        assert ledger.wait_for(1 + operation.may_be_repeated)
        first, *again = ledger.done
        assert bool(again) == operation.may_be_repeated
        assert {len(request.body) for request in again} <= {len(first.body)}  # the boundary of parts is drawn anew
        if not operation.may_be_repeated:
            assert has(protection.signals.operation(), resilience__retry__gave_up="not_replay_safe")

    @pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.system == "openai"], ids=str)
    def test_unless_the_user_has_asked_for_retries(
        self, protection: Protection, ledger: Ledger, operation: Operation
    ) -> None:
        protection.on("openai")
        ledger.plan([LOST_ANSWERS["502"]] * 5)
        make(operation, ledger.url, max_retries=1)
        assert len(ledger.done) == 2


class TestItWasSurelyNotCarriedOut:
    """Then everything is sent again."""

    @what_may_not
    @pytest.mark.parametrize("answer", TURNED_DOWN)
    def test_turned_down(self, protection: Protection, ledger: Ledger, operation: Operation, answer: str) -> None:
        protection.on(operation.system)
        ledger.plan([TURNED_DOWN[answer]] * 2)
        make(operation, ledger.url)
        assert len(ledger.done) == 1
        assert len(protection.signals.attempts()) == 3

    @what_may_not
    def test_no_connection(self, protection: Protection, operation: Operation) -> None:
        protection.on(operation.system)
        with rough.Nobody() as nobody:
            make(operation, nobody.url)
        assert len(protection.signals.attempts()) == 3


class TestFiles:
    """A file is sent whole, or not again."""

    @pytest.mark.parametrize("operation", [o for o in OPERATIONS if "transcriptions" in o.name], ids=str)
    def test_openai_rewinds_what_may_be_sent_twice(
        self, protection: Protection, ledger: Ledger, operation: Operation
    ) -> None:
        protection.on("openai")
        ledger.plan([LOST_ANSWERS["closed"]] * 2)
        make(operation, ledger.url)
        assert [FILE in request.body for request in ledger.done] == [True] * 3

    def test_and_what_was_turned_down(self, protection: Protection, ledger: Ledger) -> None:
        protection.on("openai")
        ledger.plan([TURNED_DOWN["503"]])
        with FaultProxy(ledger.url) as proxy:
            make(next(o for o in OPERATIONS if o.name == "files.create"), proxy.url)
            assert [FILE in exchange.body for exchange in proxy.exchanges] == [True] * 2

    def test_ollama_sends_the_whole_blob_again(self, protection: Protection, ledger: Ledger, tmp_path: Path) -> None:
        (tmp_path / "model").write_bytes(FILE)
        protection.on("ollama")
        ledger.plan([LOST_ANSWERS["closed"], LOST_ANSWERS["502"]])
        client = _client("ollama", ledger.url, _PATIENT)
        if not hasattr(client, "create_blob"):
            pytest.skip("this ollama sends blobs on its own")
        client.create_blob(tmp_path / "model")
        client._client.close()
        posted = [request.body for request in ledger.done if request.method == "POST"]
        assert posted
        assert {*posted} == {FILE}


def _deleting(drivers: list[Driver], system: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("driver", [d for d in drivers if d.system == system and not d.streams], ids=str)


class TestDeletes:
    """A delete whose answer was lost is sent again, and then there is nothing left to delete: it is done."""

    def delete(self, driver: Driver, url: str, call: Callable[[Any], Any]) -> Any:
        async def work_async(client: Any) -> Any:
            return await call(client)

        return driver.use(url, work_async if driver.is_async else call)

    @_deleting(DRIVERS, "openai")
    @pytest.mark.parametrize("lost", ["closed", "502"])
    def test_openai(self, protection: Protection, ledger: Ledger, driver: Driver, lost: str) -> None:
        protection.on("openai")
        ledger.plan([LOST_ANSWERS[lost], NOT_FOUND])
        deleted = self.delete(driver, ledger.url, lambda client: client.files.delete("file-1"))
        assert type(deleted) is openai.types.FileDeleted
        assert deleted == openai.types.FileDeleted(id="file-1", deleted=True, object="file")
        assert len(protection.signals.attempts()) == 2
        assert has(protection.signals.operation(), error__type=None, resilience__attempt__count=2)
        assert len(ledger.done) == 1

    @_deleting(DRIVERS, "openai")
    def test_openai_has_no_answer_of_its_own_to_show(
        self, protection: Protection, ledger: Ledger, driver: Driver
    ) -> None:
        protection.on("openai")
        ledger.plan([LOST_ANSWERS["502"], NOT_FOUND, LOST_ANSWERS["502"], NOT_FOUND])
        for delete in (
            lambda client: client.files.with_raw_response.delete("file-1"),
            lambda client: client.models.delete("m-1"),  # what its `object` would be is not known
        ):
            with pytest.raises(openai.NotFoundError):
                self.delete(driver, ledger.url, delete)

    @_deleting(DRIVERS, "openai")
    def test_openai_and_a_delete_without_an_answer(
        self, protection: Protection, ledger: Ledger, driver: Driver
    ) -> None:
        protection.on("openai")
        ledger.plan([LOST_ANSWERS["502"], NOT_FOUND])
        delete: Any = lambda client: client.delete("/responses/resp_1", cast_to=type(None))
        assert self.delete(driver, ledger.url, delete) is None

    @_deleting(DRIVERS, "ollama")
    def test_ollama(self, protection: Protection, ledger: Ledger, driver: Driver) -> None:
        protection.on("ollama")
        ledger.plan([LOST_ANSWERS["closed"], NOT_FOUND])
        assert self.delete(driver, ledger.url, lambda client: client.delete("tiny"))["status"] == "success"
        assert has(protection.signals.operation(), error__type=None, resilience__attempt__count=2)

    @_deleting(DRIVERS, "openai")
    def test_what_was_never_there_is_not_found(self, protection: Protection, ledger: Ledger, driver: Driver) -> None:
        protection.on("openai")
        ledger.plan([TURNED_DOWN["503"], NOT_FOUND])
        with pytest.raises(openai.NotFoundError):
            self.delete(driver, ledger.url, lambda client: client.files.delete("file-1"))

    @_deleting(DRIVERS, "ollama")
    def test_nor_is_a_model(self, protection: Protection, ledger: Ledger, driver: Driver) -> None:
        protection.on("ollama")
        ledger.plan([TURNED_DOWN["503"], NOT_FOUND])
        with pytest.raises(ollama.ResponseError, match="not found"):
            self.delete(driver, ledger.url, lambda client: client.delete("tiny"))
