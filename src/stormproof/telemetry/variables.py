"""The official ``OTEL_*`` variables that people get wrong: checked before the SDK trips over them."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from opentelemetry.util._importlib_metadata import entry_points

_PROBE_TIMEOUT = 0.5
_PIP_GRPC = "pip install opentelemetry-exporter-otlp-proto-grpc"
_SAMPLER = "parentbased_always_on"  # the SDK's default
_SIGNALS = ("TRACES", "METRICS", "LOGS")
_PROTOCOLS = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}

#: Exporters that exist but are not installed with stormproof, and the package of each.
_PACKAGES = {
    "zipkin": "opentelemetry-exporter-zipkin",
    "zipkin_json": "opentelemetry-exporter-zipkin-json",
    "zipkin_proto": "opentelemetry-exporter-zipkin-proto-http",
    "prometheus": "opentelemetry-exporter-prometheus",
    "gcp_trace": "opentelemetry-exporter-gcp-trace",
    "azure_monitor_opentelemetry_exporter": "azure-monitor-opentelemetry-exporter",
}


@dataclass(frozen=True)
class Endpoint:
    """Where one signal goes: its URL, the protocol spoken there, and whether the user named it."""

    url: str
    protocol: str
    named: bool

    def __str__(self) -> str:
        return _without_secrets(self.url)

    def problem(self) -> str | None:
        """Why nothing can be sent: nobody listens there. None if somebody does."""
        parts = urlsplit(self.url if "://" in self.url else f"//{self.url}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "localhost", port), timeout=_PROBE_TIMEOUT).close()
        except TimeoutError:
            return "no answer"
        except OSError as error:
            return (error.strerror or str(error) or type(error).__name__).lower()
        return None

    def wrong_port(self) -> str | None:
        """What to do if the port is the other protocol's."""
        if self.protocol == "grpc" and ":4318" in self.url:
            return "4318 is the port of http/protobuf: use 4317, or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
        if self.protocol != "grpc" and ":4317" in self.url:
            return "4317 is the port of gRPC: use 4318, or OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
        return None


def endpoint_of(signal: str, environ: Mapping[str, str]) -> Endpoint:
    """Where a signal (``TRACES``, ``METRICS``, ``LOGS``) goes."""
    protocol = (
        _first(environ, f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    )
    named = _first(environ, f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return Endpoint(named or _PROTOCOLS.get(protocol, _PROTOCOLS["http/protobuf"]), protocol, bool(named))


def corrected(environ: Mapping[str, str]) -> tuple[dict[str, str | None], list[str]]:
    """What to use in place of variables that make no sense (None: nothing), and one line about each of them."""
    correct: dict[str, str | None] = {}
    problems: list[str] = []
    for name, value, problem in (*_exporters(environ), *_protocols(environ), *_endpoints(environ), *_sampler(environ)):
        correct[name] = value
        problems.append(problem)
    return correct, problems


def _exporters(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for signal in _SIGNALS:
        name = f"OTEL_{signal}_EXPORTER"
        value = environ.get(name, "")
        installed = {entry.name for entry in entry_points(group=f"opentelemetry_{signal.lower()}_exporter")}
        allowed = {"none", "otlp", *installed}
        for chosen in filter(None, map(str.strip, value.split(","))):
            if chosen in allowed:
                continue
            if chosen in _PACKAGES:
                yield name, "otlp", f"{name}={value!r} needs a package: pip install {_PACKAGES[chosen]}; otlp is used"
            else:
                short = ", ".join(sorted(a for a in allowed if not a.startswith("otlp_")))
                yield name, "otlp", f"{name}={value!r} is not an exporter; allowed: {short}; otlp is used"
            break


def _protocols(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    installed = {entry.name for entry in entry_points(group="opentelemetry_traces_exporter")}
    for part in ("", *(f"{signal}_" for signal in _SIGNALS)):
        name = f"OTEL_EXPORTER_OTLP_{part}PROTOCOL"
        value = environ.get(name)
        if value == "grpc" and "otlp_proto_grpc" not in installed:
            yield name, "http/protobuf", f"{name}='grpc' needs a package: {_PIP_GRPC}; http/protobuf is used"
        if value and value not in _PROTOCOLS:
            allowed = ", ".join(_PROTOCOLS)
            yield (
                name,
                "http/protobuf",
                f"{name}={value!r} is not a protocol; allowed: {allowed}; http/protobuf is used",
            )


def _endpoints(environ: Mapping[str, str]) -> Iterator[tuple[str, None, str]]:
    for part in ("", *(f"{signal}_" for signal in _SIGNALS)):
        name = f"OTEL_EXPORTER_OTLP_{part}ENDPOINT"
        value = environ.get(name)
        if not value or urlsplit(value).scheme in ("http", "https"):
            continue
        protocol = _first(environ, f"OTEL_EXPORTER_OTLP_{part}PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        if protocol == "grpc" and "://" not in value:
            continue  # gRPC's own form, host:port
        shown = _without_secrets(value)
        hint = f"http://{shown}" if "://" not in value else "http://… or https://…"
        yield name, None, f"{name}={shown!r} is not a URL with http:// or https://; write {hint}; it is ignored"


def _sampler(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    name = "OTEL_TRACES_SAMPLER"
    value = environ.get(name, "").strip()
    allowed = {entry.name for entry in entry_points(group="opentelemetry_traces_sampler")} if value else set()
    if value and value not in allowed:
        short = ", ".join(sorted(allowed))
        yield name, _SAMPLER, f"{name}={value!r} is not a sampler; allowed: {short}; {_SAMPLER} is used"
    elif value in ("traceidratio", "parentbased_traceidratio") and not _is_share(
        share := environ.get(f"{name}_ARG", "1")
    ):
        yield f"{name}_ARG", "1.0", f"{name}_ARG={share!r} is not a number from 0 to 1; 1.0 is used"


def _without_secrets(url: str) -> str:
    """Without user, password and query, which may hold a key."""
    scheme, separator, rest = url.partition("?")[0].rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _first(environ: Mapping[str, str], *names: str) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")
