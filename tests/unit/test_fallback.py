"""What the app gets instead of an error: when, what, once, and how it is seen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import stamina
from opentelemetry.trace import StatusCode

from stormproof.errors import BulkheadFullError, CircuitOpenError, RateLimitedError, StormproofError
from stormproof.resilience.attempt import Attempt
from stormproof.resilience.events import Fanout
from stormproof.resilience.fallback import BUGS, Fallback
from stormproof.resilience.operation import Operation
from stormproof.resilience.outcome import GaveUp, Retry, Verdict, Weight
from stormproof.resilience.policy import BreakerPolicy, BulkheadPolicy, Policy, RateLimitPolicy, RetryPolicy
from stormproof.telemetry.metrics import Metrics
from stormproof.telemetry.spans import Spans

from .helpers import FAILED, PERHAPS_DONE, REFUSED, FakeClient, Recorder, Trouble, World, asked_to_wait
from .limits import Asked
from .signals import Signals, attributes, has, is_child

IGNORED = Verdict(Weight.IGNORED, Retry.NEVER, "LocalProtocolError")
HERE, THERE = ("localhost", 80), ("backup", 8080)
ENDPOINT = "http://backup:8080/v1"


def choose(world: World, fallback: Fallback | None, *, attempts: int = 2, **others: Any) -> None:
    world.policy = Policy(retry=RetryPolicy(attempts=attempts, jitter="none"), fallback=fallback, **others)


class TestWhatItIs:
    @pytest.mark.parametrize(
        ("given", "kind"),
        [
            ({"value": "x"}, "value"),
            ({"value": None}, "value"),  # a value like any other
            ({"function": str}, "function"),
            ({"endpoint": ENDPOINT}, "endpoint"),
        ],
    )
    def test_one_of_three(self, given: dict[str, Any], kind: str) -> None:
        assert Fallback(**given).kind == kind

    @pytest.mark.parametrize(
        ("given", "number"),
        [
            ({}, 0),
            ({"on": (OSError,)}, 0),
            ({"value": 1, "function": str}, 2),
            ({"value": None, "endpoint": ENDPOINT}, 2),
            ({"function": str, "endpoint": ENDPOINT}, 2),
            ({"value": 1, "function": str, "endpoint": ENDPOINT}, 3),
        ],
    )
    def test_not_none_and_not_two(self, given: dict[str, Any], number: int) -> None:
        with pytest.raises(ValueError) as raised:
            Fallback(**given)
        expected = f"Fallback takes exactly one of value, function and endpoint, not {number} of them"
        assert str(raised.value) == expected

    @pytest.mark.parametrize("endpoint", ["", "backup", "backup:8080", "/v1", "//backup"])
    def test_an_endpoint_is_a_url(self, endpoint: str) -> None:
        with pytest.raises(ValueError) as raised:
            Fallback(endpoint=endpoint)
        assert str(raised.value) == f"Fallback.endpoint={endpoint!r} is not a URL such as https://host/v1"

    def test_headers_are_for_an_endpoint(self) -> None:
        assert Fallback(endpoint=ENDPOINT, headers={"api-key": "k"}).headers == {"api-key": "k"}
        assert Fallback(endpoint=ENDPOINT).headers == {}
        for given in ({"value": 1}, {"function": str}):
            with pytest.raises(ValueError) as raised:
                Fallback(headers={"api-key": "k"}, **given)
            assert str(raised.value) == "Fallback.headers are sent to an endpoint, and none is given"

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            Fallback(value=1).value = 2  # type: ignore[misc]


class TestWhatItIsFor:
    @pytest.mark.parametrize("speaks", [True, False])
    def test_by_default_what_speaks_of_the_target(self, speaks: bool) -> None:
        assert Fallback(value=1).covers(Trouble(), speaks_of_the_target=speaks) is speaks

    @pytest.mark.parametrize("speaks", [True, False])
    def test_types_are_asked_for_by_name(self, speaks: bool) -> None:
        fallback = Fallback(value=1, on=(ConnectionError, KeyError))
        for error, covered in (
            (ConnectionError(), True),
            (ConnectionResetError(), True),
            (OSError(), False),
            (KeyError(), True),
            (IndexError(), False),
        ):
            assert fallback.covers(error, speaks_of_the_target=speaks) is covered

    @pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
    def test_a_bug_is_not_asked_for_by_asking_for_everything(self, bug: type[Exception]) -> None:
        for on in ((Exception,), (Exception, OSError), (object,)):
            assert not Fallback(value=1, on=on).covers(bug(), speaks_of_the_target=True)  # type: ignore[arg-type]
        assert Fallback(value=1, on=(bug,)).covers(bug(), speaks_of_the_target=False)
        assert Fallback(value=1, on=(Exception,)).covers(OSError(), speaks_of_the_target=False)

    def test_which_are_bugs(self) -> None:
        expected = {
            TypeError, ValueError, AttributeError, LookupError, NameError, AssertionError, NotImplementedError,
        }  # fmt: skip
        assert set(BUGS) == expected

    def test_a_kind_of_bug_can_be_asked_for(self) -> None:
        fallback = Fallback(value=1, on=(KeyError,))
        assert fallback.covers(KeyError(), speaks_of_the_target=False)
        assert not fallback.covers(ValueError(), speaks_of_the_target=False)
        assert Fallback(value=1, on=(LookupError,)).covers(KeyError(), speaks_of_the_target=False)

    @pytest.mark.parametrize(("answer", "covered"), [(True, True), (False, False), (1, True), (None, False)])
    def test_a_function_says_it(self, answer: Any, covered: bool) -> None:
        asked, error = Asked(answer), ValueError()
        assert Fallback(value=1, on=asked).covers(error, speaks_of_the_target=False) is covered
        assert asked.about == [error]

    def test_one_type_is_as_good_as_a_tuple_of_one(self) -> None:
        """A type can be called too, and what it makes of an error is always true: as a function, it would take all."""
        fallback = Fallback(value=1, on=ConnectionError)
        assert fallback.covers(ConnectionResetError(), speaks_of_the_target=False)
        assert not fallback.covers(TimeoutError(), speaks_of_the_target=True)
        assert Fallback(value=1, on=ValueError).covers(UnicodeError(), speaks_of_the_target=False)
        assert not Fallback(value=1, on=Exception).covers(UnicodeError(), speaks_of_the_target=True)


class TestWhen:
    @pytest.mark.parametrize(
        ("verdict", "taken", "attempts"),
        [
            (FAILED, True, 2),
            (PERHAPS_DONE, True, 2),
            (Verdict(Weight.FAILURE, Retry.NEVER, "500"), True, 1),
            (asked_to_wait(0.1).verdict, True, 2),
            (asked_to_wait(1000).verdict, True, 1),
            (Verdict(Weight.IGNORED, Retry.ALWAYS, "PoolTimeout"), True, 2),
            (REFUSED, False, 1),
            (IGNORED, False, 1),
        ],
        ids=lambda value: getattr(value, "error_type", None),
    )
    def test_once_it_has_failed_for_good_and_it_speaks_of_the_target(
        self, world: World, verdict: Verdict, taken: bool, attempts: int
    ) -> None:
        choose(world, Fallback(value="instead"), breaker=BreakerPolicy(enabled=False))
        operation, error = world.begin(), Trouble(verdict)
        if taken:
            assert world.run(operation, *[error] * 9) == "instead"
        else:
            with pytest.raises(Trouble) as raised:
                world.run(operation, error)
            assert raised.value is error
        assert (operation.attempts, operation.is_over) == (attempts, True)
        assert operation.fallback_type == ("value" if taken else None)
        assert operation.error_type == (None if taken else verdict.error_type)

    def test_not_if_all_is_well_in_the_end(self, world: World) -> None:
        choose(world, Fallback(value="instead"))
        operation = world.begin()
        assert world.run(operation, Trouble(), "fine") == "fine"
        assert operation.fallback_type is None

    @pytest.mark.parametrize("error", [TypeError(), ValueError(), KeyError(), ZeroDivisionError()])
    def test_not_for_what_no_client_knows(self, world: World, error: Exception) -> None:
        choose(world, Fallback(value="instead"))
        with pytest.raises(type(error)):
            world.run(world.begin(), error)

    def test_unless_it_is_asked_for(self, world: World) -> None:
        choose(world, Fallback(value="instead", on=(ZeroDivisionError, ValueError)))
        assert world.run(world.begin(), ZeroDivisionError()) == "instead"
        assert world.run(world.begin(), UnicodeError()) == "instead"
        with pytest.raises(Trouble):
            world.run(world.begin(), Trouble(), Trouble())

    @pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()])
    def test_never_for_an_interruption(self, world: World, error: BaseException) -> None:
        choose(world, Fallback(value="never", on=lambda _: True))
        operation = world.begin()
        with pytest.raises(type(error)):
            world.run(operation, error)
        assert (operation.is_over, operation.fallback_type) == (True, None)

    def test_nor_for_one_between_two_attempts(self, world: World) -> None:
        choose(world, Fallback(value="never", on=lambda _: True))

        def interrupt() -> None:
            raise KeyboardInterrupt

        world.clock.meanwhile = interrupt
        operation = world.begin()
        with pytest.raises(KeyboardInterrupt):
            world.run(operation, Trouble(), "never")
        assert (operation.is_over, operation.fallback, operation.gave_up) == (True, None, GaveUp.CANCELLED)

    def test_a_circuit_that_is_open(self, world: World) -> None:
        asked = Asked(True)
        choose(world, Fallback(value="instead", on=asked))
        world.target.force_open()
        operation = world.begin()
        assert world.run(operation, "never") == "instead"
        assert (operation.attempts, operation.fallback_type, operation.is_over) == (0, "value", True)
        (error,) = asked.about
        assert isinstance(error, CircuitOpenError)

    @pytest.mark.parametrize(
        ("limit", "error"),
        [
            ({"bulkhead": BulkheadPolicy(limit=1, queue=0)}, BulkheadFullError),
            ({"rate_limit": RateLimitPolicy(rate=0.001)}, RateLimitedError),
        ],
    )
    def test_a_limit_that_refuses(self, world: World, limit: dict[str, Any], error: type[Exception]) -> None:
        choose(world, Fallback(value="instead", on=(error,)), **limit)
        for used in (world.target.bulkhead, world.target.rate_limit):
            if used is not None:
                used.enter() if hasattr(used, "enter") else used.reserve(world.clock.now, 0.0)
        assert world.run(world.begin(), "never") == "instead"

    def test_by_default_a_refusal_is_covered(self, world: World) -> None:
        choose(world, Fallback(value="instead"))
        world.target.force_open()
        assert world.run(world.begin(), "never") == "instead"

    def test_a_breaker_that_opens_between_two_attempts(self, world: World) -> None:
        asked, error = Asked(True), Trouble()
        choose(world, Fallback(value="instead", on=asked), attempts=4)

        def force_open(operation: Operation, attempt: Attempt) -> None:
            world.target.force_open()
            raise error

        operation = world.begin()
        assert world.run(operation, Trouble(), force_open, "never") == "instead"
        assert asked.about == [error]  # the real one, not that it was refused
        assert operation.gave_up is GaveUp.BREAKER

    def test_a_predicate_that_raises_is_no(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        choose(world, Fallback(value="never", on=Asked(RuntimeError("broken"))), attempts=1)
        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, Trouble())
        assert operation.is_over
        assert [record.getMessage() for record in caplog.records] == [
            "a predicate of the policy of openai/localhost:80 failed; it is not heard"
        ]

    @pytest.mark.parametrize("testing", [True, False])
    def test_stamina_switches_off_retries_and_nothing_else(self, world: World, testing: bool) -> None:
        choose(world, Fallback(value="instead"))
        operation = world.begin()
        if testing:
            stamina.set_testing(True)
        else:
            stamina.set_active(False)
        try:
            assert world.run(operation, Trouble(), "never") == "instead"
        finally:
            stamina.set_testing(False)
            stamina.set_active(True)
        assert (operation.attempts, operation.gave_up) == (1, GaveUp.INACTIVE)
        assert (operation.is_over, operation.error_type, operation.fallback_type) == (True, None, "value")


class TestStreams:
    def test_one_that_did_not_begin_has_a_fallback(self, world: World) -> None:
        choose(world, Fallback(value="instead"))
        assert world.run(world.begin(streaming=True), Trouble(), Trouble()) == "instead"

    def test_one_that_has_begun_has_none(self, world: World) -> None:
        choose(world, Fallback(value="never"))
        operation = world.begin(streaming=True)
        world.run(operation, "stream")
        operation.item()
        operation.fail(Trouble())
        assert (operation.fallback, operation.fallback_type, operation.is_over) == (None, None, True)
        assert (operation.gave_up, operation.error_type) == (GaveUp.STREAM_STARTED, "503")

    def test_nor_one_that_the_app_holds_but_has_not_read(self, world: World) -> None:
        choose(world, Fallback(value="never"), attempts=1)
        operation = world.begin(streaming=True)
        world.run(operation, "stream")
        operation.fail(Trouble())
        assert (operation.fallback, operation.is_over) == (None, True)


class TestValue:
    def test_it_is_handed_out_as_it_is(self, world: World) -> None:
        value: list[int] = []
        choose(world, Fallback(value=value))
        assert world.run(world.begin(), Trouble(), Trouble()) is value

    def test_none_is_a_value(self, world: World) -> None:
        choose(world, Fallback(value=None))
        assert world.run(world.begin(), Trouble(), Trouble()) is None

    def test_a_value_that_can_be_called_is_not(self, world: World) -> None:
        choose(world, Fallback(value=int))
        assert world.run(world.begin(), Trouble(), Trouble()) is int

    def test_it_is_not_asked_whether_it_is_good(self, world: World) -> None:
        choose(world, Fallback(value="poor"))
        world.policy = Policy(retry=RetryPolicy(attempts=1, on_result=lambda _: True), fallback=Fallback(value="poor"))
        assert world.run(world.begin(host="other"), Trouble()) == "poor"


class TestFunction:
    def test_it_is_told_of_the_last_error(self, world: World) -> None:
        asked, errors = Asked("instead"), [Trouble(), Trouble()]
        choose(world, Fallback(function=asked))
        assert world.run(world.begin(), *errors) == "instead"
        assert asked.about == [errors[1]]

    def test_what_it_awaits_is_awaited_in_an_asynchronous_call(self, world: World) -> None:
        async def later(error: Exception) -> str:
            await asyncio.sleep(0)
            return f"instead of {error}"

        choose(world, Fallback(function=later))
        result = world.run(world.begin(), Trouble(), Trouble())
        if world.is_async:
            assert result == "instead of 503"
        else:  # a synchronous app gets what the function gives, as it is
            assert asyncio.run(result) == "instead of 503"

    @pytest.mark.parametrize("later", [False, True])
    def test_what_it_raises_reaches_the_app(self, world: World, later: bool) -> None:
        own = RuntimeError("its own")

        def raises(_: Exception) -> None:
            raise own

        async def raises_later(_: Exception) -> None:
            raise own

        if later and not world.is_async:
            return
        choose(world, Fallback(function=raises_later if later else raises))
        operation = world.begin()
        with pytest.raises(RuntimeError) as raised:
            world.run(operation, Trouble(), Trouble())
        assert raised.value is own
        assert (operation.error_type, operation.fallback_type, operation.is_over) == ("RuntimeError", "function", True)

    def test_it_may_give_the_error_back(self, world: World) -> None:
        def reraise(error: Exception) -> None:
            raise error

        error = Trouble()
        choose(world, Fallback(function=reraise))
        with pytest.raises(Trouble) as raised:
            world.run(world.begin(), Trouble(), error)
        assert raised.value is error

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError()])
    def test_interrupted_inside_it_the_operation_is_over(self, world: World, error: BaseException) -> None:
        def interrupted(_: Exception) -> None:
            raise error

        choose(world, Fallback(function=interrupted))
        operation = world.begin()
        with pytest.raises(type(error)):
            world.run(operation, Trouble(), Trouble())
        assert (operation.is_over, operation.error_type) == (True, type(error).__name__)

    def test_cancelled_while_it_is_awaited_the_operation_is_over(self, world: World) -> None:
        world.is_async = True

        async def main() -> None:
            waits = asyncio.Event()

            async def forever(_: Exception) -> None:
                waits.set()
                await asyncio.Event().wait()

            choose(world, Fallback(function=forever), attempts=1)
            operation = world.begin()

            async def fail(*_: Any) -> None:
                raise Trouble

            task = asyncio.create_task(world.runner.run_async(operation, fail))
            await waits.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (operation.is_over, operation.error_type) == (True, "CancelledError")

        asyncio.run(main())
        assert world.target.breaker.in_flight == 0

    def test_no_error_is_kept_alive(self, world: World) -> None:
        choose(world, Fallback(function=Asked("instead")))
        operation = world.begin()
        world.run(operation, Trouble(), Trouble())
        assert (operation.error, operation.fallback, operation.wait) == (None, None, None)


class TestEndpoint:
    """``script`` plays on both servers: the first outcomes are here, the others there."""

    def test_it_is_another_target_with_its_own_breaker(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT))
        operation = world.begin()
        seen: list[tuple[str, int, str | None]] = []

        def there(operation: Operation, attempt: Attempt) -> str:
            seen.append((operation.call.host, operation.call.port, operation.call.endpoint))
            return "from there"

        assert world.run(operation, Trouble(), Trouble(), there) == "from there"
        assert seen == [(*THERE, ENDPOINT)]
        assert operation.live.call.headers == {}
        here, backup = (world.targets.get("openai", *address) for address in (HERE, THERE))
        assert backup.name == "openai/backup:8080"
        assert (here.breaker.calls["failure"], here.breaker.calls["success"]) == (2, 0)
        assert (backup.breaker.calls["failure"], backup.breaker.calls["success"]) == (0, 1)
        assert (operation.fallback_type, operation.error_type, operation.is_over) == ("endpoint", None, True)
        assert operation.live is not operation
        assert operation.live.is_over
        assert operation.call.endpoint is None  # the first call is what it was

    @pytest.mark.parametrize(
        ("endpoint", "address"),
        [
            ("http://backup/v1", ("backup", 80)),
            ("https://backup", ("backup", 443)),
            ("https://user:pass@backup:444/v1?x=1", ("backup", 444)),
            ("unix://", ("unknown", 0)),
        ],
    )
    def test_its_address(self, world: World, endpoint: str, address: tuple[str, int]) -> None:
        choose(world, Fallback(endpoint=endpoint), attempts=1)
        operation = world.begin()
        world.run(operation, Trouble(), "fine")
        assert (operation.live.call.host, operation.live.call.port) == address

    def test_there_it_is_protected_as_any_call(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT))
        operation = world.begin()
        assert world.run(operation, Trouble(), Trouble(), Trouble(), "from there") == "from there"
        assert (operation.attempts, operation.live.attempts) == (2, 2)
        assert world.targets.get("openai", *THERE).budget.share_left < 1

    def test_there_is_no_second_fallback(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT))
        operation, errors = world.begin(), [Trouble() for _ in range(4)]
        with pytest.raises(Trouble) as raised:
            world.run(operation, *errors, "never")
        assert raised.value is errors[3]
        assert (operation.fallback_type, operation.is_over) == ("endpoint", True)

    def test_then_its_error_is_named_as_any_of_that_client(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT), attempts=1)
        operation = world.begin()
        with pytest.raises(Trouble):
            world.run(operation, Trouble(), Trouble(PERHAPS_DONE))
        assert operation.error_type == PERHAPS_DONE.error_type
        world.targets.get("openai", *THERE).force_open()
        operation = world.begin()
        with pytest.raises(CircuitOpenError):
            world.run(operation, Trouble(), "never")
        assert operation.error_type == "circuit_open"

    def test_if_its_breaker_is_open_it_is_refused(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT))
        world.targets.get("openai", *THERE).force_open()
        operation = world.begin()
        with pytest.raises(CircuitOpenError, match="openai/backup:8080"):
            world.run(operation, Trouble(), Trouble(), "never")
        assert operation.is_over
        assert isinstance(CircuitOpenError(), StormproofError)

    def test_if_the_first_ones_is_open_it_is_all_the_same(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT))
        world.target.force_open()
        assert world.run(world.begin(), "from there") == "from there"

    def test_a_stream_goes_on_there(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT))
        operation = world.begin(streaming=True)
        assert world.run(operation, Trouble(), Trouble(), "stream") == "stream"
        live = operation.live
        assert (operation.is_over, live.is_over) == (True, False)
        backup = world.targets.get("openai", *THERE)
        assert backup.breaker.in_flight == 1
        live.item()
        live.succeed()
        assert backup.breaker.in_flight == 0

    def test_its_headers_go_there(self, world: World) -> None:
        headers = {"Authorization": "Bearer there"}
        choose(world, Fallback(endpoint=ENDPOINT, headers=headers), attempts=1)
        operation = world.begin()
        world.run(operation, Trouble(), "fine")
        assert operation.live.call.headers == headers
        assert operation.call.headers == {}

    def test_what_the_caller_said_holds_there(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT))
        operation = world.begin(attempts=3, replay_safe=False, subject="m", own={"key": 1})
        with pytest.raises(Trouble):
            world.run(operation, *(Trouble() for _ in range(3)), Trouble(PERHAPS_DONE))
        call = operation.live.call if operation.live is not operation else None
        assert operation.attempts == 3
        assert call is None  # it failed there too: what the app has is the first one's

    def test_the_details_are_those_of_the_first(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT), attempts=1)
        operation = world.begin(replay_safe=False, subject="m", own={"key": 1}, facts={"model": "m"})
        world.run(operation, Trouble(), "fine")
        call = operation.live.call
        assert (call.replay_safe, call.subject, call.own, call.facts) == (False, "m", {"key": 1}, {"model": "m"})


class TestFunctions:
    """``Runner.call``: also after the short way."""

    @pytest.mark.parametrize("watched", [True, False])
    def test_it_falls_back_too(self, world: World, watched: bool) -> None:
        choose(world, Fallback(value="instead"))
        if not watched:
            world.runner.listeners.discard(world.listener)  # type: ignore[arg-type]
        attempts: list[int] = []

        def fail() -> None:
            attempts.append(1)
            raise Trouble

        async def fail_async() -> None:
            fail()

        result: Any = (
            asyncio.run(world.runner.call_async(world.call(), fail_async))
            if world.is_async
            else world.runner.call(world.call(), fail)
        )
        assert (result, len(attempts)) == ("instead", 2)
        assert world.target.breaker.in_flight == 0


class TestSignals:
    @pytest.fixture
    def signals(self) -> Signals:
        return Signals()

    @pytest.fixture
    def seen(self, world: World, signals: Signals) -> World:
        fanout = Fanout()
        seen = World(world.clock, fanout, is_async=world.is_async, client=FakeClient())
        spans = Spans(signals.tracer_provider, "1", breaker_spans=True)
        fanout.add(spans, Metrics(signals.meter_provider, "1", seen.targets))
        return seen

    def test_a_call_that_fell_back_is_no_failure(self, seen: World, signals: Signals) -> None:
        choose(seen, Fallback(value="instead"))
        seen.run(seen.begin(), Trouble(), Trouble())
        operation = signals.operation()
        assert has(operation, resilience__fallback__type="value", error__type=None)
        assert has(operation, resilience__attempt__count=2, resilience__retry__gave_up="attempts")
        assert operation.status.status_code is StatusCode.UNSET
        assert [attributes(attempt)["error.type"] for attempt in signals.attempts()] == ["503", "503"]

    def test_one_that_did_not_says_nothing_of_it(self, seen: World, signals: Signals) -> None:
        choose(seen, Fallback(value="instead"))
        seen.run(seen.begin(), Trouble(), "fine")
        assert has(signals.operation(), resilience__fallback__type=None, resilience__retry__gave_up=None)
        assert signals.points("resilience.fallback.calls") == []

    def test_one_whose_fallback_fails_is(self, seen: World, signals: Signals) -> None:
        def raises(_: Exception) -> None:
            raise RuntimeError

        choose(seen, Fallback(function=raises))
        with pytest.raises(RuntimeError):
            seen.run(seen.begin(), Trouble(), Trouble())
        assert has(signals.operation(), resilience__fallback__type="function", error__type="RuntimeError")
        assert signals.operation().status.status_code is StatusCode.ERROR

    def test_they_are_counted(self, seen: World, signals: Signals) -> None:
        answers = Asked("instead", "instead", RuntimeError("broken"))
        choose(seen, Fallback(function=answers), attempts=1)
        for _ in range(2):
            seen.run(seen.begin(), Trouble())
        with pytest.raises(RuntimeError):
            seen.run(seen.begin(), Trouble())
        keys = ("resilience.target.name", "resilience.fallback.type", "resilience.fallback.outcome")
        assert signals.values("resilience.fallback.calls", *keys) == {
            ("openai/localhost:80", "function", "success"): 2,
            ("openai/localhost:80", "function", "failure"): 1,
        }
        operations = signals.values("resilience.operations", "error.type")
        expected: dict[Any, int] = {None: 2, "RuntimeError": 1}
        assert operations == expected

    def test_the_other_endpoints_operation_stands_below_the_first(self, seen: World, signals: Signals) -> None:
        choose(seen, Fallback(endpoint=ENDPOINT), attempts=1)
        seen.run(seen.begin(), Trouble(), "fine")
        first, other = sorted(signals.operations(), key=lambda span: attributes(span)["server.port"])
        assert is_child(other, first)
        assert has(first, server__address="localhost", resilience__fallback__type="endpoint", error__type=None)
        assert has(other, server__address="backup", resilience__fallback__type=None, error__type=None)
        assert [len(signals.attempts(span)) for span in (first, other)] == [1, 1]
        assert signals.open_spans == []

    def test_the_steps_are_told_in_order(self, world: World) -> None:
        choose(world, Fallback(endpoint=ENDPOINT), attempts=1)
        world.run(world.begin(), Trouble(), "fine")
        assert isinstance(world.listener, Recorder)
        assert world.listener.steps == [
            "operation", "attempt 1 initial", "returned", "ended 503",
            "operation", "attempt 1 initial", "returned", "ended well", "over well",
            "over well",
        ]  # fmt: skip
