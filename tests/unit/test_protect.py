"""``protect`` and ``call``: any function of the user's own, in each of its kinds."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import inspect
import pickle
import socket
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

import stormproof
from stormproof import BreakerPolicy, CircuitOpenError, Fallback, Policy, RetryPolicy, install, protection
from stormproof.clients.function import Function
from stormproof.functions import Kind, kind_of
from stormproof.resilience.events import Fanout
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import GaveUp, Retry, Verdict, Weight
from stormproof.resilience.targets import Targets

from .helpers import CLASSICAL, Recorder, VirtualClock, World
from .kinds import every_kind, generators, in_kind, outcome, step

REFUSED = ConnectionRefusedError
AMBIGUOUS = ConnectionResetError


class Keeper(Recorder):
    """Keeps the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def operation_started(self, operation: Operation) -> None:
        super().operation_started(operation)
        self.operations.append(operation)


class Script:
    """Raises and returns what it is told, call by call; the last for ever."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = outcomes
        self.calls = 0
        self.arguments: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.arguments.append((args, kwargs))
        self.calls += 1
        found = self.outcomes[min(self.calls, len(self.outcomes)) - 1]
        if isinstance(found, type) and issubclass(found, BaseException):
            raise found()
        if isinstance(found, BaseException):
            raise found
        return found() if callable(found) else found


@pytest.fixture
def told() -> Keeper:
    return Keeper()


@pytest.fixture(autouse=True)
def process(clock: VirtualClock, told: Keeper, monkeypatch: pytest.MonkeyPatch) -> World:
    """A runner on the virtual clock as the one of this process; the classical breaker, so that timeouts are retried."""
    monkeypatch.setattr("stormproof.protection._declared", {})
    for name in ("policies", "settings", "runner"):
        monkeypatch.setattr(install._state, name, {} if name == "policies" else None)
    monkeypatch.setenv("STORMPROOF__BREAKER__STRATEGY", "window")
    monkeypatch.setenv("STORMPROOF__BREAKER__FAILURES", "9")
    world = World(clock, told)
    fanout = Fanout(told)
    world.runner.targets = Targets(install.policy_for, clock, fanout.breaker_changed)
    world.runner.listeners = fanout
    monkeypatch.setattr(install._state, "runner", world.runner)
    return world


@every_kind
class TestEveryKind:
    def test_it_is_what_it_was(self, kind: Kind) -> None:
        bare = in_kind(kind, lambda: 1)
        protected = stormproof.protect("jira")(bare)
        assert kind_of(protected) is kind
        for ask in (
            inspect.isfunction,
            inspect.iscoroutinefunction,
            inspect.isgeneratorfunction,
            inspect.isasyncgenfunction,
        ):
            assert ask(protected) is ask(bare)
        assert (protected.__name__, protected.__qualname__, protected.__wrapped__) == (
            bare.__name__,
            bare.__qualname__,
            bare,
        )
        assert inspect.signature(protected) == inspect.signature(bare)
        answers = [bare(), protected()]
        assert type(answers[0]) is type(answers[1])
        for answer in answers:
            if inspect.iscoroutine(answer):
                answer.close()

    def test_what_it_takes_and_gives_is_untouched(self, kind: Kind) -> None:
        result = object()
        script = Script(result)
        protected = stormproof.protect("jira")(in_kind(kind, script))
        assert outcome(kind, lambda: protected(1, two=2)) is result
        assert script.arguments == [((1,), {"two": 2})]

    def test_what_is_transient_is_repeated_with_the_same_arguments(self, kind: Kind, told: Keeper) -> None:
        script = Script(REFUSED, AMBIGUOUS, "fine")
        protected = stormproof.protect("jira")(in_kind(kind, script))
        assert outcome(kind, lambda: protected(1, two=2)) == "fine"
        assert script.arguments == [((1,), {"two": 2})] * 3
        assert [step for step in told.steps if step.startswith(("ended", "over"))] == [
            "ended ConnectionRefusedError", "ended ConnectionResetError", "ended well", "over well"
        ]  # fmt: skip

    def test_so_many_attempts_and_the_last_error_as_it_is(self, kind: Kind) -> None:
        errors = [ConnectionResetError(n) for n in range(4)]
        protected = stormproof.protect("jira")(in_kind(kind, Script(*errors)))
        with pytest.raises(ConnectionResetError) as raised:
            outcome(kind, protected)
        assert raised.value is errors[3]
        assert vars(raised.value) == {}
        assert [error.__cause__ or error.__context__ for error in errors] == [None] * 4

    @pytest.mark.parametrize("bug", [TypeError, ValueError, KeyError, FileNotFoundError, ZeroDivisionError])
    def test_a_bug_is_not_repeated_and_says_nothing_of_the_target(self, kind: Kind, bug: type[Exception]) -> None:
        script = Script(bug)
        with pytest.raises(bug):
            outcome(kind, stormproof.protect("jira")(in_kind(kind, script)))
        assert script.calls == 1
        assert stormproof.breakers["jira"].breaker.calls["ignored"] == 1

    def test_what_may_have_been_carried_out_is_not_repeated_unless_it_may_be(self, kind: Kind, told: Keeper) -> None:
        script = Script(REFUSED, AMBIGUOUS)
        with pytest.raises(AMBIGUOUS):
            outcome(kind, stormproof.protect("jira", replay_safe=False)(in_kind(kind, script)))
        assert script.calls == 2
        assert told.operations[0].gave_up is GaveUp.NOT_REPLAY_SAFE

    def test_an_open_breaker_refuses(self, kind: Kind) -> None:
        script = Script("never")
        protected = stormproof.protect("jira")(in_kind(kind, script))
        stormproof.protect("jira").call(lambda: None)
        stormproof.breakers["jira"].force_open()
        with pytest.raises(CircuitOpenError, match="circuit open: jira keeps failing") as raised:
            outcome(kind, protected)
        assert type(raised.value) is CircuitOpenError
        assert raised.value.target == "jira"
        assert script.calls == 0

    def test_call_does_the_same_without_a_decorator(self, kind: Kind) -> None:
        script = Script(REFUSED, "fine")
        function = in_kind(kind, script)
        assert outcome(kind, lambda: stormproof.call("jira", function, 1, two=2)) == "fine"
        assert outcome(kind, lambda: stormproof.protect("jira").call(function, 3)) == "fine"
        assert script.arguments == [((1,), {"two": 2})] * 2 + [((3,), {})]

    def test_partials_and_callable_objects(self, kind: Kind, told: Keeper) -> None:
        function = in_kind(kind, lambda *args: args)
        callable_object = type("Search", (), {"__call__": lambda self, *args: args, "__qualname__": "Search"})
        if kind is not Kind.PLAIN:
            bound = in_kind(kind, lambda _, *args: args)
            callable_object.__call__ = bound  # type: ignore[method-assign]
        assert outcome(kind, lambda: stormproof.call("jira", functools.partial(function, 1), 2)) == (1, 2)
        assert outcome(kind, lambda: stormproof.call("jira", callable_object(), 1)) == (1,)
        assert told.operations[0].call.operation == f"in_kind.{kind.name.lower()}"

    def test_switched_off_it_is_passed_straight_through(
        self, kind: Kind, told: Keeper, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STORMPROOF__ENABLED", "false")
        for policy in (None, Policy()):  # also where the code has chosen one
            script = Script(REFUSED)
            with pytest.raises(REFUSED):
                outcome(kind, stormproof.protect("jira", policy=policy)(in_kind(kind, script)))
            assert script.calls == 1
        assert told.steps == []

    def test_our_own_failure_is_not_the_apps(
        self, kind: Kind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(install, "runner", Script(LookupError))
        assert outcome(kind, stormproof.protect("jira")(in_kind(kind, lambda: "fine"))) == "fine"
        assert [record.getMessage() for record in caplog.records] == [
            "stormproof failed; a function is called without protection"
        ]

    def test_a_fallback_has_something_for_the_app(self, kind: Kind) -> None:
        plan_b: Any = "plan b" if kind in (Kind.PLAIN, Kind.COROUTINE) else ["plan b", "more"]
        policy = Policy(retry=RetryPolicy(attempts=2), fallback=Fallback(value=plan_b))
        script = Script(REFUSED)
        assert outcome(kind, stormproof.protect("jira", policy=policy)(in_kind(kind, script))) == "plan b"
        assert script.calls == 2

    def test_retry_if_names_what_is_a_failure_of_the_target(self, kind: Kind) -> None:
        script = Script(LookupError, "fine")
        assert outcome(kind, stormproof.protect("jira", retry_if=LookupError)(in_kind(kind, script))) == "fine"
        assert stormproof.breakers["jira"].breaker.calls["failure"] == 1


class TestMethods:
    class Jira:
        """Each kind of method, decorated before and after it was made one."""

        protect = stormproof.protect("jira")

        @protect
        def bound(self, *args: int) -> tuple[Any, ...]:
            return self, *args

        @protect
        @classmethod
        def of_class(cls, *args: int) -> tuple[Any, ...]:
            return cls, *args

        @classmethod
        @protect
        def of_class_too(cls, *args: int) -> tuple[Any, ...]:
            return cls, *args

        @protect
        @staticmethod
        def static(*args: int) -> tuple[Any, ...]:
            return args

        @protect
        def pages(self, *args: int) -> Iterator[Any]:
            yield self
            yield from args

        @classmethod
        @protect
        def pages_of_class(cls, *args: int) -> Iterator[Any]:
            yield cls
            yield from args

    def test_they_are_bound_as_ever(self, told: Keeper) -> None:
        jira = self.Jira()
        assert jira.bound(1) == (jira, 1)
        assert jira.of_class(1) == self.Jira.of_class_too(1) == (self.Jira, 1)
        assert jira.static(1) == self.Jira.static(1) == (1,)
        assert list(jira.pages(1, 2)) == [jira, 1, 2]
        assert list(jira.pages_of_class(1)) == [self.Jira, 1]
        assert told.operations[0].call.operation == "TestMethods.Jira.bound"


@stormproof.protect("jira")
def of_module() -> str:
    return "fine"


@stormproof.protect("jira")
def generator_of_module() -> Iterator[str]:
    yield "fine"


def test_functions_of_a_module_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(of_module)) is of_module
    assert pickle.loads(pickle.dumps(generator_of_module)) is generator_of_module


@generators
class TestGenerators:
    """What iterating has to do with it."""

    def start(self, kind: Kind, *script: Any, **options: Any) -> tuple[Any, Script]:
        body = Script(*script)
        return stormproof.protect("jira", **options)(in_kind(kind, body))(), body

    def test_it_begins_at_the_first_step(self, kind: Kind, told: Keeper) -> None:
        generator, body = self.start(kind, "first")
        assert (body.calls, told.steps) == (0, [])
        del generator
        gc.collect()
        assert (body.calls, told.steps) == (0, [])  # never iterated: never happened

    def test_it_is_over_at_its_end(self, kind: Kind, told: Keeper) -> None:
        generator, _ = self.start(kind, "first")
        assert step(kind, generator, "send", None) == "first"
        assert step(kind, generator, "send", None) == "more"
        assert "over well" not in told.steps
        with pytest.raises((StopIteration, StopAsyncIteration)):
            step(kind, generator, "send", None)
        assert told.steps[-2:] == ["ended well", "over well"]

    def test_what_breaks_after_its_first_item_is_not_repeated(self, kind: Kind, told: Keeper) -> None:
        calls = []

        def pages() -> Iterator[int]:
            calls.append(1)
            yield 1
            raise REFUSED

        async def pages_async() -> Any:
            calls.append(1)
            yield 1
            raise REFUSED

        generator = stormproof.protect("jira")(pages if kind is Kind.GENERATOR else pages_async)()
        assert step(kind, generator, "send", None) == 1
        with pytest.raises(REFUSED):
            step(kind, generator, "send", None)
        assert len(calls) == 1
        assert told.operations[0].gave_up is GaveUp.STREAM_STARTED
        assert stormproof.breakers["jira"].breaker.calls["failure"] == 1

    @pytest.mark.parametrize("end", ["close", "dropped"])
    def test_who_stops_early_is_no_failure(self, kind: Kind, told: Keeper, end: str) -> None:
        generator, _ = self.start(kind, "first")
        if kind is Kind.ASYNC_GENERATOR and end == "dropped":

            async def use() -> None:
                nonlocal generator
                await anext(generator)
                del generator
                gc.collect()
                await asyncio.sleep(0)
                await asyncio.sleep(0)

            asyncio.run(use())
        else:
            step(kind, generator, "send", None)
            if end == "close":
                step(kind, generator, "close")
            del generator
            gc.collect()
        assert told.steps[-2:] == ["ended well", "over well"]
        assert stormproof.breakers["jira"].snapshot().in_flight == 0

    def test_what_the_consumer_throws_in_is_his_own(self, kind: Kind, told: Keeper) -> None:
        generator, _ = self.start(kind, "first")
        step(kind, generator, "send", None)
        with pytest.raises(REFUSED):
            step(kind, generator, "throw", REFUSED())
        assert told.steps[-2:] == ["ended well", "over well"]

    def test_over_is_over(self, kind: Kind) -> None:
        generator, body = self.start(kind, TypeError)
        with pytest.raises(TypeError):
            step(kind, generator, "send", None)
        with pytest.raises((StopIteration, StopAsyncIteration)):
            step(kind, generator, "send", None)
        assert body.calls == 1

    def test_there_is_no_result_to_ask_for(self, kind: Kind) -> None:
        with pytest.raises(TypeError, match="retry_if_result is not for generators"):
            stormproof.protect("jira", retry_if_result=bool)(in_kind(kind, bool))


def test_a_generator_is_sent_to_thrown_at_and_returns_as_ever(told: Keeper) -> None:
    @stormproof.protect("jira")
    def conversation() -> Any:
        heard: list[Any] = []
        while len(heard) < 3:
            try:
                heard.append((yield len(heard)))
            except LookupError as error:  # noqa: PERF203
                heard.append(error)
        return heard

    error = LookupError()
    generator = conversation()
    assert [next(generator), generator.send("a"), generator.throw(error)] == [0, 1, 2]
    with pytest.raises(StopIteration) as end:
        generator.send("b")
    assert end.value.value == ["a", error, "b"]
    assert told.steps[-1] == "over well"


def test_an_asynchronous_one_is_sent_to_and_thrown_at_as_ever(told: Keeper) -> None:
    @stormproof.protect("jira")
    async def conversation() -> Any:
        heard: list[Any] = []
        while len(heard) < 3:
            try:
                heard.append((yield list(heard)))
            except LookupError as error:  # noqa: PERF203
                heard.append(error)

    error, generator = LookupError(), conversation()
    assert step(Kind.ASYNC_GENERATOR, generator, "send", None) == []
    assert step(Kind.ASYNC_GENERATOR, generator, "send", "a") == ["a"]
    assert step(Kind.ASYNC_GENERATOR, generator, "throw", error) == ["a", error]
    with pytest.raises(StopAsyncIteration):
        step(Kind.ASYNC_GENERATOR, generator, "send", "b")
    assert told.steps[-1] == "over well"


def test_a_generator_without_items_succeeds(told: Keeper) -> None:
    @stormproof.protect("jira")
    def nothing() -> Iterator[None]:
        yield from ()

    assert list(nothing()) == []
    assert told.steps[-1] == "over well"


def test_as_a_context_manager(told: Keeper) -> None:
    @contextmanager
    @stormproof.protect("jira")
    def session() -> Iterator[str]:
        yield "session"

    with session() as it:
        assert it == "session"
    with pytest.raises(REFUSED), session():
        raise REFUSED
    assert told.steps.count("over well") == 2


def test_the_loops_end_closes_all_generators_at_once(told: Keeper) -> None:
    @stormproof.protect("jira")
    async def pages() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)

    kept = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: kept.append(context))
        generator = pages()
        kept.append(generator)
        await anext(generator)

    asyncio.run(main())
    assert len(kept) == 1
    assert told.steps[-1] == "over well"


# -- what is repeated ------------------------------------------------------------------------------------------------


class Carrying(Exception):
    """An error with a status, in one of the ways in which libraries have it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes)


def of_library(module: str, name: str, *bases: type[Exception]) -> type[Exception]:
    """A class as that library has it."""
    return type(name, bases or (Exception,), {"__module__": module})


def answer(status: int, **headers: str) -> Any:
    return type(
        "Response", (), {"status_code": status, "headers": {k.replace("_", "-"): v for k, v in headers.items()}}
    )()


NEW_CONNECTION = of_library("urllib3.exceptions", "NewConnectionError")
MAX_RETRIES = of_library("urllib3.exceptions", "MaxRetryError")
REQUESTS = of_library("requests.exceptions", "ConnectionError", OSError)
UNCLEAR = (Weight.FAILURE, Retry.IF_REPLAY_SAFE)
NOT_SENT = (Weight.FAILURE, Retry.ALWAYS)
NOTHING = (Weight.IGNORED, Retry.NEVER)
ALIVE = (Weight.SUCCESS, Retry.NEVER)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(), NOT_SENT),
        (ConnectionResetError(), UNCLEAR),
        (BrokenPipeError(), UNCLEAR),
        (TimeoutError(), UNCLEAR),
        (asyncio.TimeoutError(), UNCLEAR),
        (socket.gaierror(), NOT_SENT),
        (OSError(errno.ENETUNREACH, "unreachable"), NOT_SENT),
        (PermissionError(), NOTHING),
        (ValueError(), NOTHING),
        (httpx.ConnectError(""), NOT_SENT),
        (httpx.ReadTimeout(""), UNCLEAR),
        (urllib.error.URLError(ConnectionRefusedError()), NOT_SENT),
        (urllib.error.URLError("no host given"), UNCLEAR),
        (REQUESTS(MAX_RETRIES(NEW_CONNECTION())), NOT_SENT),
        (REQUESTS("reset"), UNCLEAR),
        (of_library("requests.exceptions", "ReadTimeout", of_library("requests.exceptions", "Timeout"))(), UNCLEAR),
        (of_library("aiohttp.client_exceptions", "ClientConnectorError", OSError)(), NOT_SENT),
        (of_library("aiohttp.client_exceptions", "ServerDisconnectedError",
                    of_library("aiohttp.client_exceptions", "ClientConnectionError"))(), UNCLEAR),
        (of_library("jira", "TimeoutError")(), NOTHING),
        (Carrying(response=answer(503)), NOT_SENT),
        (Carrying(response=answer(502)), UNCLEAR),
        (Carrying(response=answer(429)), (Weight.IGNORED, Retry.ALWAYS)),
        (Carrying(response=answer(404)), ALIVE),
        (Carrying(status=500), NOT_SENT),
        (Carrying(status_code=504), UNCLEAR),
        (Carrying(status="open", code=7), NOTHING),
        (Carrying(response=answer(400, X_Should_Retry="true")), (Weight.SUCCESS, Retry.ALWAYS)),
        (CircuitOpenError(), NOTHING),
        (type("Both", (CircuitOpenError, ConnectionError), {})(), NOTHING),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)  # fmt: skip
def test_what_an_error_means(error: Exception, expected: tuple[Weight, Retry]) -> None:
    verdict = Function().classify(error)
    assert (verdict.weight, verdict.retry) == expected
    assert verdict.error_type == (str(verdict.status) if verdict.status is not None else type(error).__name__)


@pytest.mark.parametrize("error", [TimeoutError(), asyncio.TimeoutError(), httpx.ReadTimeout("")])
def test_a_timeout_is_known_as_one(error: Exception) -> None:
    assert Function().classify(error).timed_out


def test_the_servers_wish_is_heard(clock: VirtualClock) -> None:
    error = Carrying(response=answer(429, Retry_After="3"))
    assert Function().classify(error).hint == 3
    with stormproof.policy(jitter="none", base=0.5):
        assert stormproof.call("jira", Script(error, "fine")) == "fine"
    assert clock.waits == [3.5]


class TestRetryIf:
    def verdict(self, retry_if: Any, error: Exception) -> Verdict:
        protected = stormproof.protect("jira", retry_if=retry_if)
        return Function(protected._retry_if).classify(error)

    def test_types_are_beside_the_table(self) -> None:
        assert self.verdict((KeyError, TypeError), TypeError()).retry is Retry.WANTED
        assert self.verdict(KeyError, REFUSED()).retry is Retry.ALWAYS
        assert self.verdict(KeyError, ValueError()).retry is Retry.NEVER

    @pytest.mark.parametrize(("says", "retry"), [(True, Retry.WANTED), (False, Retry.NEVER), (None, Retry.ALWAYS)])
    def test_a_function_says_yes_no_or_nothing(self, says: bool | None, retry: Retry) -> None:
        assert self.verdict(lambda _: says, REFUSED()).retry is retry

    def test_it_does_not_change_what_an_answer_is(self) -> None:
        assert self.verdict(Carrying, Carrying(status=404)).weight is Weight.SUCCESS
        assert self.verdict(Carrying, Carrying(status=429)).weight is Weight.IGNORED
        assert self.verdict(Carrying, Carrying()).weight is Weight.FAILURE

    def test_a_refusal_is_never_repeated(self) -> None:
        assert self.verdict(Exception, CircuitOpenError()).retry is Retry.NEVER

    def test_one_that_fails_is_not_heard(self, caplog: pytest.LogCaptureFixture) -> None:
        assert self.verdict(Script(LookupError), REFUSED()).retry is Retry.ALWAYS
        assert self.verdict(Script(LookupError), REFUSED()).retry is Retry.ALWAYS
        assert len(caplog.records) <= 1  # said once a process

    def test_even_what_is_not_replay_safe(self) -> None:
        script = Script(AMBIGUOUS, "fine")
        assert stormproof.protect("jira", retry_if=AMBIGUOUS, replay_safe=False).call(script) == "fine"


class TestRetryIfResult:
    def test_until_one_is_good_enough(self) -> None:
        script = Script([], [], ["found"])
        protected = stormproof.protect("jira", retry_if_result=lambda found: not found)
        assert protected.call(script) == ["found"]
        assert script.calls == 3

    def test_the_last_is_better_than_none(self, told: Keeper) -> None:
        script = Script([])
        assert stormproof.protect("jira", retry_if_result=lambda found: not found).call(script) == []
        assert script.calls == 4
        assert told.operations[0].error_type is None

    def test_it_is_asked_where_nobody_watches_too(self, process: World) -> None:
        process.runner.listeners = Fanout()
        script = Script([], ["found"])
        assert stormproof.protect("jira", retry_if_result=lambda found: not found).call(script) == ["found"]


# -- nothing is multiplied -------------------------------------------------------------------------------------------


class Wrapped(ConnectionError):
    """What the app makes of an error."""


def nested(inner: Callable[[], Any], *, wrap: str = "", **options: Any) -> Callable[[], Any]:
    """A protected function that calls a protected function, and perhaps makes its error into one of its own."""

    @stormproof.protect("outer", **options)
    def outer() -> Any:
        try:
            return stormproof.call("inner", inner)
        except ConnectionError as error:
            if wrap == "from":
                raise Wrapped from error
            if wrap == "while":
                raise Wrapped  # noqa: B904  # as many do
            if wrap == "none":
                raise Wrapped from None
            raise

    return outer


class TestNesting:
    @pytest.mark.parametrize("wrap", ["", "from", "while"])
    def test_what_was_given_up_inside_is_not_begun_again(self, told: Keeper, wrap: str) -> None:
        script = Script(REFUSED)
        with pytest.raises(ConnectionError) as raised:
            nested(script, wrap=wrap)()
        assert script.calls == 4
        assert told.operations[0].gave_up is GaveUp.NESTED
        assert vars(raised.value) == {}
        assert vars(raised.value.__context__ or REFUSED()) == {}

    def test_however_deep(self) -> None:
        script = Script(REFUSED)
        with pytest.raises(REFUSED) as raised:
            stormproof.call("outermost", nested(script))
        assert script.calls == 4
        assert vars(raised.value) == {}

    def test_unless_the_user_says_so(self) -> None:
        script = Script(REFUSED)
        with stormproof.policy(attempts=2), pytest.raises(REFUSED):
            nested(script, retry_if=REFUSED)()
        assert script.calls == 4  # two by two: composed so

    def test_or_wants_one_attempt_inside(self) -> None:
        script = Script(REFUSED)
        stormproof.protect("inner")
        with stormproof.policy("inner", attempts=1), pytest.raises(REFUSED):
            nested(script)()
        assert script.calls == 4

    def test_what_has_nothing_to_do_with_it_is_repeated(self) -> None:
        script = Script(REFUSED)
        with stormproof.policy(attempts=2), pytest.raises(Wrapped):
            nested(script, wrap="none")()
        assert script.calls == 4

    def test_what_was_not_replay_safe_inside_stays_so(self) -> None:
        script = Script(AMBIGUOUS)
        inner = stormproof.protect("inner", replay_safe=False)(script)
        with pytest.raises(AMBIGUOUS):
            stormproof.call("outer", inner)
        assert script.calls == 1

    def test_a_stream_that_broke_inside_may_be_read_again(self) -> None:
        begun = []

        @stormproof.protect("inner")
        def chunks() -> Iterator[int]:
            begun.append(1)
            yield 1
            if len(begun) < 3:
                raise REFUSED
            yield 2

        assert stormproof.call("outer", lambda: list(chunks())) == [1, 2]

    def test_a_refusal_inside_is_not_repeated(self) -> None:
        stormproof.call("inner", lambda: None)
        stormproof.breakers["inner"].force_open()
        with pytest.raises(CircuitOpenError, match="inner"):
            nested(lambda: "never")()
        assert stormproof.breakers["outer"].breaker.calls["ignored"] == 1

    def test_an_error_that_cannot_be_written_to(self) -> None:
        class Frozen(ConnectionError):
            def __setattr__(self, name: str, value: Any) -> None:
                raise AttributeError(name)

        script = Script(Frozen)
        with stormproof.policy(attempts=2), pytest.raises(Frozen):
            nested(script)()
        assert script.calls == 4  # not known to have been given up: but nothing is broken

    def test_inside_it_keeps_to_the_deadline_around(self, told: Keeper) -> None:
        function = nested(lambda: "fine")
        with stormproof.policy("outer", deadline=5):
            function()
        outer, inner = told.operations
        assert inner.deadline == outer.deadline == outer.started + 5
        assert inner.cut_at == outer.cut_at == outer.deadline

    @generators
    def test_so_does_what_a_later_step_calls(self, kind: Kind, told: Keeper) -> None:
        def pages() -> Iterator[Any]:
            yield 1
            yield stormproof.call("inner", lambda: "fine")

        async def pages_async() -> Any:
            yield 1
            yield stormproof.call("inner", lambda: "fine")

        stormproof.protect("outer", policy=Policy(deadline=5))
        generator = stormproof.protect("outer")(pages if kind is Kind.GENERATOR else pages_async)()
        step(kind, generator, "send", None)
        step(kind, generator, "send", None)
        step(kind, generator, "close")
        outer, inner = told.operations
        assert inner.deadline == outer.deadline
        assert stormproof.call("inner", lambda: told.operations[-1].deadline) > outer.deadline  # and only that


# -- names and policies ----------------------------------------------------------------------------------------------


class TestNames:
    def test_functions_of_a_name_share_its_target(self) -> None:
        stormproof.call("jira", lambda: None)
        stormproof.protect("jira")(lambda: None)()
        stormproof.call("notion", lambda: None)
        assert list(stormproof.breakers) == ["jira", "notion"]
        assert stormproof.breakers["jira"].breaker.calls["success"] == 2

    def test_there_are_no_more_than_so_many(self, process: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stormproof.protection._MOST_NAMES", 10)
        process.runner.targets._bound = 3
        for n in range(20):
            stormproof.call(f"name {n}", lambda: None)
            if n < 3:
                stormproof.breakers[f"name {n}"].force_open()  # which is not to be forgotten
        assert list(stormproof.breakers) == ["name 0", "name 1", "name 2", "protect/_OTHER"]
        assert list(protection._declared) == [f"name {n}" for n in range(10, 20)]

    def test_the_operation_is_called_as_the_function_or_as_you_say(self, told: Keeper) -> None:
        def search() -> None: ...

        stormproof.protect("jira")(search)()
        stormproof.protect("jira", operation="find")(search)()
        assert [operation.call.operation.rpartition(".")[2] for operation in told.operations] == ["search", "find"]
        assert "<locals>" not in told.operations[0].call.operation


class TestPolicies:
    def test_settings_for_all_are_theirs_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORMPROOF__RETRY__ATTEMPTS", "2")
        monkeypatch.setenv("STORMPROOF_OPENAI__RETRY__ATTEMPTS", "7")
        script = Script(REFUSED)
        with pytest.raises(REFUSED):
            stormproof.call("jira", script)
        assert script.calls == 2

    def test_one_of_its_own(self, caplog: pytest.LogCaptureFixture) -> None:
        script = Script(REFUSED)
        protected = stormproof.protect("jira", policy=Policy(retry=RetryPolicy(attempts=3)))
        with pytest.raises(REFUSED):
            protected.call(script)
        stormproof.protect("jira")  # which says nothing of it
        stormproof.protect("jira", policy=Policy(retry=RetryPolicy(attempts=3)))  # the same once more
        assert caplog.records == []
        stormproof.protect("jira", policy=Policy(retry=RetryPolicy(attempts=2)))
        assert [record.getMessage() for record in caplog.records] == [
            "the policy of jira is replaced by the one of a later protect()"
        ]
        with pytest.raises(REFUSED):
            protected.call(script)
        assert script.calls == 3 + 2

    def test_one_by_instrument_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stormproof._instrument", lambda _, policies: install.choose_policies(policies))
        stormproof.protect("jira", policy=Policy(retry=RetryPolicy(attempts=3)))
        with pytest.raises(ValueError, match=r"'notion'.*allowed: openai, ollama, qdrant, jira"):
            stormproof.instrument(policies={"notion": Policy()})
        stormproof.instrument(
            policies={"jira": Policy(breaker=BreakerPolicy(**CLASSICAL), retry=RetryPolicy(attempts=2))}
        )
        script = Script(REFUSED)
        with pytest.raises(REFUSED):
            stormproof.call("jira", script)
        assert script.calls == 2

    def test_an_endpoint_to_fall_back_to_is_not_for_functions(self) -> None:
        elsewhere = Fallback(endpoint="http://elsewhere")
        with stormproof.policy(attempts=1, fallback=elsewhere), pytest.raises(REFUSED):
            stormproof.call("jira", Script(REFUSED))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((len,), TypeError, "protect(name=<built-in function len>): name is not text"),
        (("",), ValueError, "protect(name=''): name is not text without '/'"),
        (("openai/x:1",), ValueError, "other than openai, ollama, qdrant"),
        (("OpenAI",), ValueError, "protect(name='OpenAI'): name is not text without '/', other than openai, ollama"),
        (("jira", {"operation": ""}), TypeError, "protect(operation=''): operation is not text"),
        (("jira", {"policy": 3}), TypeError, "protect(policy=3): policy is not a stormproof.Policy"),
        (("jira", {"policy": Policy(fallback=Fallback(endpoint="http://x"))}), TypeError, "without another endpoint"),
        (("jira", {"retry_if": 503}), TypeError, "protect(retry_if=503): retry_if is not a type of Exception"),
        (("jira", {"retry_if": ()}), TypeError, "protect(retry_if=()): retry_if is not a type of Exception"),
        (("jira", {"retry_if": KeyboardInterrupt}), TypeError, "retry_if is not a type of Exception"),
        (
            ("jira", {"retry_if_result": []}),
            TypeError,
            "protect(retry_if_result=[]): retry_if_result is not a function",
        ),
        (("jira", {"replay_safe": "no"}), TypeError, "protect(replay_safe='no'): replay_safe is not true or false"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: Any, error: type[Exception], message: str) -> None:
    name, *options = arguments
    with pytest.raises(error) as raised:
        stormproof.protect(name, **dict(*options))
    assert message in str(raised.value)


@pytest.mark.parametrize("what", [3, None, int, property(len)])
def test_what_is_no_function_is_refused(what: Any) -> None:
    with pytest.raises(TypeError, match=r"protect\('jira'\) is for functions"):
        stormproof.protect("jira")(what)
