"""Which operation on which server: the attributes that signals share. Each set is made once and never changed."""

from __future__ import annotations

from functools import lru_cache

from opentelemetry.util.types import AttributeValue

from stormproof.resilience.call import Call
from stormproof.resilience.operation import Operation
from stormproof.resilience.targets import OWN
from stormproof.telemetry import names

#: Not to be changed by whoever gets them: they are handed out again.
Attributes = dict[str, AttributeValue]

#: (system or name, provider, operation, host and port where there is a server).
_Key = tuple[str, str, str, tuple[str, int] | None]

#: Sets that are kept; an app with more models, hosts or operations pays for making the others anew.
_MOST = 2048


def identity(operation: Operation) -> Attributes:
    """Of the operation's span, its attempts, metrics and log records."""
    return _identity(*_key(operation))


def of_attempt_span(operation: Operation) -> Attributes:
    """Of an attempt's span: a GenAI call's has no ``gen_ai`` names, by which backends count calls."""
    key = _key(operation)
    if key[0] == OWN or key[0] in names.DATABASES:
        return _identity(*key)
    return _of_gen_ai_attempt(operation.target.name, key)


def of_attempt(operation: Operation, kind: str, error_type: str | None) -> Attributes:
    """Of an attempt's duration."""
    return _of_attempt(_key(operation), kind, error_type)


def of_gen_ai(operation: Operation, error_type: str | None = None, token_type: str | None = None) -> Attributes:
    """Of the GenAI conventions' metrics."""
    models = operation.call.facts.get("model"), operation.facts.get("response_model")
    return _of_gen_ai(_key(operation), models, error_type, token_type)


def of_database(operation: Operation, error_type: str | None) -> Attributes:
    """Of the database conventions' duration."""
    return _of_database(_key(operation), operation.call.facts.get("collection"), error_type)


def _key(operation: Operation) -> _Key:
    call: Call = operation.call
    system = call.client.system
    if system == OWN:
        return system, operation.target.name, call.operation, None
    address = None if call.is_local else (call.host, call.port)
    return system, call.facts.get("provider", system), call.operation, address


@lru_cache(_MOST)
def _identity(system: str, provider: str, operation: str, address: tuple[str, int] | None) -> Attributes:
    if system == OWN:
        return {names.TARGET_NAME: provider, names.OPERATION_NAME: operation}
    attributes: Attributes = {}
    if address is not None:
        attributes[names.SERVER_ADDRESS], attributes[names.SERVER_PORT] = address
    if system in names.DATABASES:
        attributes[names.DB_SYSTEM] = names.DATABASES[system]
        attributes[names.DB_OPERATION] = operation
    else:
        attributes[names.GEN_AI_PROVIDER] = provider
        attributes[names.GEN_AI_OPERATION] = operation
    return attributes


@lru_cache(_MOST)
def _of_gen_ai_attempt(target: str, key: _Key) -> Attributes:
    _, _, operation, address = key
    attributes: Attributes = {names.TARGET_NAME: target, names.OPERATION_NAME: operation}
    if address is not None:
        attributes[names.SERVER_ADDRESS], attributes[names.SERVER_PORT] = address
    return attributes


@lru_cache(_MOST)
def _of_attempt(key: _Key, kind: str, error_type: str | None) -> Attributes:
    return _identity(*key) | _known({names.ATTEMPT_TYPE: kind, names.ERROR_TYPE: error_type})


@lru_cache(_MOST)
def _of_gen_ai(
    key: _Key, models: tuple[str | None, str | None], error_type: str | None, token_type: str | None
) -> Attributes:
    told = {
        names.ERROR_TYPE: error_type,
        names.GEN_AI_REQUEST_MODEL: models[0],
        names.GEN_AI_RESPONSE_MODEL: models[1],
        names.GEN_AI_TOKEN_TYPE: token_type,
    }
    return _identity(*key) | _known(told)


@lru_cache(_MOST)
def _of_database(key: _Key, collection: str | None, error_type: str | None) -> Attributes:
    return _identity(*key) | _known({names.ERROR_TYPE: error_type, names.DB_COLLECTION: collection})


def _known(told: dict[str, str | None]) -> Attributes:
    return {name: value for name, value in told.items() if value is not None}
