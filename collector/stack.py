"""The real collector (with Jaeger inside) and a real Prometheus, for tests and for ``make stack``.

    with Stack(tmp_path) as stack:
        ...  # send OTLP to stack.otlp_http, read from stack.jaeger_url, stack.prometheus_url, stack.logs_file

``python collector/stack.py`` runs the same on the usual ports until Ctrl-C. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
SETTLE = 0.05  # seconds between two looks at something that is starting or stopping

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class StackError(RuntimeError):
    """The stack cannot start or has died; the message is meant for a person."""


@dataclass(frozen=True)
class Ports:
    """The ports of the stack, all on loopback; the defaults are the usual ones."""

    otlp_grpc: int = 4317
    otlp_http: int = 4318
    jaeger: int = 16686
    jaeger_grpc: int = 16685
    prometheus: int = 9090
    metrics: int = 8889
    health: int = 13133

    @classmethod
    def ephemeral(cls) -> Ports:
        """Ports that were free a moment ago, different from each other."""
        with contextlib.ExitStack() as held:
            names = [f.name for f in fields(cls)]
            sockets = [held.enter_context(socket.socket()) for _ in names]
            for s in sockets:
                s.bind((HOST, 0))
            return cls(**{name: s.getsockname()[1] for name, s in zip(names, sockets, strict=True)})

    def check_free(self) -> None:
        """Raise a StackError that names the first port that something else holds."""
        for f in fields(self):
            port = getattr(self, f.name)
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    s.bind((HOST, port))
                except OSError as e:
                    raise StackError(f"port {port} ({f.name}) cannot be had: {e.strerror}") from None


def answers(url: str) -> bool:
    """Whether a GET of the address gives a 2xx."""
    try:
        with _no_proxy.open(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _die_with_parent() -> Callable[[], None] | None:
    """What a child runs before exec on Linux, so that it cannot outlive a parent that was killed."""
    if _libc is None:
        return None
    libc, parent = _libc, os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return in_child


class Process:
    """A child in a process group of its own, with its output in a log file."""

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.name, self.log = name, log
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=env, cwd=log.parent, start_new_session=True, preexec_fn=_die_with_parent(),  # noqa: PLW1509 (one system call)
            )  # fmt: skip

    def tail(self, lines: int = 15) -> str:
        """The end of what it has printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def check_alive(self) -> None:
        """Raise a StackError with the end of its log when it has ended."""
        if (status := self.popen.poll()) is not None:
            raise StackError(f"{self.name} ended with status {status}; the end of {self.log}:\n{self.tail()}")

    def wait_ready(self, urls: list[str], until: float) -> None:
        """Wait until each address answers with a 2xx."""
        for url in urls:
            while not answers(url):
                self.check_alive()
                if time.monotonic() > until:
                    why = f"{self.name} was not ready in time ({url})"
                    raise StackError(f"{why}; the end of {self.log}:\n{self.tail()}")
                time.sleep(SETTLE)
        self.check_alive()

    def stop(self, patience: float = 10.0) -> None:
        """End it and whatever it has started: politely, then not."""
        for sig in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(patience)


class Stack:
    """Collector with Jaeger inside, and Prometheus. Start it from a thread that lives as long as the stack shall.

    Without ``ports``, free ones are taken. Everything is written below ``data_dir``. Traces and log records can be read
    0.2 to 0.5 s after they were sent; Prometheus makes its first scrape 5 s after its start, then one a second.
    """

    def __init__(self, data_dir: str | Path, ports: Ports | None = None, *, start_timeout: float = 60.0) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.ports = ports or Ports.ephemeral()
        self.start_timeout = start_timeout
        self.otlp_grpc = f"http://{HOST}:{self.ports.otlp_grpc}"
        self.otlp_http = f"http://{HOST}:{self.ports.otlp_http}"
        self.jaeger_url = f"http://{HOST}:{self.ports.jaeger}"
        self.prometheus_url = f"http://{HOST}:{self.ports.prometheus}"
        self.metrics_url = f"http://{HOST}:{self.ports.metrics}/metrics"
        self.health_url = f"http://{HOST}:{self.ports.health}/status"
        self.logs_file = self.data_dir / "logs.jsonl"
        self.traces_file = self.data_dir / "traces.jsonl"
        self.processes: list[Process] = []

    def __enter__(self) -> Stack:  # noqa: PYI034  # typing.Self is younger than what is supported
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Build what is missing, start both, wait until both are ready; a StackError says what went wrong."""
        collector, prometheus = build_collector(), find_prometheus()
        self.ports.check_free()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._start_collector(collector)
            self._start_prometheus(prometheus)
            until = time.monotonic() + self.start_timeout
            self.processes[0].wait_ready([self.health_url, f"{self.jaeger_url}/api/services", self.metrics_url], until)
            self.processes[1].wait_ready([f"{self.prometheus_url}/-/ready"], until)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop whatever runs; a second call does nothing."""
        while self.processes:
            self.processes.pop().stop()

    def check_alive(self) -> None:
        """Raise a StackError when one of the processes has ended by itself."""
        for process in self.processes:
            process.check_alive()

    def _start_collector(self, binary: Path) -> None:
        # OTEL_* of the program that starts the stack is not meant for the collector
        env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        env |= {
            "STACK_HOST": HOST,
            "STACK_OTLP_GRPC_PORT": str(self.ports.otlp_grpc),
            "STACK_OTLP_HTTP_PORT": str(self.ports.otlp_http),
            "STACK_JAEGER_HTTP_PORT": str(self.ports.jaeger),
            "STACK_JAEGER_GRPC_PORT": str(self.ports.jaeger_grpc),
            "STACK_METRICS_PORT": str(self.ports.metrics),
            "STACK_HEALTH_PORT": str(self.ports.health),
            "STACK_LOGS_FILE": str(self.logs_file),
            "STACK_TRACES_FILE": str(self.traces_file),
        }
        command = [str(binary), "--config", str(HERE / "config.yaml")]
        self.processes.append(Process("the collector", command, self.data_dir / "collector.log", env))

    def _start_prometheus(self, binary: str) -> None:
        config = self.data_dir / "prometheus.yml"
        text = (HERE / "prometheus.yml").read_text()
        config.write_text(text.replace(f"{HOST}:{Ports.metrics}", f"{HOST}:{self.ports.metrics}"))
        command = [
            binary, f"--config.file={config}", f"--storage.tsdb.path={self.data_dir / 'prometheus'}",
            f"--web.listen-address={HOST}:{self.ports.prometheus}", "--enable-feature=exemplar-storage",
        ]  # fmt: skip
        self.processes.append(Process("Prometheus", command, self.data_dir / "prometheus.log", dict(os.environ)))


def build_collector() -> Path:
    """The collector's binary, built now when it is missing or its manifest has changed."""
    done = subprocess.run([str(HERE / "build.sh")], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise StackError("the collector could not be built (build.sh says why, above)")
    return Path(done.stdout.splitlines()[-1])


def find_prometheus() -> str:
    """The ``prometheus`` binary; installed from Debian's package when missing and allowed."""
    if not shutil.which("prometheus"):
        subprocess.run([str(HERE / "install_prometheus.sh")], check=False)
    if not (found := shutil.which("prometheus")):
        raise StackError("there is no prometheus to start")
    return found


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """What ``make stack`` runs."""
    parser = argparse.ArgumentParser(description="Run the collector with Jaeger inside, and Prometheus.")
    cache = Path(os.environ.get("STORMPROOF_COLLECTOR_CACHE") or HERE / ".build")
    parser.add_argument("--data-dir", type=Path, default=cache / "data", help="where logs and data go")
    parser.add_argument("--ephemeral", action="store_true", help="take free ports instead of the usual ones")
    args = parser.parse_args()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # a shell's background job would ignore the first
        signal.signal(getattr(signal, name), _interrupt)
    try:
        with Stack(args.data_dir, Ports.ephemeral() if args.ephemeral else Ports()) as stack:
            for what, where in (
                ("send OTLP here", f"{stack.otlp_http} (HTTP), {stack.otlp_grpc} (gRPC)"),
                ("traces", f"{stack.jaeger_url}/api/traces?service=NAME (Jaeger)"),
                ("metrics", f"{stack.prometheus_url} (Prometheus), {stack.metrics_url}"),
                ("log records", str(stack.logs_file)),
                ("logs of the stack", f"{stack.data_dir}/*.log"),
            ):
                print(f"  {what:18} {where}", flush=True)
            print("running; Ctrl-C ends it", flush=True)
            while True:
                time.sleep(0.5)
                stack.check_alive()
    except StackError as e:
        print(f"stack: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
