"""``@stormproof.protect("jira")``: for any function of the user's own what the three clients get by themselves."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from stormproof import functions
from stormproof.functions import Kind
from stormproof.resilience.policy import SWITCH, Policy, Range

if TYPE_CHECKING:
    from stormproof.resilience.call import Call
    from stormproof.resilience.runner import Runner

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F")

RetryIf = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], "bool | None"]

_log = logging.getLogger("stormproof")

#: The names that something is protected under, with the policy that came with them; bounded, the oldest go.
_declared: dict[str, Policy | None] = {}
_MOST_NAMES = 1000


def protect(
    name: str,
    *,
    operation: str | None = None,
    policy: Policy | None = None,
    retry_if: RetryIf | None = None,
    retry_if_result: Callable[[Any], bool] | None = None,
    replay_safe: bool = True,
) -> Protection:
    """Protection for functions that call ``name``: to decorate them, or to :meth:`~Protection.call` them with.

    Plain functions, coroutine functions, generator functions and asynchronous ones; a generator is begun anew only as
    long as it has yielded nothing. Nothing needs to be instrumented for it.

    Args:
        name: of what is called. All functions of one name share its breaker, its budget and its policy.
        operation: name of the operation in telemetry; the function's own by default.
        policy: of the name; without one that of the settings for all. The latest that is given holds, but for one by
            ``instrument(policies=...)``.
        retry_if: errors that another attempt may help with, beside those of networks and servers that are known to be
            transient: a type, types, or a function that says True, False, or None for "as usual".
        retry_if_result: told of each result; True: it is not good enough, try again. The last one is handed out
            whatever it is. Not for generators.
        replay_safe: False: after a timeout or a broken connection it is not tried again, as it may have been carried
            out.

    Raises:
        TypeError, ValueError: for an argument that is not allowed.
    """
    _check(
        name,
        operation=operation,
        policy=policy,
        retry_if=retry_if,
        retry_if_result=retry_if_result,
        replay_safe=replay_safe,
    )
    _declare(name, policy)
    return Protection(name, operation, retry_if, retry_if_result, replay_safe)


def call(name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function under the protection of ``name``, once. ``protect(name, ...).call`` takes options."""
    return protect(name).call(function, *args, **kwargs)


class Protection:
    """What :func:`protect` gives. Safe for concurrent use."""

    def __init__(
        self,
        name: str,
        operation: str | None,
        retry_if: RetryIf | None,
        retry_if_result: Callable[[Any], bool] | None,
        replay_safe: bool,
    ) -> None:
        self._name = name
        self._operation = operation
        self._retry_if = _asking(retry_if)
        self._retry_if_result = retry_if_result
        self._replay_safe = replay_safe

    def __call__(self, function: F) -> F:
        """The function, protected. It keeps its name, its signature and its kind."""
        decorated: F = functions.decorated(function, self._around(function))
        return decorated

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns for these arguments: of a coroutine function a coroutine, and so on."""
        result: T = functions.called(function, self._around(function), args, kwargs)
        return result

    def _around(self, function: Any) -> _Around:
        inner = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
        if not callable(inner) or inspect.isclass(inner):
            raise TypeError(f"protect({self._name!r}) is for functions, not for {function!r}")
        generates = functions.kind_of(inner) in (Kind.GENERATOR, Kind.ASYNC_GENERATOR)
        if generates and self._retry_if_result is not None:
            raise TypeError(f"protect({self._name!r}): retry_if_result is not for generators, such as {function!r}")
        return _Around(lambda: self._describe(self._operation or functions.name_of(inner)))

    def _describe(self, operation: str) -> Call:
        from stormproof.clients.function import Function
        from stormproof.resilience.call import Call

        return Call(
            client=Function(self._retry_if),
            operation=operation,
            host=self._name,
            port=0,
            replay_safe=self._replay_safe,
            on_result=self._retry_if_result,
            nests=True,
        )


class _Around:
    """One protected function: ``functions.Around``. Everything it needs is loaded at its first call."""

    def __init__(self, describe: Callable[[], Call]) -> None:
        self._describe = describe
        self._call: Any = None
        self._runner: Callable[[], Runner] | None = None

    def _ready(self) -> Runner | None:
        """The runner; None, logged, if we have failed: then the function is called as it is."""
        try:
            if self._runner is None:
                from stormproof import install

                self._call = self._describe()
                self._runner = install.runner
            return self._runner()
        except Exception:
            _log.warning("stormproof failed; a function is called without protection", exc_info=True)
            return None

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        runner = self._ready()
        if runner is None:
            return function(*args, **kwargs)
        return runner.call(self._call, function, *args, **kwargs)

    async def run_async(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        runner = self._ready()
        if runner is None:
            return await function(*args, **kwargs)
        return await runner.call_async(self._call, function, *args, **kwargs)

    def generate(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Generator[Any, Any, Any]:
        runner = self._ready()
        if runner is None:
            generator: Generator[Any, Any, Any] = function(*args, **kwargs)
            return generator
        from stormproof.clients.generators import ProtectedSteps

        steps = ProtectedSteps(runner, self._origin(runner), lambda: function(*args, **kwargs))
        return functions.handing_on(steps, function)

    def generate_async(self, function: Callable[..., Any], args: Any, kwargs: Any) -> AsyncGenerator[Any, Any]:
        runner = self._ready()
        if runner is None:
            generator: AsyncGenerator[Any, Any] = function(*args, **kwargs)
            return generator
        from stormproof.clients.generators import ProtectedAsyncSteps

        steps = ProtectedAsyncSteps(runner, self._origin(runner), lambda: function(*args, **kwargs))
        return functions.handing_on_async(steps, function)

    def _origin(self, runner: Runner) -> Call:
        """The call as it is made here and now; it begins later."""
        call: Call = replace(self._call, streaming=True, **runner.capture())
        return call


# -- names ---------------------------------------------------------------------------------------------------------


def declared_policy(name: str) -> Policy | None:
    """The policy that came with a name, if one did."""
    return _declared.get(name)


def check_name(where: str, name: str) -> None:
    """Refuse a name that nothing is protected under.

    Raises:
        ValueError: with what is.
    """
    from stormproof.settings import SYSTEMS

    if name not in SYSTEMS and name not in _declared:
        allowed = ", ".join([*SYSTEMS, *_declared])
        raise ValueError(f"{where}: not a system, nor a name that protect() was told; allowed: {allowed}")


def _declare(name: str, policy: Policy | None) -> None:
    before = _declared.get(name)
    if name not in _declared and len(_declared) >= _MOST_NAMES:
        _declared.pop(next(iter(_declared)), None)
    if policy is None or policy == before:
        _declared.setdefault(name, policy)
        return
    from stormproof import install

    if before is not None:
        _log.warning("the policy of %s is replaced by the one of a later protect()", name)
    _declared[name] = policy
    install.forget_targets(name)


def _check(name: Any, **options: Any) -> None:
    from stormproof.settings import SYSTEMS

    if not isinstance(name, str):
        raise TypeError(f'protect(name={name!r}): name is not text, as in @stormproof.protect("jira")')
    if not name.strip() or "/" in name or name.lower() in SYSTEMS:
        raise ValueError(f"protect(name={name!r}): name is not text without '/', other than {', '.join(SYSTEMS)}")
    for key, value in options.items():
        if not _OPTIONS[key].accepts(value):
            raise TypeError(f"protect({key}={value!r}): {key} is not {_OPTIONS[key].allowed}")


def _is_errors(value: Any) -> bool:
    types = value if isinstance(value, tuple) else (value,)
    return bool(types) and all(inspect.isclass(one) and issubclass(one, Exception) for one in types)


def _asking(retry_if: RetryIf | None) -> Callable[[Exception], bool | None] | None:
    """As a function: of types, what is of them is tried again and all else is as usual."""
    if retry_if is None or not isinstance(retry_if, (type, tuple)):
        return retry_if
    return lambda error: True if isinstance(error, retry_if) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_policy_of_functions(value: Any) -> bool:
    return isinstance(value, Policy) and (value.fallback is None or value.fallback.endpoint is None)


_OPTIONS: Mapping[str, Range] = {
    "operation": Range("text, or None for the function's name", lambda value: value is None or _is_text(value)),
    "policy": Range(
        "a stormproof.Policy without another endpoint to fall back to, or None",
        lambda value: value is None or _is_policy_of_functions(value),
    ),
    "retry_if": Range(
        "a type of Exception, a tuple of such types, a function, or None",
        lambda value: value is None or _is_errors(value) or (callable(value) and not inspect.isclass(value)),
    ),
    "retry_if_result": Range("a function, or None", lambda value: value is None or callable(value)),
    "replay_safe": SWITCH,
}
