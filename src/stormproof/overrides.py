"""``with stormproof.policy(attempts=1): ...``: what holds for the calls made inside a block or a function."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from stormproof import functions
from stormproof.protection import check_name
from stormproof.resilience import overrides
from stormproof.resilience.fallback import Fallback

if TYPE_CHECKING:
    from typing_extensions import Unpack

F = TypeVar("F")


class Changes(TypedDict, total=False):
    """What can be chosen for a call. All durations are seconds; see ``Policy`` and ``RetryPolicy``."""

    enabled: bool
    deadline: float
    timeout: float | None
    attempts: int
    backoff: Literal["exponential", "linear", "constant"]
    jitter: Literal["full", "equal", "decorrelated", "none"]
    base: float
    cap: float
    on: Callable[[Exception], bool | None] | None
    on_result: Callable[[Any], bool] | None
    fallback: Fallback | None


class policy:  # noqa: N801  # reads as the statement and the decorator it is
    """Override the policy of the calls made inside a ``with`` block or a decorated function.

    ``policy(attempts=1)`` is for all calls, ``policy("openai", attempts=1)`` for those of a system or of functions
    that are protected under that name. Inside another one it wins key by key, and the rest stays. It holds where
    context variables do: in this thread and in the tasks begun inside, not in other threads. What counts is where the
    app makes the call, also for a stream that begins later. One object may be used often, also inside itself and by
    many at the same time.

    A deadline is each call's, not the block's, and cuts running attempts.

    Raises:
        TypeError: for a key that is not a call's.
        ValueError: for a value that is not allowed, or a name that nothing is protected under.
    """

    def __init__(self, system: str | None = None, /, **changes: Unpack[Changes]) -> None:
        chosen: Mapping[str, Any] = changes
        overrides.check("policy", chosen)
        if system is not None:
            check_name(f"policy({system!r})", system)
        self._layer = overrides.Layer(system, chosen)

    def __enter__(self) -> None:
        overrides.enter(self._layer)

    def __exit__(self, *_: object) -> None:
        overrides.leave(self._layer)

    def __call__(self, function: F) -> F:
        wrapped: F = functions.decorated(function, self)
        return wrapped

    # -- around a function: functions.Around -------------------------------------------------------------------------

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self:
            return function(*args, **kwargs)

    async def run_async(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self:
            return await function(*args, **kwargs)

    def generate(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Generator[Any, Any, Any]:
        with self:
            return functions.handing_on(_Steps(self, function(*args, **kwargs)), function)

    def generate_async(self, function: Callable[..., Any], args: Any, kwargs: Any) -> AsyncGenerator[Any, Any]:
        with self:
            return functions.handing_on_async(_AsyncSteps(self, function(*args, **kwargs)), function)


class _Steps(functions.Steps):
    """The block is around each step: between two of them the code is the consumer's."""

    def __init__(self, block: policy, items: Generator[Any, Any, Any]) -> None:
        super().__init__(items)
        self._block = block

    def step(self, advance: Callable[..., Any], *args: Any) -> Any:
        with self._block:
            return advance(*args)

    def close(self) -> None:
        with self._block:
            super().close()


class _AsyncSteps(functions.AsyncSteps):
    """As :class:`_Steps`."""

    def __init__(self, block: policy, items: AsyncGenerator[Any, Any]) -> None:
        super().__init__(items)
        self._block = block

    async def step(self, advance: Callable[..., Any], *args: Any) -> Any:
        with self._block:
            return await advance(*args)

    async def aclose(self) -> None:
        with self._block:
            await super().aclose()
