"""The whole demo, as a newcomer runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from stormproof.demo.otlp import Span
from stormproof.demo.sink import OtlpSink
from stormproof.telemetry import names

COMMAND = [sys.executable, "-m", "stormproof.demo", "--questions", "18", "--passages", "60"]
NAMED = ("QDRANT_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY", "OLLAMA_HOST")
WIDTH = 80


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which nothing is named."""
    kept = {name: value for name, value in os.environ.items() if name not in NAMED and not name.startswith("OTEL_")}
    return {**kept, "COLUMNS": str(WIDTH), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **more}


def row(output: str, name: str) -> list[str]:
    """Return the two values in a row of the closing table."""
    (values,) = re.findall(rf"^\s*{name}  +(.+?)  +(.+)$", output, re.MULTILINE)
    return list(values)


@pytest.mark.skipif(
    not hasattr(QdrantClient, "query_points"), reason="examples/rag.py needs query_points: qdrant-client 1.10"
)
def test_the_demo_shows_the_difference() -> None:
    with OtlpSink() as collector:
        variables = environment(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        done = subprocess.run(COMMAND, env=variables, capture_output=True, encoding="utf-8", timeout=100, check=False)
        forwarded, address = collector.spans, collector.url
    output = done.stdout
    assert (done.returncode, done.stderr) == (0, ""), output

    assert row(output, "passages stored") == ["30 of 60", "60 of 60"]
    answered_before, answered_after = row(output, "questions answered")
    assert answered_after == "18 of 18" != answered_before
    calls, first_time, recovered, lost = (
        [int(value) for value in row(output, name)]
        for name in ("calls the program made", "good at the first attempt", "recovered by a retry", "lost")
    )
    rejected = int(row(output, "rejected by the open breaker")[1])
    assert calls == [first_time[0] + recovered[0] + lost[0], first_time[1] + recovered[1] + rejected + lost[1]]
    assert recovered[1] > recovered[0]
    assert lost[1] < lost[0]
    assert rejected > 0
    assert f"Each of the {row(output, 'attempts on the wire')[1]} attempts on the wire has its span." in output

    for told in (
        *(
            "cut off in mid-stream",
            "lost: the breaker opened",
            "15 failures, no success",
            "rejected, the breaker is open",
        ),
        *("probe: it is back", "the probe succeeded: 1/s", "all is well again", "s server", "told to slow down"),
    ):
        assert told in output
    assert re.search(r"^ollama/\S+ ━+×+◆+━+$", output, re.MULTILINE)
    assert int(row(output, "sent into the outage")[1]) >= 14
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= WIDTH
    assert _operations(forwarded) == calls[1]
    assert f"The collector at {address} has all of it as well." in output


def _operations(spans: list[Span]) -> int:
    return sum(names.ATTEMPT_COUNT in span.attributes for span in spans)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped_at_any_time(number: int) -> None:
    """The program that runs in it is gone as well: it would have kept the output open.

    Also where it was started as a shell starts its background jobs, with SIGINT ignored.
    """
    command = ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", *COMMAND]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    ) as process:
        lines = _until(process, "passages 1 to 30")
        process.send_signal(number)
        started = time.monotonic()
        rest, _ = process.communicate(timeout=30)
        assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "stopped; nothing is left running"
    assert "Traceback" not in lines + rest


def _until(process: subprocess.Popen[str], text: str) -> str:
    lines = ""
    for line in process.stdout or ():
        lines += line
        if text in line:
            break
    return lines


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["--questions", "15"], {}, "--questions must be 16 or more"),
        ([], {"QDRANT_URL": "http://127.0.0.1:1"}, "nothing answers at http://127.0.0.1:1 (QDRANT_URL="),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(arguments: list[str], variables: dict[str, Any], said: str) -> None:
    command = [*COMMAND[:3], *arguments]
    done = subprocess.run(
        command, env=environment(**variables), capture_output=True, encoding="utf-8", timeout=30, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_knows_nothing_of_us() -> None:
    source = (Path(__file__).parents[2] / "examples" / "rag.py").read_text()
    assert not re.search(r"stormproof|opentelemetry|otel", source, re.IGNORECASE)
