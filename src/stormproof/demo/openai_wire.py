"""A stand-in that speaks OpenAI's wire: embeddings, chat completions (whole and streamed) and models.

The wire is OpenAI's; the answers are not: each carries a model name that ends in `-stand-in`.
"""

from __future__ import annotations

import base64
import itertools
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from stormproof.demo import text
from stormproof.demo.wire import (
    Request,
    Response,
    Route,
    WireError,
    WireServer,
    json_response,
    route,
    sse_response,
)

_MODELS = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small", "text-embedding-3-large")
_TYPES = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}


class OpenAIWire(WireServer):
    """OpenAI's API on a local port: give the client `base_url` and any key.

    `pace` is the wait in seconds before each streamed word, for demos that want to be watched.
    """

    server_header = "stormproof-stand-in/openai"

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, pace: float = 0.0) -> None:
        super().__init__(host, port)
        self._pace = pace
        self._numbers = itertools.count(1)

    @property
    def base_url(self) -> str:
        """What goes into `OPENAI_BASE_URL`."""
        return f"{self.url}/v1"

    def routes(self) -> Sequence[Route]:
        """Return the part of OpenAI's API that is spoken here."""
        return (
            route("POST", "/v1/embeddings", self._embeddings),
            route("POST", "/v1/chat/completions", self._chat),
            route("GET", "/v1/models", self._models),
            route("GET", "/v1/models/(.+)", self._model),
        )

    def error(self, status: int, message: str) -> Response:
        """Return OpenAI's error object."""
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        return json_response({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)

    def _embeddings(self, request: Request) -> Response:
        body = request.object()
        model, dimensions = _required(body, "model", str), body.get("dimensions") or text.DIMENSIONS
        if not isinstance(dimensions, int) or dimensions < 1:
            raise WireError(400, f"Invalid value for 'dimensions': {dimensions!r}.")
        encode = _base64 if body.get("encoding_format") == "base64" else list
        inputs = _inputs(_required(body, "input", (str, list)))
        data = [
            {"object": "embedding", "index": index, "embedding": encode(text.embed(item, dimensions))}
            for index, item in enumerate(inputs)
        ]
        tokens = sum(map(text.count_tokens, inputs))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return self._answer({"object": "list", "data": data, "model": text.stand_in_name(model), "usage": usage})

    def _chat(self, request: Request) -> Response:
        body = request.object()
        model, messages = _required(body, "model", str), _required(body, "messages", list)
        prompt = [_content(message) for message in messages]
        words = text.pieces(text.answer(prompt))
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        finish = "length" if limit is not None and limit < len(words) else "stop"
        words = words[:limit]
        base = {
            "id": f"chatcmpl-stand-in-{next(self._numbers)}",
            "created": int(time.time()),
            "model": text.stand_in_name(model),
            "system_fingerprint": "fp_stand_in",
        }
        usage = _usage(sum(map(text.count_tokens, prompt)), len(words))
        if body.get("stream"):
            with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return sse_response(self._chunks(base, words, finish, usage if with_usage else None))
        message = {"role": "assistant", "content": "".join(words), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self._answer({**base, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _chunks(
        self, base: dict[str, Any], words: Sequence[str], finish: str, usage: dict[str, Any] | None
    ) -> Iterator[dict[str, Any]]:
        common = {**base, "object": "chat.completion.chunk", **({"usage": None} if usage else {})}

        def chunk(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            return {**common, "choices": [choice]}

        yield chunk({"role": "assistant", "content": ""})
        for word in words:
            time.sleep(self._pace)
            yield chunk({"content": word})
        yield chunk({}, finish)
        if usage:
            yield {**common, "choices": [], "usage": usage}

    def _models(self, _request: Request) -> Response:
        return self._answer({"object": "list", "data": [_model_card(model) for model in _MODELS]})

    def _model(self, _request: Request, model: str) -> Response:
        if model.removesuffix(text.SUFFIX) not in _MODELS:
            raise WireError(404, f"The model '{model}' does not exist")
        return self._answer(_model_card(model))

    def _answer(self, value: dict[str, Any]) -> Response:
        return json_response(value, headers={"x-request-id": f"req_stand_in_{next(self._numbers)}"})


def _required(body: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    value = body.get(name)
    if not value:
        raise WireError(400, f"Missing required parameter: '{name}'.")
    if not isinstance(value, kind):
        raise WireError(400, f"Invalid type for '{name}': got {type(value).__name__}.")
    return value


def _inputs(value: str | list[Any]) -> list[str]:
    """Return the texts of an embedding request, which may be one text, several, or tokens as numbers."""
    if isinstance(value, str):
        return [value]
    if isinstance(value[0], int):
        return [" ".join(map(str, value))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in value]


def _content(message: Any) -> str:
    """Return the text of a message, whose content may be a string or a list of parts."""
    if not isinstance(message, dict) or "role" not in message:
        raise WireError(400, "Missing required parameter: 'messages[].role'.")
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)


def _base64(vector: list[float]) -> str:
    """Return the vector as little-endian 32-bit floats in base64, which the client asks for by default."""
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode("ascii")


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _model_card(model: str) -> dict[str, Any]:
    return {"id": text.stand_in_name(model), "object": "model", "created": 0, "owned_by": "stormproof"}
