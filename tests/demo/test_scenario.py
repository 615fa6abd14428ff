"""The storm itself, and the services that it comes over."""

from __future__ import annotations

from itertools import groupby, product

import pytest

from stormproof.demo.faults import Match, Outage, Plan, reset
from stormproof.demo.proxy import FaultProxy
from stormproof.demo.scenario import FEWEST_IN_OUTAGE, FEWEST_QUESTIONS, LATENCY, Storm
from stormproof.demo.services import UnreachableError, running_services
from stormproof.demo.sink import OtlpSink
from stormproof.resilience.breaker import Permit, State
from stormproof.resilience.outcome import Verdict, Weight
from stormproof.resilience.policy import Policy
from stormproof.resilience.targets import Target

REQUESTS = [
    ("openai", "POST", "/v1/embeddings"),
    ("qdrant", "PUT", "/collections/c/points"),
    ("qdrant", "POST", "/collections/c/points/query"),
    ("ollama", "POST", "/api/chat"),
]


def faults(service: str, method: str, path: str, requests: int = 300) -> list[str | None]:
    """Return the faults that so many requests meet apart from the outage, delays left out."""
    proxy = FaultProxy("http://127.0.0.1:1")
    Storm(16).arm(service, proxy)
    rules = [rule for rule in proxy._rules if not isinstance(rule, Outage)]
    met: list[str | None] = []
    for _ in range(requests):
        decisions = (rule.decide(method, path) for rule in rules)
        fault = next((decision.fault for decision in decisions if decision is not None), None)
        met.append(fault.name if fault and fault.name != "delay" else None)
    return met


@pytest.mark.parametrize(("service", "method", "path"), REQUESTS)
def test_the_storm_is_not_more_than_the_policy_can_weather(service: str, method: str, path: str) -> None:
    """Otherwise the run with stormproof might lose something by mere chance."""
    met = faults(service, method, path)
    longest = max(len(list(run)) for hit, run in groupby(met, key=lambda fault: fault is not None) if hit)
    assert longest < Policy().retry.attempts
    assert met == faults(service, method, path)
    assert {"status 503", "reset"} <= set(met)


def test_every_kind_comes_up_in_the_shortest_run() -> None:
    storm = Storm(FEWEST_QUESTIONS)
    assert "drop" in faults("ollama", "POST", "/api/chat", FEWEST_QUESTIONS)
    # One embedding a question, and all are asked twice.
    most = 2 * FEWEST_QUESTIONS
    assert FEWEST_QUESTIONS < faults("openai", "POST", "/v1/embeddings", most + 1).index("status 429") <= most
    assert storm.embeddings_before_limit <= most


def test_the_outage_opens_the_breaker_and_ends_within_the_programs_pause() -> None:
    for questions, latency in product(range(FEWEST_QUESTIONS, 60), (0.0, LATENCY)):
        storm = Storm(questions, latency=latency)
        assert 2 < storm.outage < 3.0 + (questions - 1) * storm.latency


def test_what_the_outage_meets_opens_the_breaker() -> None:
    """The answer that is cut off, and so many requests of a service that never succeeded."""
    target = Target("ollama", "h", 1, name="ollama/h:1", policy=Policy(), clock=lambda: 0.0, on_change=lambda *_: None)
    for met in range(1 + FEWEST_IN_OUTAGE):
        assert target.breaker.state is State.CLOSED, met
        permit = Permit()
        assert target.breaker.admit(permit, 0.0) == 0
        target.breaker.settle(permit, Verdict(Weight.FAILURE), 0.0, 0.0)
    assert target.breaker.state is State.OPEN


def test_an_outage_goes_on_until_it_has_met_enough() -> None:
    rule = Outage(Match.of("*", "."), start_after=1, lasting=0.0, fault=reset(), at_least=2)
    decided = [rule.decide("GET", "/") for _ in range(4)]
    assert [decision.fault.name if decision and decision.fault else None for decision in decided] == [
        *(None, "outage", "outage", None)
    ]


def test_a_script_can_begin_late() -> None:
    rule = Plan(Match.of("*", "a"), [reset()], start_after=2)
    assert [rule.decide("GET", path) is not None for path in ("a", "b", "a", "b", "a", "a")] == [
        *(False, False, False, False, True, False)
    ]


def test_real_services_are_those_that_the_environment_names() -> None:
    with OtlpSink() as real:
        host = real.url.removeprefix("http://")
        with running_services({"OPENAI_BASE_URL": f"{real.url}/v1/", "OLLAMA_HOST": host}) as services:
            openai, qdrant, ollama = services
            assert (openai.url, openai.root, openai.is_stand_in) == (f"{real.url}/v1", real.url, False)
            assert openai.at("http://proxy:1") == "http://proxy:1/v1"
            assert (ollama.url, ollama.takes_faults) == (real.url, True)
            assert qdrant.is_stand_in


def test_a_service_that_is_named_but_not_there() -> None:
    with OtlpSink() as gone:
        nowhere = gone.url
    with (
        pytest.raises(UnreachableError, match=r"nothing answers at .* \(QDRANT_URL="),
        running_services({"QDRANT_URL": nowhere}),
    ):
        pass
