"""`python -m stormproof.demo`: one ordinary program, twice through the same storm, without and with stormproof."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from stormproof.demo import draw
from stormproof.demo.report import table
from stormproof.demo.run import Run, SetUpError, launcher, program, run
from stormproof.demo.scenario import FEWEST_QUESTIONS, LATENCY, SEED, Storm
from stormproof.demo.services import VARIABLES, Service, UnreachableError, answers, running_services
from stormproof.demo.sink import OtlpSink
from stormproof.demo.stories import read
from stormproof.demo.terminal import FAILED, Terminal, clip, clip_report

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_DEFAULT_COLLECTOR = "http://localhost:4318"
_LOOPBACK = "127.0.0.1,localhost"
_INTERRUPTED = 130


class Demo:
    """The whole show, one act a method."""

    def __init__(self, storm: Storm, passages: int, terminal: Terminal) -> None:
        self._storm = storm
        self._terminal = terminal
        self._program = program()
        self._launcher = launcher()
        self._arguments = ["--questions", str(storm.questions), "--passages", str(passages)]

    def play(self, environ: Mapping[str, str]) -> int:
        """Run everything; return the exit code."""
        self._paragraph(
            "The same RAG program runs twice through the same storm, without and with stormproof. "
            f"There is not a line about stormproof in it: {_shown(self._program)}"
        )
        self._paragraph(f"The storm: {self._storm.describe()}.")
        print("starting the services ...", flush=True)
        with running_services(environ) as services:
            self._tell_of(services, environ)
            plain = self._act(1, "python", [sys.executable], services, _environment(environ, services))
            with OtlpSink(forward_to=_collector(environ)) as sink:
                environment = _instrumented(_environment(environ, services), sink.url)
                command = [self._launcher, sys.executable]
                protected = self._act(2, "opentelemetry-instrument python", command, services, environment)
        return self._close(plain, protected, sink, environ)

    def _act(
        self, number: int, name: str, command: list[str], services: Sequence[Service], environment: Mapping[str, str]
    ) -> Run:
        self._title(f"{number}/2  {name} {self._program.name} {' '.join(self._arguments)}")
        command = [*command, str(self._program), *self._arguments]
        return run(command, services, self._storm, environment, self._show)

    def _close(self, plain: Run, protected: Run, sink: OtlpSink, environ: Mapping[str, str]) -> int:
        spans = sink.spans
        if spans:
            self._title("What stormproof did, from the spans of the second run")
            self._paragraph(draw.LEGEND)
            self._print("", *draw.traces(spans, self._terminal))
            if timeline := draw.breakers(spans, self._terminal):
                self._title("The breaker over the whole run")
                self._print(*timeline)
        self._title("What came of it")
        self._print(*table(plain, protected, read(spans), self._terminal))
        if collector := _collector(environ):
            self._paragraph(f"The collector at {collector} {_passed_on(sink)}")
        self._title("What to do next")
        self._print(*_next_steps(self._program))
        complete = protected.code == 0 and protected.summary is not None and protected.summary.is_complete
        if not complete:
            print(self._terminal.line([("The run with stormproof lost something that it must not lose.", "bad")]))
        return 0 if complete else 1

    def _tell_of(self, services: Sequence[Service], environ: Mapping[str, str]) -> None:
        for service in services:
            if service.is_stand_in:
                kind = f"stand-in (a real one: {VARIABLES[service.name]})"
            else:
                kind = "real" if service.takes_faults else "real, by https and so without faults"
            print(clip(f"  {service.name:<7} {service.root:<24} {kind}", self._terminal.width))
        if environ.get("OPENAI_API_KEY") and not environ.get(VARIABLES["openai"]):
            self._paragraph("OPENAI_API_KEY is left unused: nothing goes to OpenAI unless OPENAI_BASE_URL names it.")

    def _show(self, line: str) -> None:
        text = f"  {clip_report(line, self._terminal.width - 2)}"
        print(self._terminal.line([(text, "bad" if FAILED in text else "dim")]), flush=True)

    def _title(self, text: str) -> None:
        self._print("", self._terminal.title(clip(text, self._terminal.width - 2)))

    def _paragraph(self, text: str) -> None:
        self._print(*textwrap.wrap(text, self._terminal.width))

    def _print(self, *lines: str) -> None:
        print("\n".join(lines), flush=True)


def _environment(environ: Mapping[str, str], services: Sequence[Service]) -> dict[str, str]:
    """What both runs find in their environment."""
    changed = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    # A proxy of the user's for the world outside must not stand between the program and this machine.
    for name in ("NO_PROXY", "no_proxy"):
        changed[name] = ",".join(filter(None, (environ.get(name), _LOOPBACK)))
    if any(service.name == "openai" and service.is_stand_in for service in services):
        changed["OPENAI_API_KEY"] = "stand-in"
    return {**environ, **changed}


def _instrumented(environment: Mapping[str, str], sink: str) -> dict[str, str]:
    """What the second run finds besides: the way to the sink, and telemetry sent soon."""
    elsewhere = tuple(f"OTEL_EXPORTER_OTLP_{signal}" for signal in ("TRACES", "METRICS", "LOGS"))
    kept = {name: value for name, value in environment.items() if not name.startswith(elsewhere)}
    defaults = {
        "OTEL_SERVICE_NAME": "rag",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "OTEL_BLRP_SCHEDULE_DELAY": "500",
        "OTEL_METRIC_EXPORT_INTERVAL": "2000",
    }
    return {**defaults, **kept, _ENDPOINT: sink, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


def _collector(environ: Mapping[str, str]) -> str | None:
    """Where a collector listens, if one does."""
    endpoint = environ.get(_ENDPOINT) or _DEFAULT_COLLECTOR
    return endpoint if answers(endpoint, timeout=0.5) else None


def _next_steps(path: Path) -> list[str]:
    steps = [("opentelemetry-instrument python your_app.py", "your program")]
    if path.parent.name == "examples":  # in a checkout, where there is a Makefile
        steps += [("make stack", "its traces"), ("make docs", "the manual")]
    else:
        steps += [(f"export {_ENDPOINT}=http://...", "a collector")]
        steps += [(f"python -m stormproof.demo --seed {SEED + 1}", "another storm")]
    widest = max(len(command) for command, _ in steps)
    return [f"  {command:<{widest}}  {what}" for command, what in steps]


def _passed_on(sink: OtlpSink) -> str:
    """What a collector did with what was passed on to it."""
    if sink.forward_error:
        return f"did not take the telemetry: {sink.forward_error}"
    refused = ", ".join(f"{path} ({status})" for path, status in sorted(sink.refused.items()))
    return f"has it as well, but for what it refused: {refused}." if refused else "has all of it as well."


def _shown(path: Path) -> str:
    """A path as short as it can be written from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stormproof.demo", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument(
        "--questions", type=int, default=18, help=f"how many to ask (default 18, {FEWEST_QUESTIONS} or more)"
    )
    parser.add_argument("--passages", type=int, default=240, help="how many docstrings to store (default 240)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"another storm than number {SEED}")
    options = parser.parse_args()
    if options.questions < FEWEST_QUESTIONS:
        parser.error(f"--questions must be {FEWEST_QUESTIONS} or more: the storm needs time")
    return options


def main() -> int:
    """Play the demo; Ctrl-C and SIGTERM end it with nothing left running."""
    options = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job would ignore the first
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # an old terminal shows question marks rather than a traceback
    try:
        storm = Storm(options.questions, options.seed, 0.0 if os.environ.get(VARIABLES["openai"]) else LATENCY)
        return Demo(storm, options.passages, Terminal.of(sys.stdout)).play(os.environ)
    except (SetUpError, UnreachableError) as error:
        print(f"stormproof demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing is left running")
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
