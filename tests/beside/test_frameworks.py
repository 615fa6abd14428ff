"""Frameworks on top of the clients run as they did: the same results, and the attempts are the policy's alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from stormproof.demo.proxy import FaultProxy, status
from tests.clients.drivers import quiet_qdrant
from tests.clients.shield import Shield
from tests.unit.signals import attributes

ProxyOf = Callable[[str], FaultProxy]

#: What the frameworks warn of as they are imported is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

_QUESTION = "Context: One two three four.\n\nQuestion: two?"
_TEXTS = ["one", "two", "three"]
_collections = itertools.count()


def _chat_openai(url: str, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model="gpt-4o-mini", base_url=f"{url}/v1", api_key="none", **options)


def _chat_ollama(url: str) -> Any:
    from langchain_ollama import ChatOllama

    return ChatOllama(model="tiny", base_url=url)


def _invoke(chat: Any) -> Any:
    answer = chat.invoke(_QUESTION)
    return type(answer), answer.content, answer.usage_metadata


def _ainvoke(chat: Any) -> Any:
    answer = asyncio.run(chat.ainvoke(_QUESTION))
    return type(answer), answer.content, answer.usage_metadata


def _stream(chat: Any) -> Any:
    return [(type(part), part.content) for part in chat.stream(_QUESTION)]


def _astream(chat: Any) -> Any:
    async def parts() -> Any:
        return [(type(part), part.content) async for part in chat.astream(_QUESTION)]

    return asyncio.run(parts())


def _openai_embeddings(url: str) -> Any:
    from langchain_openai import OpenAIEmbeddings

    # Else it counts tokens first, for which it would fetch a file from the network.
    embeddings = OpenAIEmbeddings(
        base_url=f"{url}/v1",
        api_key="none",
        check_embedding_ctx_length=False,
    )
    return embeddings.embed_documents(_TEXTS)


def _ollama_embeddings(url: str) -> Any:
    from langchain_ollama import OllamaEmbeddings

    return OllamaEmbeddings(model="tiny", base_url=url).embed_documents(_TEXTS)


_WAYS = {"invoke": _invoke, "ainvoke": _ainvoke, "stream": _stream, "astream": _astream}
_CALLS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    **{
        f"langchain-{system}-{name}": (system, path, lambda url, make=make, way=way: way(make(url)))  # type: ignore[misc]
        for system, path, make in (("openai", "chat/completions", _chat_openai), ("ollama", "api/chat", _chat_ollama))
        for name, way in _WAYS.items()
    },
    "langchain-openai-embeddings": ("openai", "embeddings", _openai_embeddings),
    "langchain-ollama-embeddings": ("ollama", "api/embed", _ollama_embeddings),
}


@pytest.mark.parametrize("name", _CALLS)
def test_a_call_to_a_model(shield: Shield, proxy_of: ProxyOf, name: str) -> None:
    system, path, call = _CALLS[name]
    shield.off()
    expected = call(proxy_of(system).url)  # another address: the framework keeps connections, and with them their loop
    shield.on()
    proxy = proxy_of(system)
    proxy.plan("POST", path, [status(503)] * 2)
    assert call(proxy.url) == expected
    assert [exchange.path.endswith(path) for exchange in proxy.exchanges] == [True] * 3
    assert attributes(shield.signals.operation())["resilience.attempt.count"] == 3


@pytest.mark.parametrize(("options", "attempts"), [({}, 3), ({"max_retries": 1}, 2), ({"max_retries": 4}, 5)])
def test_what_the_framework_passes_on_as_retries_is_not_multiplied(
    shield: Shield, proxy_of: ProxyOf, options: dict[str, Any], attempts: int
) -> None:
    import openai

    shield.again(RETRY__ATTEMPTS=3, BREAKER__ENABLED="false")
    proxy = proxy_of("openai")
    proxy.plan("POST", ".", [status(503)] * 40)
    with pytest.raises(openai.InternalServerError):
        _chat_openai(proxy.url, **options).invoke(_QUESTION)
    assert len(proxy.exchanges) == attributes(shield.signals.operation())["resilience.attempt.count"] == attempts


def _in_langchain(client: Any, collection: str) -> Any:
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import models

    client.create_collection(collection, models.VectorParams(size=4, distance=models.Distance.COSINE))
    store = QdrantVectorStore(client, collection, DeterministicFakeEmbedding(size=4))
    store.add_texts(_TEXTS, ids=[1, 2, 3])
    found = [(type(document), document.page_content) for document in store.similarity_search("two", k=2)]
    store.delete([1])
    return found, client.count(collection).count


def _in_llama_index(client: Any, collection: str) -> Any:
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import VectorStoreQuery
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    store = QdrantVectorStore(collection, client=client, index_doc_id=False)
    ids = [f"00000000-0000-0000-0000-00000000000{number}" for number in range(3)]
    nodes = [
        TextNode(id_=ids[number], text=text, embedding=[1.0, number, 0.5, 0.1]) for number, text in enumerate(_TEXTS)
    ]
    store.add(nodes)
    found = store.query(VectorStoreQuery(query_embedding=[1.0, 2.0, 0.5, 0.1], similarity_top_k=2))
    return [type(node) for node in found.nodes or ()], found.ids, found.similarities


@pytest.mark.parametrize("work", [_in_langchain, _in_llama_index])
def test_a_vector_store(shield: Shield, proxy_of: ProxyOf, work: Callable[[Any, str], Any]) -> None:
    proxy = proxy_of("qdrant")

    def run() -> Any:
        client = quiet_qdrant(proxy.url)
        try:
            return work(client, f"framework-{next(_collections)}")
        finally:
            client.close()

    shield.off()
    expected = run()
    requests = len(proxy.exchanges)
    shield.on()
    proxy.plan("PUT", "/points", [status(503)])
    proxy.plan("POST", "/points/query", [status(503)] * 2)
    assert run() == expected
    assert len(proxy.exchanges) - requests == requests + 3
    counts = [attributes(span)["resilience.attempt.count"] for span in shield.signals.operations()]
    assert sum(counts) == requests + 3
    assert sorted(counts)[-2:] == [2, 3]


@pytest.mark.parametrize("work", [_in_langchain, _in_llama_index])
def test_a_vector_store_gives_up_when_the_policy_does(
    shield: Shield, proxy_of: ProxyOf, work: Callable[[Any, str], Any]
) -> None:
    """llama-index passes ``max_retries=3`` on to the uploader, which is not to multiply with ours."""
    shield.again(RETRY__ATTEMPTS=2, BREAKER__ENABLED="false")
    proxy = proxy_of("qdrant")
    proxy.plan("PUT", "/points", [status(503)] * 40)
    client = quiet_qdrant(proxy.url)
    with pytest.raises(Exception, match="503"):
        work(client, f"framework-{next(_collections)}")
    client.close()
    assert len([exchange for exchange in proxy.exchanges if exchange.path.endswith("/points")]) == 2
