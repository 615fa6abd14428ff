"""Each method of each resource of openai's clients, against a server that answers anything.

Whatever a method asks for is one operation per request, and named after the path that stands in the method's source.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from stormproof import install
from stormproof.resilience.events import Listener
from stormproof.resilience.operation import Operation
from tests.servers.tolerant import TolerantWire

from .openai_methods import Method, methods
from .shield import Shield

ANSWER: dict[str, Any] = {
    "id": "one",
    "object": "any",
    "thread_id": "two",
    "status": "completed",
    "data": [{"embedding": [0.5]}],
    "choices": [],
    "output": [],
    "has_more": False,
    "file_counts": {"in_progress": 0, "completed": 1, "failed": 0, "cancelled": 0, "total": 1},
}

#: The official names; every other request is called what it is.
OFFICIAL = {
    "post chat/completions": "chat",
    "post responses": "chat",
    "post completions": "text_completion",
    "post embeddings": "embeddings",
    "post images/generations": "generate_content",
    "post images/edits": "generate_content",
    "post images/variations": "generate_content",
    "post audio/speech": "generate_content",
    "post vector_stores/{id}/search": "retrieval",
    "post assistants": "create_agent",
    "post agents": "create_agent",
    "post threads/runs": "invoke_agent",
    "post threads/{id}/runs": "invoke_agent",
}
#: The POSTs that may be carried out twice. A response may not: it is stored unless the app says otherwise.
REPEATABLE = {
    "post chat/completions",
    "post completions",
    "post embeddings",
    "post moderations",
    "post audio/speech",
    "post audio/transcriptions",
    "post audio/translations",
    "post images/generations",
    "post images/edits",
    "post images/variations",
    "post responses/input_tokens",
    "post vector_stores/{id}/search",
}

RUN, STORED = "threads/{id}/runs/{id}", "vector_stores/{id}"
#: Methods that have others ask for them: each of those requests is an operation.
HELPERS = {
    "beta.threads.create_and_run_poll": ["post threads/runs", f"get {RUN}"],
    "beta.threads.create_and_run_stream": ["post threads/runs"],
    "beta.threads.runs.create_and_poll": ["post threads/{id}/runs", f"get {RUN}"],
    "beta.threads.runs.create_and_stream": ["post threads/{id}/runs"],
    "beta.threads.runs.poll": [f"get {RUN}"],
    "beta.threads.runs.stream": ["post threads/{id}/runs"],
    "beta.threads.runs.submit_tool_outputs_and_poll": [f"post {RUN}/submit_tool_outputs", f"get {RUN}"],
    "beta.threads.runs.submit_tool_outputs_stream": [f"post {RUN}/submit_tool_outputs"],
    "chat.completions.parse": ["post chat/completions"],
    "chat.completions.stream": ["post chat/completions"],
    "files.wait_for_processing": ["get files/{id}"],
    "responses.parse": ["post responses"],
    "responses.stream": ["post responses"],
    "uploads.upload_file_chunked": ["post uploads", "post uploads/{id}/parts", "post uploads/{id}/complete"],
    "vector_stores.file_batches.create_and_poll": [f"post {STORED}/file_batches", f"get {STORED}/file_batches/{{id}}"],
    "vector_stores.file_batches.poll": [f"get {STORED}/file_batches/{{id}}"],
    "vector_stores.file_batches.upload_and_poll": [
        "post files",
        f"post {STORED}/file_batches",
        f"get {STORED}/file_batches/{{id}}",
    ],
    "vector_stores.files.create_and_poll": [f"post {STORED}/files", f"get {STORED}/files/{{id}}"],
    "vector_stores.files.poll": [f"get {STORED}/files/{{id}}"],
    "vector_stores.files.upload": ["post files", f"post {STORED}/files"],
    "vector_stores.files.upload_and_poll": ["post files", f"post {STORED}/files", f"get {STORED}/files/{{id}}"],
    "videos.create_and_poll": ["post videos", "get videos/{id}"],
    "videos.poll": ["get videos/{id}"],
}
#: Methods that do not come this way, and why.
ELSEWHERE = {
    "connect": "a websocket, which reconnects by itself",
    "unwrap": "checks a signature, sends nothing",
    "verify_signature": "checks a signature, sends nothing",
    "prepare": "reads local files, sends nothing",
    "prepare_directory": "reads local files, sends nothing",
    "beta.agents.environments.files.upload": "files.create and environments.files.create, in turn",
    "beta.agents.sessions.stream": "sessions.events.create and .stream, in turn",
    "beta.agents.sessions.artifacts.for_result": "artifacts.list with the ids of a result",
}
#: Arguments that cannot be made up from the signature.
GIVEN: dict[str, dict[str, Any]] = {
    "responses.stream": {"model": "anymodelone", "input": "hello"},
    "videos.edit": {"video": b"x"},
    "videos.extend": {"video": b"x"},
}


class Noted(Listener):
    """The operations that have ended."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def operation_ended(self, operation: Operation) -> None:
        self.operations.append(operation)


@pytest.fixture
def wire() -> Iterator[TolerantWire]:
    with TolerantWire(ANSWER) as wire:
        yield wire


@pytest.fixture
def noted(shield: Shield) -> Iterator[Noted]:
    noted = Noted()
    install.add_listener(noted)
    yield noted
    install.remove_listener(noted)


def expected(method: Method) -> list[str] | None:
    """The requests; None if it does not come this way. An unknown helper fails the test."""
    if method.name in ELSEWHERE or method.name.rpartition(".")[2] in ELSEWHERE:
        return None
    if method.request is not None:
        return [method.request]
    name = method.name if method.name in HELPERS else method.name.removeprefix("beta.")
    return HELPERS.get(name, ["not in the table"])


def is_repeatable(request: str) -> bool:
    return request.startswith(("get ", "delete ")) or request in REPEATABLE


async def made(method: Method, wire: TolerantWire) -> None:
    """Call it and take what it gives to its end, in whichever of the two ways it is called."""
    wire.answer = {**ANSWER, "status": "processed"} if method.name == "files.wait_for_processing" else ANSWER
    result = method.call(**GIVEN.get(method.name, {}))
    if inspect.isawaitable(result):
        result = await result
    if hasattr(result, "__aenter__"):
        async with result:
            pass
    elif hasattr(result, "__enter__"):
        with result:
            pass


def complaints(method: Method, wire: TolerantWire, operations: list[Operation], requests: list[str]) -> list[str]:
    """What differs from one operation for each of these requests."""
    calls = [operation.call for operation in operations]
    wrong = []
    if len(wire.requests) != len(requests) or [operation.attempts for operation in operations] != [1] * len(requests):
        wrong.append(f"{len(wire.requests)} requests, {len(operations)} operations instead of {len(requests)}")
    if [call.operation for call in calls] != [OFFICIAL.get(request, request) for request in requests]:
        wrong.append(f"called {[call.operation for call in calls]} instead of {requests}")
    if [call.replay_safe for call in calls] != [is_repeatable(request) for request in requests]:
        wrong.append(f"may be repeated: {[call.replay_safe for call in calls]}")
    models = ["anymodelone" if b"anymodelone" in request.body else None for request in wire.requests]
    if [call.subject for call in calls] != models:
        wrong.append(f"model is {[call.subject for call in calls]} instead of {models}")
    return [f"{method.name}: {complaint}" for complaint in wrong]


async def everything(client: Any, wire: TolerantWire, noted: Noted) -> tuple[int, list[str]]:
    """(methods called, what was wrong with them)."""
    called, wrong = 0, []
    for method in methods(client):
        requests = expected(method)
        if requests is None:
            continue
        called += 1
        wire.requests.clear()
        noted.operations.clear()
        try:
            await made(method, wire)
        except Exception as error:
            wrong.append(f"{method.name}: {error!r}")
            continue
        wrong += complaints(method, wire, noted.operations, requests)
    return called, wrong


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a good part of the API is
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_each_request_is_one_operation_with_the_name_of_its_path(
    shield: Shield, noted: Noted, wire: TolerantWire, is_async: bool
) -> None:
    keys = {"api_key": "none", "admin_api_key": "none"}
    make: Any = openai.AsyncOpenAI if is_async else openai.OpenAI
    options = {name: key for name, key in keys.items() if name in inspect.signature(make).parameters}

    async def main() -> tuple[int, list[str]]:
        client = make(base_url=f"{wire.url}/v1", **options)
        try:
            return await everything(client, wire, noted)
        finally:
            closed = client.close()
            if is_async:
                await closed

    called, wrong = asyncio.run(main())
    gc.collect()
    assert wrong == []
    assert called > 70
    (target,) = {operation.target.name for operation in noted.operations}
    assert target == f"openai/127.0.0.1:{wire.port}"
