"""What openai's requests tell: their names, whether they may be repeated, and the facts in their bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

from stormproof.clients.facts import several, taken
from stormproof.resilience.call import Facts

#: The words that openai's paths are made of. Whatever else stands in a path is an id, or is treated as one: no name
#: holds anything that an app, a user or the server has made up. ``test_openai_operations`` finds what is missing.
_WORDS = frozenset(
    """
    accept activate admin_api_keys agents alerts alpha api_keys archive artifacts assistants audio audio_speeches
    audio_transcriptions audit_logs automations batches calls cancel cases certificates characters chat chatkit
    checkpoints client_secrets code_interpreter_sessions compact complete completions containers content
    content_provenance_checks conversations costs credentials data_retention deactivate decisions edits embeddings
    environments evals events extensions external_keys external_storage federation_rules file_batches
    file_search_calls files fine_tuning fork generations graders groups hangup hosted_tool_permissions images
    input_items input_tokens invites invocations items jobs live messages model_permissions models moderations
    organization output_items parts pause permissions projects rate_limits realtime refer reject remix responses
    resume roles rotate_secret run runs safety search service_accounts service_tier_settings sessions skills speech
    spend_alerts spend_limit steps subagents submit_tool_outputs templates test threads traces transcription_sessions
    transcriptions translations turns uploads usage users validate variations vaults vector_stores versions videos
    voice_consents voices web_search_calls webhook_endpoints webhook_event_types workload_identity_providers
    """.split()  # noqa: SIM905  # a quarter of the lines
)

#: Where there is an official operation name; every other request names itself (``get files/{id}``).
_OFFICIAL = {
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
#: POSTs that leave nothing behind on the server. ``responses`` is among them only where it is not to be stored.
_WITHOUT_TRACE = frozenset(
    f"post {path}"
    for path in (
        "chat/completions",
        "completions",
        "embeddings",
        "moderations",
        "audio/speech",
        "audio/transcriptions",
        "audio/translations",
        "images/generations",
        "images/edits",
        "images/variations",
        "responses/input_tokens",
        "vector_stores/{id}/search",
    )
)
_API_TYPES = {"post chat/completions": "chat_completions", "post responses": "responses"}
_OUTPUT_TYPES = {
    "post images/generations": "image",
    "post images/edits": "image",
    "post images/variations": "image",
    "post audio/speech": "speech",
}
_OUTPUT_FORMATS = {"text": "text", "json_object": "json", "json_schema": "json"}

#: Facts that the body has under the same name, and those that it has under another one.
_REQUEST_FACTS = frozenset(
    ("model", "temperature", "top_p", "max_tokens", "frequency_penalty", "presence_penalty", "seed", "dimensions")
)
_MOST_TOKENS = ("max_completion_tokens", "max_output_tokens")
_DEPLOYMENT = re.compile(r"/deployments/([^/?]+)")
_PROVIDERS = {"Azure": "azure.ai.openai", "Bedrock": "aws.bedrock"}


class Request(NamedTuple):
    """Which request of the API it is: ``post threads/{id}/runs``, and what it is called."""

    template: str
    operation: str


@lru_cache(maxsize=512)
def request_of(method: str, url: str) -> Request:
    """Name a request. What stands before the path's first word is where the API is: a version, a deployment."""
    segments: list[str] = []
    for segment in url.partition("?")[0].split("/"):
        if segment in _WORDS:
            segments.append(segment)
        elif segments and segment and segments[-1] != "{id}":
            segments.append("{id}")
    template = f"{method.lower()} {'/'.join(segments) or '_OTHER'}"
    return Request(template, _OFFICIAL.get(template, template))


def body_of(options: Any) -> Mapping[str, Any]:
    """What is sent as JSON or as a form, with what the app adds by ``extra_body``."""
    body: Mapping[str, Any] = options.json_data if isinstance(options.json_data, Mapping) else {}
    return {**body, **options.extra_json} if options.extra_json else body


def is_replay_safe(request: Request, body: Mapping[str, Any]) -> bool:
    """Whether it may be carried out twice."""
    if request.template.startswith(("get ", "delete ")):
        return True
    if request.template == "post responses":
        return body.get("store") is False and not body.get("conversation")
    return request.template in _WITHOUT_TRACE


def request_facts(api: Any, request: Request, url: str, body: Mapping[str, Any]) -> Facts:
    """What is known before anything is sent."""
    facts = taken(body, _REQUEST_FACTS)
    facts["provider"] = _provider(api.__class__)
    if facts["provider"] == _PROVIDERS["Azure"] and "model" not in facts:
        deployment = _DEPLOYMENT.search(url) or _DEPLOYMENT.search(str(api.base_url))
        if deployment is not None:
            facts["model"] = unquote(deployment[1])
    for name in _MOST_TOKENS:
        if isinstance(body.get(name), int):
            facts["max_tokens"] = body[name]
    stop = body.get("stop")
    if stop:
        facts["stop_sequences"] = several(stop)
    if isinstance(body.get("n"), int) and body["n"] != 1:
        facts["choice_count"] = body["n"]
    if isinstance(body.get("encoding_format"), str):
        facts["encoding_formats"] = [body["encoding_format"]]
    if request.template != request.operation:
        _add_official(facts, request, url, body)
    return facts


def _add_official(facts: Facts, request: Request, url: str, body: Mapping[str, Any]) -> None:
    """What the conventions ask for where the operation is one of theirs."""
    if request.template in _API_TYPES:
        facts["api_type"] = _API_TYPES[request.template]
    if body.get("stream") is True:
        facts["stream"] = True
    if isinstance(body.get("service_tier"), str):
        facts["service_tier"] = body["service_tier"]
    output_type = _OUTPUT_TYPES.get(request.template) or _output_type(body)
    if output_type is not None:
        facts["output_type"] = output_type
    conversation = body.get("conversation")
    if isinstance(conversation, Mapping):
        conversation = conversation.get("id")
    if isinstance(conversation, str):
        facts["conversation_id"] = conversation
    if request.operation in ("create_agent", "invoke_agent"):
        _add_agent(facts, request, url, body)


def _add_agent(facts: Facts, request: Request, url: str, body: Mapping[str, Any]) -> None:
    for fact, name in (("agent_name", "name"), ("agent_id", "assistant_id")):
        if isinstance(body.get(name), str):
            facts[fact] = body[name]
    if request.template == "post threads/{id}/runs":
        facts["conversation_id"] = unquote(url.partition("/threads/")[2].partition("/")[0])


def _output_type(body: Mapping[str, Any]) -> str | None:
    """Chat's ``response_format``, or responses' ``text.format``."""
    wanted = body.get("response_format")
    if wanted is None and isinstance(body.get("text"), Mapping):
        wanted = body["text"].get("format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    return _OUTPUT_FORMATS.get(kind) if isinstance(kind, str) else None


@lru_cache(maxsize=32)
def _provider(api_type: Any) -> str:
    """By the client's class, or the one that the app has derived its own from."""
    for cls in api_type.__mro__:
        for word, provider in _PROVIDERS.items():
            if word in cls.__name__ and cls.__module__.startswith("openai."):
                return provider
    return "openai"
