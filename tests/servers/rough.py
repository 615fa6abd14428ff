"""Servers that fail below HTTP: on the socket, in TLS, or as a process. Each counts what reached it."""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from typing_extensions import Self

_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_HEAD_ENDS = b"\r\n\r\n"

#: What is done with a connection that was accepted; it stays open until the server stops, unless this closes it.
Treatment = Callable[[socket.socket], None]


class RoughServer:
    """Accepts connections one after the other and treats each alike; used as a context manager."""

    scheme = "http"

    def __init__(self, treat: Treatment, *, receive_buffer: int | None = None) -> None:
        self._treat = treat
        self._listener = socket.create_server(("127.0.0.1", 0))
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._thread = threading.Thread(target=self._serve, name="RoughServer", daemon=True)
        self._open = ExitStack()
        self.connections = 0

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        self._thread.join(5)
        self._open.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.callback(connection.close)
            with suppress(OSError):
                self._treat(connection)


class RoughTLSServer(RoughServer):
    """The same, to be spoken to in TLS."""

    scheme = "https"


def reset_unread(connection: socket.socket) -> None:
    """Reset once something has come, and read nothing of it."""
    select.select([connection], [], [], 5)
    _reset(connection)


def reset_after_the_head(connection: socket.socket) -> None:
    """Reset once the request's head has come."""
    seen = b""
    while _HEAD_ENDS not in seen:
        seen += connection.recv(65536)
    _reset(connection)


def say_nothing(_connection: socket.socket) -> None:
    """Neither read nor write."""


def answer_in_plain_text(connection: socket.socket) -> None:
    """Answer a TLS handshake in HTTP."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
    connection.shutdown(socket.SHUT_WR)


def shake_hands(context: ssl.SSLContext) -> Treatment:
    """Offer a certificate."""

    def treat(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True):
            pass

    return treat


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    connection.close()


class Nobody:
    """A port that is taken and not listened on: connections are refused, and no one else can get it."""

    def __enter__(self) -> Self:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class FullBacklog:
    """A listener that accepts nobody and whose queue is full: the kernel leaves further connections unanswered."""

    _ENOUGH = 4  # the queue takes one or two; what does not get in is in nobody's way

    def __enter__(self) -> Self:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        address = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{address[1]}"
        self._waiting = [socket.socket() for _ in range(self._ENOUGH)]
        for waiting in self._waiting:
            waiting.setblocking(False)
            waiting.connect_ex(address)
        return self

    def __exit__(self, *_: object) -> None:
        for waiting in self._waiting:
            waiting.close()
        self._listener.close()


_PROCESS = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
kept = []
while True:
    connection, _ = listener.accept()
    kept.append(connection)
    head = connection.recv(65536)
    if head == b"end":
        break
    if head:
        print("request", flush=True)
"""


class ServerProcess:
    """A server in a process of its own that reads requests and never answers."""

    def __enter__(self) -> Self:
        self._process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROCESS], stdout=subprocess.PIPE, text=True
        )
        self._port = int(self._line())
        self.url = f"http://127.0.0.1:{self._port}"
        self._watcher: threading.Thread | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._watcher is not None:
            self._watcher.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def kill_at_first_request(self) -> None:
        """SIGKILL, once a request has come."""

        def watch() -> None:
            if self._line():
                self._process.kill()

        self._watcher = threading.Thread(target=watch, daemon=True)
        self._watcher.start()

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts connections for it."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw_and_count(self) -> int:
        """Let it go on and end; how many requests had been waiting for it."""
        self._process.send_signal(signal.SIGCONT)
        with socket.create_connection(("127.0.0.1", self._port)) as last:
            last.sendall(b"end")
            assert self._process.stdout is not None
            return str(self._process.stdout.read()).count("request")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return str(self._process.stdout.readline())
