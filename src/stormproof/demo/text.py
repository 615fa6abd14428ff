"""What the stand-ins know of language: embeddings from word counts, and answers cut out of the prompt.

No model is behind this. The embedding is a hashed bag of words: texts that share words lie near each other,
so that retrieval over real text finds sensible passages. The answer is an extract: the sentences of the
prompt's context that share most words with its question. Both depend on the text alone, so that runs can be
compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

DIMENSIONS = 256
SUFFIX = "-stand-in"
NO_CONTEXT = "This is a stand-in, not a language model: it can only quote from the context of a prompt."
NOTHING_FOUND = "The context says nothing about that."

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n\s*(?:[-*•]|\[\d+\]|\d+[.)])\s+")
_QUESTION_LABEL = re.compile(r"\bquestion\s*:\s*", re.IGNORECASE)
_CONTEXT_LABEL = re.compile(r"^\s*(?:context|passages|documents|sources)\s*:\s*", re.IGNORECASE)
_ENDING = re.compile(r"(?<=\w{3})(?:ations?|ingly|ings?|ions?|ies|ers?|ed|es|ly|(?<!s)s)$")
_LAST_VOWEL = re.compile(r"(?<=\w{3})[ey]$")
_SENTENCES_IN_ANSWER = 3
_SHARE_OF_BEST = 0.5  # a sentence that fits less than half as well as the best one only distracts
_SHORTEST_SENTENCE = 3
_STOP_WORDS = frozenset(
    """
    a about after all also an and any are as at be been but by can could do does each for from had has
    have how if in into is it its may more most must no not of on one only or other our out over should
    so some such than that the their them then there these they this to up use used using was we were
    what when where which while who why will with would you your answer question context python
    """.split()  # noqa: SIM905 - read as prose
)


def stand_in_name(model: str) -> str:
    """Return the name under which a stand-in answers, so that nobody takes it for the real model."""
    return model if model.endswith(SUFFIX) else model + SUFFIX


def count_tokens(text: str) -> int:
    """Return how many words and signs a text has: what the stand-ins bill as tokens."""
    return len(_TOKEN.findall(text))


def pieces(text: str) -> list[str]:
    """Cut a text into words that carry their leading space, so that joining them gives the text again."""
    return re.findall(r"\s*\S+", text)


def embed(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Return a unit vector in which each word of the text has added to, or taken from, one place."""
    vector = [0.0] * dimensions
    for stem, count in Counter(_stems(text)).items():
        slot, sign = _place(stem)
        vector[slot % dimensions] += sign * (1.0 + math.log(count))
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0.0:
        return [1.0, *vector[1:]]
    return [value / norm for value in vector]


def answer(messages: Sequence[str]) -> str:
    """Answer the question in the last message with the sentences that fit it best."""
    context, question = _split(messages)
    sentences = [s for s in _sentences(context) if len(s.split()) >= _SHORTEST_SENTENCE]
    if not sentences:
        return NO_CONTEXT
    wanted = set(_stems(question))
    stems = [set(_stems(sentence)) for sentence in sentences]
    frequency = Counter(stem for found in stems for stem in found)
    scores = [sum(1.0 / frequency[stem] ** 0.5 for stem in found & wanted) for found in stems]
    enough = max(scores) * _SHARE_OF_BEST
    ranked = sorted((i for i, score in enumerate(scores) if score > 0.0), key=lambda i: -scores[i])
    best = sorted(i for i in ranked[:_SENTENCES_IN_ANSWER] if scores[i] >= enough)
    return " ".join(sentences[i] for i in best) or NOTHING_FOUND


def _split(messages: Sequence[str]) -> tuple[str, str]:
    """Part the prompt into its context and its question, which is labelled or stands last."""
    earlier, last = "\n\n".join(messages[:-1]), messages[-1] if messages else ""
    labelled = list(_QUESTION_LABEL.finditer(last))
    if labelled:
        cut = labelled[-1]
        question, _, after = last[cut.end() :].partition("\n\n")
        return "\n\n".join((earlier, last[: cut.start()], after)), question
    before, _, question = last.strip().rpartition("\n\n")
    return f"{earlier}\n\n{before}", question


def _sentences(text: str) -> list[str]:
    """Return the distinct sentences of a text in their order, each on one line."""
    found = (_CONTEXT_LABEL.sub("", " ".join(part.split())) for part in _SENTENCE_END.split(text))
    return list(dict.fromkeys(sentence for sentence in found if sentence))


def _stems(text: str) -> list[str]:
    words = (match.group().lower() for match in _WORD.finditer(text))
    return [_stem(word) for word in words if word not in _STOP_WORDS]


@lru_cache(maxsize=20_000)
def _stem(word: str) -> str:
    """Strip one common ending and a last vowel, so that `file` meets `files`, `compress` `compression`."""
    return _LAST_VOWEL.sub("", _ENDING.sub("", word))


@lru_cache(maxsize=20_000)
def _place(stem: str) -> tuple[int, float]:
    """Return where a word counts and with which sign; signs let collisions cancel out on average."""
    digest = int.from_bytes(blake2b(stem.encode(), digest_size=8).digest(), "little")
    return digest >> 1, 1.0 if digest & 1 else -1.0
