"""Which operation on which server: the attributes that signals share. Each set is made once and never changed."""

from __future__ import annotations

from collections.abc import Callable
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

#: Sets that are kept for spans; an app with more hosts or operations pays for making the others anew.
_MOST_KEPT = 2048
#: Series of a metric. All others are one, as the SDK has it from 1.45 on.
MOST_SERIES = 2000
OVERFLOW: Attributes = {"otel.metric.overflow": True}


def identity(operation: Operation) -> Attributes:
    """Of the operation's span, its attempts, metrics and log records."""
    return _identity(*_key(operation))


def of_attempt_span(operation: Operation) -> Attributes:
    """Of an attempt's span: a GenAI call's has no ``gen_ai`` names, by which backends count calls."""
    key = _key(operation)
    if key[0] == OWN or key[0] in names.DATABASES:
        return _identity(*key)
    return _of_gen_ai_attempt(operation.target.name, key)


class Series:
    """The sets of a meter's histograms: no more of any kind than series may be."""

    def __init__(self) -> None:
        self._attempts = _Bounded(_of_attempt)
        self._retries = _Bounded(_of_retry)
        self._gen_ai = _Bounded(_of_gen_ai)
        self._databases = _Bounded(_of_database)

    def attempt(self, operation: Operation, kind: str, error_type: str | None) -> Attributes:
        """Of an attempt's duration."""
        return self._attempts(_key(operation), kind, error_type)

    def retry(self, operation: Operation, source: str) -> Attributes:
        """Of the wait before a retry."""
        return self._retries(_key(operation), source)

    def gen_ai(self, operation: Operation, error_type: str | None = None, token_type: str | None = None) -> Attributes:
        """Of the GenAI conventions' metrics."""
        models = operation.call.facts.get("model"), operation.facts.get("response_model")
        return self._gen_ai(_key(operation), models, error_type, token_type)

    def database(self, operation: Operation, error_type: str | None) -> Attributes:
        """Of the database conventions' duration."""
        return self._databases(_key(operation), operation.call.facts.get("collection"), error_type)


class _Bounded:
    """Makes each set once; those beyond the bound are one."""

    def __init__(self, make: Callable[..., Attributes]) -> None:
        self._make = make
        self._made: dict[tuple[object, ...], Attributes] = {}

    def __call__(self, *key: object) -> Attributes:
        attributes = self._made.get(key)
        if attributes is None:
            if len(self._made) >= MOST_SERIES:
                return OVERFLOW
            attributes = self._made[key] = self._make(*key)
        return attributes


def _key(operation: Operation) -> _Key:
    call: Call = operation.call
    system = call.client.system
    if system == OWN:
        return system, operation.target.name, call.operation, None
    address = None if call.is_local else (call.host, call.port)
    return system, call.facts.get("provider", system), call.operation, address


@lru_cache(_MOST_KEPT)
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


@lru_cache(_MOST_KEPT)
def _of_gen_ai_attempt(target: str, key: _Key) -> Attributes:
    _, _, operation, address = key
    attributes: Attributes = {names.TARGET_NAME: target, names.OPERATION_NAME: operation}
    if address is not None:
        attributes[names.SERVER_ADDRESS], attributes[names.SERVER_PORT] = address
    return attributes


def _of_attempt(key: _Key, kind: str, error_type: str | None) -> Attributes:
    return _identity(*key) | _known({names.ATTEMPT_TYPE: kind, names.ERROR_TYPE: error_type})


def _of_retry(key: _Key, source: str) -> Attributes:
    return _identity(*key) | {names.RETRY_DELAY_SOURCE: source}


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


def _of_database(key: _Key, collection: str | None, error_type: str | None) -> Attributes:
    return _identity(*key) | _known({names.ERROR_TYPE: error_type, names.DB_COLLECTION: collection})


def _known(told: dict[str, str | None]) -> Attributes:
    return {name: value for name, value in told.items() if value is not None}
