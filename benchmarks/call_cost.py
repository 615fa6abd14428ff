"""What a protected call costs: the bare openai client, stormproof without an SDK, stormproof with spans and metrics.

Interleaved in one run on a transport that answers at once, so that noise hits all alike; medians of CPU time.

    python benchmarks/call_cost.py [--rounds N] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracerProvider

import stormproof

CALLS_A_ROUND = 50
_ANSWER = {
    "object": "list",
    "model": "m",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.0] * 8}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}


class _Nowhere(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _client() -> openai.OpenAI:
    http = openai.DefaultHttpxClient.__mro__[1]  # httpx or httpx2, whichever this openai stands on
    module = __import__(http.__module__.partition(".")[0])
    transport = module.MockTransport(lambda _: module.Response(200, json=_ANSWER))
    return openai.OpenAI(api_key="none", base_url="http://localhost/v1", http_client=module.Client(transport=transport))


def _round(client: openai.OpenAI) -> float:
    """CPU microseconds of one call, mean of a round."""
    start = time.thread_time()
    for _ in range(CALLS_A_ROUND):
        client.embeddings.create(model="m", input="x", encoding_format="float")
    return (time.thread_time() - start) / CALLS_A_ROUND * 1e6


def _without_sdk() -> None:
    stormproof.instrument(NoOpTracerProvider(), NoOpMeterProvider(), NoOpLoggerProvider())


def _with_everything() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_Nowhere()))
    stormproof.instrument(provider, MeterProvider([InMemoryMetricReader()]))


VARIANTS: dict[str, Callable[[], None]] = {
    "bare client": lambda: None,
    "stormproof, no SDK": _without_sdk,
    "stormproof, spans and metrics": _with_everything,
}


def measure(rounds: int) -> dict[str, float]:
    """Median CPU microseconds of a call, by variant."""
    client = _client()
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, prepare in VARIANTS.items():
            prepare()
            _round(client)  # what is made at the first call is not counted
            times[name].append(_round(client))
            stormproof.uninstrument()
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = measure(options.rounds)
    bare = results["bare client"]
    print(f"{'openai embeddings, CPU of a call':<34}{'µs':>8}{'added':>9}{'ratio':>8}")
    for name, microseconds in results.items():
        print(f"{name:<34}{microseconds:>8.0f}{microseconds - bare:>9.0f}{microseconds / bare:>8.2f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
