"""stormproof as ``core.py`` measures it: the product's own runner, without a client library and without listeners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers import ASYNC, BUDGET, PERMITS, RETRIES, WINDOW, Counted, Peer, work

from stormproof.errors import CircuitOpenError, refused_message
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.call import Call, Facts
from stormproof.resilience.clock import monotonic
from stormproof.resilience.events import Fanout
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import Refusal, Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy, Policy
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Target, Targets


class _Function:
    """A client that is a plain function."""

    system = "function"

    def classify(self, error: BaseException) -> Verdict:
        return Verdict(Weight.FAILURE)

    def response_facts(self, call: Call, result: Any) -> Facts:
        return {}

    def is_open(self, call: Call, result: Any) -> bool:
        return False

    def refused_error(self, call: Call, target: Target, refusal: Refusal) -> Exception:
        return CircuitOpenError(refused_message(refusal, target.name))


class _World:
    """A runner of its own, and the one call that it makes."""

    def __init__(self, policy: Policy) -> None:
        listener = Fanout()
        self._targets = Targets(lambda _: policy, monotonic, listener.breaker_changed)
        self._runner = Runner(self._targets, listener, monotonic)
        self._call = Call(client=_Function(), operation="work", host="localhost", port=1)

    @property
    def target(self) -> Target:
        return self._targets.get(self._call.client.system, self._call.host, self._call.port)

    def guard(self, function: Any) -> Any:
        """As a function is protected."""
        runner, call = self._runner, self._call

        def guarded(*args: Any, **kwargs: Any) -> Any:
            return runner.call(call, function, *args, **kwargs)

        return guarded

    def guard_async(self, function: Any) -> Any:
        """As :meth:`guard`."""
        runner, call = self._runner, self._call

        def guarded(*args: Any, **kwargs: Any) -> Any:
            return runner.call_async(call, function, *args, **kwargs)

        return guarded


class _WholeWay(_World):
    """The same, as the calls of client libraries go, and every call that a listener hears of."""

    def guard(self, function: Any) -> Any:
        runner, call = self._runner, self._call

        def guarded(*args: Any, **kwargs: Any) -> Any:
            def send(operation: Operation, attempt: Attempt) -> Any:
                return function(*args, **kwargs)

            return runner.run(runner.begin(call), send)

        return guarded

    def guard_async(self, function: Any) -> Any:
        runner, call = self._runner, self._call

        def guarded(*args: Any, **kwargs: Any) -> Any:
            async def send(operation: Operation, attempt: Attempt) -> Any:
                return await function(*args, **kwargs)

            return runner.run_async(runner.begin(call), send)

        return guarded


def _ours(world: Callable[[], _World], note: str = "") -> Peer:
    def opened() -> Any:
        closed = world()
        closed.target.breaker.force_open()
        return closed.guard(work)

    def counted() -> Counted:
        made = world()
        return made.guard(work), lambda: made.target.breaker.calls["success"]

    return Peer(
        "stormproof",
        (WINDOW, PERMITS, BUDGET, RETRIES, ASYNC),
        lambda function: world().guard(function),
        lambda function: world().guard_async(function),
        opened,
        counted=counted,
        note=note,
    )


_CLASSICAL = Policy(breaker=BreakerPolicy(strategy="window"))

#: The product by the name of its row.
OURS = {
    "ours": _ours(lambda: _World(Policy()), "a protected function, its adaptive strategy"),
    "ours, window": _ours(lambda: _World(_CLASSICAL), "the same, with the strategy that has thresholds"),
    "ours, whole way": _ours(
        lambda: _WholeWay(Policy()), "as the calls of client libraries go, and every call that a listener hears of"
    ),
}
