"""qdrant-client's local mode (``:memory:``, ``path=``): nothing to protect, but its operations are seen.

Each public method is one operation, without attempts, breaker or budget; what it calls of itself makes no second one.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from types import FunctionType, ModuleType
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from stormproof.clients import qdrant_operations as operations
from stormproof.clients.patching import Splices, begin
from stormproof.clients.qdrant import Qdrant
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.call import Call
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Verdict, Weight
from stormproof.resilience.runner import Runner

#: The engine in whose method we are. What the app's own iterators do meanwhile with another one is seen.
_inside: ContextVar[Any] = ContextVar("stormproof_qdrant_local", default=None)


class QdrantLocal(Qdrant):
    """There is no server that could fail: an error says what it says."""

    def classify(self, error: BaseException) -> Verdict:
        return Verdict(Weight.IGNORED, error_type=type(error).__name__)


def patch(module: ModuleType, runner: Runner) -> Splices:
    """Splice into the engine. ``module``: the imported ``qdrant_client.local.(async_)qdrant_local``."""
    splices = Splices()
    engine = getattr(module, "QdrantLocal", None) or module.AsyncQdrantLocal
    for name, function in list(vars(engine).items()):
        if isinstance(function, FunctionType) and not name.startswith("_") and name != "close":
            method = _Method(runner, function)
            splices.add(engine, name, method.run_async if inspect.iscoroutinefunction(function) else method.run)
    return splices


class _Method:
    """What takes the place of one method."""

    def __init__(self, runner: Runner, function: FunctionType) -> None:
        self._client = QdrantLocal()
        self._runner = runner
        self._name = function.__name__
        self._parameters = tuple(inspect.signature(function).parameters)[1:]

    def run(self, original: Any, engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = self._begin(engine, args, kwargs)
        if operation is None:
            return original(engine, *args, **kwargs)

        def work(operation: Operation, attempt: Attempt) -> Any:
            token = _inside.set(engine)
            try:
                return original(engine, *args, **kwargs)
            finally:
                _inside.reset(token)

        return self._runner.run(operation, work)

    async def run_async(self, original: Any, engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = self._begin(engine, args, kwargs)
        if operation is None:
            return await original(engine, *args, **kwargs)

        async def work(operation: Operation, attempt: Attempt) -> Any:
            token = _inside.set(engine)
            try:
                return await original(engine, *args, **kwargs)
            finally:
                _inside.reset(token)

        return await self._runner.run_async(operation, work)

    def _begin(self, engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation | None:
        if _inside.get() is engine or not is_instrumentation_enabled():
            return None
        return begin(self._runner, self._describe, args, kwargs)

    def _describe(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        collection = given.get("collection_name")
        return Call(
            client=self._client,
            operation=self._name,
            host="",
            port=0,
            subject=collection,
            facts=operations.facts(collection, operations.batch_size(self._name, given)),
            is_local=True,
        )
