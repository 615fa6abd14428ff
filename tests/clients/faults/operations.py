"""One call of each class of operations, and whether it may be carried out twice, by hand from the clients' contract."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

MODEL = "gpt-4o-mini"
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
FILE = b"{'a': 1}" * 100
VECTOR = [0.1, 0.2]


@dataclass(frozen=True)
class Operation:
    """``call`` makes it with a client; ``available``: whether this version of the client has it."""

    system: str
    name: str
    may_be_repeated: bool
    call: Callable[[Any], Any]
    available: Callable[[Any], bool] = lambda client: True

    def __str__(self) -> str:
        return f"{self.system} {self.name}"


def _upload() -> Any:
    return ("a.jsonl", io.BytesIO(FILE))


def _post(path: str, **body: Any) -> Callable[[Any], Any]:
    return lambda client: client.post(path, body=body, cast_to=object)


def _respond(**more: Any) -> Callable[[Any], Any]:
    return _post("/responses", model=MODEL, input="hello", **more)


def _openai() -> list[Operation]:
    yes = {
        "models.list": lambda c: c.models.list(),
        "files.retrieve": lambda c: c.files.retrieve("file-1"),
        "chat": lambda c: c.chat.completions.create(model=MODEL, messages=MESSAGES),
        "embeddings": lambda c: c.embeddings.create(model=MODEL, input="hello", encoding_format="float"),
        "moderations": lambda c: c.moderations.create(input="hello"),
        "audio.speech": lambda c: c.audio.speech.create(model="tts-1", voice="alloy", input="hello"),
        "audio.transcriptions": lambda c: c.audio.transcriptions.create(model="whisper-1", file=_upload()),
        "images.generate": lambda c: c.images.generate(model="dall-e-3", prompt="a cat"),
        "images.edit": lambda c: c.images.edit(image=_upload(), prompt="a hat"),
        "responses, not stored": _respond(store=False),
        "files.delete": lambda c: c.files.delete("file-1"),
    }
    no = {
        "responses": _respond(),
        "responses, stored": _respond(store=True),
        "responses in a conversation": _respond(store=False, conversation="conv_1"),
        "files.create": lambda c: c.files.create(file=_upload(), purpose="batch"),
        "uploads.create": _post("/uploads", bytes=1, filename="a", mime_type="text/jsonl", purpose="batch"),
        "batches.create": lambda c: c.batches.create(
            completion_window="24h", endpoint="/v1/embeddings", input_file_id="file-1"
        ),
        "fine_tuning.jobs.create": lambda c: c.fine_tuning.jobs.create(model=MODEL, training_file="file-1"),
        "threads.create": _post("/threads"),
        "messages.create": _post("/threads/thread_1/messages", role="user", content="hello"),
        "runs.create": _post("/threads/thread_1/runs", assistant_id="asst_1"),
        "vector_stores.create": _post("/vector_stores", name="docs"),
    }
    return _operations("openai", yes, no)


def _ollama() -> list[Operation]:
    yes = {
        "generate": lambda c: c.generate("tiny", "hello"),
        "chat": lambda c: c.chat("tiny", MESSAGES),
        "embed": lambda c: c.embed("tiny", "hello"),
        "list": lambda c: c.list(),
        "show": lambda c: c.show("tiny"),
        "ps": lambda c: c.ps(),
        "generate, streamed": lambda c: [*c.generate("tiny", "hello", stream=True)],
        "chat, streamed": lambda c: [*c.chat("tiny", MESSAGES, stream=True)],
        "pull": lambda c: c.pull("tiny"),
        "pull, streamed": lambda c: [*c.pull("tiny", stream=True)],
        "push": lambda c: c.push("tiny"),
        "create": _create,
        "copy": lambda c: c.copy("tiny", "small"),
        "delete": lambda c: c.delete("tiny"),
    }
    return _operations("ollama", yes, {})


def _create(client: Any) -> Any:
    if "from_" in inspect.signature(client.create).parameters:
        return client.create("small", from_="tiny")
    return client.create("small", modelfile="FROM tiny")


def _qdrant() -> list[Operation]:
    point = models.PointStruct(id=1, vector=VECTOR)
    vectors = models.VectorParams(size=2, distance=models.Distance.DOT)
    keyword = models.PayloadSchemaType.KEYWORD
    alias = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name="docs", alias_name="d"))
    yes = {
        "get_collections": lambda c: c.get_collections(),
        "count": lambda c: c.count("docs"),
        "retrieve": lambda c: c.retrieve("docs", [1]),
        "scroll": lambda c: c.scroll("docs"),
        "query_points": lambda c: (c.query_points if hasattr(c, "query_points") else c.search)("docs", VECTOR),
        "upsert": lambda c: c.upsert("docs", [point]),
        "delete": lambda c: c.delete("docs", [1]),
        "set_payload": lambda c: c.set_payload("docs", {"a": 1}, [1]),
        "overwrite_payload": lambda c: c.overwrite_payload("docs", {"a": 1}, [1]),
        "delete_payload": lambda c: c.delete_payload("docs", ["a"], [1]),
        "clear_payload": lambda c: c.clear_payload("docs", [1]),
        "update_vectors": lambda c: c.update_vectors("docs", [models.PointVectors(id=1, vector=VECTOR)]),
        "delete_vectors": lambda c: c.delete_vectors("docs", ["a"], [1]),
        "create_payload_index": lambda c: c.create_payload_index("docs", "a", keyword),
        "delete_payload_index": lambda c: c.delete_payload_index("docs", "a"),
        "delete_collection": lambda c: c.delete_collection("docs"),
    }
    no = {
        "create_collection": lambda c: c.create_collection("docs", vectors),
        "create_shard_key": lambda c: c.create_shard_key("docs", "a"),
        "create_snapshot": lambda c: c.create_snapshot("docs"),
        "update_collection_aliases": lambda c: c.update_collection_aliases([alias]),
        "upsert with update_filter": lambda c: c.upsert("docs", [point], update_filter=models.Filter()),
    }
    return [
        *_operations("qdrant", yes, {name: no[name] for name in list(no)[:-1]}),
        Operation(
            "qdrant", "upsert with update_filter", may_be_repeated=False, call=no["upsert with update_filter"],
            available=lambda client: "update_filter" in inspect.signature(client.upsert).parameters,
        ),
    ]  # fmt: skip


def _operations(system: str, yes: dict[str, Any], no: dict[str, Any]) -> list[Operation]:
    return [Operation(system, name, name in yes, call) for name, call in {**yes, **no}.items()]


OPERATIONS = [*_openai(), *_ollama(), *_qdrant()]

#: What makes sense to every client as an answer to anything.
ANSWER: dict[str, Any] = {
    "id": "1", "data": [], "choices": [], "results": [], "text": "", "status": "success",
    "response": "", "message": {"role": "assistant", "content": ""}, "done": True,
    "embeddings": [VECTOR], "models": [], "result": None,
}  # fmt: skip
