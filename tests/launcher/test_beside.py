"""Beside what else there is: another distribution, the program's own providers; and out again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .launch import environment
from .world import ASK, CHAT, World

_OWN = """
import os
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
own = TracerProvider(resource=Resource({"service.name": "own"}))
own.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
"""
_INSTRUMENT = """
import stormproof
stormproof.instrument({arguments})
"""


@pytest.fixture(scope="module")
def distro(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the official opentelemetry-distro."""
    folder = tmp_path_factory.mktemp("distro")
    from importlib.metadata import version

    wanted = f"opentelemetry-distro=={version('opentelemetry-instrumentation')}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), wanted]
    subprocess.run(command, check=True, env=environment(PIP_DISABLE_PIP_VERSION_CHECK="1"))
    return str(folder)


def _spans(world: World) -> list[str]:
    return sorted(span.name for span in world.sink.spans)


_ALL = ["POST", "POST", "POST", "attempt chat", "attempt chat", "attempt chat", "chat m"]


class TestTheOfficialDistro:
    def test_ours_can_be_chosen(self, world: World, distro: str) -> None:
        world.stumble(world.ollama)
        assert world.sink.url
        result = world.run(
            CHAT, PYTHONPATH=distro, OTEL_PYTHON_DISTRO="stormproof", OTEL_PYTHON_CONFIGURATOR="stormproof"
        )
        assert (result.code, result.stdout) == (0, "A socket is an end.\n"), result.stderr
        assert _spans(world) == _ALL
        assert world.sink.spans[0].resource["telemetry.distro.name"] == "stormproof"
        assert "Traceback" not in result.stderr

    def test_without_a_choice_nothing_breaks_and_nothing_is_doubled(self, world: World, distro: str) -> None:
        """Theirs comes first on the path and sets the SDK up; our instrumentors do their part."""
        world.stumble(world.ollama)
        assert world.sink.url
        result = world.run(CHAT, PYTHONPATH=distro, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
        assert (result.code, result.stdout) == (0, "A socket is an end.\n"), result.stderr
        assert _spans(world) == _ALL
        assert world.ollama.count("POST", "/api/chat") == 3
        assert "Traceback" not in result.stderr

    def test_ours_beside_their_instrumentation_by_hand(self, world: World) -> None:
        """The program has instrumented httpx itself, before us: its spans are made once."""
        by_hand = """
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
        HTTPXClientInstrumentor().instrument()
        """
        world.stumble(world.ollama)
        assert world.sink.url
        result = world.run(by_hand, _INSTRUMENT.format(arguments=""), CHAT, way="bare")
        assert result.code == 0, result.stderr
        assert _spans(world) == _ALL


class TestTheProgramsOwnProviders:
    @pytest.mark.parametrize(
        ("before", "arguments"),
        [("trace.set_tracer_provider(own)", ""), ("", "tracer_provider=own")],
        ids=["global", "given"],
    )
    @pytest.mark.parametrize("times", [1, 2])
    def test_it_is_used_and_no_other_is_set_up(self, world: World, before: str, arguments: str, times: int) -> None:
        world.stumble(world.ollama)
        assert world.sink.url
        check = """
        import sys
        from opentelemetry.metrics import get_meter_provider
        print(type(get_meter_provider()).__name__, "stormproof-export" in str(__import__("threading").enumerate()))
        """
        instrument = _INSTRUMENT.format(arguments=arguments) * times
        result = world.run(_OWN, before, instrument, CHAT, check, way="bare")
        assert result.code == 0, result.stderr
        assert result.stdout.splitlines() == ["A socket is an end.", "_ProxyMeterProvider False"]
        assert _spans(world) == _ALL
        assert {span.resource["service.name"] for span in world.sink.spans} == {"own"}
        assert world.ollama.count("POST", "/api/chat") == 3

    def test_after_the_launcher_a_second_set_up_is_not_made(self, world: World) -> None:
        world.stumble(world.ollama)
        assert world.sink.url
        result = world.run(_OWN, _INSTRUMENT.format(arguments="tracer_provider=own"), CHAT)
        assert result.code == 0, result.stderr
        assert _spans(world) == _ALL


class TestOutAgain:
    _AROUND = """
    import stormproof
    def attempt():
        try:
            print(ask())
        except Exception as error:
            print(type(error).__name__)
    """

    def test_what_was_put_in_is_taken_out(self, world: World) -> None:
        world.stumble(world.ollama)
        assert world.sink.url
        steps = """
        stormproof.uninstrument()
        stormproof.uninstrument()
        attempt()
        """
        result = world.run(ASK, self._AROUND, steps)
        assert (result.code, result.stdout) == (0, "ResponseError\n"), result.stderr
        assert world.ollama.count("POST", "/api/chat") == 1
        assert _spans(world) == []

    def test_and_can_be_put_in_again(self, world: World) -> None:
        assert world.ollama.url
        assert world.sink.url
        steps = """
        attempt()
        stormproof.uninstrument()
        attempt()
        stormproof.instrument()
        stormproof.instrument()
        attempt()
        """
        result = world.run(ASK, self._AROUND, steps)
        assert (result.code, result.stdout) == (0, "A socket is an end.\n" * 3), result.stderr
        assert _spans(world) == ["POST"] * 2 + ["attempt chat"] * 2 + ["chat m"] * 2
        assert len(result.said) == 1

    def test_a_client_that_is_imported_afterwards_is_left_alone(self, world: World) -> None:
        world.stumble(world.ollama)
        result = world.run("import stormproof\nstormproof.uninstrument()", CHAT)
        assert result.code == 1
        assert world.ollama.count("POST", "/api/chat") == 1

    def test_clients_that_are_imported_before_are_protected(self, world: World) -> None:
        world.stumble(world.ollama)
        assert world.sink.url
        early = "import ollama\nclient = ollama.Client()"
        late = "print(client.chat('m', [{'role': 'user', 'content': 'Hello'}])['done'])"
        result = world.run(early, _INSTRUMENT.format(arguments=""), late, way="bare")
        assert (result.code, result.stdout) == (0, "True\n"), result.stderr
        assert [name for name in _spans(world) if name != "POST"] == _ALL[3:]


def test_a_folder_that_shadows_nothing(world: World, tmp_path: Path) -> None:
    """A program started from another folder, with a path of its own, is the same program."""
    assert world.ollama.url
    assert world.sink.url
    (tmp_path / "helper.py").write_text("answer = 42", encoding="utf-8")
    result = world.run("import helper\nprint(helper.answer)", CHAT, PYTHONPATH=str(tmp_path))
    assert result.stdout.splitlines() == ["42", "A socket is an end."]
