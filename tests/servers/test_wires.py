"""The real clients against each stand-in: what they send is understood, and what they get they can read."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import ollama
import openai
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from stormproof.demo import text
from stormproof.demo.ollama_wire import OllamaWire
from stormproof.demo.openai_wire import OpenAIWire
from stormproof.demo.qdrant_wire import QdrantWire

from .helpers import quiet_qdrant

PROMPT = (
    "Context:\nThe gzip module compresses files. The socket module opens connections to other hosts. "
    "Cats sleep all day.\n\nQuestion: Which module opens a connection?"
)
EXTRACT = "The socket module opens connections to other hosts."
MESSAGES: list[Any] = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def openai_wire() -> Iterator[OpenAIWire]:
    with OpenAIWire() as wire:
        yield wire


@pytest.fixture
def openai_client(openai_wire: OpenAIWire) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=openai_wire.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def ollama_wire() -> Iterator[OllamaWire]:
    with OllamaWire(models=["llama3.2"]) as wire:
        yield wire


@pytest.fixture
def ollama_client(ollama_wire: OllamaWire) -> Iterator[ollama.Client]:
    client = ollama.Client(host=ollama_wire.url)
    yield client
    client._client.close()


@pytest.fixture(scope="module")
def qdrant_wire() -> Iterator[QdrantWire]:
    with QdrantWire() as wire:
        yield wire


@pytest.fixture
def qdrant(qdrant_wire: QdrantWire, request: pytest.FixtureRequest) -> Iterator[tuple[QdrantClient, str]]:
    """Yield a client and a collection of three points."""
    name = request.node.name
    with closing(quiet_qdrant(qdrant_wire.url)) as client:
        client.create_collection(name, models.VectorParams(size=2, distance=models.Distance.COSINE))
        vectors = {1: [1.0, 0.0], 2: [0.0, 1.0], 3: [0.7, 0.7]}
        client.upsert(
            name,
            [models.PointStruct(id=i, vector=v, payload={"number": i}) for i, v in vectors.items()],
        )
        yield client, name


class TestText:
    def test_related_texts_lie_nearer_than_unrelated_ones(self) -> None:
        def similarity(a: str, b: str) -> float:
            return sum(x * y for x, y in zip(text.embed(a), text.embed(b), strict=True))

        question = "How do I compress a file?"
        assert similarity(question, "Compression of files with gzip.") > 0.5
        assert similarity(question, "Open a network connection.") < 0.2
        assert math.isclose(similarity(question, question), 1.0)

    def test_a_text_without_words_still_has_a_unit_vector(self) -> None:
        assert sum(value * value for value in text.embed("…", 8)) == 1.0

    @pytest.mark.parametrize(
        ("messages", "expected"),
        [
            ([PROMPT], EXTRACT),
            ([PROMPT.partition("\n\n")[0], "Which module opens a connection?"], EXTRACT),
            (["Context: Cats sleep all day.\n\nQuestion: What is a socket?"], text.NOTHING_FOUND),
            (["What is a socket?"], text.NO_CONTEXT),
            ([], text.NO_CONTEXT),
        ],
    )
    def test_answer_quotes_the_sentence_that_fits(self, messages: list[str], expected: str) -> None:
        assert text.answer(messages) == expected


class TestOpenAI:
    def test_embeddings_are_the_same_in_base64_and_as_floats(self, openai_client: openai.OpenAI) -> None:
        def create(**options: Any) -> openai.types.CreateEmbeddingResponse:
            return openai_client.embeddings.create(model="text-embedding-3-small", **options)

        packed = create(input=["gzip files", "sockets"])
        plain = create(input="gzip files", encoding_format="float")
        assert [item.index for item in packed.data] == [0, 1]
        assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
        assert len(plain.data[0].embedding) == text.DIMENSIONS
        assert len(create(input="gzip", dimensions=8).data[0].embedding) == 8
        assert packed.model == "text-embedding-3-small-stand-in"
        assert packed.usage.total_tokens == 3

    def test_chat(self, openai_client: openai.OpenAI) -> None:
        answer = openai_client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
        assert answer.choices[0].message.content == EXTRACT
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model == "gpt-4o-mini-stand-in"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == len(EXTRACT.split())

    def test_chat_is_cut_at_the_limit(self, openai_client: openai.OpenAI) -> None:
        answer = openai_client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=2)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (
            "The socket",
            "length",
        )

    def test_chat_streams_word_by_word(self, openai_client: openai.OpenAI) -> None:
        chunks = list(
            openai_client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
        )
        words = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
        assert "".join(words) == EXTRACT
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None

    def test_async_client(self, openai_wire: OpenAIWire) -> None:
        async def run() -> tuple[str | None, int]:
            async with openai.AsyncOpenAI(base_url=openai_wire.base_url, api_key="none") as client:
                answer = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
                stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
                return answer.choices[0].message.content, len([chunk async for chunk in stream])

        # One chunk a word, one that opens and one that closes.
        assert asyncio.run(run()) == (EXTRACT, len(EXTRACT.split()) + 2)

    def test_models(self, openai_client: openai.OpenAI) -> None:
        assert "gpt-4o-stand-in" in [model.id for model in openai_client.models.list()]
        assert openai_client.models.retrieve("gpt-4o").owned_by == "stormproof"

    def test_errors_are_openais(self, openai_client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="Missing required parameter: 'input'") as caught:
            openai_client.embeddings.create(model="text-embedding-3-small", input=[])
        assert caught.value.type == "invalid_request_error"
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            openai_client.models.retrieve("gpt-9")
        with pytest.raises(openai.NotFoundError, match="Invalid URL"):
            openai_client.moderations.create(input="x")


class TestOllama:
    def test_chat(self, ollama_client: ollama.Client) -> None:
        answer = ollama_client.chat("llama3.2", MESSAGES)
        assert answer["message"]["content"] == EXTRACT
        assert (answer["done"], answer["done_reason"]) == (True, "stop")
        assert answer["model"] == "llama3.2-stand-in"
        assert answer["eval_count"] == len(EXTRACT.split())

    def test_chat_streams_word_by_word(self, ollama_client: ollama.Client) -> None:
        parts = list(ollama_client.chat("llama3.2", MESSAGES, stream=True))
        assert "".join(part["message"]["content"] for part in parts) == EXTRACT
        assert [part["done"] for part in parts] == [False] * len(EXTRACT.split()) + [True]

    def test_generate(self, ollama_client: ollama.Client) -> None:
        answer = ollama_client.generate("llama3.2", PROMPT, options={"num_predict": 2})
        assert (answer["response"], answer["done_reason"]) == ("The socket", "length")
        parts = ollama_client.generate("llama3.2", PROMPT, stream=True)
        assert "".join(part["response"] for part in parts) == EXTRACT

    def test_embeddings(self, ollama_client: ollama.Client) -> None:
        embeddings = ollama_client.embed("llama3.2", ["gzip files", "sockets"])["embeddings"]
        assert embeddings[0] == pytest.approx(text.embed("gzip files"))
        assert ollama_client.embeddings("llama3.2", "sockets")["embedding"] == pytest.approx(embeddings[1])

    def test_models(self, ollama_client: ollama.Client) -> None:
        assert ollama_client.show("llama3.2")["details"]["family"] == "stand-in"
        assert len(ollama_client.list()["models"]) == 1
        assert len(ollama_client.ps()["models"]) == 1

    def test_async_client(self, ollama_wire: OllamaWire) -> None:
        async def run() -> tuple[str, int]:
            client = ollama.AsyncClient(host=ollama_wire.url)
            answer = await client.chat("llama3.2", MESSAGES)
            parts = [part async for part in await client.chat("llama3.2", MESSAGES, stream=True)]
            await client._client.aclose()
            return str(answer["message"]["content"]), len(parts)

        assert asyncio.run(run()) == (EXTRACT, len(EXTRACT.split()) + 1)

    def test_errors_are_ollamas(self, ollama_client: ollama.Client) -> None:
        with pytest.raises(ollama.ResponseError, match="model 'other' not found") as caught:
            ollama_client.chat("other", MESSAGES)
        assert caught.value.status_code == 404

    def test_is_alive(self, ollama_wire: OllamaWire) -> None:
        assert httpx.get(ollama_wire.url).text.startswith("Ollama is running")
        assert httpx.head(ollama_wire.url).status_code == 200


class TestQdrant:
    def test_reads(self, qdrant: tuple[QdrantClient, str]) -> None:
        client, name = qdrant
        assert client.count(name).count == 3
        assert client.get_collection(name).points_count == 3
        assert client.collection_exists(name)
        assert not client.collection_exists("other")
        assert name in [found.name for found in client.get_collections().collections]
        assert client.retrieve(name, [2], with_vectors=True)[0].vector == pytest.approx([0.0, 1.0])
        odd = models.Filter(must=[models.FieldCondition(key="number", match=models.MatchAny(any=[1, 3]))])
        assert [p.id for p in client.scroll(name, scroll_filter=odd)[0]] == [1, 3]
        page, following = client.scroll(name, limit=2, with_payload=False)
        assert [(p.id, p.payload) for p in page] == [(1, None), (2, None)]
        assert following == 3

    def test_queries(self, qdrant: tuple[QdrantClient, str]) -> None:
        client, name = qdrant
        if not hasattr(client, "query_points"):
            search: Any = getattr(client, "search", None)
            assert [p.id for p in search(name, [1.0, 0.1], limit=2)] == [1, 3]
            return
        found = client.query_points(name, query=[1.0, 0.1], limit=2).points
        assert [(p.id, p.payload) for p in found] == [(1, {"number": 1}), (3, {"number": 3})]
        request = models.QueryRequest(query=[0.0, 1.0], limit=1)
        batch = client.query_batch_points(name, [request, request])
        assert [[p.id for p in answer.points] for answer in batch] == [[2], [2]]
        fused = client.query_points(
            name,
            prefetch=[models.Prefetch(query=[1.0, 0.0], limit=3), models.Prefetch(query=[0.9, 0.1], limit=3)],
            query=models.FusionQuery(fusion=models.Fusion.RRF),
        )
        assert fused.points[0].id == 1
        groups = client.query_points_groups(name, group_by="number", query=[1.0, 0.0], limit=2).groups
        assert [group.id for group in groups] == [1, 3]

    def test_writes(self, qdrant: tuple[QdrantClient, str]) -> None:
        client, name = qdrant
        assert client.set_payload(name, {"colour": "red"}, [1]).status == models.UpdateStatus.COMPLETED
        client.delete_payload(name, ["number"], [1])
        assert client.retrieve(name, [1])[0].payload == {"colour": "red"}
        client.overwrite_payload(name, {"number": 9}, [1])
        client.clear_payload(name, [2])
        assert [point.payload for point in client.retrieve(name, [1, 2])] == [{"number": 9}, {}]
        client.update_vectors(name, [models.PointVectors(id=1, vector=[0.0, 1.0])])
        assert client.delete(name, [2], wait=False).status == models.UpdateStatus.ACKNOWLEDGED
        many = models.Filter(must=[models.FieldCondition(key="number", range=models.Range(gte=9))])
        client.delete(name, models.FilterSelector(filter=many))
        assert [point.id for point in client.scroll(name)[0]] == [3]
        assert client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER)
        batch = models.DeleteOperation(delete=models.PointIdsList(points=[3]))
        assert len(client.batch_update_points(name, [batch])) == 1
        assert client.delete_collection(name)

    def test_uploads(self, qdrant: tuple[QdrantClient, str]) -> None:
        client, name = qdrant
        points = (models.PointStruct(id=i, vector=[1.0, float(i)]) for i in range(10, 20))
        client.upload_points(name, points, batch_size=4)
        client.upload_collection(name, vectors=[[1.0, 1.0]] * 5, ids=range(20, 25), batch_size=2)
        assert client.count(name).count == 18

    def test_aliases(self, qdrant: tuple[QdrantClient, str]) -> None:
        client, name = qdrant
        alias = models.CreateAlias(collection_name=name, alias_name="other-name")
        client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
        assert client.count("other-name").count == 3
        assert client.get_collection_aliases(name).aliases[0].alias_name == "other-name"

    @pytest.mark.parametrize("wrong", ["missing", "exists", "size", "body"])
    def test_errors_are_qdrants(self, qdrant: tuple[QdrantClient, str], wrong: str) -> None:
        client, name = qdrant
        nothing: Any = None
        calls: dict[str, tuple[Any, int, str]] = {
            "missing": (lambda: client.count("none"), 404, "Collection `none` doesn't exist!"),
            "exists": (
                lambda: client.create_collection(name, models.VectorParams(size=2, distance=models.Distance.DOT)),
                409,
                "already exists!",
            ),
            "size": (
                lambda: client.upsert(name, [models.PointStruct(id=4, vector=[1.0] * 3)]),
                400,
                "Wrong input",
            ),
            "body": (
                lambda: client.http.points_api.upsert_points(name, point_insert_operations=nothing),
                400,
                "Format error in JSON body",
            ),
        }
        call, status, message = calls[wrong]
        with pytest.raises(UnexpectedResponse) as caught:
            call()
        assert caught.value.status_code == status
        assert message in json.loads(caught.value.content)["status"]["error"]

    def test_a_point_by_its_id(self, qdrant_wire: QdrantWire, qdrant: tuple[QdrantClient, str]) -> None:
        url = f"{qdrant_wire.url}/collections/{qdrant[1]}/points"
        assert httpx.get(f"{url}/1").json()["result"]["payload"] == {"number": 1}
        assert httpx.get(f"{url}/4").status_code == 404
        assert httpx.patch(f"{url}/4").status_code == 405
