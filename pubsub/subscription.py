"""A subscription: one observer, its Topic Filters, and the connections that it uses.

It is the same for threads and for asyncio; each face adds the verbs that wait, in a `Handle`. A subscription ends once:
because it was asked to, because the last of its connections has ended, or because the server has refused the last of
its Topic Filters. `close` of the observer is called then, once, and nothing is called after it that had not begun
before.

All of its state is guarded by the lock of its `PubSub`; callbacks are called outside it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Protocol

from mqttws import Publish, SubscribeRejected
from pubsub.codecs import Codec
from pubsub.errors import DecodeFailed, SubscriptionEnded
from pubsub.message import Message
from pubsub.observers import Observer
from pubsub.providers.base import Provider
from pubsub.receipt import Receipt
from pubsub.router import REFUSED
from pubsub.runtime import DONE, Runtime, logger, settle
from pubsub.topics import check_filters, listed

__all__ = ["Dedupe", "Handle", "SubscriptionCore"]

#: What makes the key by which copies of a message are left out.
Dedupe = Callable[[Message], Hashable]

#: The number of keys of `dedupe` that are remembered: the latest.
MOST_KEYS = 10_000


class Connection(Protocol):
    """What a subscription uses of a `Channel`."""

    provider: Provider
    runner: Any

    def leave(self, subscription: SubscriptionCore, topic_filters: Iterable[str]) -> Any:
        """See `Channel.leave`."""

    @property
    def stalled(self) -> str:
        """See `Channel.stalled`."""

    def check_progress(self) -> None:
        """See `Channel.check_progress`."""


class SubscriptionCore:
    """A subscription without its waiting.

    Args:
        runtime: Of the `PubSub` that it belongs to.
        join: Adds it to Topic Filters of a provider's connection.
        wanted: Its first Topic Filters, each with a QoS.
        observer: What to call.
        codec: Decodes its messages.
        providers: The providers whose connections it uses.
        dedupe: Returns the key of a message; a message with a known key is skipped.
    """

    def __init__(
        self,
        runtime: Runtime,
        join: Callable[[Provider, SubscriptionCore, Mapping[str, int]], object],
        wanted: Mapping[str, int],
        observer: Observer,
        codec: Codec,
        providers: Iterable[Provider],
        dedupe: Dedupe | None = None,
    ) -> None:
        for callback in observer.next, observer.error, observer.close:
            runtime.check_callback(callback)
        self.runtime = runtime
        self.closed = False
        self.error: Exception | None = None
        self.settled: Any = runtime.new_future()
        self._join = join
        self._first = wanted
        self._observer = observer
        self._codec = codec
        self._providers = list(providers)
        self._dedupe = dedupe
        self._keys: OrderedDict[Hashable, None] = OrderedDict()
        self._channels: dict[str, Connection] = {}  # by the name of the provider
        self._wanted: dict[str, int] = {}
        self._codes: dict[tuple[str, str], int | None] = {}  # by provider and Topic Filter; None: not answered yet

    @property
    def topics(self) -> tuple[str, ...]:
        """The Topic Filters that were granted or are not answered yet."""
        with self.runtime.lock:
            return tuple(self._wanted)

    @property
    def is_ours(self) -> bool:
        """Whether the calling thread or task delivers the messages of this subscription."""
        return any(self.runtime.is_current(channel.runner) for channel in list(self._channels.values()))

    # For the handle.

    def begin(self) -> None:
        """Subscribe to the first Topic Filters, or to none if that fails or is interrupted."""
        try:
            self.add(self._first)
        except BaseException:
            self._leave(None)
            raise

    def add(self, wanted: Mapping[str, int]) -> None:
        """Subscribe to Topic Filters, each at a QoS."""
        with self.runtime.lock:
            if self.closed:
                raise SubscriptionEnded("the subscription has ended; subscribe anew")
            for topic_filter, qos in wanted.items():
                self._wanted[topic_filter] = max(qos, self._wanted.get(topic_filter, 0))
            self._codes.update({(provider.name, each): None for provider in self._providers for each in wanted})
            if self.settled.done():
                self.settled = self.runtime.new_future()
        for provider in self._providers:
            self._join(provider, self, wanted)

    def remove(self, unwanted: Iterable[str]) -> None:
        """Unsubscribe from some of its Topic Filters.

        Raises:
            ValueError: It does not have one of them; nothing has changed.
        """
        unwanted = tuple(unwanted)
        with self.runtime.lock:
            unknown = [topic_filter for topic_filter in unwanted if topic_filter not in self._wanted]
            if unknown:
                raise ValueError(f"the subscription does not have {unknown[0]!r}; it has {list(self._wanted)}")
            for topic_filter in unwanted:
                self._wanted.pop(topic_filter, None)
            for key in [key for key in self._codes if key[1] in unwanted]:
                del self._codes[key]
            channels = list(self._channels.values())
        for channel in channels:
            channel.leave(self, unwanted)
        self._settle_if_answered()

    @property
    def channels(self) -> list[Connection]:
        """The connections that it uses."""
        return list(self._channels.values())

    def granted(self) -> dict[str, int]:
        """Return what `ready` returns, once it is settled.

        Raises:
            MQTTError: Why it has ended.
        """
        with self.runtime.lock:
            if self.error is not None:
                raise self.error
            if self.closed:
                raise SubscriptionEnded("the subscription was ended before the server had answered")
            granted: dict[str, int] = {}
            for (_, topic_filter), code in self._codes.items():
                if code is not None:
                    granted[topic_filter] = min(code, granted.get(topic_filter, code))
            return granted

    def end(self, error: Exception | None = None) -> list[Any]:
        """End it; a second time without effect.

        Returns:
            Futures of the answers to the UNSUBSCRIBE packets that this took.
        """
        answers = self._leave(error)
        if answers is None:
            return []
        self._tell_end(error)
        return answers

    # For the channel.

    def joined(self, channel: Connection) -> bool:
        """Note a connection that it uses, under the lock. Return whether it has not ended."""
        if not self.closed:
            self._channels[channel.provider.name] = channel
        return not self.closed

    def deliver(self, publish: Publish, provider: str, receipt: Receipt | None) -> Any:
        """Give a message to the observer. Return what its `next` returned."""
        if self.closed:
            return None
        payload = publish.payload
        try:
            value = self._codec.decode(payload)
        except Exception as error:
            message = self._message(publish, payload, provider)
            self.report(DecodeFailed(message, f"{type(error).__name__}: {error}"))
            return None
        message = self._message(publish, value, provider)
        if self._dedupe is not None and self._is_copy(message, self._dedupe):
            return None
        if not self._observer.holds:
            return self.runtime.call(self._observer.next, message)
        return self.runtime.call(self._observer.next, message, None if receipt is None else receipt.hold())

    @staticmethod
    def _message(publish: Publish, value: Any, provider: str) -> Message:
        return Message(publish.topic, value, publish.payload, publish.qos, publish.retain, publish.dup, provider)

    def _is_copy(self, message: Message, dedupe: Dedupe) -> bool:
        """Return whether a message with the same key has been delivered recently. None means no key."""
        key = self.runtime.call(dedupe, message)
        if key is None:
            return False
        is_known = key in self._keys
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > MOST_KEYS:
            self._keys.popitem(last=False)
        return is_known

    def answered(self, provider: str, topic_filter: str, return_code: int, error: Exception | None = None) -> None:
        """Take the answer for one of its Topic Filters. Callbacks are left to another thread.

        Args:
            provider: The name of the provider that answered.
            topic_filter: Which one.
            return_code: The QoS granted, or `REFUSED`.
            error: Why it was refused; None: the server did not say.
        """
        with self.runtime.lock:
            key = (provider, topic_filter)
            if self.closed or key not in self._codes:
                return
            self._codes[key] = return_code
            standing = [code for (_, each), code in self._codes.items() if each == topic_filter and code != REFUSED]
            if not standing:
                self._wanted.pop(topic_filter, None)
            over = return_code == REFUSED and not self._wanted
        if return_code == REFUSED and error is None:
            error = SubscribeRejected(topic_filter)
        if over:
            self._leave(error)
            self.runtime.notify(self._tell_end, error)
            return
        self._settle_if_answered()
        if error is not None:
            self.runtime.notify(self.report, error)

    def channel_ended(self, channel: Connection, error: Exception | None) -> None:
        """Note that one of its connections has ended for good."""
        name = channel.provider.name
        with self.runtime.lock:
            if self._channels.get(name) is channel:
                del self._channels[name]
            for key in [key for key in self._codes if key[0] == name]:
                del self._codes[key]
            self._providers = [provider for provider in self._providers if provider is not channel.provider]
            alone = not self._channels and not self._codes
        if alone:
            self.end(error)
            return
        if error is not None:
            self.report(error)
        self._settle_if_answered()

    def abandon(self, error: Exception) -> None:
        """End with a process or an event loop that is gone, without calling the observer. An iteration ends, too."""
        self.closed, self.error = True, error
        self.settled = DONE
        if self._observer.holds and self._observer.close is not None:
            self._observer.close()

    def report(self, error: Exception) -> None:
        """Pass a failure to the observer, or to the log if it has no `error`."""
        if self._observer.error is None:
            logger.warning("the subscription to %s: %s", ", ".join(map(repr, self._wanted)) or "nothing", error)
        else:
            self.runtime.spawn(self.runtime.call(self._observer.error, error))

    def _leave(self, error: Exception | None) -> list[Any] | None:
        """End it without telling the observer. Return what `end` returns; None if it had ended before."""
        with self.runtime.lock:
            if self.closed:
                return None
            self.closed = True
            self.error = error
            wanted = tuple(self._wanted)
            channels = list(self._channels.values())
            self._channels.clear()
        settle(self.settled)
        answers = [channel.leave(self, wanted) for channel in channels]
        return [answer for answer in answers if answer is not None]

    def _tell_end(self, error: Exception | None) -> None:
        if error is not None:
            self.report(error)
        self.runtime.spawn(self.runtime.call(self._observer.close))

    def _settle_if_answered(self) -> None:
        with self.runtime.lock:
            settled = None if None in self._codes.values() else self.settled
        if settled is not None:
            settle(settled)


class Handle:
    """What a caller holds of a subscription. Each face adds `ready` and `unsubscribe`, which wait."""

    def __init__(self, core: SubscriptionCore) -> None:
        self._core = core

    @property
    def topics(self) -> tuple[str, ...]:
        """The Topic Filters that were granted or are not answered yet."""
        return self._core.topics

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._core.closed

    @property
    def error(self) -> Exception | None:
        """Why it has ended, if something went wrong."""
        return self._core.error

    def add(self, topics: str | Iterable[str], *, qos: int = 0) -> None:
        """Subscribe to more Topic Filters. `ready` waits for the server's answer.

        Args:
            topics: A Topic Filter or several.
            qos: The highest QoS at which their messages should come: 0, 1 or 2.

        Raises:
            LocalProtocolError: A Topic Filter or the QoS is ill-formed; nothing has changed.
            SubscriptionEnded: It has ended.
        """
        self._core.add(check_filters(topics, qos))

    def remove(self, topics: str | Iterable[str]) -> None:
        """Unsubscribe from some of its Topic Filters. With none left it continues without messages until `add`.

        Raises:
            ValueError: It does not have one of them; nothing has changed.
        """
        self._core.remove(listed(topics, "a Topic Filter", 'remove(["a", "b/#"])'))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {list(self.topics)} {'closed' if self.closed else 'open'}>"
