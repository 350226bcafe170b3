"""A subscription: one observer, its Topic Filters, and the connections that it listens through.

It is the same for threads and for asyncio; only the two verbs that wait, `ready` and `unsubscribe`, are added by
each. It ends once: because it was asked to, or because the last of its connections has ended, or because the server
has refused the last of its Topic Filters. `close` of the observer tells so, once, and nothing is called after it that
had not begun before.

All of its state is guarded by the lock of its `PubSub`; callbacks are called outside of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mqttws import Publish, SubscribeRejected
from pubsub.codecs import Codec
from pubsub.errors import DecodeFailed, SubscriptionEnded
from pubsub.hub import REFUSED
from pubsub.message import Message
from pubsub.observers import Observer, guarded, logger
from pubsub.publishing import settle
from pubsub.receipt import Receipt
from pubsub.topics import check_filters

if TYPE_CHECKING:
    from pubsub.channel import Channel
    from pubsub.core import PubSubCore
    from pubsub.providers.base import Provider

__all__ = ["SubscriptionCore"]


class SubscriptionCore:
    """A subscription without its waiting.

    Args:
        core: of the `PubSub` that it belongs to.
        observer: what to call.
        codec: decodes its messages.
        providers: through which it listens.
    """

    def __init__(self, core: PubSubCore, observer: Observer, codec: Codec, providers: Iterable[Provider]) -> None:
        self._core = core
        self._observer = observer
        self._codec = codec
        self._providers = list(providers)
        self._channels: dict[str, Channel] = {}  # by the name of the provider
        self._wanted: dict[str, int] = {}
        self._codes: dict[tuple[str, str], int | None] = {}  # by provider and Topic Filter; None: not answered yet
        self._settled = core.new_future()
        self._error: Exception | None = None
        self._closed = False

    @property
    def topics(self) -> tuple[str, ...]:
        """The Topic Filters that stand, or wait for the server's answer."""
        with self._core.lock:
            return tuple(self._wanted)

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    @property
    def error(self) -> Exception | None:
        """Why it has ended, where something went wrong."""
        return self._error

    def add(self, topics: str | Iterable[str], *, qos: int = 0) -> None:
        """Listen to more Topic Filters. `ready` tells when the server has answered.

        Args:
            topics: a Topic Filter or several.
            qos: the highest QoS that their messages should come with: 0, 1 or 2.

        Raises:
            LocalProtocolError: a Topic Filter or the QoS is ill-formed; nothing has changed.
            SubscriptionEnded: it has ended.
        """
        self.begin(check_filters(topics, qos))

    def remove(self, topics: str | Iterable[str]) -> None:
        """Listen no more to some of its Topic Filters. Without any it goes on, and hears nothing until `add`.

        Raises:
            ValueError: it does not listen to one of them; nothing has changed.
        """
        unwanted = (topics,) if isinstance(topics, str) else tuple(topics)
        with self._core.lock:
            unknown = [topic_filter for topic_filter in unwanted if topic_filter not in self._wanted]
            if unknown:
                raise ValueError(f"the subscription does not listen to {unknown[0]!r}; it does to {list(self._wanted)}")
            for topic_filter in unwanted:
                del self._wanted[topic_filter]
            for key in [key for key in self._codes if key[1] in unwanted]:
                del self._codes[key]
            channels = list(self._channels.values())
        for channel in channels:
            channel.leave(self, unwanted)
        self._settle_if_answered()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {list(self._wanted)} {'closed' if self._closed else 'open'}>"

    # What the rooms around it call.

    def begin(self, wanted: Mapping[str, int]) -> None:
        """Listen to Topic Filters, each at a QoS."""
        with self._core.lock:
            if self._closed:
                raise SubscriptionEnded("the subscription has ended; subscribe anew")
            for topic_filter, qos in wanted.items():
                self._wanted[topic_filter] = max(qos, self._wanted.get(topic_filter, 0))
            self._codes.update({(provider.name, each): None for provider in self._providers for each in wanted})
            if self._settled.done():
                self._settled = self._core.new_future()
        for provider in self._providers:
            self._core.join(provider, self, wanted)

    def joined(self, channel: Channel) -> bool:
        """Note a connection that it listens through, under the lock. Returns whether it still wants to."""
        if not self._closed:
            self._channels[channel.provider.name] = channel
        return not self._closed

    def deliver(self, publish: Publish, provider: str, receipt: Receipt | None) -> Any:
        """Hand a message to the observer. Returns what its `next` returned."""
        if self._closed:
            return None
        payload = publish.payload
        try:
            value = self._codec.decode(payload)
        except Exception as error:
            message = self._message(publish, payload, provider)
            self.report(DecodeFailed(message, f"{type(error).__name__}: {error}"))
            return None
        message = self._message(publish, value, provider)
        if not self._observer.holds:
            return guarded(self._observer.next, message)
        if receipt is not None:
            receipt.hold()
        return guarded(self._observer.next, message, receipt)

    @staticmethod
    def _message(publish: Publish, value: Any, provider: str) -> Message:
        return Message(publish.topic, value, publish.payload, publish.qos, publish.retain, publish.dup, provider)

    def answered(self, provider: str, topic_filter: str, return_code: int) -> None:
        """Take the server's answer for one of its Topic Filters. Callbacks are left to another thread."""
        with self._core.lock:
            key = (provider, topic_filter)
            if self._closed or key not in self._codes:
                return
            self._codes[key] = return_code
            standing = [code for (_, each), code in self._codes.items() if each == topic_filter and code != REFUSED]
            if not standing:
                self._wanted.pop(topic_filter, None)
            over = return_code == REFUSED and not self._wanted
        error = SubscribeRejected(topic_filter) if return_code == REFUSED else None
        if over:
            self._leave(error)
            self._core.notify(self._tell_end, error)
            return
        self._settle_if_answered()
        if error is not None:
            self._core.notify(self.report, error)

    def channel_ended(self, channel: Channel, error: Exception | None) -> None:
        """Take the news that one of its connections has ended for good."""
        name = channel.provider.name
        with self._core.lock:
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

    def report(self, error: Exception) -> None:
        """Tell the observer of a failure, or the log where nobody listens."""
        if self._observer.error is None:
            logger.warning("the subscription to %s: %s", ", ".join(map(repr, self._wanted)) or "nothing", error)
        else:
            self._core.spawn(guarded(self._observer.error, error))

    def end(self, error: Exception | None = None) -> list[Any]:
        """End it; a second time without effect.

        Returns:
            Futures of the answers to the UNSUBSCRIBEs that this took.
        """
        answers = self._leave(error)
        if answers is None:
            return []
        self._tell_end(error)
        return answers

    def _leave(self, error: Exception | None) -> list[Any] | None:
        """End it but for telling the observer. Returns what `end` returns; None where it had ended before."""
        with self._core.lock:
            if self._closed:
                return None
            self._closed = True
            self._error = error
            wanted = tuple(self._wanted)
            channels = list(self._channels.values())
            self._channels.clear()
            settle(self._settled)
        answers = [channel.leave(self, wanted) for channel in channels]
        return [answer for answer in answers if answer is not None]

    def _tell_end(self, error: Exception | None) -> None:
        if error is not None:
            self.report(error)
        self._core.spawn(guarded(self._observer.close))

    def granted(self) -> dict[str, int]:
        """Tell what `ready` returns, once it is settled.

        Raises:
            MQTTError: why it has ended.
        """
        with self._core.lock:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise SubscriptionEnded("the subscription was ended before the server had answered")
            granted: dict[str, int] = {}
            for (_, topic_filter), code in self._codes.items():
                if code is not None:
                    granted[topic_filter] = min(code, granted.get(topic_filter, code))
            return granted

    def _settle_if_answered(self) -> None:
        with self._core.lock:
            if None not in self._codes.values():
                settle(self._settled)
