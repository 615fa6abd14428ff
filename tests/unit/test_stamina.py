"""stamina's own switches keep their meaning, and its hooks hear of the app's retries but not of ours."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import stamina

from stormproof.resilience.outcome import GaveUp

from .helpers import Trouble, World, asked_to_wait


@pytest.fixture(autouse=True)
def stamina_as_it_was() -> Iterator[None]:
    hooks = stamina.instrumentation.get_on_retry_hooks()
    yield
    stamina.set_active(True)
    stamina.set_testing(False)
    stamina.instrumentation.set_on_retry_hooks(hooks)


def test_switched_off_nothing_is_retried(world: World) -> None:
    stamina.set_active(False)
    operation, error = world.begin(), Trouble()
    with pytest.raises(Trouble) as raised:
        world.run(operation, error, "never")
    assert raised.value is error
    assert (operation.attempts, operation.gave_up, operation.is_over) == (1, GaveUp.INACTIVE, True)
    assert operation.error is None


def test_in_test_mode_there_is_one_attempt_and_no_wait(world: World) -> None:
    stamina.set_testing(True)
    operation = world.begin()
    with pytest.raises(Trouble):
        world.run(operation, Trouble(), "never")
    assert (operation.attempts, operation.gave_up) == (1, GaveUp.INACTIVE)
    assert world.clock.waits == []


def test_in_test_mode_with_attempts_there_is_no_wait(world: World) -> None:
    stamina.set_testing(True, attempts=3)
    operation = world.begin()
    assert world.run(operation, Trouble(), Trouble(), "fine") == "fine"
    assert operation.attempts == 3
    assert sum(world.clock.waits) == 0


def test_in_test_mode_our_own_limit_of_attempts_still_holds(world: World) -> None:
    stamina.set_testing(True, attempts=9)
    world.choose(retry={"attempts": 2})
    operation = world.begin()
    with pytest.raises(Trouble):
        world.run(operation, *(Trouble() for _ in range(9)))
    assert operation.attempts == 2


def test_hooks_hear_of_the_apps_retries_and_not_of_ours(world: World) -> None:
    heard: list[str] = []
    stamina.instrumentation.set_on_retry_hooks([lambda details: heard.append(details.name)])

    def apps_own() -> Any:
        for step in stamina.retry_context(on=ValueError, wait_max=0).with_name("the app's own", (), {}):
            with step:
                if step.num < 3:
                    raise ValueError
        return heard

    for _ in range(2):
        world.run(world.begin(), Trouble(), Trouble(), "fine")
    assert heard == []
    assert apps_own() == ["the app's own"] * 2


def test_hooks_set_later_are_silenced_too_and_none_is_wrapped_twice(world: World) -> None:
    heard: list[Any] = []

    def hear(details: Any) -> None:
        heard.append(details)

    world.run(world.begin(), Trouble(), "fine")
    stamina.instrumentation.set_on_retry_hooks([hear])
    for _ in range(3):
        world.run(world.begin(), Trouble(), "fine")
    assert heard == []
    (hook,) = stamina.instrumentation.get_on_retry_hooks()
    assert hook._hook is hear  # type: ignore[attr-defined]


def test_hooks_set_beside_a_silenced_one_do_not_wrap_it_twice(world: World) -> None:
    def hear(details: Any) -> None: ...

    def hear_too(details: Any) -> None: ...

    stamina.instrumentation.set_on_retry_hooks([hear])
    world.run(world.begin(), Trouble(), "fine")
    stamina.instrumentation.set_on_retry_hooks([*stamina.instrumentation.get_on_retry_hooks(), hear_too])
    world.run(world.begin(), Trouble(), "fine")
    wrapped = [hook._hook for hook in stamina.instrumentation.get_on_retry_hooks()]  # type: ignore[attr-defined]
    assert wrapped == [hear, hear_too]


def test_staminas_own_limit_of_time_is_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is ours alone: left to itself, stamina stops after 45 seconds."""
    monkeypatch.setattr("tenacity.time", SimpleNamespace(monotonic=world.clock))
    world.choose(deadline=10**6)
    assert world.run(world.begin(), *(asked_to_wait(100) for _ in range(3)), "fine") == "fine"
    assert world.clock.now > 1300


def test_no_warning_is_logged_for_our_retries(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.run(world.begin(), Trouble(), "fine")
    assert caplog.records == []
