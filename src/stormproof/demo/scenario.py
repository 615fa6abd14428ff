"""The storm: which request meets which fault. The same seed gives the same storm to both runs.

Each service first meets a short script, so that every kind of fault comes up in the shortest run too, and then
faults by chance. The outage of Qdrant begins after so many searches and lasts for so many seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from stormproof.demo.proxy import FaultProxy, delay, drop, reset, status

FEWEST_QUESTIONS = 6  # with fewer, the run would be over before the outage
SEED = 12
LATENCY = 0.25

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
    def searches_before_outage(self) -> int:
        """Enough for the script to be over, few enough for most questions to come after it."""
        return max(4, self.questions // 4)

    @property
    def outage(self) -> float:
        """Seconds: over before the program, after its pause of three, asks what has failed again."""
        return 2.8 + 0.45 * self.latency * (self.questions - self.searches_before_outage)

    def arm(self, service: str, proxy: FaultProxy) -> None:
        """Switch the faults of a service on."""
        if service == "openai":
            calm = delay(self.latency)
            busy = status(429, {"retry-after": "1"})
            proxy.plan("POST", _EMBEDDINGS, [calm, calm, status(503), calm, busy])
            proxy.chance("POST", _EMBEDDINGS, [status(503), reset()], _RATE / 2, self.seed)
            proxy.chance("POST", _EMBEDDINGS, calm, 1.0)
        elif service == "qdrant":
            proxy.plan("PUT", _UPSERTS, [None, status(503), None, reset()])
            proxy.chance("PUT", _UPSERTS, [status(503), reset()], _RATE, self.seed)
            proxy.outage(_SEARCHES, start_after=self.searches_before_outage, lasting=self.outage)
            proxy.plan("POST", _SEARCHES, [None, status(503), None])
            proxy.chance("POST", _SEARCHES, [status(503), reset()], _RATE, self.seed)
        else:
            proxy.plan("POST", _CHATS, [None, drop(after_chunks=6)])
            proxy.chance("POST", _CHATS, [status(503), reset()], _RATE, self.seed)

    def describe(self) -> str:
        """Tell people what is coming."""
        return (
            f"503s and connection resets at random, one 429 with Retry-After, one answer cut off in mid-stream, "
            f"Qdrant's search away for {self.outage:.1f} s"
        )
