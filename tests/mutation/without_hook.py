"""A pytest plugin that leaves out one hook, named by ``WITHOUT_HOOK`` (``ApiClient.send``), wherever it is put in."""

from __future__ import annotations

import os
from typing import Any

from stormproof.clients.patching import Splice
from stormproof.clients.qdrant_grpc import _RpcSplice


def name_of(splice: Any) -> str:
    """``Owner.name``, for a module its last word."""
    owner = getattr(splice.owner, "__qualname__", None) or splice.owner.__name__.rpartition(".")[2]
    return f"{owner}.{splice.name}"


def _leaving_out(kind: Any, hook: str) -> None:
    put_in = kind.put_in

    def put_in_unless_left_out(splice: Any) -> None:
        if name_of(splice) != hook:
            put_in(splice)

    kind.put_in = put_in_unless_left_out


def pytest_configure() -> None:
    for kind in (Splice, _RpcSplice):
        _leaving_out(kind, os.environ["WITHOUT_HOOK"])
