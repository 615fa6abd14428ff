"""What a program under test meets: a network, the three services with faults, a collector; and ways to start it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from stormproof.demo.ollama_wire import OllamaWire
from stormproof.demo.openai_wire import OpenAIWire
from stormproof.demo.proxy import FaultProxy, status
from stormproof.demo.qdrant_wire import QdrantWire
from stormproof.demo.sink import OtlpSink
from stormproof.demo.wire import WireServer

from .isolation import Network
from .launch import LAUNCHER, Program, Result, environment, script

#: The ways in, as a program's first lines; the first is the launcher's, which needs none.
WAYS_IN = {
    "launcher": "",
    "auto": "import stormproof.auto",
    "instrument": "import stormproof\nstormproof.instrument()",
}

#: The cheapest real call: one answer from Ollama.
CHAT = """
import ollama
question = "Context: A socket is an end.\\n\\nQuestion: What is a socket?"
answer = ollama.chat("m", [{"role": "user", "content": question}])
print(answer["message"]["content"])
"""

#: The same in a function, for programs that call it at moments of their own. With a client of its own each time: a
#: connection that is shared with a forked child is the program's fault.
ASK = """
import ollama
def ask():
    messages = [{"role": "user", "content": "Context: A socket is an end.\\n\\nQuestion: What is a socket?"}]
    return ollama.Client().chat("m", messages)["message"]["content"]
"""

#: Where a machine's own network has to do, anybody may listen at the default endpoints: this program goes elsewhere.
_OTHER_DEFAULT = """
import os as _os, socket as _socket
_resolve = _socket.getaddrinfo
def _elsewhere(host, port, *args, **kwargs):
    return _resolve(host, int(_os.environ["TEST_DEFAULT_PORT"]) if port in (4317, 4318) else port, *args, **kwargs)
_socket.getaddrinfo = _elsewhere
"""


class World:
    """Everything a program under test meets; made when asked for."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self.folder = folder
        self.network = stack.enter_context(Network())
        self._default_port = 0 if self.network.is_own else self.closed_port()

    # Who is there

    def serve(self, server: WireServer | FaultProxy) -> str:
        """Start a server inside the network, and return its address."""
        self.network.call(server.start)
        self._stack.callback(server.stop)
        return server.url

    @cached_property
    def ollama(self) -> FaultProxy:
        """The way to Ollama."""
        return self._behind_proxy(OllamaWire())

    @cached_property
    def openai(self) -> FaultProxy:
        """The way to OpenAI."""
        return self._behind_proxy(OpenAIWire())

    @cached_property
    def qdrant(self) -> FaultProxy:
        """The way to Qdrant."""
        return self._behind_proxy(QdrantWire())

    @cached_property
    def sink(self) -> OtlpSink:
        """A collector."""
        sink = OtlpSink()
        self.serve(sink)
        return sink

    def default_sink(self) -> OtlpSink:
        """A collector where programs look for one that have been told nothing."""
        sink = OtlpSink("127.0.0.1", 4318) if self.network.is_own else OtlpSink()
        self.serve(sink)
        self._default_port = sink.port
        return sink

    def default_silence(self) -> None:
        """Something that never answers, where programs look for a collector that have been told nothing."""
        self._default_port = self.silent_port(4318 if self.network.is_own else 0)

    def _behind_proxy(self, wire: WireServer) -> FaultProxy:
        proxy = FaultProxy(self.serve(wire))
        self.serve(proxy)
        return proxy

    def closed_port(self) -> int:
        """A port where nobody listens."""
        with self.network.call(_listening) as listener:
            return int(listener.getsockname()[1])

    def silent_port(self, port: int = 0) -> int:
        """A port where connections are accepted, and nothing is ever answered."""
        listener = self._stack.enter_context(self.network.call(_listening, port))
        return int(listener.getsockname()[1])

    def stumble(self, *proxies: FaultProxy) -> None:
        """Let the next two POSTs at each of these be answered with 503."""
        for proxy in proxies:
            proxy.plan("POST", ".", [status(503), status(503)])

    # The program

    def env(self, **variables: str) -> dict[str, str]:
        """An environment in which the clients find those services that have been asked for."""
        made = vars(self)
        found: dict[str, str] = {}
        if "ollama" in made:
            found["OLLAMA_HOST"] = self.ollama.url
        if "openai" in made:
            found.update(OPENAI_BASE_URL=f"{self.openai.url}/v1", OPENAI_API_KEY="sk-secret-0815")
        if "qdrant" in made:
            found["QDRANT_URL"] = self.qdrant.url
        if "sink" in made:
            found["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.sink.url
        if not self.network.is_own:
            found["TEST_DEFAULT_PORT"] = str(self._default_port)
        return environment(**{**found, **variables})

    def start(self, *parts: str, way: str = "launcher", args: Iterable[str] = (), **variables: str) -> Program:
        """Start a program made of these parts; ``way`` is one of WAYS_IN, or "bare" for none."""
        elsewhere = "" if self.network.is_own else _OTHER_DEFAULT
        path = script(self.folder / "app.py", elsewhere, WAYS_IN.get(way, ""), *parts)
        return self.launch([sys.executable, str(path), *args], by_launcher=way == "launcher", **variables)

    def launch(self, command: Iterable[str], *, by_launcher: bool = True, **variables: str) -> Program:
        """Start any command inside the network, in the environment of :meth:`env`."""
        whole = [*([str(LAUNCHER)] if by_launcher else []), *command]
        return self._stack.enter_context(self.network.call(Program, whole, self.env(**variables)))

    def run(self, *parts: str, way: str = "launcher", **variables: str) -> Result:
        """As :meth:`start`, to the end."""
        return self.start(*parts, way=way, **variables).finish()


def _listening(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=128)
