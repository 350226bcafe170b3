"""A subscription: one observer, its Topic Filters, and the connections that it uses.

`SubscriptionCore` is used with threads and with asyncio; the two APIs add the methods that wait, in a subclass of
`Handle`. A subscription ends once: it was unsubscribed, its last connection has ended, or the servers of those that are
left have refused its last Topic Filter. Then the observer's `close` is called, once. No other callback starts after it.

The lock of the `PubSub` guards all state; callbacks are called outside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from mqttws import Publish, SubscribeRejected, to_raise
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

#: Returns the key by which copies of a message are recognized.
Dedupe = Callable[[Message], Hashable]

#: The number of keys of `dedupe` that are stored: the latest.
MOST_KEYS = 10_000


class Connection(Protocol):
    """The interface of a `Channel` for a subscription."""

    provider: Provider
    runner: Any

    def leave(self, subscription: SubscriptionCore, topic_filters: Iterable[str]) -> Any:
        """See `Channel.leave`."""

    @property
    def stalled(self) -> str:
        """See `Channel.stalled`."""

    @property
    def unreachable(self) -> str:
        """See `Channel.unreachable`."""

    def check_progress(self) -> None:
        """See `Channel.check_progress`."""


class SubscriptionCore:
    """The part of a subscription that threads and asyncio have in common.

    Args:
        runtime: The runtime of the `PubSub`.
        join: Adds the subscription to Topic Filters of a provider's channel.
        wanted: The first Topic Filters, each with a QoS.
        observer: The functions to call.
        codec: The codec that decodes the messages.
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
        self._keys: dict[Hashable, object] = {}  # of `dedupe`, the oldest first
        self._channels: dict[str, Connection] = {}  # by the name of the provider
        self._wanted: dict[str, int] = {}
        self._codes: dict[tuple[str, str], int | None] = {}  # by provider and Topic Filter; None: not answered yet
        self._unanswered: set[tuple[str, str]] = set()  # those of them that are not answered yet
        self._was_answered = False  # whether `settled` was done when the subscription ended

    @property
    def topics(self) -> tuple[str, ...]:
        """The Topic Filters that were granted or are not answered yet."""
        with self.runtime.lock:
            return tuple(self._wanted)

    @property
    def is_ours(self) -> bool:
        """Whether the calling thread or task delivers the messages of this subscription."""
        return any(self.runtime.is_current(channel.runner) for channel in list(self._channels.values()))

    # Called by the handle.

    def begin(self) -> None:
        """Subscribe to the first Topic Filters. End the subscription if that fails or is interrupted."""
        try:
            self.add(self._first)
        except BaseException:
            self._leave(None)
            raise

    def add(self, wanted: Mapping[str, int]) -> None:
        """Subscribe to Topic Filters, each at a QoS."""
        self.check_usable()
        with self.runtime.lock:
            if self.closed:
                raise SubscriptionEnded("the subscription has ended; subscribe again")
            for topic_filter, qos in wanted.items():
                self._wanted[topic_filter] = max(qos, self._wanted.get(topic_filter, 0))
            asked = [(provider.name, each) for provider in self._providers for each in wanted]
            self._codes.update(dict.fromkeys(asked))
            self._unanswered.update(asked)
            if self.settled.done():
                self.settled = self.runtime.new_future()
        for provider in self._providers:
            self._join(provider, self, wanted)

    def remove(self, unwanted: Iterable[str]) -> None:
        """Unsubscribe from some of the Topic Filters.

        Raises:
            MQTTError: The subscription is in use in another event loop; nothing has changed.
            ValueError: The subscription does not have one of them; nothing has changed.
        """
        unwanted = tuple(unwanted)
        with self.runtime.lock:
            unknown = list(filter(lambda topic_filter: topic_filter not in self._wanted, unwanted))
            if unknown:
                raise ValueError(f"the subscription does not have {unknown[0]!r}; it has {list(self._wanted)}")
            self.check_usable()
            for topic_filter in unwanted:
                self._wanted.pop(topic_filter, None)
            self._forget([(provider.name, each) for provider in self._providers for each in unwanted])
            channels = list(self._channels.values())
        for channel in channels:
            channel.leave(self, unwanted)
        self._settle_if_answered()

    @property
    def channels(self) -> list[Connection]:
        """The connections that it uses."""
        return list(self._channels.values())

    def granted(self) -> dict[str, int]:
        """Return the granted QoS of each Topic Filter, once `settled` is done; with several providers the lowest.

        Raises:
            MQTTError: The subscription has ended, for this reason.
        """
        with self.runtime.lock:
            if self.error is not None:
                raise to_raise(self.error)
            if self.closed:
                before = "" if self._was_answered else " before the server had answered"
                raise SubscriptionEnded(f"the subscription has ended{before}; make another one")
            return self._granted()

    def _granted(self) -> dict[str, int]:
        granted: dict[str, int] = {}
        for (_, topic_filter), code in self._codes.items():
            if code is not None:
                granted[topic_filter] = min(code, granted.get(topic_filter, code))
        return granted

    def check_usable(self) -> None:
        """Check that the connections can be used here, before a call changes anything. One that has ended needs none.

        Raises:
            MQTTError: A connection is in use in another event loop.
        """
        if not self.closed:
            for channel in self.channels:
                self.runtime.is_usable(channel.runner)

    def end(self) -> list[Any]:
        """End the subscription. A second call has no effect.

        Returns:
            The futures of the answers to the UNSUBSCRIBE packets that were sent.

        Raises:
            MQTTError: The subscription is in use in another event loop; nothing has changed.
        """
        self.check_usable()
        answers = self._leave(None)
        if answers is None:
            return []
        self._report_end(None)
        return answers

    # Called by the channel.

    def joined(self, channel: Connection) -> bool:
        """Add a channel that the subscription uses. Return whether the subscription is open. Requires the lock."""
        if not self.closed:
            self._channels[channel.provider.name] = channel
        return not self.closed

    def still_wanted(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Return those of some Topic Filters that were not removed meanwhile. Requires the lock."""
        return {topic_filter: qos for topic_filter, qos in wanted.items() if topic_filter in self._wanted}

    def deliver(self, publish: Publish, provider: str, receipt: Receipt | None) -> Any:
        """Pass a message to the observer. Return the result of its `next`."""
        message = None if self.closed else self._decoded(publish, provider)
        if message is None or self.closed:  # since the codec or `dedupe` was called, too
            return None
        if not self._observer.holds:
            return self.runtime.call(self._observer.next, message)
        return self.runtime.call(self._observer.next, message, None if receipt is None else receipt.hold())

    def _decoded(self, publish: Publish, provider: str) -> Message | None:
        """Return a message with its value; None if it cannot be decoded, which is reported, or is a copy."""
        payload = publish.payload
        try:
            value = self._codec.decode(payload)
        except Exception as error:
            if not self.closed:
                message = self._message(publish, payload, provider)
                self.report(DecodeFailed(message, f"{type(error).__name__}: {error}"))
            return None
        message = self._message(publish, value, provider)
        return None if self._dedupe is not None and self._is_copy(message, self._dedupe) else message

    @staticmethod
    def _message(publish: Publish, value: Any, provider: str) -> Message:
        return Message(publish.topic, value, publish.payload, publish.qos, publish.retain, publish.dup, provider)

    def _is_copy(self, message: Message, dedupe: Dedupe) -> bool:
        """Return whether a message with the same key has been delivered recently. None means no key.

        A failure of the user's function, or of its key, is logged; then the message is delivered.
        """
        return bool(self.runtime.call(partial(self._remember, dedupe), message))

    def _remember(self, dedupe: Dedupe, message: Message) -> bool:
        """Store the key of a message. Return whether it was stored before.

        Called by the runners of several connections at the same time, and without the lock, because it calls the hash
        function of the user's key. So `setdefault`, which is atomic, decides which of two copies is the first.
        """
        key = dedupe(message)
        if key is None:
            return False
        mark = object()
        is_known = self._keys.setdefault(key, mark) is not mark
        if len(self._keys) > MOST_KEYS:
            try:
                self._keys.pop(next(iter(self._keys)), None)
            except RuntimeError:  # another thread has just added a key; the next message removes one
                pass
        return is_known

    def _is_refused(self, topic_filter: str) -> bool:
        """Return whether no provider has granted a Topic Filter, or may still do so."""
        return all(self._codes.get((each.name, topic_filter), REFUSED) == REFUSED for each in self._providers)

    def answered(self, provider: str, topic_filter: str, return_code: int, error: Exception | None = None) -> None:
        """Handle the answer of the server for one Topic Filter. Callbacks run later, in another thread.

        Args:
            provider: The name of the provider.
            topic_filter: The Topic Filter.
            return_code: The granted QoS, or `REFUSED`.
            error: The reason for the refusal, if known.
        """
        with self.runtime.lock:
            key = (provider, topic_filter)
            if self.closed or key not in self._codes:
                return
            self._codes[key] = return_code
            self._unanswered.discard(key)
            if return_code == REFUSED and self._is_refused(topic_filter):
                self._wanted.pop(topic_filter, None)
            over = return_code == REFUSED and not self._wanted
        if return_code == REFUSED and error is None:
            error = SubscribeRejected(topic_filter)
        if over:
            self._leave(error)
            self.runtime.notify(self._report_end, error)
            return
        self._settle_if_answered()
        if error is not None:
            self.runtime.notify(self.report, error)

    def channel_ended(self, channel: Connection, error: Exception | None) -> None:
        """Remove a channel that has ended. End the subscription if no other one grants a Topic Filter, or still may."""
        name = channel.provider.name
        with self.runtime.lock:
            if self._channels.get(name) is channel:
                del self._channels[name]
            self._forget(list(filter(lambda key: key[0] == name, self._codes)))
            self._providers = list(filter(lambda provider: provider is not channel.provider, self._providers))
            # The others may have refused what this one had granted.
            lost = list(filter(self._is_refused, self._wanted))
            for topic_filter in lost:
                del self._wanted[topic_filter]
            alone = not self._channels and not self._codes
        if alone or (lost and not self._wanted):
            if self._leave(error) is not None:
                self._report_end(error)
            return
        if error is not None:
            self.report(error)
        self._settle_if_answered()

    def abandon(self, error: Exception) -> None:
        """End without calling the observer, because its process or event loop no longer exists. End an iteration."""
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
        """End the subscription without calling the observer. Return as `end` does; None if it had ended before."""
        with self.runtime.lock:
            if self.closed:
                return None
            self.closed = True
            self.error = error
            self._was_answered = self.settled.done()
            wanted = tuple(self._wanted)
            channels = list(self._channels.values())
            self._channels.clear()
        settle(self.settled)
        answers = [channel.leave(self, wanted) for channel in channels]
        return [answer for answer in answers if answer is not None]

    def _report_end(self, error: Exception | None) -> None:
        if error is not None:
            self.report(error)
        self.runtime.spawn(self.runtime.call(self._observer.close))

    def _forget(self, keys: Iterable[tuple[str, str]]) -> None:
        """Forget Topic Filters of providers, under the lock."""
        for key in keys:
            self._codes.pop(key, None)
            self._unanswered.discard(key)

    def _settle_if_answered(self) -> None:
        with self.runtime.lock:
            settled = None if self._unanswered else self.settled
        if settled is not None:
            settle(settled)


class Handle:
    """The base class of the handle of a subscription, without `ready` and `unsubscribe`, which wait."""

    def __init__(self, core: SubscriptionCore) -> None:
        self._core = core

    @property
    def topics(self) -> tuple[str, ...]:
        """The Topic Filters that were granted or are not answered yet."""
        return self._core.topics

    @property
    def closed(self) -> bool:
        """Whether the subscription has ended."""
        return self._core.closed

    @property
    def error(self) -> Exception | None:
        """The reason why the subscription has ended, if something went wrong."""
        return self._core.error

    def add(self, topics: str | Iterable[str], *, qos: int = 0) -> None:
        """Subscribe to more Topic Filters. `ready` waits for the server's answer.

        Args:
            topics: A Topic Filter or several.
            qos: The maximum QoS of the delivery: 0, 1 or 2.

        Raises:
            LocalProtocolError: A Topic Filter or the QoS is not valid; nothing has changed.
            MQTTError: With asyncio: the subscription is in use in another event loop; nothing has changed.
            SubscriptionEnded: The subscription has ended.
        """
        self._core.add(check_filters(topics, qos))

    def remove(self, topics: str | Iterable[str]) -> None:
        """Unsubscribe from some of the Topic Filters. A subscription without any stays open, for `add`.

        Args:
            topics: A Topic Filter or several.

        Raises:
            MQTTError: With asyncio: the subscription is in use in another event loop; nothing has changed.
            ValueError: The subscription does not have one of them; nothing has changed.
        """
        self._core.remove(listed(topics, "a Topic Filter", 'remove(["a", "b/#"])'))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {list(self.topics)} {'closed' if self.closed else 'open'}>"
