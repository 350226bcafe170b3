"""The router: who subscribes to what, and what reaches whom. No socket, no loop, no clock.

A message goes to each subscriber once, at the highest QoS that its matching filters were granted [MQTT-3.3.5-1], and
at no more than it was published with [MQTT-3.8.4-6]. With QoS 0 it is encoded once, and handed to those who are
connected; with QoS 1 and 2 it is put into every session, connected or not [MQTT-4.5.0-1]. Messages of QoS 0 that come
one right after the other to the same topic are looked up, joined and handed on as one (`publish_run`): what most of the
traffic is made of then costs each connection one call for many.

Retained messages follow a subscription at the pace at which the client takes them: `next_retained` gives one after
the other, and leaves out one that a newer message has overtaken meanwhile.

What outlives a connection is in few hands: subscriptions and retained messages here, the subscribers with their
sessions in `registry`. With an `Archive` both note what must outlive the process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from mqttws.broker.archive import Archive
from mqttws.broker.figures import Figures
from mqttws.broker.hooks import Access, Hooks, Peer
from mqttws.broker.limits import Departures, Limits
from mqttws.broker.retained import Retained
from mqttws.broker.routes import MAX_ANSWERS, MAX_LENGTH, Routes
from mqttws.broker.subscriber import Subscriber
from mqttws.codec.publishing import Message, Publish, encode_publish
from mqttws.codec.subscribing import FAILURE
from mqttws.errors import AccessDenied, LimitExceeded, MQTTError, QueueFull

log = logging.getLogger("mqttws.broker")

#: How many refused requests of one connection are logged; a client must not be able to write the log full.
MAX_COMPLAINTS = 100


def is_sys(topic: str) -> bool:
    """Tell whether a Topic Name, or all that a Topic Filter matches, belongs to the broker."""
    return topic.startswith("$SYS/") or topic == "$SYS"


class Router:
    """Subscriptions and retained messages of one broker.

    Args:
        limits: the bounds.
        hooks: the authorizer among them.
        departures: from the standard.
        sys_anonymous: whether clients may read "$SYS" that no authenticator knows by name.
        archive: notes the retained messages; None for none.

    Attributes:
        archive: the same, for the registry.
        retained: the retained messages.
        sys: what was last said under "$SYS"; the bounds are not for it.
        figures: the counters.
        in_runs: whether `publish_run` may be asked: neither the authorizer nor a bound is to decide about each message.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        hooks: Hooks | None = None,
        departures: Departures | None = None,
        sys_anonymous: bool = False,
        archive: Archive | None = None,
    ) -> None:
        self.archive = archive
        self.limits = limits or Limits()
        self.hooks = hooks or Hooks()
        self.departures = departures or Departures()
        self.figures = Figures()
        self.retained = Retained(
            self.limits.max_retained, self.limits.max_retained_bytes, self.limits.max_retained_levels
        )
        self._retained_full = False  # whether the last message to be retained was not
        self.sys = Retained()
        self._sys_anonymous = sys_anonymous
        self._routes = Routes()
        self._open_topics: set[str] = set()  # lately found to be open to clients
        limited = self.limits.max_payload is not None or self.limits.publish_rate is not None
        self.in_runs = self.hooks.authorizer is None and not limited

    @property
    def subscriptions(self) -> int:
        """How many subscriptions there are, of all subscribers."""
        return len(self._routes)

    # Who subscribes to what.

    def subscribe(self, subscriber: Subscriber, topic_filters: Iterable[tuple[str, int]]) -> list[int]:
        """Take a SUBSCRIBE.

        Returns:
            The return codes for the SUBACK. After it, `next_retained` is to be asked.

        Raises:
            MQTTError: the connection must end over it; then nothing is subscribed.

        Spec: §3.8.4, [MQTT-3.8.4-3] to [MQTT-3.8.4-6]
        """
        topic_filters = list(topic_filters)
        limits = self.limits
        if limits.max_filters is not None and len(topic_filters) > limits.max_filters:
            raise LimitExceeded(
                f"a SUBSCRIBE holds {len(topic_filters)} Topic Filters; at most {limits.max_filters} are taken here"
            )
        for topic_filter, _ in topic_filters:
            limits.check_topic(topic_filter, "a Topic Filter")
        grants = [self._grant(subscriber.peer, topic_filter, qos) for topic_filter, qos in topic_filters]
        return [
            FAILURE if granted is None else self._subscribe(subscriber, topic_filter, granted)
            for (topic_filter, _), granted in zip(topic_filters, grants, strict=True)
        ]

    def _grant(self, peer: Peer, topic_filter: str, qos: int) -> int | None:
        """Decide which QoS a Topic Filter is granted; None for none."""
        if is_sys(topic_filter) and not (self._sys_anonymous or self._is_known_by_name(peer)):
            _complain(peer, "SUBSCRIBE to %r refused: $SYS is not for anonymous clients", topic_filter)
            return None
        verdict = self.hooks.authorize(peer, Access("subscribe", topic_filter, qos, False))
        if verdict.allowed:
            return min(qos, verdict.max_qos)
        if verdict.close:
            raise AccessDenied(f"SUBSCRIBE to {topic_filter!r} denied: {verdict.reason}")
        _complain(peer, "SUBSCRIBE to %r denied: %s", topic_filter, verdict.reason)
        return None

    def _is_known_by_name(self, peer: Peer) -> bool:
        """Without an authenticator user names prove nothing."""
        return peer.username is not None and self.hooks.authenticator is not None

    def _subscribe(self, subscriber: Subscriber, topic_filter: str, qos: int) -> int:
        subscriptions, limits = subscriber.session.subscriptions, self.limits
        if topic_filter not in subscriptions:
            levels = subscriber.levels + _levels(topic_filter)
            if len(subscriptions) >= limits.max_subscriptions or levels > limits.max_subscription_levels:
                text = "SUBSCRIBE to %r refused: it has %d subscriptions of %d levels, a bound is reached"
                _complain(subscriber.peer, text, topic_filter, len(subscriptions), subscriber.levels)
                return FAILURE
            subscriber.levels = levels
        subscriber.session.set_subscription(topic_filter, qos)
        self._grow(subscriber, topic_filter, qos)
        if self.departures.retained_for_wildcards or not ("+" in topic_filter or "#" in topic_filter):
            subscriber.due.pop(topic_filter, None)
            subscriber.due[topic_filter] = qos
        return qos

    def _grow(self, subscriber: Subscriber, topic_filter: str, qos: int) -> None:
        self._routes.set(topic_filter, subscriber, qos, self._min_slashes(topic_filter))

    def recover(self, subscriber: Subscriber) -> None:
        """Take up the subscriptions of a session from an earlier process. They bring no retained messages again."""
        for topic_filter, qos in subscriber.session.subscriptions.items():
            subscriber.levels += _levels(topic_filter)
            self._grow(subscriber, topic_filter, qos)

    def unsubscribe(self, subscriber: Subscriber, topic_filters: Iterable[str]) -> None:
        """Take an UNSUBSCRIBE. Spec: [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-3.10.4-6]."""
        for topic_filter in topic_filters:
            if subscriber.session.discard_subscription(topic_filter):
                self._routes.discard(topic_filter, subscriber)
                subscriber.levels -= _levels(topic_filter)
                subscriber.due.pop(topic_filter, None)
                if subscriber.arriving_filter == topic_filter:
                    subscriber.arriving.clear()

    def forget(self, subscriber: Subscriber) -> None:
        """Take away all subscriptions of a session that is over."""
        for topic_filter in subscriber.session.subscriptions:
            self._routes.discard(topic_filter, subscriber)

    def _min_slashes(self, topic_filter: str) -> int:
        return 0 if self.departures.parent_level or not topic_filter.endswith("/#") else topic_filter.count("/")

    # What reaches whom.

    def publish_from(self, peer: Peer, publish: Publish) -> bool:
        """Take a PUBLISH from a client. What is denied is dropped, and to be acknowledged all the same.

        Returns:
            Whether it is to be acknowledged: not where the authorizer says so.

        Raises:
            MQTTError: the connection must end over it.

        Spec: [MQTT-3.3.5-2]
        """
        topic = publish.topic
        self.figures.publish_received += 1
        self.limits.check_payload(publish.payload, "a payload")
        if not self._is_open(topic):
            self.figures.publish_denied += 1
            _complain(peer, "PUBLISH to %r dropped: topics that begin with '$' are not for clients", topic)
            return True
        if self.hooks.authorizer is not None:
            verdict = self.hooks.authorize(peer, Access("publish", topic, publish.qos, publish.retain))
            if not verdict.allowed:
                self.figures.publish_denied += 1
                if verdict.close:
                    raise AccessDenied(f"PUBLISH to {topic!r} denied: {verdict.reason}")
                _complain(peer, "PUBLISH to %r denied: %s", topic, verdict.reason)
                return verdict.acknowledge
        self.publish(topic, publish.payload, publish.qos, publish.retain)
        return True

    def publish_run(self, peer: Peer, topic: str, payloads: list[bytes]) -> None:
        """Take messages of QoS 0 without RETAIN that a client sent to one topic, one right after the other.

        It does what `publish_from` does with each, but that each connection is given them in one piece. Only for where
        there is nothing to decide about a single one: see `in_runs`.

        Raises:
            MQTTError: the connection must end over it.
        """
        if not self._is_open(topic):
            for payload in payloads:
                self.publish_from(peer, Publish(topic, payload))
            return
        count = len(payloads)
        self.figures.publish_received += count
        packets = b""
        for subscriber in self._routes.find(topic):
            if subscriber.outlet is not None:
                packets = packets or b"".join([encode_publish(topic, payload) for payload in payloads])
                if self._noted(subscriber, subscriber.outlet.send(packets), count):
                    self.figures.publish_sent += count

    def _is_open(self, topic: str) -> bool:
        """Tell whether clients can publish to a topic, and remember that of topics to which they can.

        Raises:
            MQTTError: it breaks a bound.
        """
        if topic in self._open_topics:
            return True
        self.limits.check_topic(topic, "the Topic Name")
        if self.is_reserved(topic):
            return False
        if len(topic) <= MAX_LENGTH:
            if len(self._open_topics) >= MAX_ANSWERS:
                self._open_topics.clear()
            self._open_topics.add(topic)
        return True

    def is_reserved(self, topic: str) -> bool:
        """Whether clients cannot publish to a topic. Spec: §4.7.2."""
        return topic.startswith("$") and (is_sys(topic) or not self.departures.dollar_topics)

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> int:
        """Route a message, whoever it is from.

        Returns:
            The number of subscribers that it was given to.

        Spec: §3.3.1.3, [MQTT-3.3.1-3], [MQTT-3.3.1-9], [MQTT-3.3.1-12]
        """
        if retain:
            self._retain(Message(topic, payload, qos, True))
        packet = b""
        messages: dict[int, Message] = {}
        given = 0
        for subscriber, maximum in self._routes.find(topic).items():
            effective = min(qos, maximum)
            if self.hooks.authorizer is not None and not self._may_receive(subscriber, topic, effective, False):
                continue
            if effective:
                if effective not in messages:
                    messages[effective] = Message(topic, payload, effective)
                given += self.enqueue(subscriber, messages[effective])
            elif subscriber.outlet is not None:  # QoS 0 is not kept for those who are away
                packet = packet or Publish(topic, payload).encode()
                given += self._noted(subscriber, subscriber.outlet.send(packet))
        self.figures.publish_sent += given
        return given

    def _retain(self, message: Message) -> None:
        """Retain a message, or count one that a bound keeps out, and log the first of a row."""
        kept = self.retained.set(message)
        if self.archive is not None:
            self.archive.retain(message.topic, self.retained.get(message.topic))
        if not kept:
            self.figures.retained_dropped += 1
            if not self._retained_full:
                count = len(self.retained)
                log.warning("the message to %r is not retained: a bound is reached with %d", message.topic, count)
        self._retained_full = not kept

    def enqueue(self, subscriber: Subscriber, message: Message) -> bool:
        """Put a message into a session. Returns False where a bound made it be dropped."""
        try:
            subscriber.session.publish(message)
        except QueueFull:
            return self._noted(subscriber, False)
        if subscriber.outlet is not None:
            subscriber.outlet.wake()
        return self._noted(subscriber, True)

    def _noted(self, subscriber: Subscriber, taken: bool, count: int = 1) -> bool:
        """Count messages that were dropped, and log the first of a row."""
        if not taken:
            self.figures.publish_dropped += count
            if not subscriber.overflowing:
                log.warning("messages for client %s are being dropped: too many wait for it", subscriber.peer)
        subscriber.overflowing = not taken
        return taken

    def _may_receive(self, subscriber: Subscriber, topic: str, qos: int, retain: bool) -> bool:
        try:
            verdict = self.hooks.authorize(subscriber.peer, Access("receive", topic, qos, retain))
        except Exception as error:
            log.exception("the authorizer failed for client %s", subscriber.peer)
            self._end(subscriber, AccessDenied(f"the authorizer failed: {type(error).__name__}"))
            return False
        if not verdict.allowed:
            _complain(subscriber.peer, "delivery from %r denied: %s", topic, verdict.reason)
            if verdict.close:
                self._end(subscriber, AccessDenied(f"delivery from {topic!r} denied: {verdict.reason}"))
        return verdict.allowed

    @staticmethod
    def _end(subscriber: Subscriber, error: MQTTError) -> None:
        if subscriber.outlet is not None:
            subscriber.outlet.end(error)

    def next_retained(self, subscriber: Subscriber) -> Message | None:
        """Take the next retained message that a subscription brings; None for none.

        Spec: [MQTT-3.3.1-6], [MQTT-3.3.1-8]
        """
        arriving = subscriber.arriving
        while arriving or subscriber.due:
            if not arriving:
                topic_filter = next(iter(subscriber.due))
                subscriber.arriving_filter = topic_filter
                subscriber.arriving_qos = subscriber.due.pop(topic_filter)
                store = self.sys if is_sys(topic_filter) else self.retained
                slashes = self._min_slashes(topic_filter)
                arriving.extend(m for m in store.match(topic_filter) if m.topic.count("/") >= slashes)
                arriving.reverse()
                continue
            message = arriving.pop()
            topic = message.topic
            store = self.sys if is_sys(topic) else self.retained
            qos = min(message.qos, subscriber.arriving_qos)
            if store.get(topic) is message and (
                self.hooks.authorizer is None or self._may_receive(subscriber, topic, qos, True)
            ):
                self.figures.publish_sent += 1
                return Message(topic, message.payload, qos, True)
        return None


def _levels(topic_filter: str) -> int:
    return topic_filter.count("/") + 1


def _complain(peer: Peer, text: str, *arguments: object) -> None:
    """Log that a request of a client's was refused, unless that has been said of its connection often enough."""
    peer.complaints += 1
    if peer.complaints <= MAX_COMPLAINTS:
        log.warning("client %s: " + text, peer, *arguments)
    elif peer.complaints == MAX_COMPLAINTS + 1:
        log.warning("client %s: more of its requests are refused; no more is said of that", peer)
