"""Spans: operation → attempts (→ HTTP, by the official instrumentation), and one for each change of a breaker."""

from __future__ import annotations

from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from stormproof.resilience.attempt import Attempt
from stormproof.resilience.breaker import State, StateChange
from stormproof.resilience.events import Listener
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Refusal
from stormproof.resilience.targets import OWN, Target
from stormproof.telemetry import names, owners
from stormproof.telemetry.attributes import identity, of_attempt_span

#: Where the HTTP instrumentation's hook finds the running attempt.
ATTEMPT_KEY = otel_context.create_key("stormproof-attempt")


class Spans(Listener):
    """Gives each operation and attempt its span and context; the metrics and logs listeners read both."""

    def __init__(self, tracer_provider: TracerProvider | None, version: str, *, breaker_spans: bool) -> None:
        self._provider = tracer_provider
        self._version = version
        self._breaker_spans = breaker_spans
        self._tracers: dict[str, Tracer] = {}

    def capture(self) -> Context:
        return owners.with_hidden(otel_context.get_current())

    def operation_started(self, operation: Operation) -> None:
        call = operation.call
        system = call.client.system
        parent = call.parent
        if parent is None:
            parent = owners.with_hidden(otel_context.get_current(), system)
        if not is_instrumentation_on(parent):
            operation.context = parent
            return
        theirs = owners.take(parent, system)
        if theirs is not None:
            operation.span, operation.context = theirs, parent
            owners.annotate(theirs, _request_attributes(operation))
            return
        span = self._tracer(system).start_span(
            f"{call.operation} {call.subject}" if call.subject else call.operation,
            context=parent,
            kind=SpanKind.CLIENT,
            attributes=_request_attributes(operation),
        )
        operation.span = span
        operation.context = trace.set_span_in_context(span, parent)

    def attempt_started(self, operation: Operation, attempt: Attempt) -> None:
        context = operation.context
        is_recording = operation.span is not None and operation.span.is_recording()
        if is_recording and not operation.call.is_local:
            if owners.owner_of(operation.span) is not None:  # which may end it before we know how it ends
                operation.span.set_attributes(_progress_attributes(operation))
            attempt.span = self._tracer(operation.call.client.system).start_span(
                names.ATTEMPT_SPAN.format(operation=operation.call.operation),
                context=context,
                attributes=_attempt_attributes(operation, attempt),
            )
            context = trace.set_span_in_context(attempt.span, context)
        attempt.context = context
        _attach(attempt)

    def attempt_returned(self, operation: Operation, attempt: Attempt) -> None:
        if attempt.token is not None:
            token, attempt.token = attempt.token, None
            otel_context.detach(token)

    def attempt_resumed(self, operation: Operation, attempt: Attempt) -> None:
        _attach(attempt)

    def attempt_ended(self, operation: Operation, attempt: Attempt) -> None:
        verdict, span = attempt.verdict, attempt.span
        if span is None or verdict is None:
            return
        status = verdict.status if verdict.status is not None else attempt.status
        if isinstance(status, int):  # else it is one of gRPC's
            span.set_attribute(names.HTTP_STATUS, status)
        if status is not None and operation.call.client.system in names.DATABASES:
            span.set_attribute(names.DB_STATUS, str(status))
        if verdict.error_type is not None:
            attempt.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            _mark_failed(span, verdict.error_type)
        span.end()

    def retry_scheduled(self, operation: Operation, attempt: Attempt) -> None:
        if operation.span is not None and operation.span.is_recording():
            operation.span.add_event(names.RETRY_SCHEDULED, retry_attributes(operation, attempt))

    def first_chunk(self, operation: Operation) -> None:
        if operation.span is not None and operation.call.client.system != OWN:
            told = {names.GEN_AI_TIME_TO_FIRST_CHUNK: operation.first_item_at - operation.started}
            if owners.owner_of(operation.span) is not None:
                owners.annotate(operation.span, told)
            else:
                operation.span.set_attributes(told)

    def operation_ended(self, operation: Operation) -> None:
        span: Span | None = operation.span
        if span is None:
            return
        is_ours = owners.owner_of(span) is None
        if span.is_recording():
            told, results = _official(operation.facts), _result_attributes(operation)
            if is_ours:
                span.set_attributes({**told, **results})
                if operation.error_type is not None:
                    _mark_failed(span, operation.error_type)
            else:  # whose status and name are theirs
                if operation.error_type is not None:
                    told[names.ERROR_TYPE] = operation.error_type
                owners.annotate(span, told)
                span.set_attributes(results)
            if operation.error_type == Refusal.CIRCUIT_OPEN.value and operation.target.breaker.opening is not None:
                span.add_link(operation.target.breaker.opening)
        if is_ours:
            span.end()

    def breaker_changed(self, target: Target, change: StateChange) -> None:
        attributes = breaker_attributes(change)
        cause: Span | None = getattr(change.cause, "span", None)
        if cause is not None and cause.is_recording():
            cause.add_event(names.BREAKER_CHANGED, attributes)
        cause_context = cause.get_span_context() if cause is not None else None
        opening = cause_context
        parent = breaker_context(change)
        if self._breaker_spans and is_instrumentation_on(parent):
            span = self._tracer(target.system).start_span(
                names.BREAKER_SPAN.format(state=change.state.value),
                context=parent,
                attributes=attributes,
                links=[Link(cause_context)] if cause_context is not None else None,
            )
            span.end()
            opening = span.get_span_context()
        if change.state is State.CLOSED:
            target.breaker.opening = None  # what comes later has nothing to do with it
        elif change.state is not State.HALF_OPEN or change.previous is State.CLOSED:
            target.breaker.opening = opening

    def _tracer(self, system: str) -> Tracer:
        tracer = self._tracers.get(system)
        if tracer is None:
            scope = f"{names.SCOPE}.{system}"
            tracer = trace.get_tracer(scope, self._version, self._provider, names.SCHEMA_URL)
            self._tracers[system] = tracer
        return tracer


def retry_attributes(operation: Operation, attempt: Attempt) -> dict[str, AttributeValue]:
    """Why and how long is waited before the next attempt."""
    return {
        names.ATTEMPT_NUMBER: attempt.number,
        names.RETRY_DELAY: operation.wait or 0.0,
        names.RETRY_DELAY_SOURCE: operation.wait_source or "backoff",
        names.ERROR_TYPE: (attempt.verdict and attempt.verdict.error_type) or "_OTHER",
    }


def breaker_attributes(change: StateChange) -> dict[str, AttributeValue]:
    """A change of state with its window: calls, failures, next probe."""
    attributes: dict[str, AttributeValue] = {
        names.BREAKER_NAME: change.breaker,
        names.BREAKER_STATE: change.state.value,
        names.BREAKER_PREVIOUS_STATE: change.previous.value,
        names.BREAKER_REASON: change.reason,
        names.BREAKER_WINDOW_CALLS: change.window.calls,
        names.BREAKER_WINDOW_FAILURES: change.window.failures,
        names.BREAKER_WINDOW_SLOW_CALLS: change.window.slow_calls,
    }
    if change.next_probe:
        attributes[names.BREAKER_NEXT_PROBE] = change.next_probe
    if change.rate is not None:
        attributes[names.BREAKER_RATE] = change.rate
    cause: Span | None = getattr(change.cause, "span", None)
    if cause is not None:
        attributes[names.BREAKER_CAUSE_TRACE] = trace.format_trace_id(cause.get_span_context().trace_id)
    return attributes


def breaker_context(change: StateChange) -> Context:
    """Where a change belongs: to the attempt that brought it about, or to whoever asked for one, or did it by hand."""
    return getattr(change.cause, "context", None) or otel_context.get_current()


def _attach(attempt: Attempt) -> None:
    """Make its context current; in what is attached, and only there, whoever sees the answer finds the attempt."""
    attempt.token = otel_context.attach(otel_context.set_value(ATTEMPT_KEY, attempt, attempt.context))


def is_instrumentation_on(context: Context) -> bool:
    """Whether the app wants to hear of what happens there (``suppress_instrumentation``)."""
    return not (context.get("suppress_instrumentation") or context.get(otel_context._SUPPRESS_INSTRUMENTATION_KEY))


def _request_attributes(operation: Operation) -> dict[str, AttributeValue]:
    return {**identity(operation), **_official(operation.call.facts)}


def _official(facts: dict[str, Any]) -> dict[str, AttributeValue]:
    return {names.FACTS[fact]: value for fact, value in facts.items() if fact in names.FACTS}


def _attempt_attributes(operation: Operation, attempt: Attempt) -> dict[str, AttributeValue]:
    attributes = {
        **of_attempt_span(operation),
        names.ATTEMPT_NUMBER: attempt.number,
        names.ATTEMPT_TYPE: attempt.type,
    }
    if attempt.delay_source is not None:
        attributes[names.RETRY_DELAY] = attempt.delay
        attributes[names.RETRY_DELAY_SOURCE] = attempt.delay_source
    if attempt.queued_by is not None:
        attributes[names.ADMISSION_DELAY] = attempt.queued
        attributes[names.ADMISSION_SOURCE] = attempt.queued_by
    return attributes


def _progress_attributes(operation: Operation) -> dict[str, AttributeValue]:
    if operation.call.is_local:
        return {}
    breaker = operation.target.breaker
    return {
        names.ATTEMPT_COUNT: operation.attempts,
        names.RETRY_TOTAL_DELAY: operation.total_delay,
        names.BREAKER_NAME: breaker.name,
        names.BREAKER_STATE: breaker.state.value,
    }


def _result_attributes(operation: Operation) -> dict[str, AttributeValue]:
    attributes = _progress_attributes(operation)
    if operation.call.is_local:
        return attributes
    if operation.queued:
        attributes[names.ADMISSION_DELAY] = operation.queued
    if operation.fallback_type is not None:
        attributes[names.FALLBACK_TYPE] = operation.fallback_type
    if operation.gave_up is not None and (operation.error_type or operation.fallback_type):
        attributes[names.RETRY_GAVE_UP] = operation.gave_up.value
    return attributes


def _mark_failed(span: Span, error_type: str) -> None:
    span.set_attribute(names.ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR, error_type))
