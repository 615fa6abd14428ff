"""qdrant-client's batch uploaders, by REST and gRPC: each batch is one call whose attempts are ours alone.

By itself the client sends a failing batch three or four times, and for ever while a rate limiter says ``0``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from stormproof.clients.patching import Splices
from stormproof.resilience.runner import Runner

_in_upload: ContextVar[bool] = ContextVar("stormproof_qdrant_upload", default=False)


class _UploadFailedError(Exception):
    """Carries a batch's last error through the uploader's own retry loop, which knows only some errors."""


def patch(module: ModuleType, runner: Runner) -> Splices:
    """Take over the retries. ``module``: the imported ``rest_uploader`` or ``grpc_uploader`` of ``qdrant_client``."""
    splices = Splices()
    name = "upload_batch" if hasattr(module, "upload_batch") else "upload_batch_grpc"
    once = _one_round(getattr(module, name))

    def upload_batch(original: Any, api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = inspect.signature(original).bind(api, *args, **kwargs)
        bound.arguments["max_retries"] = once
        token = _in_upload.set(True)
        try:
            return original(*bound.args, **bound.kwargs)
        except _UploadFailedError as failure:
            error = failure.__cause__ or failure
        finally:
            _in_upload.reset(token)
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    splices.add(module, name, upload_batch)
    return splices


def pass_uploader(error: Exception) -> None:
    """In an upload, raise in place of a call's last error what the uploader does not catch to try again."""
    if _in_upload.get():
        raise _UploadFailedError from error


def _one_round(upload_batch: Callable[..., Any]) -> int:
    """The ``max_retries`` with which the uploader sends a batch exactly once: its loops count in two ways."""
    source = inspect.getsource(inspect.unwrap(upload_batch))
    return 0 if "<= max_retries" in source else 1
