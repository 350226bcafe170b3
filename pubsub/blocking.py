"""The PubSub API for programs with threads.

Each connection has two threads: the driver's, which moves bytes, and one of ours (`_take_messages`), which connects,
takes message after message and calls `next`. So a slow callback delays the messages behind it, never the network: the
driver's bounded queue fills, and then nothing more is read from the socket. A third (`_Notifier`), made when it is
first needed, tells changes of state and refusals, which the driver's thread learns of and must not wait for.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Self

import mqttws
from pubsub.channel import Channel
from pubsub.codecs import JSON, Codec
from pubsub.core import PubSubCore
from pubsub.errors import ProviderError
from pubsub.message import Message
from pubsub.observers import Callback, Observer, make_observer
from pubsub.providers.base import Provider
from pubsub.receipt import Receipt
from pubsub.subscription import SubscriptionCore
from pubsub.topics import check_filters

__all__ = ["Observable", "PubSub", "Subscription"]

#: How many messages may wait for an iteration that is behind.
MOST_WAITING = 100

#: The threads that call `next`.
_runners: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class Subscription(SubscriptionCore):
    """One subscription; also a context manager that ends it."""

    _core: PubSub

    def ready(self, timeout: float | None = None) -> dict[str, int]:
        """Wait for the server's answer.

        Args:
            timeout: seconds; None: the `timeout` of the `PubSub`.

        Returns:
            Topic Filter -> the QoS granted, or 128 where the server refused it and there are others.

        Raises:
            SubscribeRejected: the server refused the only one, or the last of them.
            MQTTError: there is no connection; or the subscription has ended.
            TimeoutError: there was no answer in time.
        """
        seconds = self._core.seconds(timeout)
        try:
            self._settled.result(seconds)
        except TimeoutError:
            raise TimeoutError(f"the server has not answered the subscription within {seconds:g} s") from None
        return self.granted()

    def unsubscribe(self, timeout: float | None = None) -> None:
        """End it, and wait for the server's answer where one is due. A second time without effect.

        `next` is called no more; `close` of the observer is called before this returns.

        Args:
            timeout: seconds; None: the `timeout` of the `PubSub`.

        Raises:
            TimeoutError: there was no answer in time. The subscription has ended all the same.
        """
        answers = self.end()
        seconds = self._core.seconds(timeout)
        deadline = time.monotonic() + seconds
        for answer in answers:
            try:
                answer.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise TimeoutError(f"the server has not confirmed the end within {seconds:g} s") from None
            except mqttws.MQTTError:
                pass  # the connection has ended, and the subscription with it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.unsubscribe()


class Observable:
    """What `subscribe` of a `PubSub` gives: nothing happens until it is subscribed to or iterated over."""

    def __init__(self, begin: Callable[[Observer], Subscription], timeout: float | None) -> None:
        self._begin = begin
        self._silence = timeout

    def subscribe(
        self, next: object = None, error: Callback | None = None, close: Callback | None = None
    ) -> Subscription:
        """Begin a subscription. It connects in the background, where there is no connection.

        Args:
            next: called with each `Message`; or an observer object, as the only argument.
            error: called with each failure.
            close: called once, when the subscription has ended, for whichever reason.

        Returns:
            The handle of the subscription.

        Raises:
            ProviderError: there is no provider, or it lacks a setting.
        """
        return self._begin(make_observer(next, error, close))

    def __iter__(self) -> Iterator[Message]:
        """Iterate over the messages of a subscription of its own, until it ends or is silent for too long.

        A message of QoS 1 or 2 is acknowledged when the iteration moves on.

        Raises:
            MQTTError: the subscription ended because of it.
        """
        if threading.current_thread() in _runners:
            raise mqttws.WouldDeadlock("this very callback would have to hand the message out; subscribe instead")
        inbox = _Inbox()
        subscription = self._begin(Observer(inbox.put, None, inbox.close, holds=True))
        try:
            while (taken := inbox.get(self._silence)) is not None:
                message, receipt = taken
                try:
                    yield message
                finally:
                    if receipt is not None:
                        receipt.release()
            if subscription.error is not None:
                raise subscription.error
        finally:
            inbox.discard()
            subscription.end()


class _Inbox:
    """Messages on their way to an iteration: bounded; who puts waits for room."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Message, Receipt | None]] = deque()
        self._closed = False

    def put(self, message: Message, receipt: Receipt | None) -> None:
        """Let a message wait to be taken; wait for room first. Once closed, nobody will take it."""
        with self._changed:
            while len(self._waiting) >= MOST_WAITING and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._waiting.append((message, receipt))
                self._changed.notify_all()
                return
        if receipt is not None:
            receipt.release()

    def get(self, timeout: float | None) -> tuple[Message, Receipt | None] | None:
        """Take a message. None: there was none in time, or there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            if not self._waiting:
                return None
            self._changed.notify_all()
            return self._waiting.popleft()

    def close(self) -> None:
        """Let no more in. What waits may still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def discard(self) -> None:
        """Let no more in, and let go of what waits."""
        self.close()
        while (taken := self.get(0)) is not None:
            if taken[1] is not None:
                taken[1].release()


class _Notifier:
    """Calls functions in order in a thread of its own, which is there from the first until `finish`."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, call: Callable[[], object]) -> None:
        """Call soon."""
        with self._lock:
            self._calls.put(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pubsub notifier", daemon=True)
                self._thread.start()

    def finish(self, timeout: float) -> None:
        """Have all called that was to be called, and end the thread; wait for it unless this runs in it."""
        with self._lock:
            thread = self._thread
            if thread is None:
                return
            self._calls.put(None)
        if thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            if call is not None:
                call()
                continue
            with self._lock:
                if self._calls.empty():
                    self._thread = None
                    return


class PubSub(PubSubCore):
    """Publish and subscribe through one provider or several. May be used by several threads at once.

    Connections are made when they are needed. As a context manager it closes them; after `close` it may be used again.

    Args:
        *providers: see `add_pluggable`.
        codec: translates messages, where a call names no other.
        timeout: seconds; bounds each wait that is given no bound of its own.
    """

    def __init__(self, *providers: Provider, codec: Codec = JSON, timeout: float = 30.0) -> None:
        super().__init__(*providers, codec=codec, timeout=timeout)
        self._notifier = _Notifier()

    def subscribe(
        self,
        topics: str | Iterable[str],
        *,
        qos: int = 0,
        provider: str | None = None,
        codec: Codec | None = None,
        timeout: float | None = None,
    ) -> Observable:
        """Make an observable of the messages on topics.

        Args:
            topics: a Topic Filter or several.
            qos: the highest QoS that messages should come with: 0, 1 or 2.
            provider: the name of one; None: through all.
            codec: decodes the messages; None: that of the `PubSub`.
            timeout: seconds of silence after which an iteration ends; None: never.

        Raises:
            LocalProtocolError: a Topic Filter or the QoS is ill-formed.
        """
        wanted = check_filters(topics, qos)

        def begin(observer: Observer) -> Subscription:
            subscription = Subscription(self, observer, codec or self._codec, self.select(provider))
            subscription.begin(wanted)
            return subscription

        return Observable(begin, timeout)

    def publish(
        self,
        topics: str | Iterable[str],
        message: Any,
        *,
        qos: int = 0,
        retain: bool = False,
        provider: str | None = None,
        codec: Codec | None = None,
        timeout: float | None = None,
    ) -> None:
        """Publish a message to one topic or several, and wait until all have it as the QoS promises.

        Args:
            topics: a topic or several.
            message: what the codec takes; with the default anything that JSON has, or bytes as they are.
            qos: 0: handed to the network; 1 or 2: acknowledged in full.
            retain: whether the server keeps it for later subscribers.
            provider: the name of one; None: through all.
            codec: encodes the message; None: that of the `PubSub`.
            timeout: seconds; None: the `timeout` of the `PubSub`.

        Raises:
            PublishFailed: it failed for some of the topics, or it took too long for them.
            LocalProtocolError: a topic or the QoS is ill-formed; nothing was sent.
            TypeError, ValueError: the message cannot be encoded; nothing was sent.
        """
        publication = self.publish_all(topics, message, qos, retain, provider, codec)
        seconds = self.seconds(timeout)
        try:
            publication.future.result(seconds)
        except TimeoutError:
            raise publication.expire(seconds) from None

    def publish_nowait(
        self,
        topics: str | Iterable[str],
        message: Any,
        *,
        qos: int = 0,
        retain: bool = False,
        provider: str | None = None,
        codec: Codec | None = None,
    ) -> Future[None]:
        """Publish without waiting. Returns a future of what `publish` would return or raise.

        Raises:
            PublishFailed: not one of the topics was accepted: the queue is full, or there is no connection and the
                provider does not queue.
            LocalProtocolError, TypeError, ValueError: as `publish`.
        """
        future: Future[None] = self.publish_all(topics, message, qos, retain, provider, codec).future
        return future

    def connect(self, provider: str | None = None, *, timeout: float | None = None) -> None:
        """Connect now.

        Args:
            provider: the name of one; None: all.
            timeout: seconds; None: the `timeout` of the `PubSub`.

        Raises:
            MQTTError: it failed.
            TimeoutError: it took too long; it goes on in the background.
        """
        seconds = self.seconds(timeout)
        deadline = time.monotonic() + seconds
        for channel in [self.channel(each) for each in self.select(provider)]:
            try:
                channel.opened.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise TimeoutError(f"{channel.provider.name} has not connected within {seconds:g} s") from None
            if channel.error is not None:
                raise channel.error

    def close(self, timeout: float | None = None) -> None:
        """End every subscription, send what may be sent, and close every connection.

        Args:
            timeout: seconds to wait for an orderly end; None: 5. What is not complete by then fails.
        """
        self._close(self.closing(), 5.0 if timeout is None else timeout)

    def remove_pluggable(self, provider: str | Provider, timeout: float | None = None) -> None:
        """Remove a provider, by itself or by its name, and close its connection.

        Raises:
            ProviderError: there is no such provider.
        """
        name = provider if isinstance(provider, str) else provider.name
        with self.lock:
            if name not in self._providers:
                raise ProviderError(f"there is no provider named {name!r}")
            del self._providers[name]
        self._close(self.closing([name]), 5.0 if timeout is None else timeout)

    def _close(self, channels: list[Channel], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for channel in channels:
            for subscription in channel.members():
                subscription.channel_ended(channel, None)
            channel.client.close(max(0.0, deadline - time.monotonic()))
            while channel.runner.is_alive() and channel.runner is not threading.current_thread():
                channel.runner.join(0.1)
                if time.monotonic() >= deadline:
                    break
                channel.client.close(max(0.0, deadline - time.monotonic()))  # it may have begun to connect only now
        self._notifier.finish(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # What the core asks for.

    def new_client(self, provider: Provider, **options: Any) -> mqttws.Client:
        """Make a driver that asks a provider where to connect."""
        return mqttws.Client(provider.url, **options)

    def new_future(self) -> Future[None]:
        """Make a future."""
        return Future()

    def start(self, channel: Channel) -> None:
        """Begin to connect and to take messages."""
        channel.runner = threading.Thread(
            target=_take_messages, args=(channel,), name=f"pubsub {channel.provider.name}", daemon=True
        )
        _runners.add(channel.runner)
        channel.runner.start()

    def notify(self, function: Callable[..., object], *arguments: object) -> None:
        """Call soon in the notifier's thread."""
        self._notifier.put(partial(function, *arguments))

    def spawn(self, result: Any) -> None:
        """Take what a callback returned: here it means nothing."""


def _take_messages(channel: Channel) -> None:
    """Connect, hand out message after message, and tell the end."""
    failure: Exception | None = None
    client, name = channel.client, channel.provider.name
    try:
        client.open()
        for publish in client.messages():
            receipt = Receipt(partial(client.acknowledge, publish)) if publish.qos else None
            for subscription in channel.route(publish):
                subscription.deliver(publish, name, receipt)
            if receipt is not None:
                receipt.release()
    except Exception as error:
        failure = error
    client.close()
    channel.ended(failure)
