"""A stand-in that speaks Ollama's wire: chat, generate, embeddings and the calls that list models.

The wire is Ollama's; the answers are not: each carries a model name that ends in `-stand-in`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from stormproof.demo import text
from stormproof.demo.wire import (
    Request,
    Response,
    Route,
    WireError,
    WireServer,
    json_response,
    ndjson_response,
    route,
)

_DETAILS = {
    "parent_model": "",
    "format": "none",
    "family": "stand-in",
    "families": ["stand-in"],
    "parameter_size": "0",
    "quantization_level": "none",
}
_DIGEST = "0" * 64

Shape = Callable[[str], dict[str, Any]]


class OllamaWire(WireServer):
    """Ollama's API on a local port.

    Every model name is accepted unless `models` names those that exist; the others are then answered with
    404. `pace` is the wait in seconds before each streamed word, for demos that want to be watched.
    """

    server_header = "stormproof-stand-in/ollama"

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        models: Sequence[str] | None = None,
        pace: float = 0.0,
    ) -> None:
        super().__init__(host, port)
        self._models = models
        self._pace = pace

    def routes(self) -> Sequence[Route]:
        """Return the part of Ollama's API that is spoken here."""
        return (
            route("POST", "/api/chat", self._chat),
            route("POST", "/api/generate", self._generate),
            route("POST", "/api/embed", self._embed),
            route("POST", "/api/embeddings", self._embeddings),
            route("POST", "/api/show", self._show),
            route("GET", "/api/tags", self._tags),
            route("GET", "/api/ps", self._ps),
            route("GET", "/api/version", lambda _: json_response({"version": "0.0.0" + text.SUFFIX})),
            route("GET", "/", _alive),
            route("HEAD", "/", _alive),
        )

    def _chat(self, request: Request) -> Response:
        body = request.object()
        prompt = [str(message.get("content") or "") for message in body.get("messages") or []]
        return self._reply(body, prompt, lambda part: {"message": {"role": "assistant", "content": part}})

    def _generate(self, request: Request) -> Response:
        body = request.object()
        prompt = [str(body[name]) for name in ("system", "prompt") if body.get(name)]
        return self._reply(body, prompt, lambda part: {"response": part})

    def _reply(self, body: dict[str, Any], prompt: Sequence[str], shape: Shape) -> Response:
        model = self._model(body)
        words = text.pieces(text.answer(prompt)) if prompt else []
        limit = (body.get("options") or {}).get("num_predict")
        cut = len(words) if limit is None or limit < 0 else int(limit)
        reason = "length" if cut < len(words) else "stop" if prompt else "load"
        tokens = sum(map(text.count_tokens, prompt))
        replies = self._parts(model, words[:cut], reason, tokens, shape)
        if body.get("stream", True):
            return ndjson_response(replies)
        *_, last = replies
        return json_response({**last, **shape("".join(words[:cut]))})

    def _parts(
        self, model: str, words: Sequence[str], reason: str, prompt_tokens: int, shape: Shape
    ) -> Iterator[dict[str, Any]]:
        started = time.monotonic_ns()
        for word in words:
            time.sleep(self._pace)
            yield {"model": model, "created_at": _now(), **shape(word), "done": False}
        took = time.monotonic_ns() - started
        yield {
            "model": model,
            "created_at": _now(),
            **shape(""),
            "done": True,
            "done_reason": reason,
            "total_duration": took,
            "load_duration": 0,
            "prompt_eval_count": prompt_tokens,
            "prompt_eval_duration": 0,
            "eval_count": len(words),
            "eval_duration": took,
        }

    def _embed(self, request: Request) -> Response:
        body = request.object()
        model, given = self._model(body), body.get("input") or []
        inputs = [given] if isinstance(given, str) else [str(item) for item in given]
        dimensions = int(body.get("dimensions") or text.DIMENSIONS)
        return json_response(
            {
                "model": model,
                "embeddings": [text.embed(item, dimensions) for item in inputs],
                "total_duration": 1,
                "load_duration": 1,
                "prompt_eval_count": sum(map(text.count_tokens, inputs)),
            }
        )

    def _embeddings(self, request: Request) -> Response:
        body = request.object()
        self._model(body)
        return json_response({"embedding": text.embed(str(body.get("prompt") or ""))})

    def _show(self, request: Request) -> Response:
        self._model(request.object())
        return json_response(
            {
                "license": "Apache-2.0",
                "modelfile": "# a stand-in, not a model",
                "parameters": "",
                "template": "{{ .Prompt }}",
                "details": _DETAILS,
                "model_info": {
                    "general.architecture": "stand-in",
                    "stand-in.embedding_length": text.DIMENSIONS,
                },
                "capabilities": ["completion", "embedding"],
                "modified_at": _now(),
            }
        )

    def _tags(self, _request: Request) -> Response:
        return json_response({"models": [{**card, "modified_at": _now()} for card in self._cards()]})

    def _ps(self, _request: Request) -> Response:
        extra = {"expires_at": _now(), "size_vram": 0, "context_length": 4096}
        return json_response({"models": [{**card, **extra} for card in self._cards()]})

    def _cards(self) -> Iterator[dict[str, Any]]:
        for model in self._models or ("latest",):
            name = text.stand_in_name(model)
            yield {"name": name, "model": name, "size": 0, "digest": _DIGEST, "details": _DETAILS}

    def _model(self, body: dict[str, Any]) -> str:
        """Return the name to answer under, or fail as Ollama does."""
        name = str(body.get("model") or body.get("name") or "")
        if not name:
            raise WireError(400, "model is required")
        if self._models is not None and name.removesuffix(text.SUFFIX) not in self._models:
            raise WireError(404, f"model '{name}' not found")
        return text.stand_in_name(name)


def _alive(_request: Request) -> Response:
    return Response(body=b"Ollama is running (stand-in)", content_type="text/plain; charset=utf-8")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
