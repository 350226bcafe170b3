"""The thread in which `Broker.start` runs a broker, and the outcome of a call that another thread makes there."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

log = logging.getLogger("mqttws.broker")

T = TypeVar("T")

#: Seconds of one uninterrupted wait of a thread.
_SLICE = 1.0
#: Seconds that tasks and threads of hooks may take to end after the broker has stopped.
_LAST = 1.0


class Outcome(Generic[T]):
    """The outcome of a call, for the one thread that waits for it.

    Not a `concurrent.futures.Future`: an exception of a signal handler, that of Ctrl-C for example, may leave the lock
    of its condition acquired, and the event loop would wait for that lock forever. A `SimpleQueue` is written in C.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def set_result(self, result: T) -> None:
        """Settle the outcome."""
        self._queue.put((result, None))

    def set_exception(self, error: BaseException) -> None:
        """Settle the outcome with an exception, which `wait` raises."""
        self._queue.put((None, error))

    def wait(self, ended: Callable[[], bool]) -> T:
        """Wait for the outcome.

        Args:
            ended: Returns whether no outcome will be set any more.

        Raises:
            RuntimeError: `ended` returned True, and there is no outcome.
            BaseException: The outcome is this exception.
        """
        while True:
            last = ended()
            try:
                result, error = self._queue.get(timeout=0 if last else _SLICE)
                break
            except Empty:
                if last:
                    raise RuntimeError("the broker was stopped during the call") from None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback refers to this frame
        return cast(T, result)


class Background(threading.Thread):
    """A thread that runs a broker in a new event loop until it is stopped.

    Args:
        broker: Starts the broker when it is entered, and stops it when it is left.

    Attributes:
        started: The outcome of the broker's start.
    """

    def __init__(self, broker: AbstractAsyncContextManager[object]) -> None:
        super().__init__(name="mqttws-broker", daemon=True)
        self.started: Outcome[None] = Outcome()
        self._broker = broker
        self._serving = False
        self._stopping = False
        self._wake: Callable[[], object] = lambda: None

    def stop(self) -> None:
        """Stop the broker and wait for the end of the thread, also if it has only just been started."""
        self._stopping = True  # first, because `_serve` sets `_wake` and then reads this
        self._wake()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """Run the broker. Log an exception that ends the event loop."""
        try:
            self._run()
        except BaseException as error:
            if self._serving:
                log.critical("the broker has stopped: its event loop has ended", exc_info=error)
            else:
                self.started.set_exception(error)

    def _run(self) -> None:
        """Do what `asyncio.run` does; but it would wait forever for a hook that ignores its cancellation.

        It would also wait forever for a thread of the default executor, such as one of `asyncio.to_thread`, that a hook
        has blocked.
        """
        loop = asyncio.new_event_loop()
        executor = ThreadPoolExecutor()
        loop.set_default_executor(executor)
        try:
            asyncio.set_event_loop(loop)
            main = loop.create_task(self._serve())
            try:
                loop.run_until_complete(main)
            finally:
                loop.run_until_complete(_end(main))
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            closing = threading.Thread(target=executor.shutdown, name="mqttws-broker-end", daemon=True)
            closing.start()
            closing.join(_LAST)

    async def _serve(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(stop.set)

        self._wake = wake
        async with self._broker:
            if self._stopping:
                raise RuntimeError("the broker was stopped while it was being started")
            self._serving = True
            self.started.set_result(None)
            await stop.wait()


async def _end(main: asyncio.Task[None]) -> None:
    """Cancel all tasks and close asynchronous generators. Wait for them, but for those of hooks only `_LAST` seconds.

    Args:
        main: The task that runs the broker. It is not done if an exception has ended the event loop.
    """
    if not main.done():
        main.cancel()
        await asyncio.wait([main])
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        _, pending = await asyncio.wait(others, timeout=_LAST)
        if pending:
            log.error("the broker has stopped, but %d tasks of hooks ignored their cancellation", len(pending))
    closing = asyncio.ensure_future(asyncio.get_running_loop().shutdown_asyncgens())
    await asyncio.wait([closing], timeout=_LAST)
