"""What is sent where nothing was chosen, and that every official variable is honoured where something was."""

from __future__ import annotations

from typing import Any

import pytest

from stormproof.demo.proxy import FaultProxy, status
from stormproof.demo.sink import OtlpSink
from stormproof.telemetry import names
from stormproof.version import __version__

from .world import ASK, CHAT, WAYS_IN, World

_SIGNALS = ("traces", "metrics", "logs")


def _run(world: World, *parts: str, way: str = "launcher", **variables: str) -> OtlpSink:
    """One call that is retried once, so that there are logs too."""
    world.ollama.plan("POST", ".", [status(503)])
    sink = world.sink
    result = world.run(*(parts or (CHAT,)), way=way, **variables)
    assert result.code == 0, result.stderr
    assert (len(result.stderr.splitlines()), result.notices) == (1, []), result.stderr
    return sink


def _resource(sink: OtlpSink) -> dict[str, Any]:
    return dict(sink.spans[0].resource)


@pytest.mark.parametrize("way", WAYS_IN)
def test_all_three_signals_are_sent_by_http_to_the_local_collector(world: World, way: str) -> None:
    sink = world.default_sink()
    world.ollama.plan("POST", ".", [status(503)])
    result = world.run(CHAT, way=way)
    assert result.notices == []
    assert sorted(span.name for span in sink.spans) == ["POST", "POST", "attempt chat", "attempt chat", "chat m"]
    assert "resilience.attempt.duration" in sink.metrics
    assert "gen_ai.client.operation.duration" in sink.metrics
    (retry,) = [log for log in sink.logs if log.event_name == "resilience.retry.scheduled"]
    assert retry.trace_id in {span.trace_id for span in sink.spans}


def test_the_buckets_and_examples_at_the_far_end(world: World) -> None:
    """An example of an attempt leads to the attempt, one of an operation to the operation."""
    sink = _run(world)
    (operation,) = [span for span in sink.spans if span.name == "chat m"]
    attempts = {span.span_id for span in sink.spans if span.name == "attempt chat"}
    for name, buckets, expected in (
        ("resilience.attempt.duration", names.ATTEMPT_BUCKETS, attempts),
        ("resilience.retry.delay", names.ATTEMPT_BUCKETS, {operation.span_id}),
        ("gen_ai.client.operation.duration", names.GEN_AI_DURATION_BUCKETS, {operation.span_id}),
        ("gen_ai.client.token.usage", names.GEN_AI_TOKEN_BUCKETS, {operation.span_id}),
    ):
        points = sink.metrics[name]
        examples = [example for point in points for example in point.exemplars]
        assert {point.bounds for point in points} == {buckets}
        assert {example.span_id for example in examples} == expected
        assert {example.trace_id for example in examples} == {operation.trace_id}


def test_our_log_records_at_the_far_end_lead_to_their_spans(world: World) -> None:
    world.ollama.plan("POST", ".", [status(503)] * 2)
    sink = world.sink
    world.run(CHAT, STORMPROOF__RETRY__ATTEMPTS="2", STORMPROOF__BREAKER__STRATEGY="window", **_TRIPPED_BY_TWO)
    spans = {(span.trace_id, span.span_id): span.name for span in sink.spans}
    ours = [log for log in sink.logs if log.scope == "stormproof"]
    assert [(log.event_name, log.severity, spans[log.trace_id, log.span_id]) for log in ours] == [
        ("resilience.retry.scheduled", "INFO", "attempt chat"),
        ("resilience.circuit_breaker.state_changed", "ERROR", "attempt chat"),
        ("gen_ai.client.operation.exception", "WARN", "chat m"),
    ]


_TRIPPED_BY_TWO = {"STORMPROOF__BREAKER__FAILURES": "2", "STORMPROOF__RETRY__BASE": "1ms"}


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_resource(world: World, way: str) -> None:
    sink = _run(world, way=way)
    resources = [items[0].resource for items in (sink.spans, sink.logs, next(iter(sink.metrics.values())))]
    for resource in resources:
        assert resource["telemetry.distro.name"] == "stormproof"
        assert resource["telemetry.distro.version"] == __version__
        assert resource["telemetry.sdk.language"] == "python"
        assert resource["service.name"].startswith("unknown_service")
        assert len(resource["service.instance.id"]) == 36
    assert len({resource["service.instance.id"] for resource in resources}) == 1


def test_each_run_is_an_instance_of_its_own(world: World) -> None:
    first = _resource(_run(world))
    world.sink.clear()
    assert _resource(_run(world))["service.instance.id"] != first["service.instance.id"]


def test_name_and_attributes_of_the_service(world: World) -> None:
    resource = _resource(
        _run(
            world,
            OTEL_SERVICE_NAME="shop",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test,service.instance.id=one,service.name=other",
        )
    )
    assert resource["service.name"] == "shop"
    assert resource["deployment.environment.name"] == "test"
    assert resource["service.instance.id"] == "one"


@pytest.mark.parametrize(("sampler", "argument"), [("always_off", ""), ("traceidratio", "0")])
def test_the_sampler(world: World, sampler: str, argument: str) -> None:
    """What is not sampled costs no span, and is protected and counted all the same."""
    world.stumble(world.ollama)
    sink = world.sink
    result = world.run(CHAT, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)
    assert (result.code, result.notices) == (0, [])
    assert sink.spans == []
    assert "resilience.attempt.duration" in sink.metrics
    assert world.ollama.count("POST", "/api/chat") == 3


@pytest.mark.parametrize("left_out", _SIGNALS)
def test_a_signal_can_be_left_out(world: World, left_out: str) -> None:
    sink = _run(world, **{f"OTEL_{left_out.upper()}_EXPORTER": "none"})
    found = {"traces": bool(sink.spans), "metrics": bool(sink.metrics), "logs": bool(sink.logs)}
    assert found == {signal: signal != left_out for signal in _SIGNALS}


def test_each_signal_can_have_an_endpoint_of_its_own(world: World) -> None:
    others = {signal: OtlpSink() for signal in _SIGNALS}
    urls = {
        f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT": f"{world.serve(sink)}/v1/{signal}"
        for signal, sink in others.items()
    }
    sink = _run(world, **urls)
    assert (sink.spans, sink.metrics, sink.logs) == ([], {}, [])
    assert others["traces"].spans
    assert others["metrics"].metrics
    assert others["logs"].logs


def test_headers_and_compression(world: World) -> None:
    proxy = FaultProxy(world.sink.url)
    _run(
        world,
        OTEL_EXPORTER_OTLP_ENDPOINT=world.serve(proxy),
        OTEL_EXPORTER_OTLP_HEADERS="x-tenant=shop,authorization=Bearer%20abc",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
    )
    assert {exchange.path for exchange in proxy.exchanges} == {f"/v1/{signal}" for signal in _SIGNALS}
    for exchange in proxy.exchanges:
        assert exchange.headers["x-tenant"] == "shop"
        assert exchange.headers["authorization"] == "Bearer abc"
        assert exchange.headers["content-encoding"] == "gzip"
    assert world.sink.spans


def test_the_launchers_own_arguments(world: World) -> None:
    """As environment variables, by the launcher's ways."""
    import sys

    from .launch import LAUNCHER, Program, script

    world.ollama.plan("POST", ".", [status(503)])
    sink = world.sink
    app = script(world.folder / "app.py", CHAT)
    command = [str(LAUNCHER), "--service_name", "shop", "--metrics_exporter", "none", sys.executable, str(app)]
    with world.network.call(Program, command, world.env()) as program:
        assert program.finish().code == 0
    assert _resource(sink)["service.name"] == "shop"
    assert sink.metrics == {}


def test_the_console_exporter_of_the_sdk(world: World) -> None:
    assert world.ollama.url
    result = world.run(CHAT, OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none")
    assert '"name": "chat m"' in result.stdout
    assert result.notices == []


def test_the_programs_environment_is_what_it_was(world: World) -> None:
    """But for the defaults, which child processes are to have; what we corrected for the SDK is not left behind."""
    given = {"OTEL_TRACES_EXPORTER": "banana", "OTEL_SERVICE_NAME": "shop"}
    show = "import json, os\nprint(json.dumps(dict(os.environ)))"
    found: dict[str, str] = world.run(show, **given).value()
    bare: dict[str, str] = world.run(show, way="bare", **given).value()
    assert {name: found[name] for name in given} == given
    assert {name for name in found if name.startswith("OTEL_") and name not in bare} == {
        "OTEL_METRICS_EXPORTER",
        "OTEL_LOGS_EXPORTER",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_SEMCONV_STABILITY_OPT_IN",
    }


def test_the_programs_own_log_records_carry_the_trace(world: World) -> None:
    """With opentelemetry-instrumentation-logging, which is no part of ours."""
    shop = """
    import logging
    from opentelemetry import trace
    with trace.get_tracer("shop").start_as_current_span("order"):
        ask()
        logging.getLogger("shop").warning("sold out")
    """
    sink = _run(world, ASK, "import logging\nlogging.lastResort = None", shop)
    (order,) = [span for span in sink.spans if span.name == "order"]
    (record,) = [log for log in sink.logs if log.body == "sold out"]
    assert (record.trace_id, record.span_id) == (order.trace_id, order.span_id)
    (operation,) = [span for span in sink.spans if span.name == "chat m"]
    assert operation.parent_id == order.span_id
