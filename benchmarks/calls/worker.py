"""A process that measures one subject: it is told what to call, and answers with what each call took.

Requests and answers are lines of JSON. An instrumentation patches for the whole process, and few can be taken out
again: so each has one of its own, and all take turns.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType
from typing import Any

from benchmarks.calls import server
from benchmarks.calls.clients import client
from benchmarks.calls.paths import PATHS
from benchmarks.calls.subjects import SUBJECTS, Subject, set_up

TASKS = 50
#: Calls whose instructions are counted.
_COUNTED = 20
#: Of each call: nanoseconds of this thread's CPU time, and of wall time.
Times = tuple[list[int], list[int]]


class Worker:
    """Keeps a client for each way to call, once it has been asked for."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._loop = asyncio.new_event_loop()
        self._calls: dict[tuple[str, bool, int | None], Callable[[], Any]] = {}

    def measure(self, name: str, is_async: bool, port: int | None, count: int) -> Times:
        """``count`` calls one after the other. ``port``: of the server; None for one in memory."""
        call, streams = self._call(name, is_async, port), PATHS[name].streams
        if is_async:
            return self._loop.run_until_complete((_stream_async if streams else _whole_async)(call, count))
        return (_stream if streams else _whole)(call, count)

    def instructions(self, name: str, is_async: bool) -> float:
        """Of the interpreter, that this thread carries out for a call: no clock, so the same on a noisy machine."""
        self._call(name, is_async, None)
        with counted() as found:
            self.measure(name, is_async, None, _COUNTED)
        return found["instructions"] / _COUNTED

    def throughput(self, name: str, port: int, count: int) -> float:
        """Calls a second that ``TASKS`` tasks get done, ``count`` each."""
        call = self._call(name, True, port)

        async def task() -> None:
            for _ in range(count):
                await call()

        async def crowd() -> float:
            start = time.perf_counter()
            await asyncio.gather(*(task() for _ in range(TASKS)))
            return TASKS * count / (time.perf_counter() - start)

        return self._loop.run_until_complete(crowd())

    def _call(self, name: str, is_async: bool, port: int | None) -> Callable[[], Any]:
        key = name, is_async, port
        if key not in self._calls:
            path = PATHS[name]
            made = client(path, None if port is None else server.url(port, name), is_async=is_async)
            self._calls[key] = self._subject.guard(path, lambda: path.call(made), is_async)
            self.measure(name, is_async, port, 20)  # what is made at the first calls is not counted
            gc.collect()
            gc.freeze()  # a collection is part of what a call costs; going through every loaded library is not
        return self._calls[key]


@contextmanager
def counted() -> Iterator[Mapping[str, int]]:
    """``instructions``: how many the calling thread carries out meanwhile. Needs Python 3.12."""
    found, thread = {"instructions": 0}, threading.get_ident()
    monitoring: Any = vars(sys)["monitoring"]  # types are checked for 3.10

    def count(_code: CodeType, _offset: int) -> None:
        if threading.get_ident() == thread:
            found["instructions"] += 1

    monitoring.use_tool_id(monitoring.PROFILER_ID, "stormproof")
    monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION, count)
    monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION)
    try:
        yield found
    finally:
        monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.NO_EVENTS)
        monitoring.free_tool_id(monitoring.PROFILER_ID)


def _whole(call: Callable[[], Any], count: int) -> Times:
    cpu, wall = [], []
    for _ in range(count):
        began, start = time.perf_counter_ns(), time.thread_time_ns()
        call()
        cpu.append(time.thread_time_ns() - start)
        wall.append(time.perf_counter_ns() - began)
    return cpu, wall


def _stream(call: Callable[[], Any], count: int) -> Times:
    cpu, wall = [], []
    for _ in range(count):
        began, start = time.perf_counter_ns(), time.thread_time_ns()
        for _ in call():
            pass
        cpu.append(time.thread_time_ns() - start)
        wall.append(time.perf_counter_ns() - began)
    return cpu, wall


async def _whole_async(call: Callable[[], Any], count: int) -> Times:
    cpu, wall = [], []
    for _ in range(count):
        began, start = time.perf_counter_ns(), time.thread_time_ns()
        await call()
        cpu.append(time.thread_time_ns() - start)
        wall.append(time.perf_counter_ns() - began)
    return cpu, wall


async def _stream_async(call: Callable[[], Any], count: int) -> Times:
    cpu, wall = [], []
    for _ in range(count):
        began, start = time.perf_counter_ns(), time.thread_time_ns()
        async for _ in await call():
            pass
        cpu.append(time.thread_time_ns() - start)
        wall.append(time.perf_counter_ns() - began)
    return cpu, wall


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the others print what they like
    subject = SUBJECTS[sys.argv[1]]
    set_up(subject)
    worker = Worker(subject)
    for line in sys.stdin:
        told = json.loads(line)
        answer = getattr(worker, told.pop("do"))(**told)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
