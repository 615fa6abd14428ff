"""A process that forks in the middle of it all: the child begins afresh, the parent does not notice."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from .breakers import STRATEGIES

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# Eight threads are inside calls, one holds every lock there is, and the forking thread is itself inside a call.
# Each process tells what it has found; the child does so at the end of the call that it was born in, and of its own.
IN_CALLS = """
import json, os, sys, threading
from stormproof.resilience import clock
from stormproof.resilience.events import Fanout
from stormproof.resilience.policy import BreakerPolicy, BudgetPolicy, BulkheadPolicy, Policy
from stormproof.resilience.runner import Runner
from stormproof.resilience.targets import Targets
from tests.unit.helpers import FakeClient, Trouble
from stormproof.resilience.call import Call

policy = Policy(
    breaker=BreakerPolicy(strategy=sys.argv[1]),
    budget=BudgetPolicy(capacity=10),
    bulkhead=BulkheadPolicy(limit=20),
)
targets = Targets(lambda _: policy, clock.monotonic, lambda *_: None)
runner = Runner(targets, Fanout(), clock.monotonic)
os.register_at_fork(after_in_child=runner.after_fork)


def begin():
    return runner.begin(Call(FakeClient(), "chat", "localhost", 80))


def target():
    return targets.get("openai", "localhost", 80)


def facts(target):
    snapshot = target.snapshot()
    return {
        "state": snapshot.breaker.state.value,
        "in_flight": snapshot.in_flight,
        "waiting": snapshot.breaker.waiting,
        "inside": target.bulkhead.in_flight,
        "budget": snapshot.budget,
        "calls": {outcome: count for outcome, count in snapshot.breaker.calls.items() if count},
    }


for _ in range(4):
    target().budget.withdraw()
go, let_go, held = threading.Event(), threading.Event(), threading.Event()
inside = threading.Barrier(9)


def stay(*_):
    inside.wait()
    go.wait()


def hold():
    locks = (target().breaker._lock, target().budget._lock, target().bulkhead._lock, targets._lock)
    for lock in locks:
        lock.acquire()
    held.set()
    let_go.wait()
    for lock in locks:
        lock.release()


threads = [threading.Thread(target=lambda: runner.run(begin(), stay)) for _ in range(8)]
for thread in threads:
    thread.start()
inside.wait()
holder = threading.Thread(target=hold)
read, write = os.pipe()
found = {}


def fork(operation, attempt):
    holder.start()
    held.wait()
    if os.fork():
        let_go.set()
        holder.join()
        found["parent"] = facts(target())
        found["own"] = operation.target is target()
    else:
        found["born"] = facts(target())
        found["own"] = operation.target is target()
    return "done"


operation = begin()
found["result"] = runner.run(operation, fork)
if "parent" in found:
    with open(read) as pipe:
        os.close(write)
        found["child"] = json.load(pipe)
    os.wait()
    go.set()
    for thread in threads:
        thread.join()
    found["after"] = facts(target())
    print(json.dumps(found))
else:
    found["old"] = facts(operation.target)
    found["again"] = runner.run(begin(), lambda *_: "fine")
    found["after"] = facts(target())
    os.write(write, json.dumps(found).encode())
    os._exit(0)
"""

# As it is installed: the hook is in place, and the locks of the installation itself may be held too.
INSTALLED = """
import json, os, threading
from time import monotonic
from stormproof import install
from stormproof.resilience.breaker import Permit, State
from tests.unit.breakers import FAILURE
from tests.unit.signals import Signals

signals = Signals()
install._state.providers = signals.providers
runner = install._runner()
(metrics,) = install._state.metrics.values()
for listener in runner.listeners._listeners:  # as after uninstrument(): its provider asks it all the same
    runner.listeners.discard(listener)
metrics._later._waiting.append(None)
metrics._later._drains.acquire()
breaker = runner.targets.get("openai", "localhost", 80).breaker
while breaker.state is State.CLOSED:
    permit = Permit()
    assert breaker.admit(permit, monotonic()) == 0.0
    breaker.settle(permit, FAILURE, monotonic(), 0.0)
breaker._lock.acquire()
runner.targets._lock.acquire()
holder = threading.Thread(target=install._lock.acquire)
holder.start()
holder.join()
children = []
for _ in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        new = runner.targets.get("openai", "localhost", 80)
        permit = Permit()
        fine = new.breaker.state is State.CLOSED and new.breaker.admit(permit, monotonic()) == 0.0
        install.current_settings()
        signals.collect()
        os.write(write, json.dumps([fine, new.rng.random()]).encode())
        os._exit(0)
    children.append(json.loads(os.read(read, 100)))
    os.wait()
print(json.dumps(children))
"""


@functools.cache
def run(script: str, *arguments: str) -> Any:
    """What the script prints. Since 3.12 Python warns of a fork beside threads: that is just what is tried."""
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE, cwd=_root())
    return json.loads(done.stdout)


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120


@pytest.fixture(params=list(STRATEGIES))
def found(request: pytest.FixtureRequest) -> Any:
    return run(IN_CALLS, request.param)


class TestForkInTheMiddleOfCalls:
    def test_the_child_begins_afresh(self, found: Any) -> None:
        assert found["child"]["born"] == {
            "state": "closed",
            "in_flight": 0,
            "waiting": 0,
            "inside": 0,
            "budget": 1.0,
            "calls": {},
        }

    def test_the_call_that_forked_ends_in_both(self, found: Any) -> None:
        assert (found["result"], found["child"]["result"]) == ("done", "done")
        assert (found["own"], found["child"]["own"]) == (True, False)

    def test_a_call_of_the_childs_own_succeeds_and_is_the_only_one_counted(self, found: Any) -> None:
        assert found["child"]["again"] == "fine"
        after = found["child"]["after"]
        assert after["calls"] == {"success": 1}
        assert (after["state"], after["in_flight"], after["inside"], after["budget"]) == ("closed", 0, 0, 1.0)

    # Once a bug: the old target's counts go below zero, by the call that forked.
    def test_nothing_is_taken_from_what_the_child_never_had(self, found: Any) -> None:
        assert (found["child"]["old"]["in_flight"], found["child"]["old"]["inside"]) == (0, 0)

    def test_the_parent_is_undisturbed(self, found: Any) -> None:
        assert found["parent"]["in_flight"] == 9
        assert found["parent"]["budget"] == 0.6
        assert found["after"]["calls"] == {"success": 9}
        assert (found["after"]["in_flight"], found["after"]["inside"]) == (0, 0)


def test_as_installed_a_child_starts_afresh_whatever_locks_were_held() -> None:
    children = run(INSTALLED)
    assert [fine for fine, _ in children] == [True, True]
    assert len({jitter for _, jitter in children}) == 2, "both children wait alike"
