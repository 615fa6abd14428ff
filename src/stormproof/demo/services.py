"""The three services of the program: stand-ins, or real ones where the environment names them."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from stormproof.demo.ollama_wire import OllamaWire
from stormproof.demo.openai_wire import OpenAIWire
from stormproof.demo.qdrant_wire import QdrantWire
from stormproof.demo.wire import WireServer

#: The variable in which each client looks for its service, and the port it takes if none is given.
VARIABLES: Mapping[str, str] = {"openai": "OPENAI_BASE_URL", "qdrant": "QDRANT_URL", "ollama": "OLLAMA_HOST"}
_PORTS = {"qdrant": 6333, "ollama": 11434}
_REACH_TIMEOUT = 2.0
_PACE = 0.006  # seconds a word: a stand-in's answers shall be seen to stream


class UnreachableError(Exception):
    """A real service was named, and nothing answers there."""


@dataclass(frozen=True)
class Service:
    """One service at an address with scheme, host and port."""

    name: str
    url: str
    is_stand_in: bool

    @property
    def takes_faults(self) -> bool:
        """Whether the fault proxy can stand before it: it does not speak TLS."""
        return self.url.startswith("http://")

    @property
    def root(self) -> str:
        """The address without its path."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def at(self, root: str) -> str:
        """The address as it is through a proxy at this root."""
        return root + urlsplit(self.url).path


@contextmanager
def running_services(environ: Mapping[str, str]) -> Iterator[list[Service]]:
    """Start the stand-ins of those that the environment does not name, and stop them at the end."""
    stand_ins: Mapping[str, WireServer] = {
        "openai": OpenAIWire(),
        "qdrant": QdrantWire(),
        "ollama": OllamaWire(pace=_PACE),
    }
    with ExitStack() as stack:
        services = []
        for name, wire in stand_ins.items():
            if environ.get(VARIABLES[name]):
                services.append(_real(name, environ[VARIABLES[name]]))
            else:
                url = stack.enter_context(wire).url
                services.append(Service(name, f"{url}/v1" if name == "openai" else url, is_stand_in=True))
        yield services


def answers(url: str, timeout: float = _REACH_TIMEOUT) -> bool:
    """Whether something listens at an address."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "localhost", port), timeout).close()
    except OSError:
        return False
    return True


def _real(name: str, value: str) -> Service:
    """Read an address as the service's client reads it."""
    parts = urlsplit(value if "://" in value else f"http://{value}")
    service = Service(name, f"{parts.scheme}://{_netloc(name, parts)}{parts.path.rstrip('/')}", is_stand_in=False)
    if not answers(service.url):
        raise UnreachableError(
            f"nothing answers at {service.root} ({VARIABLES[name]}={value}); unset it for a stand-in"
        )
    return service


def _netloc(name: str, parts: SplitResult) -> str:
    # Servers are often told to listen on 0.0.0.0 by the variable that tells clients where to go.
    host = parts.hostname if parts.hostname not in (None, "0.0.0.0") else "127.0.0.1"
    host = f"[{host}]" if ":" in str(host) else host
    port = parts.port or (443 if parts.scheme == "https" and name != "qdrant" else _PORTS.get(name, 80))
    return f"{host}:{port}"
