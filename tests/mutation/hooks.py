"""``make hooks``: leaves out each hook in turn, and expects the tests of its client to fail.

The tests are tried in the order in which they are likely to notice; the first failure is enough.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import stormproof
from stormproof import install

ROOT = Path(__file__).parents[2]
CLIENTS = "tests/clients"

#: Where a hook is missed first, by its name. The first pattern that fits counts.
_MISSED_BY = (
    (r"\w*APIClient\.request", ["test_every_client.py", "-k", "openai"]),
    (r"(Async)?Client\._\w+", ["test_ollama_operations.py", "test_ollama.py", "test_streams.py", "-k", "ollama"]),
    (r"(Async)?ApiClient\.\w+", ["test_every_client.py", "-k", "qdrant"]),
    (r"\w+Api\.\w+", ["test_qdrant_operations.py", "-k", "rest or batch"]),
    (r"rest_uploader\.upload_batch", ["test_qdrant.py"]),
    (r"(async_)?qdrant_remote\.get_server_version", ["test_qdrant.py", "test_qdrant_grpc.py"]),
    (r"(grpc_uploader|(async_)?qdrant_remote)\.\w+", ["test_qdrant_stubs.py", "test_qdrant_grpc.py"]),
    (r"\w+Stub\.\w+", ["test_qdrant_stubs.py"]),
    (r"(Async)?QdrantLocal\.\w+", ["test_qdrant_operations.py", "-k", "local_mode"]),
)


def main() -> int:
    """Exit code 1 if a hook is not missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--only", default=".", metavar="PATTERN", help="only the hooks whose names have this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    options = parser.parse_args()
    hooks = [name for name in all_hooks() if re.search(options.only, name)]
    begun = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        kept = [name for name, missed in zip(hooks, pool.map(is_missed, hooks), strict=True) if not missed]
    print(f"{len(hooks)} hooks, {(time.monotonic() - begun) / 60:.1f} minutes; not missed: {', '.join(kept) or 'none'}")
    return 1 if kept else 0


def all_hooks() -> list[str]:
    """The names of all that is spliced in with the clients that are installed here."""
    from tests.mutation.without_hook import name_of

    os.environ["STORMPROOF_QUIET"] = "1"
    stormproof.instrument()
    for hook in install.HOOKS:
        importlib.import_module(hook.module)
    return [name_of(splice) for splices in install._state.splices.values() for splice in splices.splices]


def is_missed(hook: str) -> bool:
    """Whether a test fails without it."""
    arguments = next(arguments for pattern, arguments in _MISSED_BY if re.fullmatch(pattern, hook))
    where = [f"{CLIENTS}/{argument}" if argument.endswith(".py") else argument for argument in arguments]
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutation.without_hook", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *where], cwd=ROOT, env={**os.environ, "WITHOUT_HOOK": hook}, capture_output=True, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"the tests without {hook} could not be run:\n{done.stdout.decode()}")
    print(f"{'missed' if done.returncode else 'NOT MISSED':>10}  {hook}", flush=True)
    return done.returncode == 1


if __name__ == "__main__":
    sys.exit(main())
