"""Exporters that never hold the app up: behind each OTLP exporter a thread, a look who is there, one message.

The official exporters retry for ten seconds, log each failure and let the exit wait for all of it. Here a batch is
handed to a daemon thread, a collector that does not answer is spoken of once, what it missed is kept for it (bounded),
and the exit waits no longer than it is allowed to.
"""

from __future__ import annotations

import contextvars
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from stormproof.notice import is_worker_process, say, say_once
from stormproof.telemetry.console import ConsoleView
from stormproof.telemetry.variables import Endpoint

_PATIENCE_WHILE_RUNNING = 30.0  # as long as the SDK itself would wait for a flush
_PATIENCE_WITH_A_LIVE_COLLECTOR = 10.0  # at exit; OTEL_EXPORTER_OTLP_TIMEOUT's default
_MOST_KEPT = 8  # batches; 512 spans each by the SDK's default
_LOOK_EVERY = 0.05
_TRY_KEPT_EVERY = 2.0
_LONGEST_CAUSE = 200
_TRANSPORT_LOGGERS = ("urllib3.connectionpool", "urllib3.util.retry", "grpc._channel")


class Exit:
    """How long the exit may still be delayed. One for the process, shared by its exporters."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._began: float | None = None

    def begin(self) -> None:
        """The interpreter is exiting: from now on nobody waits longer than allowed."""
        self._began = time.monotonic()

    @property
    def has_begun(self) -> bool:
        """Whether the interpreter is exiting."""
        return self._began is not None

    @property
    def elapsed(self) -> float:
        """Seconds since the exit began; 0 before."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def is_over(self, started: float, *, collector_is_alive: bool) -> bool:
        """Whether an export begun at ``started`` has been waited for long enough."""
        if self._began is None:
            return time.monotonic() - started > _PATIENCE_WHILE_RUNNING
        return self.elapsed > (_PATIENCE_WITH_A_LIVE_COLLECTOR if collector_is_alive else self._patience)


@dataclass
class Delivery:
    """What the exporters of a process share.

    Attributes:
        exit: how long they may delay the exit.
        view: shows spans to people; None if that is switched off.
        view_always: not only while no collector answers.
        couriers: all of them.
    """

    exit: Exit
    view: ConsoleView | None
    view_always: bool = False
    couriers: list[Courier] = field(default_factory=list)

    def begin_in_child(self) -> None:
        """What was shown before a fork is the parent's."""
        if self.view is not None:
            self.view.clear()

    def tell_at_exit(self) -> None:
        """Say what was seen, if people were shown spans. To be run last of all."""
        if self.view is not None and self.view.operations and not is_worker_process():
            sent = sum(courier.sent for courier in self.couriers if courier.carries_spans)
            say(f"{self.view.summary()}; {sent} spans sent; exit +{self.exit.elapsed:.1f} s")


@dataclass
class _Job:
    batch: Any
    arguments: dict[str, Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    done: threading.Event = field(default_factory=threading.Event)
    is_shown: bool = False
    result: Any = None


class Courier:
    """Sends the batches of one exporter from a thread of its own.

    Spans are shown to people instead while nobody takes them and no endpoint was named. While nobody listens at a
    named endpoint, the newest batches are kept for it, unless ``keeps`` is False.
    """

    def __init__(
        self,
        inner: Any,
        endpoint: Endpoint,
        delivery: Delivery,
        failure: Any,
        *,
        carries_spans: bool = False,
        keeps: bool = True,
    ) -> None:
        self.inner = inner
        self.sent = 0
        self.carries_spans = carries_spans
        self._endpoint = endpoint
        self._delivery = delivery
        self._failure = failure
        self._view = delivery.view if carries_spans else None
        self._is_alive = self._is_asked_at_exit = False
        self._kept: deque[_Job] = deque(maxlen=_MOST_KEPT if keeps else 0)
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._pid = os.getpid()
        self._last_words = _LastWords(inner)
        self._thread = self._start()
        delivery.couriers.append(self)

    def export(self, batch: Any, **arguments: Any) -> Any:
        """Hand a batch over and wait for its fate, but at the exit no longer than is left."""
        job = _Job(batch, arguments)
        if self._is_waited_for(job):
            return job.result
        self._say("it takes too long to answer")
        self._show_instead(job)
        return self._failure

    def shutdown(self, **arguments: Any) -> None:
        """Send what is kept if the collector is back, as far as the exit may still wait; then close the exporter."""
        if self._kept:
            self._is_waited_for(_Job(None, {}))
        self._kept = deque(maxlen=0)  # what nobody has taken by now is given up, or it would be tried for ever
        with self._last_words:
            self.inner.shutdown(**arguments)

    def _is_waited_for(self, job: _Job) -> bool:
        """Have our thread do a job. Whether it was done in time."""
        if not self._thread.is_alive():  # in a forked child, or so late in the exit that threads are gone
            try:
                self._thread = self._start()
            except RuntimeError:
                return False
        self._jobs.put(job)
        started = time.monotonic()
        while not job.done.wait(_LOOK_EVERY):
            if self._is_over(started):
                return False
        return True

    def _is_over(self, started: float) -> bool:
        exit_ = self._delivery.exit
        if not exit_.is_over(started, collector_is_alive=False):
            return False
        if exit_.has_begun and self._is_alive and not self._is_asked_at_exit:
            self._is_asked_at_exit = True  # it was alive: is it still, or is our thread busy with retries?
            self._is_alive = self._endpoint.problem() is None
        return exit_.is_over(started, collector_is_alive=self._is_alive)

    def _start(self) -> threading.Thread:
        if self._pid != os.getpid():  # what was kept, sent and connected before a fork is the parent's
            self._pid = os.getpid()
            self._kept.clear()
            self.sent = 0
            _disconnect(self.inner)
        thread = threading.Thread(target=self._work, name="stormproof-export", daemon=True)
        self._jobs = queue.SimpleQueue()
        thread.start()
        return thread

    def _work(self) -> None:
        jobs = self._jobs
        while True:
            try:
                job = jobs.get(timeout=_TRY_KEPT_EVERY if self._kept else None)
            except queue.Empty:
                self._send_kept()
                continue
            self._send_kept()
            if job.batch is not None:
                if self._view is not None and self._delivery.view_always:
                    self._view.show(job.batch)
                job.result = self._try_to_send(job)
            job.done.set()

    def _send_kept(self) -> None:
        waiting = [*self._kept]
        self._kept.clear()
        for job in waiting:
            self._try_to_send(job)

    def _try_to_send(self, job: _Job) -> Any:
        try:
            return job.context.run(self._send, job)
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}")
            return self._failure

    def _send(self, job: _Job) -> Any:
        """Send a batch, if somebody is there to take it."""
        if not self._is_alive or self._delivery.exit.has_begun:
            problem = self._endpoint.problem()
            if problem is not None:
                self._miss(job, problem)
                return self._failure
        with self._last_words:
            result = self.inner.export(job.batch, **job.arguments)
        self._is_alive = result is not self._failure
        if self._is_alive:
            self.sent += len(job.batch) if isinstance(job.batch, Sequence) else 1
        elif (problem := self._endpoint.problem()) is not None:
            self._miss(job, problem)
        else:
            self._say(self._last_words.text or "it does not say why", is_there=True)
            self._show_instead(job)
        return result

    def _miss(self, job: _Job, problem: str) -> None:
        """Nobody listens."""
        self._is_alive = False
        self._say(problem)
        self._show_instead(job)
        if self._endpoint.named:
            self._kept.append(job)

    def _show_instead(self, job: _Job) -> None:
        """Show to people, once, what could not be sent, unless they have named an endpoint."""
        if self._view is None or self._endpoint.named or self._delivery.view_always or job.is_shown:
            return
        job.is_shown = True
        self._view.show(job.batch)

    def _say(self, problem: str, *, is_there: bool = False) -> None:
        """The one message about the collector: where, why, and what to do. ``is_there``: but takes nothing."""
        endpoint = self._endpoint
        cure = "set OTEL_EXPORTER_OTLP_ENDPOINT, or STORMPROOF_QUIET=1"
        if endpoint.named:
            kept = "telemetry is kept for a while and sent once it answers"
            instead = "what is not taken is lost" if is_there else kept
            cure = endpoint.wrong_port() or "check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL"
        elif self._delivery.view is not None:
            instead = "spans are shown here instead"
        else:
            instead = "nothing is sent"
        what = "nothing is taken at" if is_there else "nothing answers at"
        say_once("collector", f"{what} {endpoint} ({problem}); {instead} ({cure})")


def _disconnect(exporter: Any) -> None:
    """Close the pooled connections of an HTTP exporter, which then makes new ones."""
    client = getattr(exporter, "_client", None)
    session = getattr(exporter, "_session", None) or getattr(client, "_transport", None)
    if session is not None:
        session.close()


class _LastWords(logging.Filter):
    """Keeps what the official exporter first complains of, and keeps all that is logged while it works for us quiet.

    Only in our thread, and only on the loggers of the exporter and of the library with which it sends: what they say
    would be printed, or be sent to the collector as a log record, which makes the next one.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.text = ""
        self._thread: int | None = None
        modules = {cls.__module__ for cls in type(inner).__mro__ if cls.__module__.startswith("opentelemetry.exporter")}
        for name in (*modules, *_TRANSPORT_LOGGERS):
            logging.getLogger(name).addFilter(self)

    def __enter__(self) -> None:
        self.text = ""
        self._thread = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._thread = None

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.get_ident() != self._thread:
            return True
        if not self.text and record.levelno >= logging.WARNING:
            text = record.getMessage()
            if isinstance(record.args, tuple) and str(record.msg).startswith("Transient error %s"):
                text = str(record.args[0])
            self.text = " ".join(text.split())[:_LONGEST_CAUSE]
        return False


class Guard(Protocol):
    """What the three guards have in common: an exporter's stand-in for one signal."""

    signal: str

    def __init__(self, inner: Any, endpoint: Endpoint, delivery: Delivery) -> None: ...


class SpanGuard(SpanExporter):
    """The span exporter behind a :class:`Courier`."""

    signal = "TRACES"

    def __init__(self, inner: Any, endpoint: Endpoint, delivery: Delivery) -> None:
        self._courier = Courier(inner, endpoint, delivery, SpanExportResult.FAILURE, carries_spans=True)

    def export(self, spans: Any) -> SpanExportResult:
        result: SpanExportResult = self._courier.export(spans)
        return result

    def shutdown(self) -> None:
        self._courier.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True  # export() returns when the batch has been sent


class MetricGuard(MetricExporter):
    """The metric exporter behind a :class:`Courier`. Metrics are cumulative: nothing need be kept."""

    signal = "METRICS"

    def __init__(self, inner: Any, endpoint: Endpoint, delivery: Delivery) -> None:
        super().__init__(inner._preferred_temporality, inner._preferred_aggregation)
        self._courier = Courier(inner, endpoint, delivery, MetricExportResult.FAILURE, keeps=False)

    def export(self, metrics_data: Any, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        result: MetricExportResult = self._courier.export(metrics_data, timeout_millis=timeout_millis, **kwargs)
        return result

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._courier.shutdown(timeout_millis=timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True


class LogGuard(LogRecordExporter):
    """The log record exporter behind a :class:`Courier`."""

    signal = "LOGS"

    def __init__(self, inner: Any, endpoint: Endpoint, delivery: Delivery) -> None:
        self._courier = Courier(inner, endpoint, delivery, LogRecordExportResult.FAILURE)

    def export(self, batch: Any) -> LogRecordExportResult:
        result: LogRecordExportResult = self._courier.export(batch)
        return result

    def shutdown(self) -> None:
        self._courier.shutdown()

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        return True
