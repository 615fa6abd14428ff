"""Every name that is emitted, once.

Official names (OpenTelemetry semantic conventions, GenAI and database) where they exist; ours begin with
``resilience.`` and have the status Development.
"""

from __future__ import annotations

from collections.abc import Mapping

SCHEMA_URL = "https://stormproof.dev/schemas/0.1.0"
SCOPE = "stormproof"  # the scope of a system's telemetry is f"{SCOPE}.{system}"

DISTRO_NAME = "telemetry.distro.name"
DISTRO_VERSION = "telemetry.distro.version"

# -- official attributes -------------------------------------------------------------------------------------------
ERROR_TYPE = "error.type"
EXCEPTION_TYPE = "exception.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
HTTP_STATUS = "http.response.status_code"
HTTP_RESEND_COUNT = "http.request.resend_count"
GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_PROVIDER = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105
GEN_AI_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
DB_SYSTEM = "db.system.name"
DB_OPERATION = "db.operation.name"
DB_COLLECTION = "db.collection.name"
DB_STATUS = "db.response.status_code"

#: A client's facts (see ``stormproof.resilience.call.Facts``) → official attributes of the operation span.
FACTS: Mapping[str, str] = {
    "api_type": "openai.api.type",
    "agent_id": "gen_ai.agent.id",
    "agent_name": "gen_ai.agent.name",
    "conversation_id": "gen_ai.conversation.id",
    "output_type": "gen_ai.output.type",
    "model": GEN_AI_REQUEST_MODEL,
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "stop_sequences": "gen_ai.request.stop_sequences",
    "seed": "gen_ai.request.seed",
    "choice_count": "gen_ai.request.choice.count",
    "encoding_formats": "gen_ai.request.encoding_formats",
    "stream": "gen_ai.request.stream",
    "service_tier": "openai.request.service_tier",
    "dimensions": "gen_ai.embeddings.dimension.count",
    "response_id": "gen_ai.response.id",
    "response_model": GEN_AI_RESPONSE_MODEL,
    "finish_reasons": "gen_ai.response.finish_reasons",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "response_service_tier": "openai.response.service_tier",
    "system_fingerprint": "openai.response.system_fingerprint",
    "collection": DB_COLLECTION,
    "batch_size": "db.operation.batch.size",
}

#: Facts that are there only where ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` asks for what is said; on no
#: other span than the operation's, and no other log record than ``INFERENCE_DETAILS``.
CONTENT: Mapping[str, str] = {
    "instructions": "gen_ai.system_instructions",
    "messages": "gen_ai.input.messages",
    "answers": "gen_ai.output.messages",
    "tools": "gen_ai.tool.definitions",
}

#: The official well-known value of each system that is a database; the others are GenAI providers.
DATABASES: Mapping[str, str] = {"qdrant": "qdrant"}

# -- our attributes ------------------------------------------------------------------------------------------------
ATTEMPT_COUNT = "resilience.attempt.count"
ATTEMPT_NUMBER = "resilience.attempt.number"
ATTEMPT_TYPE = "resilience.attempt.type"
RETRY_TOTAL_DELAY = "resilience.retry.total_delay"
RETRY_DELAY = "resilience.retry.delay"
RETRY_DELAY_SOURCE = "resilience.retry.delay.source"
RETRY_GAVE_UP = "resilience.retry.gave_up"
BREAKER_NAME = "resilience.circuit_breaker.name"
BREAKER_STATE = "resilience.circuit_breaker.state"
BREAKER_PREVIOUS_STATE = "resilience.circuit_breaker.previous_state"
BREAKER_REASON = "resilience.circuit_breaker.reason"
BREAKER_OUTCOME = "resilience.circuit_breaker.outcome"
BREAKER_WINDOW_CALLS = "resilience.circuit_breaker.window.calls"
BREAKER_WINDOW_FAILURES = "resilience.circuit_breaker.window.failures"
BREAKER_WINDOW_SLOW_CALLS = "resilience.circuit_breaker.window.slow_calls"
BREAKER_NEXT_PROBE = "resilience.circuit_breaker.next_probe"
BREAKER_CAUSE_TRACE = "resilience.circuit_breaker.cause.trace_id"
ADMISSION_DELAY = "resilience.admission.delay"
ADMISSION_SOURCE = "resilience.admission.source"
FALLBACK_TYPE = "resilience.fallback.type"
FALLBACK_OUTCOME = "resilience.fallback.outcome"
BULKHEAD_OUTCOME = "resilience.bulkhead.outcome"
RATE_LIMIT_OUTCOME = "resilience.rate_limit.outcome"
TARGET_NAME = "resilience.target.name"
OPERATION_NAME = "resilience.operation.name"

# -- spans ---------------------------------------------------------------------------------------------------------
ATTEMPT_SPAN = "attempt {operation}"
BREAKER_SPAN = "circuit_breaker {state}"

# -- metrics -------------------------------------------------------------------------------------------------------
GEN_AI_DURATION = "gen_ai.client.operation.duration"
GEN_AI_TOKENS = "gen_ai.client.token.usage"
GEN_AI_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
GEN_AI_PER_CHUNK = "gen_ai.client.operation.time_per_output_chunk"
DB_DURATION = "db.client.operation.duration"
ATTEMPT_DURATION = "resilience.attempt.duration"
RETRY_DELAY_HISTOGRAM = "resilience.retry.delay"
OPERATIONS = "resilience.operations"
RETRY_BUDGET = "resilience.retry.budget"
BREAKER_STATUS = "resilience.circuit_breaker.status"
BREAKER_TRANSITIONS = "resilience.circuit_breaker.transitions"
BREAKER_CALLS = "resilience.circuit_breaker.calls"
BREAKER_RATE = "resilience.circuit_breaker.rate"
BREAKER_QUEUE = "resilience.circuit_breaker.queue"
BULKHEAD_IN_FLIGHT = "resilience.bulkhead.in_flight"
BULKHEAD_QUEUE = "resilience.bulkhead.queue"
BULKHEAD_CALLS = "resilience.bulkhead.calls"
RATE_LIMIT_CALLS = "resilience.rate_limit.calls"
FALLBACK_CALLS = "resilience.fallback.calls"

#: Bucket boundaries: the official ones, and ours (seconds).
GEN_AI_DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
GEN_AI_TOKEN_BUCKETS = (
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
)  # fmt: skip
GEN_AI_CHUNK_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
DB_DURATION_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
ATTEMPT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)

# -- log events ----------------------------------------------------------------------------------------------------
RETRY_SCHEDULED = "resilience.retry.scheduled"
INFERENCE_DETAILS = "gen_ai.client.inference.operation.details"
GEN_AI_EXCEPTION = "gen_ai.client.operation.exception"
DB_EXCEPTION = "db.client.operation.exception"
OPERATION_EXCEPTION = "resilience.operation.exception"  # of functions of the user's own
BREAKER_CHANGED = "resilience.circuit_breaker.state_changed"
