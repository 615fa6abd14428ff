"""A million calls with everything on: memory stays where it is, no span stays open, and none is lost uncounted.

By the real ollama client, the one whose own calls cost least, with answers from memory; one call in a thousand fails
first and is retried. The SDK's own count says which spans its queue has dropped, the exporter which it has got.

    python -m benchmarks.million [--calls N]
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.calls.clients import Memory, client, http_client
from benchmarks.calls.paths import PATHS
from benchmarks.calls.process import resident
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import set_tracer_provider

import stormproof

CALLS, LOOKS = 1_000_000, 10
_FAILS_EVERY = 1000
#: What memory may move by from the second look to the last, in bytes: caches that fill, and the allocator's arenas.
_MOST_GROWTH = 4 << 20


class _Counted(SpanProcessor):
    def __init__(self) -> None:
        self.started = self.ended = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.ended += 1


class _Exported(SpanExporter):
    def __init__(self) -> None:
        self.count = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.count += len(spans)
        return SpanExportResult.SUCCESS


class _Flaky(Memory):
    """Answers 503 to one request in a thousand."""

    requests = 0

    def handle_request(self, request: Any) -> Any:
        answer = super().handle_request(request)
        self.requests += 1
        if self.requests % _FAILS_EVERY == 0:
            answer.status = 503
        return answer


def run(calls: int) -> bool:
    """Whether all held; says what was seen."""
    os.environ["OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"] = "true"
    os.environ["STORMPROOF__RETRY__BASE"] = "1ms"
    counted, exported, reader = _Counted(), _Exported(), InMemoryMetricReader()
    set_meter_provider(MeterProvider([reader]))
    provider = TracerProvider()
    provider.add_span_processor(counted)
    provider.add_span_processor(BatchSpanProcessor(exported))
    set_tracer_provider(provider)
    stormproof.instrument()
    path = PATHS["ollama chat"]
    made = client(path, None, is_async=False)
    flaky = http_client(made)._transport._pool = _Flaky(path)
    sizes = []
    for look in range(LOOKS):
        began = time.perf_counter()
        for _ in range(calls // LOOKS):
            path.call(made)
        provider.force_flush()
        gc.collect()
        sizes.append(resident())
        each = (time.perf_counter() - began) / (calls // LOOKS) * 1e6
        print(
            f"{(look + 1) * (calls // LOOKS):>10,} calls: {sizes[-1] / (1 << 20):.1f} MiB, {each:.0f} µs a call",
            flush=True,
        )
    sums = _points(reader)
    sums.update(started=counted.started, ended=counted.ended, exported=exported.count, requests=flaky.requests)
    return _verdict(calls, sizes, sums)


def _points(reader: InMemoryMetricReader) -> Counter[str]:
    """The sums that matter, by name."""
    sums: Counter[str] = Counter()
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    attributes = point.attributes or {}
                    if metric.name == "otel.sdk.processor.span.processed" and "error.type" in attributes:
                        sums["dropped"] += int(point.value)  # type: ignore[union-attr]  # a counter's
                    elif metric.name == "resilience.operations":
                        sums["operations"] += int(point.value)  # type: ignore[union-attr]
                    elif metric.name == "resilience.attempt.duration":
                        sums["attempts"] += point.count  # type: ignore[union-attr]  # a histogram's
    return sums


def _verdict(calls: int, sizes: list[int], sums: Counter[str]) -> bool:
    growth = sizes[-1] - sizes[1]
    print(f"memory moved by {growth / (1 << 20):+.2f} MiB from the second look to the last")
    print("spans: " + ", ".join(f"{sums[name]:,} {name}" for name in ("started", "ended", "exported", "dropped")))
    print(", ".join(f"{sums[name]:,} {name}" for name in ("operations", "attempts", "requests")))
    held = {
        "memory is flat": growth <= _MOST_GROWTH,
        "no span is open": sums["started"] == sums["ended"],
        "every span is exported or counted as dropped": sums["ended"] == sums["exported"] + sums["dropped"],
        "every call is counted": sums["operations"] == calls,
        "every attempt is counted": sums["attempts"] == sums["requests"],
    }
    for what, holds in held.items():
        print(f"{'holds ' if holds else 'BROKEN'} {what}")
    return all(held.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=CALLS)
    raise SystemExit(not run(parser.parse_args().calls))


if __name__ == "__main__":
    main()
