"""Calls of an observer's functions one after the other, for asyncio, where such a function may be a coroutine function.

The messages of a subscription do not need this: the task that takes them awaits each call before it takes the next one.
"""

from __future__ import annotations

import asyncio
import inspect
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from pubsub.runtime import logger

__all__ = ["Calls"]

#: The maximum number of calls that wait while what an earlier one has returned is awaited.
MAX_CALLS = 1_000


class Calls:
    """Makes calls in order. If one returns an awaitable, the later ones are made after that is done.

    Args:
        spawn: See `Tasks.spawn`.
        finish: See `Tasks.finish`.
    """

    def __init__(
        self, spawn: Callable[[Any], asyncio.Task[None] | None], finish: Callable[[Any], Awaitable[None]]
    ) -> None:
        self._spawn = spawn
        self._finish = finish
        self._waiting: deque[Callable[[], Any]] = deque()
        self._task: asyncio.Task[None] | None = None  # awaits what a call has returned

    def __call__(self, call: Callable[[], Any]) -> None:
        """Make a call, now or after the earlier ones.

        Args:
            call: A function that raises no exception.
        """
        task = self._task
        if task is not None and not task.done() and task.get_loop() is _get_running_loop():
            if len(self._waiting) == MAX_CALLS:
                self._waiting.popleft()
                logger.warning("a callback does not return; the oldest call that waits for it was dropped")
            self._waiting.append(call)
            return
        self._waiting.clear()  # what is left was waiting for a task that was cancelled, or whose event loop has ended
        result = call()
        if inspect.isawaitable(result):
            self._task = self._spawn(self._await(result))

    async def _await(self, result: Any) -> None:
        while True:
            if inspect.isawaitable(result):
                await self._finish(result)
            if not self._waiting:
                return
            result = self._waiting.popleft()()
