"""A part of a run in another process, with the interface of `Part`.

The process is spawned, not forked, so that it works the same on every system. Everything that it needs, secrets
included, comes through pipes: nothing is on its command line. Messages on the pipe:

    to the process      ("call", number, method, arguments)   ("cancel", number)   ("end",)
    from the process    ("returned", number, result)   ("raised", number, text)   ("emitted", slice)

If the pipe ends, the other process has ended: the parent then fails with `ProcessFailed`, a child exits immediately.
Signals are for the parent, which ends the stage in all processes; a Ctrl-C in a terminal goes to the whole group.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from pubsub.bench.part import Part, Slice
from pubsub.bench.plan import Plan
from pubsub.bench.system import make_loop

#: Seconds that a process may take to exit before it is killed.
PATIENCE = 5.0

BuildPart = Callable[[Plan, int, Callable[[Slice], object]], Part]


class ProcessFailed(Exception):
    """A process of a run has ended, or has failed."""


class RemotePart:
    """A part in another process, which starts with this object.

    Args:
        build: Makes the part in that process; it can be pickled.
        plan: The plan of the whole run.
        index: The number of the part, from 0.
        take: Called with each `Slice`.

    Attributes:
        pid: The identifier of the process.

    Raises:
        ProcessFailed: The process could not be started.
    """

    def __init__(self, build: BuildPart, plan: Plan, index: int, take: Callable[[Slice], object]) -> None:
        self._name = f"process {index + 1} of {plan.processes}"
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._failure: ProcessFailed | None = None
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, build, plan, index), daemon=True)
        try:
            with _signals_blocked():
                self._process.start()
        except OSError as error:
            self._pipe.close()
            raise ProcessFailed(f"{self._name} could not be started: {error.strerror or error}") from None
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name=self._name, daemon=True)
        self._reader.start()

    async def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the part. Cancellation cancels it there.

        Raises:
            ProcessFailed: The method has raised, or the process has ended.
        """
        if self._failure is not None:
            raise self._failure
        self._count = number = self._count + 1
        future = self._calls[number] = self._loop.create_future()
        try:
            self._send("call", number, name, arguments)
            return await future
        except asyncio.CancelledError:
            self._send("cancel", number)
            raise
        finally:
            self._calls.pop(number, None)

    async def end(self) -> None:
        """End the process, and wait until it has ended."""
        self._send("end")
        try:
            await asyncio.to_thread(self._process.join, PATIENCE)
        finally:
            if self._process.is_alive():
                self._process.kill()
            self._process.join()
            self._reader.join()  # the end of the process has ended its pipe
            self._pipe.close()

    def _send(self, *message: Any) -> None:
        with suppress(OSError):  # the process has ended: `_lost` says so
            self._pipe.send(message)

    def _read(self) -> None:
        """Pass what the process sends to the event loop. This is a thread."""
        with suppress(RuntimeError):  # the event loop is closed
            try:
                while True:
                    message = self._pipe.recv()
                    self._loop.call_soon_threadsafe(self._receive, message)
            except (EOFError, OSError):
                self._loop.call_soon_threadsafe(self._lost)

    def _receive(self, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if kind == "emitted":
            self._take(rest[0])
            return
        number, content = rest
        future = self._calls.get(number)
        if future is None or future.done():
            return
        if kind == "returned":
            future.set_result(content)
        else:
            future.set_exception(ProcessFailed(f"{self._name}: {content}"))

    def _lost(self) -> None:
        """Let all calls fail: the process has ended."""
        self._process.join(PATIENCE)  # it has closed the pipe, so this is short
        self._failure = ProcessFailed(f"{self._name} {_end_of(self._process.exitcode)}; the run is not valid")
        for future in self._calls.values():
            if not future.done():
                future.set_exception(self._failure)


def _end_of(code: int | None) -> str:
    """Return how a process has ended, by its exit code."""
    if code is None or code >= 0:
        return "has closed its pipe" if code is None else f"has ended unexpectedly with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM. A process that starts meanwhile has them blocked for its whole life."""
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # otherwise the start of a process starts it, and unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the other process.


def work(pipe: Connection[Any, Any], build: BuildPart, plan: Plan, index: int) -> None:
    """Do a part of a run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows: Ctrl-C goes to every process of the console
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(_serve(pipe, build, plan, index))


async def _serve(pipe: Connection[Any, Any], build: BuildPart, plan: Plan, index: int) -> None:
    await _Worker(pipe).serve(build, plan, index)


class _Worker:
    """The other end of a `RemotePart`."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, build: BuildPart, plan: Plan, index: int) -> None:
        """Execute calls until the end."""
        threading.Thread(target=self._read, daemon=True).start()
        part: Part | None = None
        while (message := await self._messages.get())[0] != "end":
            if message[0] == "cancel":
                task = self._tasks.get(message[1])
                if task is not None:
                    task.cancel()
                continue
            _, number, name, arguments = message
            if part is None:
                try:
                    part = build(plan, index, lambda slice: self._pipe.send(("emitted", slice)))
                except Exception as error:
                    self._pipe.send(("raised", number, str(error)))
                    continue
            if name != "progress" and self._tasks:  # a cancelled call has not ended yet
                await asyncio.wait(self._tasks.values())
            self._tasks[number] = asyncio.create_task(self._execute(part, number, name, arguments))

    async def _execute(self, part: Part, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            self._pipe.send(("returned", number, await part.call(name, *arguments)))
        except Exception as error:  # a defect
            traceback.print_exc()
            self._pipe.send(("raised", number, f"{type(error).__name__}: {error}"))
        finally:
            del self._tasks[number]

    def _read(self) -> None:
        """Pass what the parent sends to the event loop. This is a thread."""
        with suppress(RuntimeError):  # the event loop is closed
            try:
                while True:
                    message = self._pipe.recv()
                    self._loop.call_soon_threadsafe(self._messages.put_nowait, message)
                    if message[0] == "end":
                        return
            except (EOFError, OSError):
                os._exit(1)  # the parent was killed
