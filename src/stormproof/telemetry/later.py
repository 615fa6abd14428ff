"""Records of histograms, made a moment after the call, by a thread of their own.

A record costs the SDK more than all else that a call's metrics need, and it costs least where one is made after the
other. Nothing is lost and nothing comes too late: what still waits is recorded before metrics are collected, and where
too much waits the caller records it himself. In slices, so that whoever needs the interpreter waits for one at most
(two tenths of a millisecond).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

from stormproof.telemetry.attributes import Attributes

_log = logging.getLogger("stormproof")

_MOST_WAITING = 2048
_SLICE = 12
#: Seconds: between the slices; from the first record that waits to its turn; until a thread without work ends.
_PAUSE, _DELAY, _IDLE = 0.0005, 0.05, 5.0


class Later:
    """Safe for concurrent use by threads and tasks."""

    def __init__(self) -> None:
        self._has_failed = False
        self._waiting: deque[tuple[Histogram, float, Attributes, Context | None]] = deque()
        self.after_fork()

    def after_fork(self) -> None:
        """The parent's records are the parent's, and its thread is not here."""
        self._waiting.clear()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._drains = threading.Lock()
        self._wake = threading.Event()

    def record(self, histogram: Histogram, value: float, attributes: Attributes, context: Any) -> None:
        """As ``histogram.record``; ``attributes`` must not be changed afterwards."""
        if len(self._waiting) >= _MOST_WAITING:
            histogram.record(value, attributes, context)
            return
        self._waiting.append((histogram, value, attributes, context))
        if not self._wake.is_set():
            self._wake.set()
            if self._thread is None:
                self._start()

    def drain(self) -> None:
        """Record what waits. Returns when all of it is recorded, by whichever thread."""
        while self._waiting or self._drains.locked():
            with self._drains:
                for _ in range(min(_SLICE, len(self._waiting))):
                    self._record(*self._waiting.popleft())
            if self._waiting:
                time.sleep(_PAUSE)

    def _record(self, histogram: Histogram, value: float, attributes: Attributes, context: Context | None) -> None:
        try:
            histogram.record(value, attributes, context)
        except Exception:  # those that come after it are to be recorded all the same
            if not self._has_failed:
                self._has_failed = True
                _log.warning("a metric could not be recorded; further failures are not logged", exc_info=True)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="stormproof-metrics", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is ending: what waits is recorded with the last collection
                    return
                self._thread = thread

    def _run(self) -> None:
        while self._wake.wait(_IDLE):
            time.sleep(_DELAY)
            self._wake.clear()
            self.drain()
        with self._starting:
            self._thread = None
        if self._wake.is_set():  # just now, by someone who still saw this thread
            self._start()
