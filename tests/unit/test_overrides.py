"""``policy``: what holds for the calls made inside a block or a function, and for no others."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stormproof
from stormproof import Fallback, Policy, RetryPolicy
from stormproof.functions import Kind, kind_of
from stormproof.overrides import Changes
from stormproof.resilience import overrides
from stormproof.resilience.events import Fanout
from stormproof.resilience.outcome import GaveUp
from stormproof.resilience.runner import Runner

from .helpers import Recorder, Trouble, VirtualClock, World, asked_to_wait
from .kinds import every_kind, generators, in_kind, outcome, step


def in_force(system: str = "openai") -> dict[str, Any]:
    return overrides.changes_for(system, overrides.current())


class TestWhatCounts:
    def test_inside_and_not_outside(self, world: World) -> None:
        with stormproof.policy(attempts=2), pytest.raises(Trouble):
            world.run(world.begin(), *[Trouble()] * 2)
        with pytest.raises(Trouble):
            world.run(world.begin(), *[Trouble()] * 4)

    def test_every_key_reaches_the_operation(self, world: World) -> None:
        chosen: dict[str, Any] = {
            "deadline": 7, "timeout": 3, "attempts": 9, "backoff": "linear", "jitter": "none", "base": 2, "cap": 4,
            "on": bool, "on_result": bool, "fallback": Fallback(value=1), "enabled": True,
        }  # fmt: skip
        assert set(chosen) == set(overrides.KEYS)
        with stormproof.policy(**chosen):
            policy = world.begin().policy
        for key, value in chosen.items():
            assert getattr(policy if hasattr(policy, key) else policy.retry, key) is value
        assert (policy.breaker, policy.budget) == (world.policy.breaker, world.policy.budget)

    def test_of_one_system_only(self, world: World) -> None:
        with stormproof.policy("qdrant", attempts=1), stormproof.policy("openai", deadline=3):
            policy = world.begin().policy
        assert (policy.retry.attempts, policy.deadline) == (4, 3)

    def test_a_deadline_cuts_what_runs(self, world: World) -> None:
        world.policy = Policy(deadline=30, strict_deadline=False)
        assert world.begin().attempt_timeout is None
        with stormproof.policy(deadline=5):
            assert world.begin().attempt_timeout == 5
        with stormproof.policy(attempts=5):
            assert world.begin().attempt_timeout is None

    def test_one_attempt_is_one_even_if_a_rate_limiter_would_forgive_it(self, by_default: World) -> None:
        with stormproof.policy(attempts=1):
            operation = by_default.begin()
        with pytest.raises(Trouble):
            by_default.run(operation, asked_to_wait(1))
        assert (operation.attempts, operation.gave_up) == (1, GaveUp.ATTEMPTS)

    @pytest.mark.parametrize(("key", "value"), [("fallback", Fallback(value="plan b")), ("on", lambda _: False)])
    def test_what_decides_on_errors(self, world: World, key: Any, value: Any) -> None:
        with stormproof.policy(**{key: value}):
            operation = world.begin()
        try:
            assert world.run(operation, *[Trouble()] * 4) == "plan b"
        except Trouble:
            assert operation.attempts == 1

    def test_a_request_has_the_last_word_and_a_client_has_not(self, world: World) -> None:
        assert world.begin(client_attempts=7).most_attempts == 7
        with stormproof.policy(attempts=2):
            assert world.begin(client_attempts=7).most_attempts == 2
            assert world.begin(attempts=5).most_attempts == 5
        with stormproof.policy(base=1):
            assert world.begin(client_attempts=7).most_attempts == 7

    def test_what_counts_is_where_the_app_called(self, world: World) -> None:
        with stormproof.policy(attempts=2):
            origin = world.runner.capture()
        with stormproof.policy(attempts=3, base=7):
            later = world.begin(**origin)
            assert world.runner.is_enabled(world.call(**origin))
        assert (later.policy.retry.attempts, later.policy.retry.base) == (2, world.policy.retry.base)

    def test_off_is_off(self, world: World) -> None:
        with stormproof.policy(enabled=False):
            assert not world.runner.is_enabled(world.call())
            with stormproof.policy("qdrant", enabled=True):
                assert not world.runner.is_enabled(world.call())
            with stormproof.policy("openai", enabled=True):
                assert world.runner.is_enabled(world.call())

    def test_the_short_way_heeds_it(self, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        world, calls = World(clock, Fanout()), []
        world.choose(breaker={"failures": 99})

        def function() -> None:
            calls.append(1)
            raise Trouble

        for changes, expected in (({"attempts": 2}, 2), ({"enabled": False}, 1), ({}, 4)):
            with stormproof.policy(**changes), pytest.raises(Trouble):
                world.runner.call(world.call(), function)
            assert len(calls) == expected
            calls.clear()
        with stormproof.policy(fallback=Fallback(value="plan b")):
            world.target.breaker.force_open()
            assert world.runner.call(world.call(), function) == "plan b"
        world.target.close()
        monkeypatch.setattr(Runner, "begin", None)  # not needed outside of a block
        assert world.runner.call(world.call(), lambda: "fine") == "fine"

    def test_nor_is_what_its_policy_has_off_protected_on_the_short_way(self, clock: VirtualClock) -> None:
        world = World(clock, Fanout(), policy=Policy(enabled=False))
        assert world.runner.call(world.call(), lambda: "fine") == "fine"
        assert world.target.breaker.calls["success"] == 0


class TestBlocks:
    def test_the_inner_one_wins_key_by_key(self) -> None:
        with stormproof.policy(attempts=1, base=2), stormproof.policy("openai", attempts=5), stormproof.policy(cap=3):
            assert in_force() == {"attempts": 5, "base": 2, "cap": 3}
            assert in_force("qdrant") == {"attempts": 1, "base": 2, "cap": 3}
            with stormproof.policy(attempts=7):
                assert in_force()["attempts"] == in_force("qdrant")["attempts"] == 7
        assert in_force() == {}

    def test_one_object_inside_itself_and_again(self) -> None:
        outer, inner = stormproof.policy(attempts=1), stormproof.policy(attempts=2)
        with outer, inner, outer:
            assert in_force() == {"attempts": 1}
            with inner:
                assert in_force() == {"attempts": 2}
            assert in_force() == {"attempts": 1}
        with outer:
            assert in_force() == {"attempts": 1}
        assert in_force() == {}

    def test_an_exception_ends_it_and_passes(self) -> None:
        with pytest.raises(KeyError), stormproof.policy(attempts=1):
            raise KeyError
        assert in_force() == {}

    def test_no_other_thread_has_it_unless_it_is_given_the_context(self) -> None:
        found = []
        with stormproof.policy(attempts=1):
            context = contextvars.copy_context()
            for target in (lambda: found.append(in_force()), lambda: context.run(lambda: found.append(in_force()))):
                thread = threading.Thread(target=target)
                thread.start()
                thread.join()
        assert found == [{}, {"attempts": 1}]

    def test_tasks_and_threads_of_asyncio_have_it(self) -> None:
        async def look() -> dict[str, Any]:
            await asyncio.sleep(0)
            return in_force()

        async def main() -> list[Any]:
            with stormproof.policy(attempts=1):
                task = asyncio.create_task(look())
            return [await task, await asyncio.to_thread(in_force) or "none"]

        assert asyncio.run(main()) == [{"attempts": 1}, "none"]

    def test_one_that_ends_inside_another_takes_only_itself_away(self) -> None:
        outer, inner = stormproof.policy(attempts=1), stormproof.policy(base=2)
        outer.__enter__()
        inner.__enter__()
        outer.__exit__()
        assert in_force() == {"base": 2}
        outer.__exit__()  # once more, or in a context that it was not entered in
        assert in_force() == {"base": 2}
        inner.__exit__()
        assert in_force() == {}


@every_kind
class TestFunctions:
    def test_it_holds_inside_and_the_kind_stays(self, kind: Kind) -> None:
        decorated = stormproof.policy(attempts=1)(in_kind(kind, in_force))
        assert kind_of(decorated) is kind
        assert outcome(kind, decorated) == {"attempts": 1}
        assert in_force() == {}

    def test_decorators_nest_with_blocks(self, kind: Kind) -> None:
        @stormproof.policy(attempts=1)
        @stormproof.policy(base=2)
        def twice(function: Any) -> Any:
            return function

        decorated = stormproof.policy(attempts=1)(stormproof.policy(base=2)(in_kind(kind, in_force)))
        with stormproof.policy(attempts=9, cap=3):
            assert outcome(kind, decorated) == {"attempts": 1, "base": 2, "cap": 3}
            assert twice(1) == 1

    def test_a_recursive_one(self, kind: Kind) -> None:
        depth = []

        def body() -> Any:
            depth.append(in_force())
            return body() if len(depth) < 3 else None

        outcome(kind, stormproof.policy(attempts=1)(in_kind(kind, body)))
        assert depth == [{"attempts": 1}] * 3


@generators
class TestGenerators:
    def test_between_two_steps_the_code_is_the_consumers(self, kind: Kind) -> None:
        generator = stormproof.policy(attempts=1)(in_kind(kind, in_force))()
        assert in_force() == {}
        assert step(kind, generator, "send", None) == {"attempts": 1}
        assert in_force() == {}
        step(kind, generator, "close")
        assert in_force() == {}

    def test_what_is_thrown_in_and_what_is_closed_is_inside(self, kind: Kind) -> None:
        found = []

        def sync() -> Iterator[None]:
            try:
                yield
            except KeyError:
                found.append(in_force())
            try:
                yield
            finally:
                found.append(in_force())

        async def asynchronous() -> Any:
            try:
                yield
            except KeyError:
                found.append(in_force())
            try:
                yield
            finally:
                found.append(in_force())

        generator = stormproof.policy(attempts=1)(sync if kind is Kind.GENERATOR else asynchronous)()
        step(kind, generator, "send", None)
        step(kind, generator, "throw", KeyError())
        step(kind, generator, "close")
        assert found == [{"attempts": 1}] * 2

    def test_a_protected_one_keeps_what_was_in_force_when_it_was_called(
        self, kind: Kind, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []

        def body() -> None:
            calls.append(in_force())
            raise ConnectionRefusedError

        monkeypatch.setattr("stormproof.install._state.runner", World(clock, Recorder()).runner)
        protected = stormproof.protect("jira")(in_kind(kind, body))
        with stormproof.policy(attempts=2):
            generator = protected()
        with pytest.raises(ConnectionRefusedError):
            step(kind, generator, "send", None)
        assert calls == [{}, {}]  # two attempts; the code that runs now runs outside of the block


# -- against a model -------------------------------------------------------------------------------------------------

CHANGES = st.fixed_dictionaries(
    {}, optional={"attempts": st.integers(1, 9), "base": st.integers(1, 9), "deadline": st.integers(1, 9)}
)
LAYER = st.tuples(st.sampled_from([None, "openai", "qdrant"]), CHANGES)
#: What a task does, step by step: enter a block, leave the innermost, let the others run, begin a task or thread.
PROGRAM: Any = st.deferred(
    lambda: st.lists(
        st.one_of(
            st.tuples(st.just("enter"), LAYER),
            st.just(("leave", None)),
            st.just(("pause", None)),
            st.tuples(st.sampled_from(["task", "thread"]), PROGRAM),
        ),
        max_size=8,
    )
)


def modelled(layers: list[Any], system: str) -> dict[str, Any]:
    """The inner wins key by key: read from the innermost outwards."""
    found: dict[str, Any] = {}
    for of, changes in reversed(layers):
        if of in (None, system):
            found = {**changes, **found}
    return found


async def follow(program: Any, layers: list[Any]) -> None:
    """Run a program with blocks of its own inside those in force; look at every step."""
    inherited, open_blocks, tasks = list(layers), [], []
    for word, detail in program:
        if word == "enter":
            system, changes = detail
            block = stormproof.policy(system, **changes)
            block.__enter__()
            open_blocks.append(block)
            layers = [*layers, detail]
        elif word == "leave" and open_blocks:
            open_blocks.pop().__exit__()
            layers = layers[:-1]
        elif word == "pause":
            await asyncio.sleep(0)
        elif word == "task":
            tasks.append(asyncio.create_task(follow(detail, list(layers))))
        elif word == "thread":  # a new thread begins with nothing
            thread = threading.Thread(target=lambda detail=detail: asyncio.run(follow(detail, [])))
            thread.start()
            thread.join()
        assert [in_force(system) for system in ("openai", "qdrant")] == [
            modelled(layers, system) for system in ("openai", "qdrant")
        ]
    while open_blocks:
        open_blocks.pop().__exit__()
    assert in_force() == modelled(inherited, "openai")
    await asyncio.gather(*tasks)


@settings(deadline=None)
@given(PROGRAM)
def test_nested_blocks_tasks_and_threads_are_as_the_model_has_it(program: Any) -> None:
    asyncio.run(follow(program, []))


# -- what makes no sense ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attempts": 0}, ValueError, "policy(attempts=0): attempts is not a whole number from 1 to 100000"),
        ({"attempts": None}, ValueError, "policy(attempts=None): attempts is not a whole number"),
        ({"deadline": "5s"}, ValueError, "policy(deadline='5s'): deadline is not a duration above 0"),
        ({"jitter": "some"}, ValueError, "policy(jitter='some'): jitter is not one of full, equal, decorrelated, none"),
        ({"enabled": 1}, ValueError, "policy(enabled=1): enabled is not true or false"),
        ({"on": 503}, ValueError, "policy(on=503): on is not a function, or None"),
        ({"fallback": []}, ValueError, "policy(fallback=[]): fallback is not a stormproof.Fallback, or None"),
        ({"attemps": 3}, TypeError, "policy(attemps=3): no such key; allowed: enabled, deadline, timeout, attempts"),
        ({"retry": RetryPolicy}, TypeError, "no such key; allowed:"),
        ({"breaker": 3}, TypeError, "policy(breaker=3): breaker is the target's, for all calls to it"),
        ({"bulkhead": 3}, TypeError, "bulkhead is the target's"),
    ],
)
def test_a_key_or_value_that_makes_no_sense_is_refused(changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        stormproof.policy(**changes)
    assert message in str(raised.value)


def test_a_name_that_nothing_is_protected_under_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stormproof.protection._declared", {})
    with pytest.raises(
        ValueError, match=r"policy\('jira'\): not a system, nor a name .*allowed: openai, ollama, qdrant$"
    ):
        stormproof.policy("jira", attempts=1)
    stormproof.protect("jira")
    stormproof.policy("jira", attempts=1)


def test_the_types_say_what_is_allowed() -> None:
    assert set(get_type_hints(Changes)) == set(overrides.KEYS)
    assert {knob.name for knob in fields(RetryPolicy)} <= set(overrides.KEYS)
