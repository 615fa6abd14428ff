"""Metrics: official ones per operation, ours per attempt, and plain numbers read at collection time."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter
from opentelemetry.util.types import AttributeValue

from stormproof.resilience.attempt import Attempt
from stormproof.resilience.breaker import State
from stormproof.resilience.bulkhead import Bulkhead
from stormproof.resilience.events import Listener
from stormproof.resilience.operation import Operation
from stormproof.resilience.targets import OWN, Target
from stormproof.telemetry import names
from stormproof.telemetry.attributes import MOST_SERIES, OVERFLOW, Series, identity
from stormproof.telemetry.later import Later
from stormproof.telemetry.owners import measured

_Counted = tuple[tuple[str, AttributeValue], ...]
_Counts = dict[_Counted, int]

_OVERFLOW: _Counted = tuple(OVERFLOW.items())
_MOST_ATTEMPTS_NAMED = 8


class Metrics(Listener):
    """Records durations inside the attempt's or operation's context, so that exemplars lead to its trace."""

    def __init__(self, meter_provider: MeterProvider | None, version: str, targets: Iterable[Target]) -> None:
        meter = get_meter(names.SCOPE, version, meter_provider, names.SCHEMA_URL)
        self._targets: Iterable[Target] = targets
        self._lock = threading.Lock()
        self._later = Later()
        self._series = Series()
        self._operations: _Counts = {}
        self._fallbacks: _Counts = {}
        self._attempt_duration = _seconds(
            meter, names.ATTEMPT_DURATION, "Duration of one attempt.", names.ATTEMPT_BUCKETS
        )
        self._retry_delay = _seconds(meter, names.RETRY_DELAY_HISTOGRAM, "Wait before a retry.", names.ATTEMPT_BUCKETS)
        self._gen_ai_duration = _seconds(
            meter, names.GEN_AI_DURATION, "GenAI operation duration.", names.GEN_AI_DURATION_BUCKETS
        )
        self._db_duration = _seconds(
            meter, names.DB_DURATION, "Duration of database client operations.", names.DB_DURATION_BUCKETS
        )
        self._first_chunk = _seconds(
            meter, names.GEN_AI_FIRST_CHUNK, "Time to receive the first chunk.", names.GEN_AI_CHUNK_BUCKETS
        )
        self._per_chunk = _seconds(
            meter, names.GEN_AI_PER_CHUNK, "Time per output chunk after the first.", names.GEN_AI_CHUNK_BUCKETS
        )
        self._tokens = meter.create_histogram(
            names.GEN_AI_TOKENS,
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=names.GEN_AI_TOKEN_BUCKETS,
        )
        self._make_observables(meter)

    def _make_observables(self, meter: Meter) -> None:
        counter, gauge = meter.create_observable_counter, meter.create_observable_gauge
        up_down = meter.create_observable_up_down_counter
        counter(names.OPERATIONS, [self._observe_operations], "{operation}", "Operations by outcome and attempts.")
        gauge(names.RETRY_BUDGET, [self._observe_budgets], "1", "Share of the retry budget that is left.")
        up_down(names.BREAKER_STATUS, [self._observe_states], "1", "1 for the breaker's state, 0 for the others.")
        counter(names.BREAKER_TRANSITIONS, [self._observe_transitions], "{transition}", "Changes of a breaker's state.")
        counter(names.BREAKER_CALLS, [self._observe_calls], "{call}", "Calls as the breaker counted them.")
        gauge(names.BREAKER_RATE, [self._observe_rates], "{call}/s", "Calls let through while half-open and paced.")
        up_down(names.BREAKER_QUEUE, [self._observe_lines], "{call}", "Calls that wait for a paced breaker.")
        up_down(names.BULKHEAD_IN_FLIGHT, [self._observe_inside], "{call}", "Calls inside the bulkhead.")
        up_down(names.BULKHEAD_QUEUE, [self._observe_queues], "{call}", "Calls that wait for the bulkhead.")
        counter(names.BULKHEAD_CALLS, [self._observe_bulkheads], "{call}", "Calls at the bulkhead, by what it did.")
        counter(names.RATE_LIMIT_CALLS, [self._observe_limits], "{call}", "Calls at the rate limit, by what it did.")
        counter(names.FALLBACK_CALLS, [self._observe_fallbacks], "{call}", "Calls that ended in a fallback.")

    def watch(self, targets: Iterable[Target]) -> None:
        """Observe these from now on. A provider keeps its first callbacks for ever: ours outlive an uninstrument()."""
        self._targets = targets

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._later.after_fork()
        self._operations = {}
        self._fallbacks = {}

    # -- recorded as it happens --------------------------------------------------------------------------------------

    def attempt_ended(self, operation: Operation, attempt: Attempt) -> None:
        if not operation.call.is_local and operation.span is not None:  # it is None where instrumentation is suppressed
            error_type = None if attempt.verdict is None else attempt.verdict.error_type
            described = self._series.attempt(operation, attempt.type, error_type)
            self._later.record(self._attempt_duration, attempt.ended - attempt.started, described, attempt.context)

    def retry_scheduled(self, operation: Operation, attempt: Attempt) -> None:
        if operation.span is None:
            return
        described = self._series.retry(operation, operation.wait_source or "backoff")
        self._later.record(self._retry_delay, operation.wait or 0.0, described, operation.context)

    def operation_ended(self, operation: Operation) -> None:
        if operation.span is None:
            return
        if not operation.call.is_local:
            self._count(operation)
        if operation.fallback_type is not None:
            self._count_fallback(operation, operation.fallback_type)
        if operation.call.client.system in names.DATABASES:
            described = self._series.database(operation, operation.error_type)
            self._later.record(self._db_duration, operation.ended - operation.started, described, operation.context)
        elif operation.call.client.system != OWN:  # for which there is no official metric
            self._record_gen_ai(operation)

    def _record_gen_ai(self, operation: Operation) -> None:
        context, left_out = operation.context, measured(operation)  # each is recorded once a call
        if names.GEN_AI_DURATION not in left_out:
            described = self._series.gen_ai(operation, operation.error_type)  # it alone has the error
            self._later.record(self._gen_ai_duration, operation.ended - operation.started, described, context)
        if operation.items and names.GEN_AI_FIRST_CHUNK not in left_out:
            wait = operation.first_item_at - operation.started
            self._later.record(self._first_chunk, wait, self._series.gen_ai(operation), context)
        if operation.items > 1 and names.GEN_AI_PER_CHUNK not in left_out:
            # The conventions want one for each chunk, which would cost more than all the rest of a stream: its mean.
            each = (operation.last_item_at - operation.first_item_at) / (operation.items - 1)
            self._later.record(self._per_chunk, each, self._series.gen_ai(operation), context)
        if names.GEN_AI_TOKENS not in left_out:
            for token_type in ("input", "output"):
                tokens = operation.facts.get(f"{token_type}_tokens")
                if tokens is not None:
                    self._later.record(
                        self._tokens, tokens, self._series.gen_ai(operation, token_type=token_type), context
                    )

    def _count(self, operation: Operation) -> None:
        count = operation.attempts
        attempts = str(count) if count <= _MOST_ATTEMPTS_NAMED else f"{_MOST_ATTEMPTS_NAMED + 1}+"
        key: _Counted = (
            *identity(operation).items(),
            (names.ATTEMPT_COUNT, attempts),
        )
        if operation.error_type is not None:
            key += ((names.ERROR_TYPE, operation.error_type),)
        with self._lock:
            _add(self._operations, key)

    def _count_fallback(self, operation: Operation, fallback_type: str) -> None:
        outcome = "success" if operation.error_type is None else "failure"
        key = (
            (names.TARGET_NAME, operation.target.name),
            (names.FALLBACK_TYPE, fallback_type),
            (names.FALLBACK_OUTCOME, outcome),
        )
        with self._lock:
            _add(self._fallbacks, key)

    # -- read at collection time -------------------------------------------------------------------------------------

    def _observe_operations(self, _: CallbackOptions) -> Iterable[Observation]:
        self._later.drain()  # callbacks come first in a collection
        return _observations(self._operations)

    def _observe_budgets(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(target.budget.share_left, {names.TARGET_NAME: target.name}) for target in self._targets]

    def _observe_states(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(
                int(target.breaker.state is state), {names.BREAKER_NAME: target.name, names.BREAKER_STATE: state.value}
            )
            for target in self._targets
            for state in State
        ]

    def _observe_transitions(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(
                count,
                {
                    names.BREAKER_NAME: target.name,
                    names.BREAKER_PREVIOUS_STATE: previous.value,
                    names.BREAKER_STATE: state.value,
                },
            )
            for target in self._targets
            for (previous, state), count in list(target.breaker.transitions.items())
        ]

    def _observe_calls(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, {names.BREAKER_NAME: target.name, names.BREAKER_OUTCOME: outcome})
            for target in self._targets
            for outcome, count in target.breaker.calls.items()
        ]

    def _observe_rates(self, _: CallbackOptions) -> Iterable[Observation]:
        rates = ((target.name, target.breaker.rate) for target in self._targets)
        return [Observation(rate, {names.BREAKER_NAME: name}) for name, rate in rates if rate is not None]

    def _observe_lines(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(target.breaker.waiting, {names.BREAKER_NAME: target.name}) for target in self._targets]

    def _observe_inside(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(bulkhead.in_flight, {names.TARGET_NAME: name}) for name, bulkhead in self._bulkheads()]

    def _observe_queues(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(bulkhead.queued, {names.TARGET_NAME: name}) for name, bulkhead in self._bulkheads()]

    def _observe_bulkheads(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, {names.TARGET_NAME: name, names.BULKHEAD_OUTCOME: outcome})
            for name, bulkhead in self._bulkheads()
            for outcome, count in bulkhead.calls.items()
        ]

    def _bulkheads(self) -> Iterable[tuple[str, Bulkhead]]:
        return [(target.name, target.bulkhead) for target in self._targets if target.bulkhead is not None]

    def _observe_limits(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, {names.TARGET_NAME: target.name, names.RATE_LIMIT_OUTCOME: outcome})
            for target in self._targets
            if target.rate_limit is not None
            for outcome, count in target.rate_limit.calls.items()
        ]

    def _observe_fallbacks(self, _: CallbackOptions) -> Iterable[Observation]:
        return _observations(self._fallbacks)


def _add(counts: _Counts, key: _Counted) -> None:
    """One more of it; of what is beyond the bound, one more of the rest."""
    if key not in counts and len(counts) >= MOST_SERIES:
        key = _OVERFLOW
    counts[key] = counts.get(key, 0) + 1


def _observations(counts: _Counts) -> list[Observation]:
    return [Observation(count, dict(key)) for key, count in list(counts.items())]


def _seconds(meter: Meter, name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)
