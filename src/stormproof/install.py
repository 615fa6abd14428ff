"""Wires clients, runner and telemetry together. The only place that knows them all."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

from stormproof import settings as settings_module
from stormproof.notice import is_worker_process, say_once, say_problems
from stormproof.protection import declared_policy
from stormproof.settings import Settings
from stormproof.version import __version__

if TYPE_CHECKING:
    from stormproof.clients.neighbours import Neighbours
    from stormproof.clients.patching import Splices
    from stormproof.resilience.events import Listener
    from stormproof.resilience.policy import Policy
    from stormproof.resilience.runner import Runner
    from stormproof.resilience.targets import Target
    from stormproof.telemetry.metrics import Metrics

_log = logging.getLogger("stormproof")
_lock = threading.RLock()


@dataclass(frozen=True)
class Hook:
    """When ``module`` is imported, ``function`` of ``stormproof.clients.{file}`` splices into it."""

    client: str
    module: str
    function: str
    file: str


@dataclass(frozen=True)
class Supported:
    """A client: the distribution that brings it, and the versions that were tried."""

    distribution: str
    versions: str


#: A new client is one line here, one in HOOKS, and one file in ``clients/``.
CLIENTS = {
    "openai": Supported("openai", ">=1.40,<4"),
    "qdrant": Supported("qdrant-client", ">=1.9.2,<2"),
    "ollama": Supported("ollama", ">=0.3.3,<1"),
}
HOOKS = (
    Hook("openai", "openai._base_client", "patch", "openai"),
    Hook("ollama", "ollama._client", "patch", "ollama"),
    Hook("qdrant", "qdrant_client.http.api_client", "patch", "qdrant"),
    Hook("qdrant", "qdrant_client.http.api.points_api", "patch_api", "qdrant"),
    Hook("qdrant", "qdrant_client.http.api.search_api", "patch_api", "qdrant"),
    Hook("qdrant", "qdrant_client.qdrant_remote", "patch_remote", "qdrant_grpc"),
    Hook("qdrant", "qdrant_client.async_qdrant_remote", "patch_remote", "qdrant_grpc"),
    Hook("qdrant", "qdrant_client.grpc.points_service_pb2_grpc", "patch", "qdrant_grpc"),
    Hook("qdrant", "qdrant_client.grpc.collections_service_pb2_grpc", "patch", "qdrant_grpc"),
    Hook("qdrant", "qdrant_client.grpc.snapshots_service_pb2_grpc", "patch", "qdrant_grpc"),
    Hook("qdrant", "qdrant_client.grpc.qdrant_pb2_grpc", "patch", "qdrant_grpc"),
    Hook("qdrant", "qdrant_client.uploader.rest_uploader", "patch", "qdrant_uploads"),
    Hook("qdrant", "qdrant_client.uploader.grpc_uploader", "patch_uploader", "qdrant_grpc"),
    Hook("qdrant", "qdrant_client.local.qdrant_local", "patch", "qdrant_local"),
    Hook("qdrant", "qdrant_client.local.async_qdrant_local", "patch", "qdrant_local"),
)


class _Installation:
    """What is in force in this process."""

    def __init__(self) -> None:
        self.asked: set[str] = set()  # clients that are to be protected, if their policy says so
        self.wanted: set[str] = set()  # those of them
        self.http_providers: dict[str, Any] | None = None  # None: no HTTP spans are wanted
        self.hooked: set[str] = set()  # modules whose import is watched; a watch cannot be taken back
        self.splices: dict[str, Splices] = {}
        self.neighbours: Neighbours | None = None  # made with the first splice
        self.providers: dict[str, Any] = {}
        self.settings: Settings | None = None
        self.policies: dict[str, Policy] = {}  # chosen in code, by system
        self.listeners: tuple[Listener, ...] = ()  # the user's
        self.runner: Runner | None = None
        self.metrics: dict[Any, Metrics] = {}  # by meter provider
        self.is_loading = False  # the clients are being listed one after the other: too early for the start line


_state = _Installation()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    for metrics in _state.metrics.values():  # those that are told no longer are still asked
        metrics.after_fork()
    if _state.runner is not None:
        _state.runner.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def current_settings() -> Settings:
    """The settings of this process, read once; what is wrong with them is said once."""
    with _lock:
        if _state.settings is None:
            _state.settings = settings_module.from_environment()
            say_problems(_state.settings.problems)
        return _state.settings


def policy_for(system: str) -> Policy:
    """What is in force for a system or a protected name: what was chosen in code, else by settings, else the default.

    The policy that a name was declared with does not outweigh settings that switch everything off.
    """
    chosen = _state.policies.get(system)
    if chosen is not None:
        return chosen
    by_settings = current_settings().policy_for(system)
    return (declared_policy(system) if by_settings.enabled else None) or by_settings


def choose_policies(policies: Mapping[str, Policy]) -> None:
    """Use these policies from the next call on."""
    with _lock:
        _state.policies.update(policies)
        for system in policies:
            forget_targets(system)
            if system in _state.asked - _state.wanted:  # settings had it off
                protect_client(system)


def forget_targets(name: str) -> None:
    """Make the targets of a system, or of a protected name, anew: its policy has changed."""
    with _lock:
        if _state.runner is not None:
            _state.runner.targets.forget(name)


def has_providers() -> bool:
    """Whether the app has handed over providers of its own, which decide for the process."""
    return bool(_state.providers)


def add_listener(listener: Listener) -> None:
    """Tell ``listener`` of every step of every call from now on."""
    with _lock:
        _state.listeners += (listener,)
        if _state.runner is not None:
            _state.runner.listeners.add(listener)


def remove_listener(listener: Listener) -> None:
    """Tell it no longer. One that was never added is no error."""
    with _lock:
        _state.listeners = tuple(other for other in _state.listeners if other is not listener)
        if _state.runner is not None:
            _state.runner.listeners.discard(listener)


def targets() -> list[Target]:
    """Those this process has used; none before the first protected call."""
    runner = _state.runner
    return list(runner.targets) if runner is not None else []


def protect_client(client: str, **providers: Any) -> None:
    """Splice into a client now if it is imported, or as soon as it is. Idempotent.

    ``providers``: ``tracer_provider``, ``meter_provider``, ``logger_provider``; the global ones by default. The first
    call decides for the process.
    """
    with _lock:
        if not _state.asked:  # a runner of protected functions has told the global providers: these decide now
            _drop_runner()
        if _state.runner is None:
            _state.providers.update({name: given for name, given in providers.items() if given is not None})
        _state.asked.add(client)
        if not policy_for(client).enabled:
            return
        _state.wanted.add(client)
        for hook in HOOKS:
            if hook.client == client:
                _watch(hook)


def observe_http(**providers: Any) -> None:
    """Let the official instrumentations make HTTP spans below the attempts. Idempotent."""
    from stormproof.telemetry import http

    with _lock:
        if _state.http_providers is None:
            _state.http_providers = providers
        # Those that are imported are looked at anew: they may have been released meanwhile.
        modules = set(http.INSTRUMENTORS) - _disabled() - (_state.hooked - set(sys.modules))
        _state.hooked |= modules
        http.instrument_when_imported(modules, lambda: _state.http_providers)


def observe_logging() -> None:
    """Let the app's own log records be sent with their trace ids, if the official instrumentation is installed."""
    if "logging" in _disabled():
        return
    try:
        from opentelemetry.instrumentation.logging import LoggingInstrumentor
    except ImportError:
        return
    if not LoggingInstrumentor().is_instrumented_by_opentelemetry:
        LoggingInstrumentor().instrument()


def release_client(client: str) -> None:
    """Take exactly what was spliced into a client out again. Idempotent."""
    with _lock:
        _state.asked.discard(client)
        _state.wanted.discard(client)
        for hook in HOOKS:
            if hook.client == client and hook.module in _state.splices:
                _neighbours().leave(_state.splices.pop(hook.module))
        if not _state.wanted:
            _drop_runner()
            _state.settings = None
            _state.policies = {}
            _state.providers = {}


def release_http() -> None:
    """Take the official HTTP instrumentations out again if they came with us. Idempotent."""
    from stormproof.telemetry import http

    with _lock:
        if _state.http_providers is not None:
            _state.http_providers = None
            http.uninstrument()


def begin_loading() -> None:
    """The launcher is about to load its instrumentations, ours and others', some of which import the clients."""
    _state.is_loading = True


def end_loading() -> None:
    """All are loaded. If a client was imported meanwhile, the start line is due."""
    _state.is_loading = False
    if _state.splices:
        announce()


def announce() -> None:
    """The start line: what is protected, how, and whether prompts are recorded. Once a process."""
    if _state.is_loading or is_worker_process():
        return
    policy = policy_for("openai")
    content = " and ".join(f"in {place}s" for place in sorted(current_settings().content, reverse=True)) or "off"
    parts = [_availability(client) for client in CLIENTS if client in _state.wanted]
    say_once(
        "start",
        f" {__version__}: {'  '.join(part for part in parts if part)} | "
        f"{policy.retry.attempts} attempts, {policy.deadline:g} s | content {content}",
    )


def _disabled() -> set[str]:
    """The instrumentations that the user has switched off, by the names of their entry points."""
    named = os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").replace(" ", "").split(",")
    return {"httpx", "httpx2", "logging"} if "*" in named else set(named)


def _watch(hook: Hook) -> None:
    """Call ``_arrived`` when the module is imported; at once if it is already."""
    if hook.module in _state.hooked:
        if hook.module in sys.modules:
            _arrived(hook, sys.modules[hook.module])
        return
    _state.hooked.add(hook.module)
    wrapt.register_post_import_hook(partial(_arrived, hook), hook.module)


def _arrived(hook: Hook, module: ModuleType) -> None:
    """Splice in. An exception here would fail the app's import: nothing gets out."""
    with _lock:
        if hook.client not in _state.wanted or hook.module in _state.splices:
            return
        try:
            announce()
            if not _is_supported(hook.client):
                return
            patch: Callable[[ModuleType, Runner], Splices] = getattr(
                import_module(f"stormproof.clients.{hook.file}"), hook.function
            )
            _state.splices[hook.module] = splices = patch(module, _runner())
            _neighbours().enter(splices)
        except Exception as error:
            _broken(hook.client, f"{type(error).__name__}: {error}")
            _log.debug("hook of %s failed", hook.module, exc_info=True)


def _neighbours() -> Neighbours:
    if _state.neighbours is None:
        from stormproof.clients.neighbours import Neighbours

        _state.neighbours = Neighbours()
    return _state.neighbours


def runner() -> Runner:
    """The one runner, made for the first client that arrives or the first call of a protected function."""
    running = _state.runner
    if running is None:
        with _lock:
            running = _runner()
    return running


def _drop_runner() -> None:
    """The next one is made with the settings and providers that are in force then."""
    for metrics in _state.metrics.values():
        metrics.watch(())
    _state.runner = None


def _runner() -> Runner:
    if _state.runner is None:
        from stormproof.resilience.clock import monotonic
        from stormproof.resilience.events import Fanout
        from stormproof.resilience.runner import Runner
        from stormproof.resilience.targets import Targets
        from stormproof.telemetry.presence import is_there

        settings = current_settings()
        listener = Fanout()
        targets = Targets(policy_for, monotonic, listener.breaker_changed)
        listener.add(*_state.listeners)
        listener.late = lambda: _listeners(settings, targets) if is_there(_state.providers) else ()
        listener.look()
        _state.runner = Runner(targets, listener, monotonic)
        _state.runner.keeps_content = bool(settings.content)
    return _state.runner


def _listeners(settings: Settings, targets: Any) -> tuple[Any, ...]:
    from stormproof.telemetry.logs import Logs
    from stormproof.telemetry.metrics import Metrics
    from stormproof.telemetry.spans import Spans

    providers = _state.providers
    metrics = _state.metrics.get(providers.get("meter_provider"))
    if metrics is None:
        metrics = Metrics(providers.get("meter_provider"), __version__, targets)
        _state.metrics[providers.get("meter_provider")] = metrics
    metrics.watch(targets)
    spans = Spans(providers.get("tracer_provider"), __version__, breaker_spans=settings.breaker_spans)
    listeners = (spans, metrics, Logs(providers.get("logger_provider"), __version__))
    if not settings.content:
        return listeners
    from stormproof.telemetry.content import Content

    return (Content(settings.content, providers.get("logger_provider"), __version__), *listeners)


def _availability(client: str) -> str:
    """ "openai 3.54 ✓", or nothing where it is not installed."""
    try:
        installed = version(CLIENTS[client].distribution)
    except PackageNotFoundError:
        return ""
    short = ".".join(installed.split(".")[:2])
    return f"{client} {short} {'✓' if _is_supported(client, tell=False) else '✗'}"


def _is_supported(client: str, *, tell: bool = True) -> bool:
    from packaging.specifiers import SpecifierSet

    supported = CLIENTS[client]
    installed = version(supported.distribution)
    if SpecifierSet(supported.versions).contains(installed, prereleases=True):
        return True
    if tell:
        _broken(client, f"version {installed} is outside {supported.versions}")
    return False


def _broken(client: str, reason: str) -> None:
    supported = CLIENTS[client]
    say_once(
        f"broken {client}",
        f"WARNING: {client} is not protected: {reason}; pip install '{supported.distribution}{supported.versions}'",
    )
