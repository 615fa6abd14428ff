"""A network of its own for a test: loopback, nothing on any port, and nobody else.

Linux gives each thread its own network if asked (and if allowed: root, or CAP_SYS_ADMIN). Sockets made in that
thread, and processes and threads started from it, are in that network. Where that is not to be had, the machine's
own network has to do: only a test that needs a certain port to be free can then be disturbed.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from typing_extensions import Self

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

T = TypeVar("T")


class Network:
    """Runs functions inside a network. Used as a context manager."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self.is_own = self._thread.submit(_enter).result()

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The result of ``function(*args, **kwargs)``, run inside."""
        return self._thread.submit(function, *args, **kwargs).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()


def _enter() -> bool:
    """Move this thread into a new network, and switch loopback on. Whether that was allowed."""
    if not sys.platform.startswith("linux") or ctypes.CDLL(None).unshare(_CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    return True
