"""Requests and responses. MQTT 3.1.1 has no response topic property, so the topic of a request determines that topic.

The topics::

    request                <topic>/<name>/<number>               calculator/add/5f0c2a9be1d47763/1
    response               <prefix>/<name>/<number>              replies/5f0c2a9be1d47763/1
    the responder failed   <prefix>/<name>/<number>/failed

`name` identifies the requester. It is one level, and cannot be guessed unless the program chooses it. A requester
subscribes to `<prefix>/<name>/#` once; a responder subscribes to `<topic>/+/+`. Payloads contain only the program's
data; that of a failure is empty, and no codec is used for it.

A responder recognizes a copy of a request by its topic. So the numbers of a chosen name begin at a random one: those of
the program's next run are others, and its requests are answered.

`Requests` keeps the requests without a response, and does no I/O. `RequesterCore` connects it to a `PubSub`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import Any, Generic, TypeVar

from mqttws import LocalProtocolError, QueueFull, WouldDeadlock, check_topic
from pubsub.codecs import BYTES, Codec
from pubsub.errors import DecodeFailed, RequestFailed, SubscriptionEnded
from pubsub.message import Message
from pubsub.observers import Callback
from pubsub.runtime import Future, Runtime, logger, settle

__all__ = ["PREFIX", "PendingRequest", "RequesterCore", "Requests", "Responder"]

#: The topic below which responses are published, unless requester and responder use another one.
PREFIX = "replies"
_FAILED = "failed"

T = TypeVar("T")


class PendingRequest(Generic[T]):
    """A request without a response yet.

    Attributes:
        topic: The topic of the request.
        number: The last level of that topic.
        waiter: The waiter that was passed to `Requests.begin`.
        response: The response, as soon as it has been received.
    """

    def __init__(self, topic: str, number: str, waiter: T) -> None:
        self.topic = topic
        self.number = number
        self.waiter = waiter
        self.response: Any = None


class Requests(Generic[T]):
    """The requests of one requester. Threads may share it: each step is one operation on a dictionary.

    Args:
        name: The name of the requester, one level of a topic; None: 16 random hexadecimal digits.
        prefix: The Topic Name below which responses are published.
        most: The maximum number of requests without a response, at least 1.

    Raises:
        LocalProtocolError: The name or the prefix cannot be part of a topic.
        TypeError: An argument has the wrong type.
        ValueError: `most` is below 1.
    """

    def __init__(self, name: str | None = None, prefix: str = PREFIX, most: int = 1_000) -> None:
        self.name = os.urandom(8).hex() if name is None else name
        for what, value, kind in (("name", self.name, str), ("prefix", prefix, str), ("max_pending", most, int)):
            if not isinstance(value, kind):
                raise TypeError(f"{what} must be {kind.__name__}, not {type(value).__name__}")
        self._begin = "/".join((prefix, self.name, ""))  # not formatted, which would give the name of an `Enum` member
        check_topic(self._begin)
        if "/" in self.name or not self.name or not prefix:
            raise LocalProtocolError(f"{self.name!r} below {prefix!r}: a name is one level of a topic", "MQTT-4.7.3-1")
        if most < 1:
            raise ValueError(f"max_pending is {most}; it must be at least 1")
        self._most = most
        self._numbers = count(1 if name is None else int.from_bytes(os.urandom(6)))
        self._pending: dict[str, PendingRequest[T]] = {}

    def __len__(self) -> int:
        """Return the number of requests without a response."""
        return len(self._pending)

    @property
    def replies(self) -> str:
        """The Topic Filter to subscribe to before the first request."""
        return f"{self._begin}#"

    def begin(self, topic: str, waiter: T) -> PendingRequest[T]:
        """Register a request. The caller must call `forget` in the end.

        Raises:
            LocalProtocolError: The topic is not valid.
            QueueFull: Too many requests have no response yet.
        """
        if len(self._pending) >= self._most:
            raise QueueFull(f"{self._most:,} requests wait for their responses already; wait, or raise max_pending")
        number = str(next(self._numbers))
        check_topic(topic)
        pending = PendingRequest("/".join((topic, self.name, number)), number, waiter)
        check_topic(pending.topic)
        self._pending[number] = pending
        return pending

    def take(self, topic: str) -> tuple[PendingRequest[T], bool] | None:
        """Remove and return the request that a response belongs to, by the topic of the response.

        Returns:
            The request, and whether the responder failed. None if there is no such request: the response is late or
            repeated.
        """
        number, _, rest = topic.removeprefix(self._begin).partition("/")
        if not topic.startswith(self._begin) or rest not in ("", _FAILED):
            return None
        pending = self._pending.pop(number, None)
        return None if pending is None else (pending, rest == _FAILED)

    def forget(self, pending: PendingRequest[T]) -> None:
        """Remove a request, because no call waits for its response any more."""
        self._pending.pop(pending.number, None)

    def take_all(self) -> list[PendingRequest[T]]:
        """Remove and return all requests."""
        return [pending for number in list(self._pending) if (pending := self._pending.pop(number, None)) is not None]


class RequesterCore:
    """The part of a requester that threads and asyncio have in common.

    Args:
        ps: The `PubSub`.
        runtime: The runtime of the `PubSub`.
        requests: The requests of this requester.
        qos: The QoS of requests and of the subscription to responses.
        provider: The name of a provider; None: all providers.
        codec: The codec of requests and responses; None: that of the `PubSub`.
    """

    def __init__(
        self, ps: Any, runtime: Runtime, requests: Requests[Future], qos: int, provider: str | None, codec: Codec | None
    ) -> None:
        self._ps = ps
        self._runtime = runtime
        self._requests = requests
        self._options: dict[str, Any] = {"qos": qos, "provider": provider, "codec": codec}
        self._subscription = ps.subscribe(requests.replies, **self._options).subscribe(
            next=self._take, error=self._note, close=self._end
        )

    @property
    def pending(self) -> int:
        """The number of requests without a response."""
        return len(self._requests)

    def _begin(self, topic: str) -> PendingRequest[Future]:
        """Register a request.

        Raises:
            WouldDeadlock: This is a callback, and the response would be delivered after it has returned.
            QueueFull, LocalProtocolError: See `Requests.begin`.
        """
        if self._ps.in_callback:
            raise WouldDeadlock(
                "a request inside a callback would wait for a message that is delivered when the callback has "
                "returned; make it in another thread or task"
            )
        return self._requests.begin(topic, self._runtime.new_future())

    def _take(self, message: Message) -> None:
        taken = self._requests.take(message.topic)
        if taken is not None:
            pending, failed = taken
            pending.response = message
            settle(pending.waiter, RequestFailed(pending.topic) if failed else None)

    def _note(self, error: Exception) -> None:
        taken = self._requests.take(error.message.topic) if isinstance(error, DecodeFailed) else None
        if taken is not None:
            pending, failed = taken  # a codec may refuse the empty payload of a failure
            settle(pending.waiter, RequestFailed(pending.topic) if failed else error)
        elif not self._subscription_ended():
            logger.warning("the responses to %s: %s", self._requests.name, error)

    def _subscription_ended(self) -> bool:
        subscription = getattr(self, "_subscription", None)
        return subscription is not None and subscription.closed

    def _end(self) -> None:
        subscription = getattr(self, "_subscription", None)
        error = subscription.error if subscription is not None else None
        for pending in self._requests.take_all():
            settle(pending.waiter, error or SubscriptionEnded("the requester was closed before the response came"))


class Responder:
    """Calls a function with each request, and publishes its result as the response, or that there will be none.

    Args:
        function: A function of a `Message`; it returns a value for the codec, or an awaitable of one.
        error: The function of the user for failures of the subscription; None: they are logged.
        accept: Returns the result of the function, or raises a TypeError if it is awaitable and is not awaited here.
        publish: Publishes without waiting: a topic, a message, the name of a provider, and a codec.
        prefix: The Topic Name below which responses are published.
        codec: The codec of the responses; None: that of the `PubSub`.
    """

    def __init__(
        self,
        function: Callable[[Message], Any],
        error: Callback | None,
        accept: Callable[[Any], Any],
        publish: Callable[[str, Any, str, Codec | None], object],
        prefix: str,
        codec: Codec | None,
    ) -> None:
        check_topic(prefix)
        self._function = function
        self._error = error
        self._accept = accept
        self._publish = publish
        self._prefix = prefix
        self._codec = codec

    def next(self, message: Message) -> Any:
        """Answer a request. Return an awaitable if the function did."""
        if message.retain:  # a retained request is old: its requester no longer expects a response
            return None
        try:
            result = self._accept(self._function(message))
            if hasattr(type(result), "__await__"):
                return self._answer_later(message, result)
            self._answer(message, result)
        except BaseException:  # of the function; or of the codec, which cannot encode its result
            self._fail(message)
            raise
        return None

    def error(self, error: Exception) -> Any:
        """Handle a failure of the subscription. One is a request that cannot be decoded: the requester must know."""
        if isinstance(error, DecodeFailed) and not error.message.retain:
            self._fail(error.message)
        if self._error is not None:
            return self._error(error)
        logger.warning("a responder: %s", error)
        return None

    async def _answer_later(self, message: Message, result: Any) -> None:
        try:
            self._answer(message, await result)
        except GeneratorExit:  # the event loop was closed
            raise
        except BaseException:  # `CancelledError`, too
            self._fail(message)
            raise

    def _answer(self, message: Message, result: Any) -> None:
        self._publish(self._topic(message), result, message.provider, self._codec)

    def _fail(self, message: Message) -> None:
        """Publish that there will be no response. The reason is only logged here, not sent."""
        topic = f"{self._topic(message)}/{_FAILED}"
        try:
            self._publish(topic, b"", message.provider, BYTES)
        except Exception as error:  # it must not hide the reason
            logger.warning("a failure could not be published to %r: %s", topic, error)

    def _topic(self, message: Message) -> str:
        _, name, number = message.topic.rsplit("/", 2)
        return "/".join((self._prefix, name, number))
