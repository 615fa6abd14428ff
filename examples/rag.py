"""Answer questions about Python's standard library from its own docstrings: retrieval-augmented generation.

Embeds the docstrings with OpenAI, keeps them in Qdrant, and has Ollama answer from the passages that fit best.

The services are found where their clients look for them: OPENAI_BASE_URL and OPENAI_API_KEY, OLLAMA_HOST, and
QDRANT_URL (http://localhost:6333 by default). RAG_EMBEDDING_MODEL and RAG_CHAT_MODEL choose the models.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice, zip_longest

import httpx
import ollama
import openai
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

EMBEDDING_MODEL = os.environ.get("RAG_EMBEDDING_MODEL", "text-embedding-3-small")
CHAT_MODEL = os.environ.get("RAG_CHAT_MODEL", "llama3.2")
QDRANT_URL = os.environ.get("QDRANT_URL", "http://localhost:6333")
COLLECTION = "python_docstrings"
TIMEOUT = 10  # seconds
BATCH = 30  # passages
CONTEXT = 4  # passages
PAUSE = 3.0  # seconds before what has failed is asked again
SERVICE_ERRORS = (openai.OpenAIError, ApiException, ollama.ResponseError, httpx.HTTPError, ConnectionError)

MODULES = """
    argparse bisect calendar collections configparser contextlib copy csv datetime decimal difflib email.message
    fractions functools glob graphlib gzip hashlib heapq html http.client ipaddress itertools json locale
    logging math mimetypes os.path pathlib pickle pprint queue random secrets selectors shelve shlex shutil
    signal socket sqlite3 ssl statistics string struct subprocess tarfile tempfile textwrap threading timeit
    traceback unicodedata urllib.parse urllib.robotparser uuid wave weakref xml.etree.ElementTree zipfile zlib
""".split()  # noqa: SIM905

QUESTIONS = (
    "How do I read a CSV file?",
    "What does heapq do?",
    "How can I compress data with gzip?",
    "How is a temporary directory made?",
    "What is a weak reference?",
    "How do I run a subprocess?",
    "How are JSON documents written?",
    "What calculates the mean of some numbers?",
    "How do I compare two sequences of lines?",
    "How are command line arguments parsed?",
    "What copies a whole directory tree?",
    "How do threads wait for each other?",
    "How do I make a random password or token?",
    "What wraps a paragraph of text?",
    "How is a date formatted?",
    "How do I open an SSL connection?",
    "What keeps a list in sorted order?",
    "How do I parse a URL?",
    "How is a zip archive read?",
    "What caches the results of a function?",
)

PROMPT = """Answer the question from the context alone, in at most three sentences.

Context:
{context}

Question: {question}"""


class Rag:
    """The three clients, and what is done with them."""

    def __init__(self) -> None:
        self.openai = openai.OpenAI(timeout=TIMEOUT)
        self.qdrant = QdrantClient(url=QDRANT_URL, timeout=TIMEOUT)
        self.ollama = ollama.Client(timeout=TIMEOUT)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        answer = self.openai.embeddings.create(model=EMBEDDING_MODEL, input=list(texts))
        return [item.embedding for item in answer.data]

    def prepare(self) -> None:
        """Make an empty collection, in place of an old one, that fits the model's vectors."""
        [vector] = self.embed(["How long is a vector?"])
        if self.qdrant.collection_exists(COLLECTION):
            self.qdrant.delete_collection(COLLECTION)
        size = models.VectorParams(size=len(vector), distance=models.Distance.COSINE)
        self.qdrant.create_collection(COLLECTION, vectors_config=size)

    def store(self, first_id: int, texts: Sequence[str]) -> None:
        points = [
            models.PointStruct(id=number, vector=vector, payload={"text": text})
            for number, (text, vector) in enumerate(zip(texts, self.embed(texts), strict=True), first_id)
        ]
        self.qdrant.upsert(COLLECTION, points)

    def answer(self, question: str) -> Iterator[str]:
        """Yield the answer piece by piece."""
        [vector] = self.embed([question])
        found = self.qdrant.query_points(COLLECTION, query=vector, limit=CONTEXT).points
        context = "\n\n".join(point.payload["text"] for point in found if point.payload)
        prompt = PROMPT.format(context=context, question=question)
        for part in self.ollama.chat(CHAT_MODEL, [{"role": "user", "content": prompt}], stream=True):
            yield part["message"]["content"]


def docstrings(name: str) -> Iterator[str]:
    """Yield what a module says about itself and about each of its public functions and classes."""
    module = importlib.import_module(name)
    yield f"{name}: {inspect.cleandoc(module.__doc__ or '')}"
    for key, member in sorted(vars(module).items()):
        text = getattr(member, "__doc__", None)
        if text and not key.startswith("_") and getattr(member, "__module__", None) == name:
            yield f"{name}.{key}: {inspect.cleandoc(text)}"


def corpus(size: int, longest: int) -> list[str]:
    """Return so many passages, the modules taking turns, each cut to so many characters."""
    turns = zip_longest(*map(docstrings, MODULES))
    return [text[:longest] for text in islice(filter(None, chain.from_iterable(turns)), size)]


def store_all(rag: Rag, texts: Sequence[str]) -> int:
    """Embed and store the passages in batches; return how many were stored."""
    stored = 0
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        name = f"passages {start + 1} to {start + len(batch)}"
        try:
            rag.store(start, batch)
        except SERVICE_ERRORS as error:
            print(f"{name} [failed: {describe(error)}]")
        else:
            print(f"{name} stored")
            stored += len(batch)
    return stored


def ask(rag: Rag, number: int, question: str) -> bool:
    """Print the question and its answer as it comes; tell whether all of it came."""
    print(f"{number:>2}. {question}", end=" ", flush=True)
    try:
        for piece in rag.answer(question):
            print(piece.replace("\n", " "), end="", flush=True)
    except SERVICE_ERRORS as error:
        print(f" [failed: {describe(error)}]")
        return False
    print()
    return True


def ask_all(rag: Rag, questions: Sequence[str]) -> int:
    """Ask every question, and those that failed once more at the end; return how many were answered."""
    open_ones = [item for item in enumerate(questions, 1) if not ask(rag, *item)]
    if open_ones:
        print(f"{len(open_ones)} failed; asking again in {PAUSE:g} s")
        time.sleep(PAUSE)
        open_ones = [item for item in open_ones if not ask(rag, *item)]
    return len(questions) - len(open_ones)


def describe(error: Exception) -> str:
    """Return what an error says first."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--passages", type=int, default=240, help="how many docstrings to store (default: 240)")
    parser.add_argument("--questions", type=int, default=12, help="how many questions to ask (default: 12)")
    parser.add_argument("--longest", type=int, default=1200, help="characters of a passage (default: 1200)")
    options = parser.parse_args()
    texts, questions = corpus(options.passages, options.longest), list(islice(cycle(QUESTIONS), options.questions))
    rag = Rag()
    try:
        rag.prepare()
    except SERVICE_ERRORS as error:
        print(f"cannot prepare the collection: {describe(error)}", file=sys.stderr)
        return 1
    stored, answered = store_all(rag, texts), ask_all(rag, questions)
    print(
        f"done: {stored} of {len(texts)} passages stored, {answered} of {len(questions)} questions answered", flush=True
    )
    return 0 if answered == len(questions) else 1


if __name__ == "__main__":
    sys.exit(main())
