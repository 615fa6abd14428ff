"""The calls that ``overhead.py`` measures: each client's, and the bytes that are answered."""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

MODEL = "gpt-4o-mini"
COLLECTION = "docs"
MESSAGES: list[Any] = [
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": "What does a circuit breaker do when the failure rate is above its threshold?"},
]
_ANSWER = "It opens, so that calls fail at once and the server gets time to recover."
_EMBEDDING = [i / 1536 for i in range(1536)]
_VECTOR = [i / 384 for i in range(384)]


@dataclass(frozen=True)
class Path:
    """One way to call.

    Attributes:
        system: whose client: ``openai``, ``ollama`` or ``qdrant``.
        operation, subject: as a span is called that is written by hand.
        answer: the chunks of the body that is answered; one for a whole answer.
        call: makes the call with a client of either kind.
    """

    system: str
    operation: str
    subject: str
    answer: tuple[bytes, ...]
    call: Callable[[Any], Any]

    @property
    def streams(self) -> bool:
        """Whether the app reads the result item by item."""
        return len(self.answer) > 1


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _chat_answer() -> dict[str, Any]:
    message = {"role": "assistant", "content": _ANSWER, "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": f"{MODEL}-2024-07-18",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 15, "total_tokens": 45},
        "system_fingerprint": "fp_1",
        "service_tier": "default",
    }


def _chat_chunks(count: int) -> tuple[bytes, ...]:
    base = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": f"{MODEL}-2024-07-18",
        "system_fingerprint": "fp_1",
    }
    deltas: list[dict[str, Any]] = [{"content": "word "}] * (count - 1) + [{}]
    chunks = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]}
        for delta in deltas
    ]
    return (*(b"data: " + _json(chunk) + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n")


def _ollama_chunks(count: int) -> tuple[bytes, ...]:
    base = {"model": "tiny", "created_at": "2026-01-01T00:00:00Z"}
    parts = [{**base, "message": {"role": "assistant", "content": "word "}, "done": False}] * (count - 1)
    return (*(_json(part) + b"\n" for part in parts), _json(_ollama_answer("")) + b"\n")


def _ollama_answer(content: str) -> dict[str, Any]:
    return {
        "model": "tiny",
        "created_at": "2026-01-01T00:00:00Z",
        "message": {"role": "assistant", "content": content},
        "done": True,
        "done_reason": "stop",
        "total_duration": 1000,
        "prompt_eval_count": 30,
        "eval_count": 15,
    }


def _embedding_answer() -> dict[str, Any]:
    embedding = base64.b64encode(array("f", _EMBEDDING).tobytes()).decode()
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": embedding}],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }


def _query_answer() -> dict[str, Any]:
    payload = {"text": "a passage of some length, as it is kept beside its vector", "source": "a.md"}
    points = [{"id": i, "version": 1, "score": 0.9, "payload": payload} for i in range(5)]
    return {"result": {"points": points}, "status": "ok", "time": 0.001}


def _chat(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0.2, max_tokens=100, **options)


def _embed(client: Any) -> Any:
    return client.embeddings.create(model="text-embedding-3-small", input="What does a circuit breaker do?")


def _ollama_chat(client: Any, **options: Any) -> Any:
    return client.chat("tiny", MESSAGES, **options)


def _query(client: Any) -> Any:
    return client.query_points(COLLECTION, query=_VECTOR, limit=5)


@dataclass
class _Upsert:
    """Its points are made once, by the first call: that is the app's own work."""

    points: Any = None

    def __call__(self, client: Any) -> Any:
        if self.points is None:
            from qdrant_client.models import PointStruct

            self.points = [PointStruct(id=i, vector=_VECTOR, payload={"n": i}) for i in range(100)]
        return client.upsert(COLLECTION, points=self.points)


def _openai_stream(chunks: int) -> Path:
    return Path("openai", "chat", MODEL, _chat_chunks(chunks), partial(_chat, stream=True))


def _ollama_stream(chunks: int) -> Path:
    return Path("ollama", "chat", "tiny", _ollama_chunks(chunks), partial(_ollama_chat, stream=True))


CHUNKS, MANY_CHUNKS = 20, 220

PATHS = {
    "openai chat": Path("openai", "chat", MODEL, (_json(_chat_answer()),), _chat),
    "openai stream": _openai_stream(CHUNKS),
    "openai long stream": _openai_stream(MANY_CHUNKS),
    "openai embeddings": Path("openai", "embeddings", "text-embedding-3-small", (_json(_embedding_answer()),), _embed),
    "ollama chat": Path("ollama", "chat", "tiny", (_json(_ollama_answer(_ANSWER)),), _ollama_chat),
    "ollama stream": _ollama_stream(CHUNKS),
    "ollama long stream": _ollama_stream(MANY_CHUNKS),
    "qdrant query_points": Path("qdrant", "query_points", COLLECTION, (_json(_query_answer()),), _query),
    "qdrant upsert": Path(
        "qdrant",
        "upsert",
        COLLECTION,
        (_json({"result": {"operation_id": 1, "status": "completed"}, "status": "ok", "time": 0.001}),),
        _Upsert(),
    ),
}

#: Only for what a chunk costs ours.
LONG = frozenset(("openai long stream", "ollama long stream"))
