"""stamina, which waits and loops once something has failed. The only file that knows it.

It is imported at the first failure, not before: a healthy program never pays for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

#: stamina calls our loops by this name wherever it reports a retry.
LOOP_NAME = "stormproof"


class _Loop(Protocol):
    def __iter__(self) -> Iterator[AbstractContextManager[None]]: ...
    def __aiter__(self) -> AsyncIterator[AbstractContextManager[None]]: ...


def is_active() -> bool:
    """False while ``stamina.set_active(False)`` is in force: then nothing is retried."""
    import stamina

    return stamina.is_active()


def retry_loop(wait_after: Callable[[Exception], float | bool]) -> _Loop:
    """stamina's loop with all decisions left to ``wait_after``: seconds to wait, or False to raise.

    stamina's limits of attempts and time are off, except those of its test mode.
    """
    import stamina

    _leave_reporting_to_listeners(stamina)
    loop = stamina.retry_context(on=wait_after, attempts=None, timeout=None)
    return loop.with_name(LOOP_NAME, (), {})


def _leave_reporting_to_listeners(stamina: Any) -> None:
    """Keep stamina's hooks from reporting our retries a second time.

    By default they write a warning for each retry, with structlog installed even to stdout. The app's own use of
    stamina is reported as before. Hooks that are already wrapped are left alone, so that this can be called often.
    """
    hooks = stamina.instrumentation.get_on_retry_hooks()
    if any(not isinstance(hook, _ForOthers) for hook in hooks):
        wrapped = tuple(hook if isinstance(hook, _ForOthers) else _ForOthers(hook) for hook in hooks)
        stamina.instrumentation.set_on_retry_hooks(wrapped)


class _ForOthers:
    """A stamina retry hook that hears of every loop but ours."""

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self._hook = hook

    def __call__(self, details: Any) -> Any:
        return None if details.name == LOOP_NAME else self._hook(details)
