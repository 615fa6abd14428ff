"""Other instrumentations' spans for the very call that is protected: these are annotated, and no second one is made.

A span is taken if it is current where the call begins, of a scope that is known here for the same client, and covers
one request. The first call below it takes it; a further one is another request and gets a span of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from stormproof.resilience.operation import Operation
from stormproof.telemetry import names


@dataclass(frozen=True)
class Owner:
    """An instrumentation that makes operation spans.

    Attributes:
        system: the client that it watches.
        several: names of its spans that cover several requests: each request gets an operation span below them.
        metrics: official metrics that it records itself, which are not recorded a second time.
        unmeasured: names of its spans for which it does not record them.
        measures_failures: whether it records them for a call that fails.
        hidden_in: functions of the module that is called like its scope: they keep the span in the variable ``span``
            while they call the client, and do not make it current.
        tells_details: whether it emits the official event of what is said, by the variable that ours is emitted by.
    """

    system: str
    several: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    unmeasured: frozenset[str] = frozenset()
    measures_failures: bool = True
    hidden_in: frozenset[str] = frozenset()
    tells_details: bool = False


_DURATION_AND_TOKENS = frozenset((names.GEN_AI_DURATION, names.GEN_AI_TOKENS))

#: By instrumentation scope. What each does was read in the releases that ``constraints/beside.txt`` names.
OWNERS: Mapping[str, Owner] = {
    "openinference.instrumentation.openai": Owner("openai"),
    "opentelemetry.instrumentation.genai.openai": Owner(
        "openai",
        metrics=_DURATION_AND_TOKENS | {names.GEN_AI_FIRST_CHUNK, names.GEN_AI_PER_CHUNK},
        tells_details=True,
    ),
    # Its predecessor, which cannot be loaded beside it: tried by itself, 2.4b0 with opentelemetry-util-genai 0.4b0.
    "opentelemetry.instrumentation.openai_v2": Owner("openai", metrics=_DURATION_AND_TOKENS),
    # Traceloop's three. Its spans of the Responses API begin only when the call is over, those of qdrant's async client
    # end before it begins: there is nothing to annotate then.
    "opentelemetry.instrumentation.openai.v1": Owner(
        "openai",
        several=frozenset(("openai.assistant.run", "openai.assistant.run_stream")),
        metrics=_DURATION_AND_TOKENS,
        unmeasured=frozenset(("openai.completion",)),
    ),
    "opentelemetry.instrumentation.ollama": Owner(
        "ollama",
        metrics=_DURATION_AND_TOKENS,
        measures_failures=False,
        hidden_in=frozenset(("_wrap", "_awrap")),
    ),
    "opentelemetry.instrumentation.qdrant": Owner(
        "qdrant",
        several=frozenset(("qdrant.upload_points", "qdrant.upload_records", "qdrant.upload_collection", "qdrant.add")),
    ),
}
_HIDING = {owner.system: (scope, owner.hidden_in) for scope, owner in OWNERS.items() if owner.hidden_in}

#: How far up the stack a hidden span is looked for: our own frames, and one or two of theirs.
_MOST_FRAMES = 24

_taken: WeakKeyDictionary[Span, object] = WeakKeyDictionary()


def owner_of(span: Any) -> Owner | None:
    """Whose span it is; None for any that is not one of ``OWNERS``."""
    scope = getattr(span, "instrumentation_scope", None)
    return None if scope is None else OWNERS.get(scope.name)


def take(context: Context, system: str) -> Span | None:
    """The span of another instrumentation for the call of ``system`` that begins now in ``context``; at most once."""
    span = trace.get_current_span(context)
    owner = owner_of(span)
    if owner is None or owner.system != system or span.name in owner.several or not span.is_recording():  # type: ignore[attr-defined]
        return None
    claim = object()
    return span if _taken.setdefault(span, claim) is claim else None


def with_hidden(context: Context, system: str | None = None) -> Context:
    """``context``, in which the span is current that an instrumentation keeps to itself during a call of ``system``.

    Without a system: of any.
    """
    for hiding, (module, functions) in _HIDING.items():
        if system in (None, hiding) and module in sys.modules:
            span = _variable_of(module, functions)
            if span is not None:
                return trace.set_span_in_context(span, context)
    return context


def _variable_of(module: str, functions: frozenset[str]) -> Span | None:
    frame = sys._getframe(1)
    for _ in range(_MOST_FRAMES):
        if frame.f_back is None:
            break
        frame = frame.f_back
        if frame.f_code.co_name in functions and frame.f_globals.get("__name__") == module:
            span = frame.f_locals.get("span")
            return span if isinstance(span, Span) else None
    return None


def annotate(span: Span, attributes: Mapping[str, Any]) -> None:
    """Add to another's span what it does not say itself. One that has ended meanwhile is left alone."""
    if not span.is_recording():
        return
    own: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    span.set_attributes({name: value for name, value in attributes.items() if name not in own})


def measured(operation: Operation) -> frozenset[str]:
    """The official metrics that the owner of this operation's span records for it."""
    owner = owner_of(operation.span)
    if owner is None or operation.span.name in owner.unmeasured:
        return frozenset()
    return owner.metrics if owner.measures_failures or operation.error_type is None else frozenset()
