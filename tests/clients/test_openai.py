"""openai: whose retries they are, what is sent again and what is not, and raw responses."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from stormproof.demo.proxy import FaultProxy, drop, reset_after, status
from tests.unit.signals import attributes, failed, has

from .drivers import MESSAGES, MODEL
from .drivers import OpenAI as Driver
from .shield import Shield

CHAT = "/v1/chat/completions"
WAYS = [Driver(is_async=is_async, streams=streams) for is_async in (False, True) for streams in (False, True)]

every_way = pytest.mark.parametrize("driver", WAYS, ids=str)


@pytest.fixture
def proxy(proxy_of: Callable[[str], FaultProxy]) -> FaultProxy:
    return proxy_of("openai")


@pytest.fixture
def client(shield: Shield, proxy: FaultProxy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none") as client:
        yield client


def chat(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, **options)


class TestWhoseRetries:
    """openai makes three attempts by itself: they are not to be multiplied by ours."""

    @every_way
    @pytest.mark.parametrize("number", [1, 5])
    def test_the_policys_number_and_no_more(
        self, shield: Shield, proxy: FaultProxy, driver: Driver, number: int
    ) -> None:
        shield.again(RETRY__ATTEMPTS=number, BREAKER__ENABLED="false")
        proxy.chance("POST", CHAT, status(503), 1)
        with pytest.raises(openai.InternalServerError):
            driver.call(proxy.url)
        assert len(proxy.exchanges) == number

    @every_way
    @pytest.mark.parametrize("retries", [0, 1, 5])
    def test_the_users_own_number_wins(self, shield: Shield, proxy: FaultProxy, driver: Driver, retries: int) -> None:
        shield.again(BREAKER__ENABLED="false")
        proxy.chance("POST", CHAT, status(503), 1)
        with pytest.raises(openai.InternalServerError):
            driver.call(proxy.url, max_retries=retries)
        assert len(proxy.exchanges) == retries + 1

    def test_and_so_does_that_of_one_request(self, client: openai.OpenAI, proxy: FaultProxy) -> None:
        proxy.chance("POST", CHAT, status(503), 1)
        with pytest.raises(openai.InternalServerError):
            chat(client.with_options(max_retries=1))
        assert len(proxy.exchanges) == 2

    def test_resends_are_numbered_for_the_server(self, client: openai.OpenAI, proxy: FaultProxy) -> None:
        proxy.plan("POST", CHAT, [status(503), status(503)])
        chat(client)
        numbers = [exchange.headers.get("x-stainless-retry-count", "0") for exchange in proxy.exchanges]
        assert numbers == ["0", "1", "2"]

    def test_unless_the_user_numbers_them(self, client: openai.OpenAI, proxy: FaultProxy) -> None:
        proxy.plan("POST", CHAT, [status(503)])
        chat(client, extra_headers={"X-Stainless-Retry-Count": "7"})
        assert [exchange.headers["x-stainless-retry-count"] for exchange in proxy.exchanges] == ["7", "7"]

    def test_one_idempotency_key_for_all_attempts(
        self, client: openai.OpenAI, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "_idempotency_header", "Idempotency-Key")
        proxy.plan("POST", CHAT, [status(503), status(503)])
        for _ in range(2):
            chat(client)
        keys = [exchange.headers["idempotency-key"] for exchange in proxy.exchanges]
        assert keys[0] == keys[1] == keys[2] != keys[3]

    def test_the_users_own_options_are_not_changed(self, client: openai.OpenAI, proxy: FaultProxy) -> None:
        """A paginator uses its options again."""
        proxy.plan("GET", "/v1/models", [status(503)])
        page = client.models.list()
        assert page._options is not None
        assert page._options.max_retries != 0
        assert [model.object for model in page] == ["model"] * len(page.data)


class TestHints:
    def source(self, shield: Shield) -> Any:
        return attributes(shield.signals.attempts()[1])["resilience.retry.delay.source"]

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after-ms": "200", "retry-after": "60"}, 0.2),
            ({"x-ratelimit-reset-requests": "150ms", "x-ratelimit-reset-tokens": "0.2s"}, 0.2),
        ],
        ids=["milliseconds", "rate limits"],
    )
    def test_they_are_waited_out(
        self, shield: Shield, client: openai.OpenAI, proxy: FaultProxy, headers: dict[str, str], seconds: float
    ) -> None:
        proxy.plan("POST", CHAT, [status(429, headers)])
        chat(client)
        first, second = proxy.exchanges
        assert second.started - first.started >= seconds
        assert self.source(shield) == "server"

    def test_no_money_left(self, shield: Shield, client: openai.OpenAI, proxy: FaultProxy) -> None:
        body = {
            "error": {"message": "You exceeded your quota", "type": "insufficient_quota", "code": "insufficient_quota"}
        }
        proxy.chance("POST", CHAT, status(429, body=body), 1)
        with pytest.raises(openai.RateLimitError, match="quota"):
            chat(client)
        assert len(proxy.exchanges) == 1
        assert has(shield.signals.operation(), error__type="insufficient_quota")

    @pytest.mark.parametrize(("code", "said", "requests"), [(503, "false", 1), (400, "true", 4)])
    def test_the_server_has_the_last_word(
        self, client: openai.OpenAI, proxy: FaultProxy, code: int, said: str, requests: int
    ) -> None:
        proxy.chance("POST", CHAT, status(code, {"x-should-retry": said}), 1)
        with pytest.raises(openai.APIStatusError):
            chat(client)
        assert len(proxy.exchanges) == requests

    def test_a_conflict_is_tried_again(self, client: openai.OpenAI, proxy: FaultProxy) -> None:
        proxy.plan("POST", CHAT, [status(409)])
        chat(client)
        assert len(proxy.exchanges) == 2


class TestReplay:
    """Where the answer was lost, the request may have been carried out."""

    def lost(self, proxy: FaultProxy, call: Callable[[], Any]) -> int:
        proxy.chance("POST", ".", reset_after(), 1)
        with pytest.raises(openai.APIConnectionError):
            call()
        return len(proxy.exchanges)

    def test_an_upload_is_made_once(self, shield: Shield, client: openai.OpenAI, proxy: FaultProxy) -> None:
        assert self.lost(proxy, lambda: client.files.create(file=("a.jsonl", b"{}"), purpose="batch")) == 1
        assert has(shield.signals.operation(), resilience__retry__gave_up="not_replay_safe")
        assert shield.signals.operation().name == "post files"

    @pytest.mark.parametrize(
        ("body", "requests"),
        [({}, 1), ({"store": True}, 1), ({"store": False}, 4), ({"store": False, "conversation": "c1"}, 1)],
        ids=str,
    )
    def test_a_response_is_asked_for_again_only_if_it_is_not_stored(
        self, client: openai.OpenAI, proxy: FaultProxy, body: dict[str, Any], requests: int
    ) -> None:
        ask = {"model": MODEL, "input": "hello", **body}
        assert self.lost(proxy, lambda: client.post("/responses", body=ask, cast_to=object)) == requests

    def test_unless_the_user_has_asked_for_retries(self, client: openai.OpenAI, proxy: FaultProxy) -> None:
        upload = lambda: client.with_options(max_retries=1).files.create(file=("a.jsonl", b"{}"), purpose="batch")
        assert self.lost(proxy, upload) == 2

    def test_what_was_surely_not_carried_out_is_sent_again(self, client: openai.OpenAI, proxy: FaultProxy) -> None:
        proxy.plan("POST", "/v1/files", [status(503)])
        with pytest.raises(openai.NotFoundError):  # the stand-in keeps no files
            client.files.create(file=("a.jsonl", b"{'a': 1}"), purpose="batch")
        first, second = proxy.exchanges
        assert b"{'a': 1}" in first.body
        assert b"{'a': 1}" in second.body

    def test_a_file_is_never_sent_half(self, client: openai.OpenAI, proxy: FaultProxy, tmp_path: Path) -> None:
        proxy.chance("POST", "/v1/files", status(503), 1)
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"{'a': 1}")
        for file in (io.BytesIO(b"{'a': 1}"), path):
            with pytest.raises(openai.InternalServerError):
                client.files.create(file=file, purpose="batch")
        assert all(b"{'a': 1}" in exchange.body for exchange in proxy.exchanges)


class TestRawResponses:
    def test_raw(self, shield: Shield, client: openai.OpenAI, proxy: FaultProxy) -> None:
        proxy.plan("POST", CHAT, [status(503), status(503)])
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        assert raw.status_code == 200
        assert raw.parse().choices[0].message.content
        assert getattr(raw, "retries_taken", 2) == 2
        assert has(shield.signals.operation(), resilience__attempt__count=3)

    def test_raw_at_the_first_attempt(self, client: openai.OpenAI) -> None:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        assert getattr(raw, "retries_taken", 0) == 0

    def test_raw_and_then_streamed(self, shield: Shield, client: openai.OpenAI) -> None:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, stream=True)
        assert shield.signals.operations() == []
        stream = raw.parse()
        assert isinstance(stream, openai.Stream)
        assert len(list(stream)) > 3
        assert not failed(shield.signals.operation())

    def test_raw_and_dropped(self, shield: Shield, client: openai.OpenAI) -> None:
        client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, stream=True)
        gc.collect()
        assert len(shield.signals.operations()) == 1

    def test_streamed(self, shield: Shield, client: openai.OpenAI, proxy: FaultProxy) -> None:
        proxy.plan("POST", CHAT, [status(503)])
        create = client.chat.completions.with_streaming_response.create
        with create(model=MODEL, messages=MESSAGES, stream=True) as response:
            assert getattr(response, "retries_taken", 1) == 1
            assert shield.signals.operations() == []
            assert len([line for line in response.iter_lines() if line]) > 3
        assert has(shield.signals.operation(), resilience__attempt__count=2, error__type=None)

    def test_streamed_and_left_early(self, shield: Shield, client: openai.OpenAI) -> None:
        create = client.chat.completions.with_streaming_response.create
        with create(model=MODEL, messages=MESSAGES, stream=True) as response:
            next(iter(response.iter_lines()))
        assert not failed(shield.signals.operation())

    def test_streamed_and_dropped_on_the_way(self, shield: Shield, client: openai.OpenAI, proxy: FaultProxy) -> None:
        proxy.plan("POST", CHAT, [drop(after_chunks=3)])
        create = client.chat.completions.with_streaming_response.create
        with create(model=MODEL, messages=MESSAGES, stream=True) as response:  # noqa: SIM117  # order matters
            with pytest.raises(Exception, match=r"."):
                list(response.iter_lines())
        assert failed(shield.signals.operation())
        assert shield.target("openai").breaker.calls["failure"] == 1
        assert len(proxy.exchanges) == 1

    def test_streamed_and_read_whole(self, shield: Shield, client: openai.OpenAI) -> None:
        create = client.chat.completions.with_streaming_response.create
        with create(model=MODEL, messages=MESSAGES) as response:
            assert b"stand-in" in response.read()
        assert not failed(shield.signals.operation())

    def test_streamed_asynchronously(self, shield: Shield, proxy: FaultProxy) -> None:
        proxy.plan("POST", CHAT, [status(503)])

        async def main() -> None:
            async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="none") as client:
                create = client.chat.completions.with_streaming_response.create
                async with create(model=MODEL, messages=MESSAGES, stream=True) as response:
                    assert len([line async for line in response.iter_lines() if line]) > 3
                async with create(model=MODEL, messages=MESSAGES, stream=True) as response:
                    await anext(aiter(response.iter_lines()))

        asyncio.run(main())
        first, second = shield.signals.operations()
        assert has(first, resilience__attempt__count=2, error__type=None)
        assert not failed(second)


class TestAttributes:
    def test_of_a_chat(self, shield: Shield, client: openai.OpenAI) -> None:
        answer = chat(client, temperature=0.5, max_tokens=4, stop="!", seed=1, n=1, top_p=0.9)
        assert answer.usage is not None
        assert has(
            shield.signals.operation(),
            gen_ai__operation__name="chat",
            gen_ai__provider__name="openai",
            gen_ai__request__model=MODEL,
            gen_ai__request__temperature=0.5,
            gen_ai__request__top_p=0.9,
            gen_ai__request__max_tokens=4,
            gen_ai__request__seed=1,
            gen_ai__request__stop_sequences=("!",),
            gen_ai__request__choice__count=None,
            gen_ai__response__id=answer.id,
            gen_ai__response__model=answer.model,
            gen_ai__response__finish_reasons=(answer.choices[0].finish_reason,),
            gen_ai__usage__input_tokens=answer.usage.prompt_tokens,
            gen_ai__usage__output_tokens=answer.usage.completion_tokens,
        )

    def test_of_a_stream_with_usage(self, shield: Shield, client: openai.OpenAI) -> None:
        *_, last = chat(client, stream=True, stream_options={"include_usage": True})
        assert has(
            shield.signals.operation(),
            gen_ai__response__id=last.id,
            gen_ai__usage__input_tokens=last.usage.prompt_tokens,
            gen_ai__usage__output_tokens=last.usage.completion_tokens,
        )

    def test_of_embeddings(self, shield: Shield, client: openai.OpenAI) -> None:
        client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=8)
        operation = shield.signals.operation()
        assert operation.name == "embeddings text-embedding-3-small"
        assert has(operation, gen_ai__embeddings__dimension__count=8, gen_ai__usage__input_tokens=2)

    def test_names_hold_no_ids_and_nothing_holds_content(self, shield: Shield, client: openai.OpenAI) -> None:
        chat(client, user="a-user")
        client.models.retrieve(f"{MODEL}-stand-in")
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve("file-abc123def456")
        names = [operation.name for operation in shield.signals.operations()]
        assert names[2] == "get files/{id}"
        everything = " ".join(str(dict(attributes(span))) + span.name for span in shield.signals.operations())
        for secret in ("One two", "a-user", "none", "abc123"):
            assert secret not in everything.replace("None", "")

    def test_azure_is_another_provider(self, shield: Shield, proxy: FaultProxy) -> None:
        with openai.AzureOpenAI(base_url=f"{proxy.url}/v1", api_key="none", api_version="2024-06-01") as client:
            proxy.plan("POST", ".", [status(503)])
            with pytest.raises(openai.NotFoundError):  # the stand-in has no deployments
                chat(client)
        assert [exchange.path for exchange in proxy.exchanges] == [f"/v1/deployments/{MODEL}/chat/completions"] * 2
        operation = shield.signals.operation()
        assert operation.name == f"chat {MODEL}"
        assert has(operation, gen_ai__provider__name="azure.ai.openai")
