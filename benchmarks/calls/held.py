"""A program that the launcher starts: makes some calls of each client and prints the MiB that it holds."""

from __future__ import annotations

import gc
import sys

from benchmarks.calls.process import resident
from benchmarks.calls.subjects import BARE, SUBJECTS
from benchmarks.calls.worker import Worker


def main() -> None:
    worker = Worker(SUBJECTS[BARE])  # whatever there is beside the bare client comes from the launcher
    for name in ("openai chat", "ollama chat", "qdrant query_points"):
        worker.measure(name, is_async=False, port=None, count=20)
    gc.collect()
    print(resident() / (1 << 20), file=sys.stderr)  # spans go to stdout


if __name__ == "__main__":
    main()
