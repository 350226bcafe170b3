"""The router: who subscribes to what, and what reaches whom. No socket, no loop, no clock.

A message goes to each subscriber once, at the highest QoS that its matching filters were granted [MQTT-3.3.5-1], and
at no more than it was published with [MQTT-3.8.4-6]. With QoS 0 it is encoded once, and handed to those who are
connected; with QoS 1 and 2 it is put into every session, connected or not [MQTT-4.5.0-1]. Messages of QoS 0 that come
one right after the other to the same topic are looked up, joined and handed on as one (`publish_run`): what most of the
traffic is made of then costs each connection one call for many.

Retained messages follow a subscription at the pace at which the client takes them: `next_retained` gives one after
the other, and leaves out one that a newer message has overtaken meanwhile. Whom a topic reaches may take long to find:
then `Unfinished` is raised before anything is delivered, `go_on` goes on with it, and the same call is made again.

What outlives a connection is in few hands: subscriptions and retained messages here, the subscribers with their
sessions in `registry`. With an `Archive` both note what must outlive the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from time import perf_counter

from mqttws.broker.archive import Archive
from mqttws.broker.figures import Figures
from mqttws.broker.hooks import Access, Hooks, Peer
from mqttws.broker.limits import Departures, Limits
from mqttws.broker.memory import Memory
from mqttws.broker.notices import Notices
from mqttws.broker.retained import Retained
from mqttws.broker.routes import (
    MAX_ANSWERS,
    MAX_CHARACTERS,
    Group,
    Route,
    Routes,
    Unfinished,
    is_well_formed_share,
    split_share,
)
from mqttws.broker.subscriber import LEVEL, MESSAGE, Subscriber
from mqttws.codec.publishing import Message, Publish, encode_publish
from mqttws.codec.subscribing import FAILURE
from mqttws.errors import AccessDenied, LimitExceeded, MQTTError, QueueFull


def is_sys(topic: str) -> bool:
    """Tell whether a Topic Name, or all that a Topic Filter matches, belongs to the broker."""
    share = split_share(topic)
    if share is not None:
        topic = share[1]
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
        memory: what the sessions hold together.
        notices: the lines of the log.
        subscribers: by client identifier, connected or not; the registry's.
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
        self.notices = Notices()
        self.subscribers: dict[str, Subscriber] = {}
        self.memory = Memory(self.limits.max_session_bytes, self.subscribers.values)
        self.retained = Retained(
            self.limits.max_retained, self.limits.max_retained_bytes, self.limits.max_retained_levels
        )
        self.sys = Retained()
        self._sys_anonymous = sys_anonymous
        self._routes = Routes()
        self._open_topics: set[str] = set()  # lately found to be open to clients
        self._open_characters = 0
        limited = self.limits.max_payload is not None or self.limits.publish_rate is not None
        asked = self.hooks.authorizer is not None or self.hooks.on_published is not None
        self.in_runs = not asked and not limited

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
        share = split_share(topic_filter)
        if share is not None and not is_well_formed_share(*share):
            self._complain(peer, "SUBSCRIBE to %r refused: a shared subscription is $share/group/filter", topic_filter)
            return None
        if is_sys(topic_filter) and not (self._sys_anonymous or self._is_known_by_name(peer)):
            self._complain(peer, "SUBSCRIBE to %r refused: $SYS is not for anonymous clients", topic_filter)
            return None
        group, inner = share or ("", topic_filter)
        verdict = self.hooks.authorize(peer, Access("subscribe", inner, qos, False, group))
        if verdict.allowed:
            return min(qos, verdict.max_qos)
        if verdict.close:
            raise AccessDenied(f"SUBSCRIBE to {topic_filter!r} denied: {verdict.reason}", said=verdict.told)
        self._complain(peer, "SUBSCRIBE to %r denied: %s", topic_filter, verdict.reason)
        return None

    def _is_known_by_name(self, peer: Peer) -> bool:
        """Without an authenticator user names prove nothing."""
        return peer.username is not None and self.hooks.authenticator is not None

    def _subscribe(self, subscriber: Subscriber, topic_filter: str, qos: int) -> int:
        subscriptions = subscriber.session.subscriptions
        if topic_filter not in subscriptions and not self._take_place(subscriber, topic_filter):
            text = "SUBSCRIBE to %r refused: it has %d subscriptions of %d levels and %d bytes, a bound is reached"
            figures = len(subscriptions), subscriber.levels, subscriber.filter_bytes
            self._complain(subscriber.peer, text, topic_filter, *figures)
            return FAILURE
        subscriber.session.set_subscription(topic_filter, qos)
        self._grow(subscriber, topic_filter, qos)
        shared = split_share(topic_filter) is not None
        wanted = self.departures.retained_for_wildcards or not ("+" in topic_filter or "#" in topic_filter)
        if wanted and not shared:
            subscriber.due.pop(topic_filter, None)
            subscriber.due[topic_filter] = qos
        return qos

    def _take_place(self, subscriber: Subscriber, topic_filter: str) -> bool:
        """Count a new Topic Filter of a client's, where the bounds allow one more."""
        limits = self.limits
        levels, size = _levels(topic_filter), len(topic_filter.encode())
        if (
            len(subscriber.session.subscriptions) >= limits.max_subscriptions
            or subscriber.levels + levels > limits.max_subscription_levels
            or subscriber.filter_bytes + size > limits.max_subscription_bytes
            or not self.memory.allows(subscriber, size + levels * LEVEL)
        ):
            return False
        subscriber.levels += levels
        subscriber.filter_bytes += size
        return True

    def _grow(self, subscriber: Subscriber, topic_filter: str, qos: int) -> None:
        self._routes.set(topic_filter, subscriber, qos, self._min_slashes(topic_filter))

    def recover(self, subscriber: Subscriber) -> None:
        """Take up the subscriptions of a session from an earlier process. They bring no retained messages again."""
        for topic_filter, qos in subscriber.session.subscriptions.items():
            subscriber.levels += _levels(topic_filter)
            subscriber.filter_bytes += len(topic_filter.encode())
            self._grow(subscriber, topic_filter, qos)

    def unsubscribe(self, subscriber: Subscriber, topic_filters: Iterable[str]) -> None:
        """Take an UNSUBSCRIBE. Spec: [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-3.10.4-6]."""
        for topic_filter in topic_filters:
            if subscriber.session.discard_subscription(topic_filter):
                self._routes.discard(topic_filter, subscriber)
                subscriber.levels -= _levels(topic_filter)
                subscriber.filter_bytes -= len(topic_filter.encode())
                subscriber.due.pop(topic_filter, None)
                if subscriber.walk_filter == topic_filter:
                    subscriber.walk = None

    def forget(self, subscriber: Subscriber) -> None:
        """Take away all subscriptions of a session that is over."""
        for topic_filter in subscriber.session.subscriptions:
            self._routes.discard(topic_filter, subscriber)

    def _min_slashes(self, topic_filter: str) -> int:
        share = split_share(topic_filter)
        topic_filter = topic_filter if share is None else share[1]
        return 0 if self.departures.parent_level or not topic_filter.endswith("/#") else topic_filter.count("/")

    # What reaches whom.

    def publish_from(self, peer: Peer, publish: Publish) -> bool:
        """Take a PUBLISH from a client. What is denied is dropped, and to be acknowledged all the same.

        Returns:
            Whether it is to be acknowledged: not where the authorizer says so.

        Raises:
            MQTTError: the connection must end over it.
            Unfinished: all has been decided about it; it is left to call `publish`.

        Spec: [MQTT-3.3.5-2]
        """
        topic = publish.topic
        self.figures.publish_received += 1
        self.limits.check_payload(publish.payload, "a payload")
        if not self._is_open(topic):
            self.figures.publish_denied += 1
            self._complain(peer, "PUBLISH to %r dropped: topics that begin with '$' are not for clients", topic)
            return True
        if self.hooks.authorizer is not None:
            verdict = self.hooks.authorize(peer, Access("publish", topic, publish.qos, publish.retain))
            if not verdict.allowed:
                self.figures.publish_denied += 1
                if verdict.close:
                    raise AccessDenied(f"PUBLISH to {topic!r} denied: {verdict.reason}", said=verdict.told)
                self._complain(peer, "PUBLISH to %r denied: %s", topic, verdict.reason)
                return verdict.acknowledge
        if self.hooks.on_published is not None:
            self.hooks.on_published(peer, Message(topic, publish.payload, publish.qos, publish.retain))
        self.publish(topic, publish.payload, publish.qos, publish.retain)
        return True

    def publish_run(self, peer: Peer, topic: str, payloads: list[bytes]) -> None:
        """Take messages of QoS 0 without RETAIN that a client sent to one topic, one right after the other.

        It does what `publish_from` does with each, but that each connection is given them in one piece. Only for where
        there is nothing to decide about a single one: see `in_runs`.

        Raises:
            MQTTError: the connection must end over it.
            Unfinished: it is to be called again.
        """
        if topic not in self._open_topics and not self._is_open(topic):
            for payload in payloads:
                self.publish_from(peer, Publish(topic, payload))
            return
        subscribers, groups = self._routes.find(topic)
        count = len(payloads)
        self.figures.publish_received += count
        packets = b""
        for subscriber in subscribers:
            if subscriber.outlet is not None:
                packets = packets or b"".join([encode_publish(topic, payload) for payload in payloads])
                if self._noted(subscriber, subscriber.outlet.send(packets), count):
                    self.figures.publish_sent += count
        for group in groups:
            for payload in payloads:
                chosen, _ = group.next()
                if chosen.outlet is not None:
                    sent = chosen.outlet.send(encode_publish(topic, payload))
                    self.figures.publish_sent += self._noted(chosen, sent)

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
        if len(self._open_topics) >= MAX_ANSWERS or self._open_characters + len(topic) > MAX_CHARACTERS:
            self._open_topics.clear()
            self._open_characters = 0
        self._open_topics.add(topic)
        self._open_characters += len(topic)
        return True

    def is_reserved(self, topic: str) -> bool:
        """Whether clients cannot publish to a topic. Spec: §4.7.2."""
        return topic.startswith("$") and (is_sys(topic) or not self.departures.dollar_topics)

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> int:
        """Route a message, whoever it is from.

        Returns:
            The number of subscribers that it was given to.

        Raises:
            Unfinished: it is to be called again.

        Spec: §3.3.1.3, [MQTT-3.3.1-3], [MQTT-3.3.1-9], [MQTT-3.3.1-12]
        """
        return self._deliver(self._routes.find(topic), topic, payload, qos, retain)

    def publish_at_once(self, message: Message) -> int:
        """Route a message of the broker's or the embedding program's, however long that takes."""
        while True:
            try:
                return self.publish(message.topic, message.payload, message.qos, message.retain)
            except Unfinished as unfinished:
                self.go_on(unfinished, inf)

    def go_on(self, unfinished: Unfinished, until: float) -> bool:
        """Go on with what was interrupted, until a moment of `time.perf_counter`.

        Returns:
            Whether it is over: then the call that was interrupted is to be made again, and at once.
        """
        while not self._routes.go_on(unfinished):
            if perf_counter() >= until:
                return False
        return True

    def _deliver(self, route: Route, topic: str, payload: bytes, qos: int, retain: bool) -> int:
        if retain:
            self._retain(Message(topic, payload, qos, True))
        packet = b""
        messages: dict[int, Message] = {}
        given = 0
        subscribers, groups = route
        for subscriber, maximum in (*subscribers.items(), *map(Group.next, groups)) if groups else subscribers.items():
            effective = min(qos, maximum)
            if self.hooks.authorizer is not None and not self._may_receive(subscriber, topic, effective, False):
                continue
            if effective:
                if effective not in messages:
                    messages[effective] = Message(topic, payload, effective)
                given += self.enqueue(subscriber, messages[effective])
            elif subscriber.outlet is not None:  # QoS 0 is not kept for those who are away
                packet = packet or encode_publish(topic, payload)
                given += self._noted(subscriber, subscriber.outlet.send(packet))
        self.figures.publish_sent += given
        return given

    def _retain(self, message: Message) -> None:
        """Retain a message, or count one that a bound keeps out."""
        kept = self.retained.set(message)
        if self.archive is not None:
            self.archive.retain(message.topic, self.retained.get(message.topic))
        if not kept:
            self.figures.retained_dropped += 1
            text = "the message to %r is not retained: a bound is reached with %d"
            self.notices.say("messages not retained", "", text, message.topic, len(self.retained))

    def enqueue(self, subscriber: Subscriber, message: Message) -> bool:
        """Put a message into a session. Returns False where a bound made it be dropped."""
        try:
            if not self.memory.allows(subscriber, len(message.topic) + len(message.payload) + MESSAGE):
                return self._noted(subscriber, False)
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
                text = "messages for client %s are being dropped: too many wait for it"
                self.notices.say("messages dropped", subscriber.client_id, text, subscriber.peer)
        subscriber.overflowing = not taken
        return taken

    def _may_receive(self, subscriber: Subscriber, topic: str, qos: int, retain: bool) -> bool:
        """Ask the authorizer. About a client that it cannot know it is asked when that is back: see `ask_again`."""
        if not subscriber.known:
            return True
        try:
            verdict = self.hooks.authorize(subscriber.peer, Access("receive", topic, qos, retain))
        except Exception as error:
            text = "the authorizer failed for client %s"
            self.notices.say("the authorizer failed", subscriber.client_id, text, subscriber.peer, error=error)
            self._end(subscriber, AccessDenied(f"the authorizer failed: {type(error).__name__}"))
            return False
        if not verdict.allowed:
            self._complain(subscriber.peer, "delivery from %r denied: %s", topic, verdict.reason)
            if verdict.close:
                self._end(subscriber, AccessDenied(f"delivery from {topic!r} denied: {verdict.reason}"))
        return verdict.allowed

    def ask_again(self, subscriber: Subscriber) -> None:
        """Ask the authorizer about the messages that have come for a client while it could not be asked about it."""
        subscriber.known = True
        if self.hooks.authorizer is not None:
            dropped = subscriber.session.sender.withdraw_unless(
                lambda topic, qos, retain: self._may_receive(subscriber, topic, qos, retain)
            )
            self.figures.publish_dropped += dropped

    @staticmethod
    def _end(subscriber: Subscriber, error: MQTTError) -> None:
        if subscriber.outlet is not None:
            subscriber.outlet.end(error)

    def next_retained(self, subscriber: Subscriber, steps: int = 1_000_000) -> Message | None:
        """Take the next retained message that a subscription brings, in so many steps at most.

        Returns:
            None where the steps have not sufficed, or there is none (then `subscriber.bringing` is False).

        Spec: [MQTT-3.3.1-6], [MQTT-3.3.1-8]
        """
        while subscriber.bringing and steps > 0:
            walk = subscriber.walk
            if walk is None:
                topic_filter = subscriber.walk_filter = next(iter(subscriber.due))
                subscriber.walk_qos = subscriber.due.pop(topic_filter)
                store = self.sys if is_sys(topic_filter) else self.retained
                walk = subscriber.walk = store.walk(topic_filter)
            message = walk.next(steps)
            if walk.done:
                subscriber.walk = None
            if message is None:
                if not walk.done:
                    return None
                steps -= 1
                continue
            steps -= 20  # what is denied takes longer than a step
            topic, qos = message.topic, min(message.qos, subscriber.walk_qos)
            if topic.count("/") >= self._min_slashes(subscriber.walk_filter) and (
                self.hooks.authorizer is None or self._may_receive(subscriber, topic, qos, True)
            ):
                self.figures.publish_sent += 1
                return Message(topic, message.payload, qos, True)
        return None

    def _complain(self, peer: Peer, text: str, *arguments: object) -> None:
        """Log that a request of a client's was refused."""
        self.notices.say("requests refused", peer.client_id, "client %s: " + text, peer, *arguments)


def _levels(topic_filter: str) -> int:
    return topic_filter.count("/") + 1
