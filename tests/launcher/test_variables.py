"""Official variables that make no sense: one line each, with what is allowed; the program runs on."""

from __future__ import annotations

import pytest

from .launch import Result
from .world import CHAT, WAYS_IN, World

_END = "raise SystemExit(5)"


def _run(world: World, *first: str, way: str = "launcher", **variables: str) -> Result:
    assert world.ollama.url
    assert world.sink.url
    result = world.run(*first, CHAT, _END, way=way, **variables)
    assert (result.code, result.stdout) == (5, "A socket is an end.\n"), result.stderr
    assert "Traceback" not in result.stderr
    assert result.others == [], result.stderr
    return result


def _assert_one_line(result: Result, *parts: str) -> None:
    assert len(result.notices) == 1, result.stderr
    for part in parts:
        assert part in result.notices[0]


def _names(world: World) -> set[str]:
    return {span.name for span in world.sink.spans}


@pytest.mark.parametrize(
    ("signal", "way"),
    [*(("TRACES", way) for way in WAYS_IN), ("METRICS", "launcher"), ("LOGS", "launcher")],
)
def test_an_exporter_that_does_not_exist(world: World, signal: str, way: str) -> None:
    result = _run(world, way=way, **{f"OTEL_{signal}_EXPORTER": "banana"})
    _assert_one_line(result, f"OTEL_{signal}_EXPORTER='banana'", "allowed: ", "otlp", "none", "otlp is used")
    assert "chat m" in _names(world)


@pytest.mark.parametrize(
    ("value", "package"),
    [("zipkin", "opentelemetry-exporter-zipkin"), ("otlp,zipkin_json", "opentelemetry-exporter-zipkin-json")],
)
def test_an_exporter_whose_package_is_missing(world: World, value: str, package: str) -> None:
    result = _run(world, OTEL_TRACES_EXPORTER=value)
    _assert_one_line(result, "OTEL_TRACES_EXPORTER", f"pip install {package}", "otlp is used")
    assert "chat m" in _names(world)


def test_the_metrics_exporter_whose_package_is_missing(world: World) -> None:
    result = _run(world, OTEL_METRICS_EXPORTER="prometheus")
    _assert_one_line(result, "OTEL_METRICS_EXPORTER", "pip install opentelemetry-exporter-prometheus")


@pytest.mark.parametrize("value", ["banana:4318", "127.0.0.1", "//127.0.0.1", "ftp://127.0.0.1"])
def test_an_endpoint_without_scheme(world: World, value: str) -> None:
    sink = world.default_sink()
    result = _run(world, OTEL_EXPORTER_OTLP_ENDPOINT=value)
    _assert_one_line(result, f"OTEL_EXPORTER_OTLP_ENDPOINT={value!r}", "http://", "https://", "ignored")
    assert "chat m" in {span.name for span in sink.spans}


def test_an_endpoint_whose_port_is_no_number(world: World) -> None:
    result = _run(world, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:banana")
    _assert_one_line(result, "banana")


def test_an_endpoint_of_one_signal_without_scheme(world: World) -> None:
    result = _run(world, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="127.0.0.1:4318")
    _assert_one_line(result, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT='127.0.0.1:4318'", "write http://127.0.0.1:4318")


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_a_protocol_that_does_not_exist(world: World, name: str) -> None:
    result = _run(world, **{name: "http/json"})
    _assert_one_line(result, f"{name}='http/json'", "allowed: http/protobuf, grpc", "http/protobuf is used")
    assert "chat m" in _names(world)


def test_the_protocol_whose_package_is_missing(world: World) -> None:
    without = """
    import stormproof.telemetry.variables as variables
    installed = variables.entry_points
    variables.entry_points = lambda **wanted: [e for e in installed(**wanted) if "grpc" not in e.name]
    """
    result = _run(world, without, WAYS_IN["instrument"], way="bare", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    _assert_one_line(result, "pip install opentelemetry-exporter-otlp-proto-grpc", "http/protobuf is used")
    assert "chat m" in _names(world)


@pytest.mark.parametrize(
    ("protocol", "port", "cure"),
    [
        ("http/protobuf", 4317, "4317 is the port of gRPC: use 4318, or OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
        ("grpc", 4318, "4318 is the port of http/protobuf: use 4317, or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
    ],
)
@pytest.mark.parametrize("answers", [False, True])
def test_the_port_of_the_other_protocol(world: World, protocol: str, port: int, cure: str, answers: bool) -> None:
    if answers and world.network.is_own:
        world.silent_port(port)
    result = _run(world, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    _assert_one_line(result, f"http://127.0.0.1:{port}", cure)


def test_a_collector_of_the_other_protocol(world: World) -> None:
    """gRPC is spoken to a server that speaks HTTP/1.1."""
    result = _run(world, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    _assert_one_line(result, world.sink.url, "OTEL_EXPORTER_OTLP_PROTOCOL")


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_sampler_that_does_not_exist(world: World, way: str) -> None:
    result = _run(world, way=way, OTEL_TRACES_SAMPLER="banana")
    _assert_one_line(result, "OTEL_TRACES_SAMPLER='banana'", "allowed: ", "always_on", "parentbased_traceidratio")
    assert "chat m" in _names(world)


def test_a_samplers_argument_that_is_no_number(world: World) -> None:
    result = _run(world, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="banana")
    _assert_one_line(result, "OTEL_TRACES_SAMPLER_ARG='banana'", "from 0 to 1")
    assert "chat m" in _names(world)


@pytest.mark.parametrize("way", ["auto", "instrument"])
def test_a_propagator_that_does_not_exist(world: World, way: str) -> None:
    """It fails the import of the official API, whoever imports it; under the launcher, the launcher's own."""
    result = _run(world, way=way, OTEL_PROPAGATORS="tracecontext,banana")
    _assert_one_line(result, "WARNING: nothing is protected", "Propagator banana not found")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_PYTHON_ID_GENERATOR", "banana"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "banana"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "banana"),
        ("OTEL_BSP_SCHEDULE_DELAY", "banana"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "banana"),
    ],
)
def test_the_other_variables_stop_nothing_either(world: World, name: str, value: str) -> None:
    """What the SDK says of them may be said by the SDK; in a line, not in a traceback."""
    assert world.ollama.url
    assert world.sink.url
    result = world.run(CHAT, _END, **{name: value})
    assert (result.code, result.stdout) == (5, "A socket is an end.\n"), result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2, result.stderr
    assert world.ollama.count("POST", "/api/chat") == 1


def test_every_mistake_at_once(world: World) -> None:
    sink = world.default_sink()
    result = _run(
        world,
        OTEL_TRACES_EXPORTER="banana",
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_OTLP_ENDPOINT="localhost",
        OTEL_EXPORTER_OTLP_PROTOCOL="http",
        OTEL_TRACES_SAMPLER="banana",
    )
    assert len(result.notices) == 5, result.stderr
    assert "chat m" in {span.name for span in sink.spans}


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_sdk_switched_off(world: World, way: str) -> None:
    """No telemetry, nothing sent, nothing said but the start line; the calls are protected as ever."""
    world.stumble(world.ollama)
    result = _run(world, way=way, OTEL_SDK_DISABLED="true", OTEL_TRACES_EXPORTER="banana")
    assert (len(result.stderr.splitlines()), result.notices) == (1, [])
    assert world.ollama.count("POST", "/api/chat") == 3
    assert (world.sink.spans, world.sink.logs, world.sink.metrics) == ([], [], {})


def test_the_sdk_switched_off_shows_nothing_to_people_either(world: World) -> None:
    assert world.ollama.url
    result = world.run(CHAT, OTEL_SDK_DISABLED="true", STORMPROOF_CONSOLE="text")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_place_for_content_that_does_not_exist(world: World, way: str) -> None:
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    result = _run(world, way=way, **{name: "yes"})
    _assert_one_line(result, f"{name}='yes'", "NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT", "default is used")
    assert "socket" not in str(world.sink.spans)
