"""Runs a call: the first attempt straight through, and stamina's loop only once something retryable has failed.

Sync and async share every decision (:class:`Operation`); they differ in how an attempt is made and awaited.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from stormproof.resilience import deadline, waiting
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.breaker import NOT_CALM
from stormproof.resilience.call import Call
from stormproof.resilience.clock import Clock
from stormproof.resilience.deadline import bounding, bounding_async
from stormproof.resilience.events import Fanout
from stormproof.resilience.fallback import Fallback
from stormproof.resilience.loop import is_active, retry_loop
from stormproof.resilience.operation import Operation, UnwantedResultError
from stormproof.resilience.outcome import GaveUp, Refusal
from stormproof.resilience.overrides import changes_for
from stormproof.resilience.overrides import current as layers_here
from stormproof.resilience.targets import Target, Targets

_log = logging.getLogger("stormproof")

T = TypeVar("T")

#: Makes one attempt: calls the client once, without the client's own retries.
Send = Callable[[Operation, Attempt], T]
AsyncSend = Callable[[Operation, Attempt], Awaitable[T]]

_PORTS = {"http": 80, "https": 443}


class Runner:
    """Runs calls against their targets. Safe for concurrent use by threads and tasks.

    ``keeps_content``: a listener wants to know what is said; clients look here once, when they are spliced into.
    """

    keeps_content = False

    def __init__(self, targets: Targets, listeners: Fanout, clock: Clock) -> None:
        self.targets = targets
        self.listeners = listeners
        self._clock = clock

    @property
    def is_told(self) -> bool:
        """Whether anyone wants to hear of calls; else what is only told need not be found out."""
        if self.listeners.late is not None:
            self.listeners.look()
        return not self.listeners.is_idle

    def is_enabled(self, call: Call) -> bool:
        """Whether its policy, or the block it is made in, wants this call to be protected at all."""
        target = self._target(call)
        layers = layers_here() if call.layers is None else call.layers
        if not layers:
            return target.policy.enabled
        enabled: bool = changes_for(target.policy_name, layers).get("enabled", target.policy.enabled)
        return enabled

    def begin(self, call: Call) -> Operation:
        """The operation of this call; to be handed to ``run`` or ``run_async``."""
        if call.is_local:
            call.layers = ()
        return Operation(call, self._target(call), self.listeners, self._clock)

    def _target(self, call: Call) -> Target:
        if call.is_local:
            return self.targets.local(call.client.system)
        return self.targets.get(call.client.system, call.host, call.port)

    def capture(self) -> dict[str, Any]:
        """What a call that begins later must know of where the app called: fields of :class:`Call`."""
        return {"parent": self.listeners.capture(), "layers": layers_here()}

    def after_fork(self) -> None:
        """Start afresh in a forked child: closed breakers, full budgets, no counts of the parent's."""
        self.targets.after_fork()
        self.listeners.after_fork()

    def call(self, call: Call, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run a function under its target's protection.

        A call that nobody watches and that succeeds goes a short way: an operation is made of it only once it has
        failed. It costs a fifth of the whole way (``benchmarks/core.py``).
        """
        target = self.targets.get(call.client.system, call.host, call.port)
        sent = self._clock()
        # Nobody watches, and nobody has a say but breaker and budget. Spelled out: a call costs a tenth of the whole.
        is_short = target.is_simple and not self.is_told and call.on_result is None and not layers_here()
        generation = target.breaker.enter(sent) if is_short else NOT_CALM
        if generation == NOT_CALM:
            if not self.is_enabled(call):
                return function(*args, **kwargs)
            self._turn_away(call, target, sent)
            return self.run(self.begin(call), _sending(function, args, kwargs))
        token = deadline.enter(*deadline.bounds(target.policy, sent)) if call.nests else None
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            failure = error
        else:
            target.succeeded(generation, sent, self._clock())
            return result
        finally:
            if token is not None:
                deadline.leave(token)
        try:
            operation = self._adopt(call, target, generation, sent, failure)
            send = _sending(function, args, kwargs)
            return self._after_failure(operation, bounding(send) if call.nests else send, failure)
        finally:
            del failure

    async def call_async(self, call: Call, function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """As :meth:`call`."""
        target = self.targets.get(call.client.system, call.host, call.port)
        sent = self._clock()
        # Nobody watches, and nobody has a say but breaker and budget. Spelled out: a call costs a tenth of the whole.
        is_short = target.is_simple and not self.is_told and call.on_result is None and not layers_here()
        generation = target.breaker.enter(sent) if is_short else NOT_CALM
        if generation == NOT_CALM:
            if not self.is_enabled(call):
                return await function(*args, **kwargs)
            self._turn_away(call, target, sent)
            return await self.run_async(self.begin(call), _sending(function, args, kwargs))
        token = deadline.enter(*deadline.bounds(target.policy, sent)) if call.nests else None
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            failure = error
        else:
            target.succeeded(generation, sent, self._clock())
            return result
        finally:
            if token is not None:
                deadline.leave(token)
        try:
            operation = self._adopt(call, target, generation, sent, failure)
            send = _sending(function, args, kwargs)
            return await self._after_failure_async(operation, bounding_async(send) if call.nests else send, failure)
        finally:
            del failure

    def _turn_away(self, call: Call, target: Target, now: float) -> None:
        """Refuse at once where nobody watches and there is nothing to fall back to."""
        is_final = target.policy.fallback is None and not layers_here()
        if self.listeners.is_idle and is_final and target.breaker.turn_away(now):
            raise call.client.refused_error(call, target, Refusal.CIRCUIT_OPEN)

    def _adopt(self, call: Call, target: Target, generation: int, sent: float, error: BaseException) -> Operation:
        """The operation of a call whose first attempt went the short way and failed."""
        operation = Operation(call, target, self.listeners, self._clock)
        operation.adopt(generation, sent)
        operation.fail(error)
        return operation

    def run(self, operation: Operation, send: Send[T]) -> T:
        """The result of the first attempt that succeeds, or the last error. Result and error are the client's own.

        A policy's ``on_result`` and ``fallback`` are the two ways to something else, both chosen by the user.
        """
        if operation.call.nests:
            send = bounding(send)
        try:
            return _attempt(operation, send)
        except Exception as error:
            if operation.wait is None and operation.fallback is None:
                raise
            failure = error
        try:  # outside of the handler: the next error is not to be chained to this one
            return self._after_failure(operation, send, failure)
        finally:
            del failure  # its traceback refers to this frame

    def _after_failure(self, operation: Operation, send: Send[T], error: BaseException) -> T:
        try:
            if not _may_retry(operation):
                raise error
            return self.resume(operation, send)
        except UnwantedResultError as unwanted:
            result: T = unwanted.result
            return result
        except Exception as last:
            if operation.fallback is None:
                raise
            return self._fall_back(operation, operation.fallback, send, last)
        finally:
            del error

    def resume(self, operation: Operation, send: Send[T]) -> T:
        """Go on after an attempt that failed and is to be retried (``operation.wait`` is set)."""
        entered = False
        failure: Exception = AssertionError("stamina's loop ended without a result or an error")
        try:
            for step in retry_loop(lambda _: _wait_after(operation)):
                with step:
                    if not entered and operation.error is not None:  # its first round: what has failed already
                        entered = True
                        raise operation.error
                    try:
                        return _attempt(operation, send)
                    except Exception as error:
                        if operation.wait is not None:
                            raise
                        failure = error
                    break
        except BaseException as error:
            _give_up(operation, error)
            raise
        try:  # not through the loop, which would hold it, and by its traceback the app's frames, in a cycle
            raise failure
        finally:
            del failure

    async def run_async(self, operation: Operation, send: AsyncSend[T]) -> T:
        """As :meth:`run`."""
        if operation.call.nests:
            send = bounding_async(send)
        try:
            return await _attempt_async(operation, send)
        except Exception as error:
            if operation.wait is None and operation.fallback is None:
                raise
            failure = error
        try:
            return await self._after_failure_async(operation, send, failure)
        finally:
            del failure

    async def _after_failure_async(self, operation: Operation, send: AsyncSend[T], error: BaseException) -> T:
        try:
            if not _may_retry(operation):
                raise error
            return await self.resume_async(operation, send)
        except UnwantedResultError as unwanted:
            result: T = unwanted.result
            return result
        except Exception as last:
            if operation.fallback is None:
                raise
            return await self._fall_back_async(operation, operation.fallback, send, last)
        finally:
            del error

    async def resume_async(self, operation: Operation, send: AsyncSend[T]) -> T:
        """As :meth:`resume`."""
        entered = False
        failure: Exception = AssertionError("stamina's loop ended without a result or an error")
        try:
            async for step in retry_loop(lambda _: _wait_after(operation)):
                with step:
                    if not entered and operation.error is not None:  # its first round: what has failed already
                        entered = True
                        raise operation.error
                    try:
                        return await _attempt_async(operation, send)
                    except Exception as error:
                        if operation.wait is not None:
                            raise
                        failure = error
                    break
        except BaseException as error:
            _give_up(operation, error)
            raise
        try:  # not through the loop, which would hold it, and by its traceback the app's frames, in a cycle
            raise failure
        finally:
            del failure

    # -- fallback ----------------------------------------------------------------------------------------------------

    def _fall_back(self, operation: Operation, fallback: Fallback, send: Send[T], error: Exception) -> T:
        live = None
        try:
            if fallback.endpoint is not None:
                live = self._elsewhere(operation, fallback.endpoint, fallback.headers)
                result = self.run(live, send)
            else:
                result = fallback.value if fallback.function is None else fallback.function(error)
        except BaseException as failure:
            operation.fell_back(failure, live)
            raise
        operation.fell_back(None, live)
        return result

    async def _fall_back_async(
        self, operation: Operation, fallback: Fallback, send: AsyncSend[T], error: Exception
    ) -> T:
        live = None
        try:
            if fallback.endpoint is not None:
                live = self._elsewhere(operation, fallback.endpoint, fallback.headers)
                result = await self.run_async(live, send)
            else:
                result = fallback.value if fallback.function is None else fallback.function(error)
                if inspect.isawaitable(result):
                    result = await result
        except BaseException as failure:
            operation.fell_back(failure, live)
            raise
        operation.fell_back(None, live)
        return result

    def _elsewhere(self, operation: Operation, endpoint: str, headers: Mapping[str, str]) -> Operation:
        """The same call to another target, which has no further one to fall back to."""
        url = urlsplit(endpoint)
        call = replace(
            operation.call,
            host=url.hostname or "unknown",
            port=url.port or _PORTS.get(url.scheme, 0),
            endpoint=endpoint,
            headers=headers,
            parent=operation.context,
        )
        elsewhere = self.begin(call)
        elsewhere.can_fall_back = False
        return elsewhere


def _sending(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Send[T]:
    def send(operation: Operation, attempt: Attempt) -> T:
        return function(*args, **kwargs)

    return send


def _may_retry(operation: Operation) -> bool:
    if operation.wait is None:
        return False
    if is_active():
        return True
    operation.abandon(GaveUp.INACTIVE)
    return False


def _give_up(operation: Operation, error: BaseException) -> None:
    """A loop that ends without us: cancelled while waiting, or stopped by stamina's test mode. Else does nothing."""
    if isinstance(error, Exception):
        operation.abandon(GaveUp.INACTIVE)
    else:
        operation.abandon(GaveUp.CANCELLED, type(error).__name__)


def _wait_after(operation: Operation) -> float | bool:
    return False if operation.wait is None else operation.wait


def _attempt(operation: Operation, send: Send[T]) -> T:
    wait = operation.admit(waiting.ThreadTurn)
    if wait:
        _await_turn(operation, wait)
    attempt: Attempt = operation.attempt  # type: ignore[assignment]  # it has been let through
    try:
        result = send(operation, attempt)
    except BaseException as error:
        operation.returned(attempt)
        operation.fail(error)
        raise
    operation.returned(attempt)
    _take(operation, result)
    return result


def _await_turn(operation: Operation, wait: float) -> None:
    try:
        while wait:
            if operation.turn is None:
                waiting.pause(wait)
            else:
                operation.turn.wait(wait)
            wait = operation.admit(waiting.ThreadTurn)
    except BaseException as error:  # who is interrupted stands in no line any more; a refusal has left it already
        operation.abandon(GaveUp.CANCELLED, type(error).__name__)
        raise


async def _attempt_async(operation: Operation, send: AsyncSend[T]) -> T:
    wait = operation.admit(waiting.TaskTurn)
    if wait:
        await _await_turn_async(operation, wait)
    attempt: Attempt = operation.attempt  # type: ignore[assignment]  # it has been let through
    try:
        result = await send(operation, attempt)
    except BaseException as error:
        operation.returned(attempt)
        operation.fail(error)
        raise
    operation.returned(attempt)
    _take(operation, result)
    return result


async def _await_turn_async(operation: Operation, wait: float) -> None:
    try:
        while wait:
            if operation.turn is None:
                await waiting.pause_task(wait)
            else:
                await operation.turn.wait(wait)
            wait = operation.admit(waiting.TaskTurn)
    except BaseException as error:  # who is interrupted stands in no line any more; a refusal has left it already
        operation.abandon(GaveUp.CANCELLED, type(error).__name__)
        raise


def _take(operation: Operation, result: object) -> None:
    """End the operation, unless the result is a stream: then its reader ends it."""
    call = operation.call
    try:
        if call.client.is_open(call, result):
            operation.can_fall_back = False  # the app has its answer's beginning
            return
        facts = None if operation.listeners.is_idle else call.client.response_facts(call, result)
    except Exception:
        _log.warning("stormproof could not read a result of %s", call.client.system, exc_info=True)
        facts = None
    if operation.turns_down(result):
        raise operation.error  # type: ignore[misc]  # set with the decision
    operation.succeed(facts)
