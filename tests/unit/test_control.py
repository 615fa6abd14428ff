"""``stormproof.breakers``, listeners and policies chosen in code: what users steer by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import stormproof
from stormproof import install
from stormproof.control import Breakers
from stormproof.errors import CircuitOpenError
from stormproof.resilience.breaker import State
from stormproof.resilience.events import Listener
from stormproof.resilience.operation import Operation
from stormproof.resilience.policy import BreakerPolicy, BulkheadPolicy, Policy
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Targets

from .helpers import Recorder, VirtualClock, World

NAME = "openai/localhost:80"


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which nothing was chosen and nothing is installed."""
    monkeypatch.setattr(install, "_state", install._Installation())


@pytest.fixture
def installed(world: World) -> World:
    """The world's runner as the one of this process; policies are those of the process."""
    world.runner.targets = world.targets = Targets(
        install.policy_for, world.clock, world.runner.listeners.breaker_changed
    )
    install._state.runner = world.runner
    return world


class TestBreakers:
    def test_there_is_one(self) -> None:
        assert isinstance(stormproof.breakers, Breakers)
        assert isinstance(stormproof.breakers, Mapping)

    def test_before_the_first_call_there_are_none(self) -> None:
        assert (len(stormproof.breakers), list(stormproof.breakers), dict(stormproof.breakers)) == (0, [], {})
        assert NAME not in stormproof.breakers
        assert stormproof.breakers.get(NAME) is None
        assert repr(stormproof.breakers) == "<Breakers none yet>"
        with pytest.raises(KeyError) as raised:
            stormproof.breakers[NAME]
        assert raised.value.args == (f"'{NAME}' is not a target in use; these are: none yet",)
        assert raised.value.__suppress_context__

    def test_they_are_as_they_are_at_the_moment(self, installed: World) -> None:
        installed.run(installed.begin(), "fine")
        assert list(stormproof.breakers) == [NAME]
        installed.run(installed.begin(host="other", port=1), "fine")
        assert list(stormproof.breakers) == [NAME, "openai/other:1"]
        assert (len(stormproof.breakers), NAME in stormproof.breakers) == (2, True)
        assert stormproof.breakers[NAME] is installed.target
        assert dict(stormproof.breakers.items())[NAME] is installed.target
        stormproof.breakers[NAME].force_open()
        assert repr(stormproof.breakers) == f"<Breakers {NAME}: forced_open, openai/other:1: closed>"
        with pytest.raises(KeyError) as raised:
            stormproof.breakers["nobody"]
        assert raised.value.args == (f"'nobody' is not a target in use; these are: {NAME}, openai/other:1",)

    def test_they_look_at_what_is_installed_now(self, installed: World) -> None:
        installed.begin()
        assert len(stormproof.breakers) == 1
        install._state.runner = None
        assert len(stormproof.breakers) == 0

    def test_one_that_is_forced_open_refuses_until_it_is_closed(self, installed: World) -> None:
        installed.begin()
        target = stormproof.breakers[NAME]
        target.force_open()
        for _ in range(2):
            installed.clock.now += 10**6
            operation = installed.begin()
            with pytest.raises(CircuitOpenError) as raised:
                installed.run(operation, "never")
            assert isinstance(raised.value, ConnectionError)  # the client's own kind
            assert operation.error_type == "circuit_open"
        assert target.breaker.calls["rejected"] == 2
        target.close()
        assert installed.run(installed.begin(), "fine") == "fine"

    def test_one_that_is_disabled_lets_everything_through(self, installed: World) -> None:
        installed.begin()
        target = stormproof.breakers[NAME]
        target.disable()
        for _ in range(30):
            with pytest.raises(OSError, match="gone"):
                installed.run(installed.begin(), OSError("gone"))
        assert installed.run(installed.begin(), "fine") == "fine"
        assert target.snapshot().breaker.state is State.DISABLED
        target.reset()
        assert target.snapshot().breaker.state is State.CLOSED

    def test_what_they_know_can_be_read(self, installed: World) -> None:
        installed.run(installed.begin(), "fine")
        seen = stormproof.breakers[NAME].snapshot()
        assert (seen.name, seen.breaker.state, seen.breaker.calls["success"]) == (NAME, State.CLOSED, 1)


class TestListeners:
    def test_one_is_told_from_now_on_until_it_is_taken_out(self, installed: World) -> None:
        listener = Recorder()
        stormproof.add_listener(listener)
        installed.run(installed.begin(), "fine")
        assert listener.steps == ["operation", "attempt 1 initial", "returned", "ended well", "over well"]
        stormproof.remove_listener(listener)
        installed.run(installed.begin(), "fine")
        assert len(listener.steps) == 5

    def test_others_are_told_as_before(self, installed: World) -> None:
        listener, broken = Recorder(), Broken()
        for each in (broken, listener):
            stormproof.add_listener(each)
        assert installed.run(installed.begin(), "fine") == "fine"
        stormproof.remove_listener(broken)
        installed.run(installed.begin(), "fine")
        assert listener.steps.count("over well") == 2
        assert broken.calls == 1

    def test_one_that_was_never_added_is_no_error(self, installed: World) -> None:
        stormproof.remove_listener(Recorder())
        install._state.runner = None
        stormproof.remove_listener(Recorder())

    def test_before_anything_is_installed(self, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        early, gone = Recorder(), Recorder()
        for listener in (early, gone):
            stormproof.add_listener(listener)
        stormproof.remove_listener(gone)
        monkeypatch.setattr(install, "_listeners", lambda *_: ())
        runner = install._runner()
        assert isinstance(runner, Runner)
        runner.begin(World(clock, Listener()).call())
        assert early.steps == ["operation"]
        assert gone.steps == []

    def test_a_breakers_change_is_told(self, installed: World) -> None:
        heard: list[tuple[str, str]] = []

        class Hears(Listener):
            def breaker_changed(self, target: Any, change: Any) -> None:
                heard.append((target.name, change.reason))

        stormproof.add_listener(Hears())
        installed.target.force_open()
        assert heard == [(NAME, "forced_open")]


class Broken(Listener):
    calls = 0

    def operation_started(self, operation: Operation) -> None:
        self.calls += 1
        raise RuntimeError("broken")


class TestPolicies:
    @pytest.fixture(autouse=True)
    def nothing_is_set_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``instrument`` without its clients and providers: what it makes of policies is seen all the same."""
        monkeypatch.setattr("stormproof._instrument", lambda _, policies: install.choose_policies(policies))
        monkeypatch.setattr("stormproof.protection._declared", {})

    @pytest.mark.parametrize("system", ["mistral", "", "OpenAI", "openai "])
    def test_a_policy_of_nothing_is_refused(self, system: str) -> None:
        with pytest.raises(ValueError) as raised:
            stormproof.instrument(policies={"openai": Policy(deadline=7), system: Policy()})
        allowed = "not a system, nor a name that protect() was told; allowed: openai, ollama, qdrant"
        assert str(raised.value) == f"policies[{system!r}]: {allowed}"
        assert install.policy_for("openai") == Policy()  # nothing was chosen by halves

    @pytest.mark.parametrize("policy", [None, {"deadline": 3}, Policy, BreakerPolicy()])
    def test_what_is_no_policy_is_refused(self, policy: Any) -> None:
        with pytest.raises(TypeError) as raised:
            stormproof.instrument(policies={"qdrant": policy})
        assert str(raised.value) == f"policies['qdrant']={policy!r} is not a stormproof.Policy"

    def test_without_any_nothing_is_chosen(self) -> None:
        stormproof.instrument(policies=None)
        stormproof.instrument(policies={})
        assert install._state.policies == {}

    def test_one_holds_for_its_system(self) -> None:
        chosen = Policy(deadline=7)
        stormproof.instrument(policies={"openai": chosen})
        assert install.policy_for("openai") is chosen
        assert install.policy_for("ollama") == Policy()
        assert install.policy_for("qdrant") == Policy(deadline=10, strict_deadline=False)

    def test_it_wins_whole_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORMPROOF__RETRY__ATTEMPTS", "7")
        monkeypatch.setenv("STORMPROOF_OPENAI__DEADLINE", "9")
        stormproof.instrument(policies={"openai": Policy(timeout=3)})
        assert install.policy_for("openai") == Policy(timeout=3)
        assert install.policy_for("ollama").retry.attempts == 7

    def test_a_later_one_takes_its_place_and_leaves_the_others(self) -> None:
        stormproof.instrument(policies={"openai": Policy(deadline=1), "ollama": Policy(deadline=2)})
        stormproof.instrument(policies={"openai": Policy(deadline=3)})
        assert [install.policy_for(system).deadline for system in ("openai", "ollama", "qdrant")] == [3, 2, 10]

    def test_targets_that_exist_are_made_anew(self, installed: World) -> None:
        old, other = installed.target, installed.targets.get("ollama", "localhost", 80)
        old.force_open()
        stormproof.instrument(policies={"openai": Policy(bulkhead=BulkheadPolicy(limit=3))})
        assert list(stormproof.breakers) == ["ollama/localhost:80"]
        assert installed.run(installed.begin(), "fine") == "fine"
        assert installed.target is not old
        assert installed.target.bulkhead is not None
        assert installed.targets.get("ollama", "localhost", 80) is other

    def test_none_is_made_anew_for_nothing(self, installed: World) -> None:
        old = installed.target
        stormproof.instrument()
        assert installed.target is old


def test_what_users_import() -> None:
    for name in stormproof.__all__:
        assert hasattr(stormproof, name)
    assert stormproof.Policy is Policy
    assert stormproof.Listener is Listener
