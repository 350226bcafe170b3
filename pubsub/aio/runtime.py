"""The tasks of an asyncio `PubSub`.

Each connection has one task (`take_messages`) that connects, takes one message after the other and calls `next`. A
callback may be a function or a coroutine function. While it is awaited, only later messages are delayed.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mqttws
from mqttws import MQTTError, callback_name
from pubsub.aio.calls import Calls
from pubsub.channel import Channel
from pubsub.providers.base import Provider
from pubsub.providers.sharded import Sharded
from pubsub.runtime import Runtime, logger

if TYPE_CHECKING:
    from pubsub.aio.pool import Pool

__all__ = ["Tasks"]


class Promise(asyncio.Future[None]):
    """A future that calls a function when it is cancelled. This takes less time than a callback.

    Args:
        on_cancel: Called without arguments.
    """

    __slots__ = ("_on_cancel",)

    def __init__(self, on_cancel: Callable[[], object]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._on_cancel = on_cancel

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the future, unless it is done."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._on_cancel()
        return cancelled


class Tasks(Runtime):
    """The runtime of `pubsub.aio.PubSub`.

    Attributes:
        spawned: The tasks of callbacks that are coroutine functions.
    """

    def renew(self) -> None:
        """See `Runtime.renew`."""
        super().renew()
        self.spawned: set[asyncio.Future[Any]] = set()

    def new_client(self, provider: Provider, **options: Any) -> mqttws.aio.Client | Pool:
        """See `Runtime.new_client`."""

        def make(**options: Any) -> mqttws.aio.Client:
            return mqttws.aio.Client(provider.url_async, **provider.with_turns(options))

        if not isinstance(provider, Sharded):
            return make(**options)
        from pubsub.aio.pool import Pool  # most programs need no pool

        most = provider.max_subscriptions
        budgets = provider.budget, provider.receiving_budget, provider.filters
        return Pool(self, make, options, provider.connections, provider.most_connections, most, *budgets)

    def new_future(self) -> asyncio.Future[None]:
        """See `Runtime.new_future`."""
        return asyncio.get_running_loop().create_future()

    def new_promise(self, on_cancel: Callable[[], object]) -> asyncio.Future[None]:
        """See `Runtime.new_promise`."""
        return Promise(on_cancel)

    def start(self, channel: Channel) -> asyncio.Task[None]:
        """See `Runtime.start`."""
        # `create_task` would run it immediately with `asyncio.eager_task_factory`, under the lock of the caller.
        return asyncio.Task(
            take_messages(channel, self), loop=asyncio.get_running_loop(), name=f"pubsub {channel.provider.name}"
        )

    def is_current(self, runner: asyncio.Task[None]) -> bool:
        """See `Runtime.is_current`."""
        try:
            return runner is asyncio.current_task()
        except RuntimeError:  # there is no event loop
            return False

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """See `Runtime.later`."""
        asyncio.get_running_loop().call_later(seconds, function)

    def notify(self, function: Callable[..., object], *arguments: object) -> None:
        """See `Runtime.notify`. Called immediately: in an event loop no callback may block."""
        function(*arguments)

    def call(self, callback: Callable[..., object] | None, *arguments: object) -> Any:
        """See `Runtime.call`. `SystemExit` and `KeyboardInterrupt` end the event loop, as they should."""
        if callback is None:
            return None
        try:
            return callback(*arguments)
        except (Exception, asyncio.CancelledError):  # the latter from the result of a cancelled future
            logger.exception("a callback raised an exception: %s", callback_name(callback))
            return None

    def accept(self, result: Any) -> Any:
        """See `Runtime.accept`."""
        return result

    def spawn(self, result: Any) -> asyncio.Task[None] | None:
        """See `Runtime.spawn`. Returns the task, if there is one. It begins in a later turn of the loop."""
        if not inspect.isawaitable(result):
            return None
        # Not `create_task`, as in `start`: `Calls` has to store the task before it begins.
        task = asyncio.Task(self.finish(result), loop=asyncio.get_running_loop())
        self.spawned.add(task)
        task.add_done_callback(self.spawned.discard)
        return task

    def new_calls(self) -> Calls:
        """See `Runtime.new_calls`."""
        return Calls(self.spawn, self.finish)

    def log_failure(self, future: asyncio.Future[None]) -> None:
        """See `Runtime.log_failure`."""
        future.add_done_callback(_log_failure)

    async def finish(self, result: Any) -> None:
        """Await what a callback returned. Log an exception."""
        try:
            await result
        except Exception:
            logger.exception("a callback raised an exception")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.exception("a callback awaited something that was cancelled")

    def _waker(self) -> Callable[[Any], object]:
        loop = asyncio.get_running_loop()

        def wake(_: object) -> None:
            try:
                loop.call_soon_threadsafe(self.collect)
            except RuntimeError:  # the loop is closed
                pass

        return wake

    def is_usable(self, runner: asyncio.Task[None]) -> bool:
        """See `Runtime.is_usable`."""
        loop = runner.get_loop()
        if loop is asyncio.get_running_loop():
            return True
        if loop.is_closed():
            return False
        raise MQTTError("this PubSub is in use in another event loop; close it there, or make another PubSub")


def _log_failure(future: asyncio.Future[None]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        logger.warning("a responder: %s", error)


async def take_messages(channel: Channel, runtime: Tasks) -> None:
    """Connect, deliver messages to the subscriptions, and end the channel when the client has ended."""
    client: Any = channel.client
    try:
        if channel.may_open():
            await client.open()
        if channel.is_closing:
            await client.close()
        async for publish in client.messages():
            for step in channel.handle(publish):
                if inspect.isawaitable(step):
                    await runtime.finish(step)
    except Exception as error:
        channel.failed(error)
    finally:
        await client.close()
        channel.ended()
