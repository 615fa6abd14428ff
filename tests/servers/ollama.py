"""A real Ollama server for tests: installed once, started on its own port, stopped with its runners.

Everything is done over plain HTTP with urllib: the clients under test are patched, and must not be used to
set the stage. Needs Linux on x86-64 with gcc; `supported` says whether this machine will do.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from typing_extensions import Self

TINY, TINY_LOOP = "tiny", "tiny-loop"

_HERE = Path(__file__).resolve().parent
_LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")
_INSTALL_TIMEOUT = 300.0
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 10.0
_REQUEST_TIMEOUT = 120.0
_LAST_LINES = 200
# One thread: several wait for each other by spinning, which makes this tiny model a hundred times slower on
# busy cores.
_PARAMETERS = {"temperature": 0, "num_ctx": 2048, "num_thread": 1}
# The markers of the model's vocabulary; it calls its tool unless the last word was the tool's.
_TEMPLATE = (
    '{{- $last := "" }}{{- range .Messages }}{{- $last = .Role }}<|{{ .Role }}|>{{ .Content }}'
    '{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "parameters": '
    "{{ .Function.Arguments }}}{{ end }}"
    '{{- end }}{{- if and .Tools (ne $last "tool") }}<|call|>{{ else }}<|assistant|>{{ end }}'
)


def supported() -> bool:
    """Tell whether this machine can run the build of Ollama that PyPI has."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("gcc") is not None


def default_cache_dir() -> Path:
    """Return where the tests keep what is costly to make, on a developer's machine as on CI's."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STORMPROOF_TEST_CACHE") or Path(cache) / "stormproof-tests")


class RealOllama:
    """A running Ollama with the model `tiny`, and `tiny-loop` on request; used as a context manager.

    Each has its own port and its own store of models, so that any number can run side by side.
    """

    def __init__(self, cache_dir: Path | None = None, *, loop: bool = False) -> None:
        self._cache = cache_dir or default_cache_dir()
        self._models = (TINY, TINY_LOOP) if loop else (TINY,)
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._port: int | None = None
        self._listening = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """What goes into `OLLAMA_HOST`; known once started."""
        if self._port is None:
            raise RuntimeError("RealOllama is not started")
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The server's process id, which is also that of its process group."""
        if self._process is None:
            raise RuntimeError("RealOllama is not started")
        return self._process.pid

    def start(self) -> Self:
        """Install what is missing, start the server and create its models."""
        program = install(self._cache)
        self._home = tempfile.TemporaryDirectory(prefix="ollama-")
        try:
            self._launch(program, self._home.name)
            for model in self._models:
                self._create(model, _model_file(self._cache, model))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server with its runners; harmless when not started."""
        process, self._process, self._port = self._process, None, None
        if process is not None:
            _stop_group(process)
            self._reader.join(_STOP_TIMEOUT)
            if process.stdout is not None:
                process.stdout.close()
        if self._home is not None:
            self._home.cleanup()
            self._home = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def log(self) -> str:
        """Return the last lines that the server wrote."""
        return "".join(self._lines)

    def _launch(self, program: Path, home: str) -> None:
        """Start the server on a port of the kernel's choice, which it tells in its log."""
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": home,
            "LD_LIBRARY_PATH": str(program),
            "OLLAMA_HOST": "127.0.0.1:0",
            "OLLAMA_MODELS": f"{home}/models",
        }
        self._process = subprocess.Popen(
            [program / "ollama-lib", "serve"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._listening.wait(_START_TIMEOUT)
        if self._port is None:
            raise RuntimeError(f"Ollama did not start:\n{self.log()}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        """Keep what the server writes, and learn its port from it."""
        for line in process.stdout or ():
            self._lines.append(line)
            if self._port is None and (found := _LISTENING.search(line)):
                self._port = int(found[1])
                self._listening.set()
        self._listening.set()

    def _create(self, name: str, model: Path) -> None:
        content = model.read_bytes()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._post(f"/api/blobs/{digest}", content)
        definition = {
            "model": name,
            "files": {model.name: digest},
            "template": _TEMPLATE,
            "parameters": _PARAMETERS,
            "stream": False,
        }
        answer = json.loads(self._post("/api/create", json.dumps(definition).encode()))
        if answer.get("status") != "success":
            raise RuntimeError(f"Ollama did not create {name}: {answer}")

    def _post(self, path: str, body: bytes) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.url + path, body), timeout=_REQUEST_TIMEOUT) as response:
            return response.read()


def install(cache_dir: Path) -> Path:
    """Put Ollama and the models into the cache unless they are there, and return Ollama's directory.

    Safe in parallel: of several test workers one makes what the others then find.
    """
    program = cache_dir / "ollama"
    with _locked(cache_dir):
        subprocess.run(
            ["bash", _HERE / "install_ollama.sh", program],
            env={**os.environ, "PYTHON": sys.executable},
            timeout=_INSTALL_TIMEOUT,
            check=True,
        )
        for model in (TINY, TINY_LOOP):
            _make_model(_model_file(cache_dir, model), loop=model == TINY_LOOP)
    return program


def _model_file(cache_dir: Path, model: str) -> Path:
    """Return where a model is kept: under another name once the program that writes it has changed."""
    version = hashlib.sha256((_HERE / "make_gguf.py").read_bytes()).hexdigest()[:12]
    return cache_dir / f"{model}-{version}.gguf"


def _make_model(path: Path, *, loop: bool) -> None:
    if path.exists():
        return
    from .make_gguf import write_model

    unfinished = path.with_suffix(".part")
    write_model(unfinished, loop=loop)
    unfinished.rename(path)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the cache against other processes."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stop_group(process: subprocess.Popen[str]) -> None:
    """End the server and whatever it started, first kindly."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_STOP_TIMEOUT)
