"""The storm: which request meets which fault. The same seed gives the same storm to both runs.

Each service first meets a short script, so that every kind of fault comes up in the shortest run too, and then
faults by chance. Ollama goes away in the middle of its first answer and stays away for some seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from stormproof.demo.proxy import FaultProxy, delay, drop, reset, status

FEWEST_QUESTIONS = 16  # with fewer, the breaker would hardly have opened when all are asked
SEED = 12
LATENCY = 0.25

# What the outage meets at least, so that the breaker opens on a slow machine too: with the answer that is cut off
# before it that makes fifteen failures, and no success.
FEWEST_IN_OUTAGE = 14

_RATE = 0.25
_EMBEDDINGS = "/embeddings$"
_UPSERTS = "/points$"
_SEARCHES = "/points/query$"
_CHATS = "/api/chat$"


@dataclass(frozen=True)
class Storm:
    """What is in store for a run of so many questions.

    Attributes:
        latency: seconds that OpenAI's stand-in takes to answer, as the real one would; 0 where it is the real one.
    """

    questions: int
    seed: int = SEED
    latency: float = LATENCY

    @property
    def embeddings_before_limit(self) -> int:
        """So many that the 429 comes late, when the program asks again what has failed."""
        return self.questions + 16

    @property
    def outage(self) -> float:
        """Seconds: over before the program, after its pause of three, asks what has failed again."""
        return 2.8 + 0.85 * self.latency * (self.questions - 1)

    def arm(self, service: str, proxy: FaultProxy) -> None:
        """Switch the faults of a service on."""
        if service == "openai":
            calm = delay(self.latency)
            busy = status(429, {"retry-after": "1"})
            proxy.plan("POST", _EMBEDDINGS, [busy], start_after=self.embeddings_before_limit)
            proxy.plan("POST", _EMBEDDINGS, [calm, calm, status(503), calm])
            proxy.chance("POST", _EMBEDDINGS, [status(503), reset()], _RATE / 2, self.seed)
            proxy.chance("POST", _EMBEDDINGS, calm, 1.0)
        elif service == "qdrant":
            proxy.plan("PUT", _UPSERTS, [None, status(503), None, reset()])
            proxy.chance("PUT", _UPSERTS, [status(503), reset()], _RATE, self.seed)
            proxy.plan("POST", _SEARCHES, [None, status(503), None])
            proxy.chance("POST", _SEARCHES, [status(503), reset()], _RATE, self.seed)
        else:
            proxy.plan("POST", _CHATS, [drop(after_chunks=6)])
            proxy.outage(_CHATS, lasting=self.outage, at_least=FEWEST_IN_OUTAGE)
            proxy.chance("POST", _CHATS, [status(503), reset()], _RATE, self.seed)

    def describe(self) -> str:
        """Tell people what is coming."""
        return (
            "503s and connection resets at random, one 429 with Retry-After; "
            f"Ollama goes away in the middle of its first answer and is back after {self.outage:.1f} s"
        )
