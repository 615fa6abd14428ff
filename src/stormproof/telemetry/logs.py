"""Log records by the Logs API: a retry, giving up, a breaker's change; each with the trace it belongs to."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry._logs import Logger, LoggerProvider, LogRecord, SeverityNumber, get_logger

from stormproof.resilience.attempt import Attempt
from stormproof.resilience.breaker import State, StateChange
from stormproof.resilience.events import Listener
from stormproof.resilience.operation import Operation
from stormproof.resilience.targets import OWN, Target
from stormproof.telemetry import names
from stormproof.telemetry.attributes import identity
from stormproof.telemetry.spans import breaker_attributes, breaker_context, is_instrumentation_on, retry_attributes

_SEVERITIES = {
    State.OPEN: SeverityNumber.ERROR,
    State.FORCED_OPEN: SeverityNumber.ERROR,
    State.HALF_OPEN: SeverityNumber.WARN,
}


class Logs(Listener):
    """Emits in the context of the operation or attempt, from which the record takes its trace and span id."""

    def __init__(self, logger_provider: LoggerProvider | None, version: str) -> None:
        self._logger: Logger = get_logger(names.SCOPE, version, logger_provider, names.SCHEMA_URL)

    def retry_scheduled(self, operation: Operation, attempt: Attempt) -> None:
        attributes = {**identity(operation), **retry_attributes(operation, attempt)}
        body = f"attempt {attempt.number} of {operation.call.operation} failed; next in {operation.wait or 0.0:.2f} s"
        self._emit(names.RETRY_SCHEDULED, SeverityNumber.INFO, body, attributes, attempt.context)

    def operation_ended(self, operation: Operation) -> None:
        if operation.error_type is None:
            return
        attributes: dict[str, Any] = {
            **identity(operation),
            names.ERROR_TYPE: operation.error_type,
            names.EXCEPTION_TYPE: operation.error_type,
        }
        body = f"{operation.call.operation} failed: {operation.error_type}"
        if not operation.call.is_local:
            attributes[names.ATTEMPT_COUNT] = operation.attempts
            if operation.gave_up is not None:
                attributes[names.RETRY_GAVE_UP] = operation.gave_up.value
            body = f"{operation.call.operation} failed after {operation.attempts} attempts: {operation.error_type}"
        event = _exception_event(operation.call.client.system)
        self._emit(event, SeverityNumber.WARN, body, attributes, operation.context)

    def breaker_changed(self, target: Target, change: StateChange) -> None:
        severity = _SEVERITIES.get(change.state, SeverityNumber.INFO)
        body = f"circuit breaker of {change.breaker}: {change.previous.value} → {change.state.value} ({change.reason})"
        self._emit(names.BREAKER_CHANGED, severity, body, breaker_attributes(change), breaker_context(change))

    def _emit(self, event: str, severity: SeverityNumber, body: str, attributes: Any, context: Any) -> None:
        if not is_instrumentation_on(context):
            return
        self._logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                event_name=event,
                severity_number=severity,
                severity_text=severity.name,
                body=body,
                attributes=attributes,
                context=context,
            )
        )


def _exception_event(system: str) -> str:
    if system == OWN:
        return names.OPERATION_EXCEPTION
    return names.DB_EXCEPTION if system in names.DATABASES else names.GEN_AI_EXCEPTION
