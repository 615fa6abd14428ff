"""What a client hands to the runner: which call this is, and how to read what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from stormproof.resilience.outcome import Refusal, Verdict
    from stormproof.resilience.overrides import Layers
    from stormproof.resilience.targets import Target

#: What is known of a call, in this project's own plain words (``model``, ``input_tokens`` …).
#: ``telemetry/names.py`` translates them into the official attribute names. What is said (``messages``,
#: ``instructions``, ``tools``, and ``answers``, a function that reads them) is there only where it is asked for.
Facts = dict[str, Any]


class Client(Protocol):
    """What the runner must know of a client. One object a client, without state."""

    system: str

    def classify(self, error: BaseException) -> Verdict:
        """What an error of this client means."""

    def response_facts(self, call: Call, result: Any) -> Facts:
        """What a complete result tells."""

    def is_open(self, call: Call, result: Any) -> bool:
        """Whether the result is a stream that is still coming in."""

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        """The error of a call that was not let through, of a type that the client's own ``except`` clauses catch."""


@dataclass
class Call:
    """One logical call of the app.

    Attributes:
        client: who makes it.
        operation: the operation's name (``chat``, ``query_points``).
        host, port: where it goes.
        subject: the model or collection, if any: the second word of the span's name.
        replay_safe: whether it may be carried out twice.
        streaming: whether the app asked for a stream.
        attempts: the request's own explicit limit of attempts, which wins over every other.
        client_attempts: that of the client which makes it; wins over the policy's, but not over a block's.
        on_result: the caller's own ``RetryPolicy.on_result``, which wins over the policy's.
        facts: what the request tells.
        own: what the client itself needs to remember between attempts.
        parent: the caller's telemetry context where it differs from the current one. Opaque here.
        layers: the overrides in force where the app called, if that may be elsewhere; None: those in force here.
        endpoint: base URL to go to instead of the client's own: set where this is another call's fallback.
        headers: to be sent to that endpoint in place of the client's credentials.
        nests: other protected calls may be made inside it; they keep to its deadline.
        is_local: it stays inside this process: there is nobody to protect it from, it is only told of.
    """

    client: Client
    operation: str
    host: str
    port: int
    subject: str | None = None
    replay_safe: bool = True
    streaming: bool = False
    attempts: int | None = None
    client_attempts: int | None = None
    on_result: Callable[[Any], bool] | None = None
    facts: Facts = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    parent: Any = None
    layers: Layers | None = None
    endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    nests: bool = False
    is_local: bool = False
