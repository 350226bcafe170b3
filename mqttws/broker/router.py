"""The router: subscriptions, and the delivery of messages to subscribers. It uses no socket, event loop or clock.

Each subscriber receives a message once, with the highest QoS granted to its matching filters [MQTT-3.3.5-1], but at
most the QoS of the PUBLISH [MQTT-3.8.4-6]. A QoS 0 message is encoded once and sent to connected subscribers. QoS 1 and
2 messages are queued in every matching session, connected or not [MQTT-4.5.0-1]. Consecutive QoS 0 messages to one
topic, which are most of the traffic, are looked up, joined and delivered together (`publish_run`): one call per
connection instead of one per message.

Retained messages for a new subscription are sent at the pace at which the client reads: `next_retained` returns one
after the other, and skips those that were replaced in the meantime. If the lookup of a topic takes long, `Unfinished`
is raised before anything is delivered; call `go_on` until it returns True, then repeat the call.

The router keeps subscriptions and retained messages, `registry` the subscribers with their sessions. With a
`Persistence` both store what must survive the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from time import perf_counter

from mqttws.broker.hooks import Access, Hooks, Peer, contain
from mqttws.broker.limits import Departures, Limits
from mqttws.broker.memory import Memory
from mqttws.broker.metrics import Metrics
from mqttws.broker.notices import Notices
from mqttws.broker.persistence import Persistence
from mqttws.broker.retained import Retained
from mqttws.broker.subscriber import LEVEL, MESSAGE, Subscriber
from mqttws.broker.subscriptions import (
    Group,
    Subscriptions,
    Unfinished,
    is_well_formed_share,
    split_share,
)
from mqttws.codec.publishing import Message, Publish, encode_publish
from mqttws.codec.subscribing import FAILURE
from mqttws.errors import AccessDenied, LimitExceeded, MQTTError, QueueFull
from mqttws.protocol.outgoing import size_of

#: How often, plus one, the retained messages of one Topic Filter can be due at the same time. More requests are merged.
_REPEATS = 15


def is_sys(topic: str) -> bool:
    """Return whether a Topic Name, or everything that a Topic Filter matches, is under "$SYS"."""
    share = split_share(topic)
    if share is not None:
        topic = share[1]
    return topic.startswith("$SYS/") or topic == "$SYS"


class Router:
    """Subscriptions and retained messages of one broker.

    Args:
        limits: The limits.
        hooks: The hooks, of which the router calls `authorizer` and `on_published`.
        departures: The deviations from the standard.
        sys_anonymous: Whether clients without an authenticated user name may read "$SYS".
        persistence: Stores the retained messages; None if there is no store.

    Attributes:
        persistence: The same, for the registry.
        retained: The retained messages.
        sys: The last messages under "$SYS", to which the limits do not apply.
        metrics: The counters.
        memory: The memory limit of all sessions.
        notices: The rate-limited log.
        subscribers: The registry's subscribers by client identifier, connected or not.
        in_runs: Whether `publish_run` may be used: True if no hook and no limit applies to single messages.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        hooks: Hooks | None = None,
        departures: Departures | None = None,
        sys_anonymous: bool = False,
        persistence: Persistence | None = None,
    ) -> None:
        self.persistence = persistence
        self.limits = limits or Limits()
        self.hooks = hooks or Hooks()
        self.departures = departures or Departures()
        self.metrics = Metrics()
        self.notices = Notices()
        self.subscribers: dict[str, Subscriber] = {}
        self.memory = Memory(self.limits.max_session_bytes, self.subscribers.values)
        self.retained = Retained(
            self.limits.max_retained, self.limits.max_retained_bytes, self.limits.max_retained_levels
        )
        self.sys = Retained()
        self._sys_anonymous = sys_anonymous
        self._subscriptions = Subscriptions()
        self._answers = self._subscriptions.answers
        limited = self.limits.max_payload is not None or self.limits.publish_rate is not None
        asked = self.hooks.authorizer is not None or self.hooks.on_published is not None
        self.in_runs = not asked and not limited

    @property
    def subscriptions(self) -> int:
        """The number of subscriptions of all subscribers."""
        return len(self._subscriptions)

    # Subscriptions.

    def subscribe(self, subscriber: Subscriber, topic_filters: Iterable[tuple[str, int]]) -> list[int]:
        """Handle a SUBSCRIBE.

        Returns:
            The return codes for the SUBACK. After the SUBACK, call `next_retained`.

        Raises:
            MQTTError: The connection must be closed; nothing was subscribed.

        Spec: §3.8.4, [MQTT-3.8.4-3] to [MQTT-3.8.4-6]
        """
        topic_filters = list(topic_filters)
        self._check_filters([topic_filter for topic_filter, _ in topic_filters], "a SUBSCRIBE")
        grants = [self._grant(subscriber.peer, topic_filter, qos) for topic_filter, qos in topic_filters]
        return [
            FAILURE if granted is None else self._subscribe(subscriber, topic_filter, granted)
            for (topic_filter, _), granted in zip(topic_filters, grants, strict=True)
        ]

    def _check_filters(self, topic_filters: list[str], packet: str) -> None:
        """Check the Topic Filters of a packet against the limits.

        Raises:
            MQTTError: A limit is exceeded.
        """
        most = self.limits.max_filters
        if most is not None and len(topic_filters) > most:
            raise LimitExceeded(f"{packet} contains {len(topic_filters)} Topic Filters; the maximum here is {most}")
        for topic_filter in topic_filters:
            self.limits.check_topic(topic_filter, "a Topic Filter")

    def _grant(self, peer: Peer, topic_filter: str, qos: int) -> int | None:
        """Return the QoS to grant to a Topic Filter; None to refuse it."""
        share = split_share(topic_filter)
        if share is not None and not is_well_formed_share(*share):
            self._log_refusal(
                peer, "SUBSCRIBE to %r refused: a shared subscription is $share/group/filter", topic_filter
            )
            return None
        if is_sys(topic_filter) and not (self._sys_anonymous or self._is_known_by_name(peer)):
            self._log_refusal(peer, "SUBSCRIBE to %r refused: anonymous clients must not read $SYS", topic_filter)
            return None
        group, inner = share or ("", topic_filter)
        verdict = self.hooks.authorize(peer, Access("subscribe", inner, qos, False, group))
        if verdict.allowed:
            return min(qos, verdict.max_qos)
        if verdict.close:
            raise AccessDenied(
                f"SUBSCRIBE to {topic_filter!r} denied: {verdict.reason}", close_reason=verdict.close_reason
            )
        self._log_refusal(peer, "SUBSCRIBE to %r denied: %s", topic_filter, verdict.reason)
        return None

    def _is_known_by_name(self, peer: Peer) -> bool:
        """Return whether the user name is authenticated. Without an authenticator a user name proves nothing."""
        return peer.username is not None and self.hooks.authenticator is not None

    def _subscribe(self, subscriber: Subscriber, topic_filter: str, qos: int) -> int:
        subscriptions = subscriber.session.subscriptions
        if topic_filter not in subscriptions and not self._count_filter(subscriber, topic_filter):
            text = "SUBSCRIBE to %r refused: a limit is reached with %d subscriptions of %d levels and %d bytes"
            counts = len(subscriptions), subscriber.levels, subscriber.filter_bytes
            self._log_refusal(subscriber.peer, text, topic_filter, *counts)
            return FAILURE
        subscriber.session.set_subscription(topic_filter, qos)
        self._grow(subscriber, topic_filter, qos)
        shared = split_share(topic_filter) is not None
        wanted = self.departures.retained_for_wildcards or not ("+" in topic_filter or "#" in topic_filter)
        if wanted and not shared:
            # A filter that is still due is due once more: one packet may name it several times. Spec: [MQTT-3.8.4-4]
            subscriber.due[topic_filter] = (*subscriber.due.pop(topic_filter, ())[-_REPEATS:], qos)
        return qos

    def _count_filter(self, subscriber: Subscriber, topic_filter: str) -> bool:
        """Count a new Topic Filter of a client. Return whether the limits allow it."""
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
        self._subscriptions.set(topic_filter, subscriber, qos, self._min_slashes(topic_filter))

    def recover(self, subscriber: Subscriber) -> None:
        """Restore the subscriptions of a stored session. Their retained messages are not sent again."""
        for topic_filter, qos in subscriber.session.subscriptions.items():
            subscriber.levels += _levels(topic_filter)
            subscriber.filter_bytes += len(topic_filter.encode())
            self._grow(subscriber, topic_filter, qos)

    def unsubscribe(self, subscriber: Subscriber, topic_filters: Iterable[str]) -> None:
        """Handle an UNSUBSCRIBE.

        Raises:
            MQTTError: The connection must be closed; nothing has changed.

        Spec: [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-3.10.4-6]
        """
        topic_filters = list(topic_filters)
        self._check_filters(topic_filters, "an UNSUBSCRIBE")
        for topic_filter in topic_filters:
            if subscriber.session.discard_subscription(topic_filter):
                self._subscriptions.discard(topic_filter, subscriber)
                subscriber.levels -= _levels(topic_filter)
                subscriber.filter_bytes -= len(topic_filter.encode())
                subscriber.due.pop(topic_filter, None)
                if subscriber.walk_filter == topic_filter:
                    subscriber.walk = None

    def forget(self, subscriber: Subscriber) -> None:
        """Remove all subscriptions of a session that has ended."""
        for topic_filter in subscriber.session.subscriptions:
            self._subscriptions.discard(topic_filter, subscriber)

    def _min_slashes(self, topic_filter: str) -> int:
        share = split_share(topic_filter)
        topic_filter = topic_filter if share is None else share[1]
        return 0 if self.departures.parent_level or not topic_filter.endswith("/#") else topic_filter.count("/")

    # Delivery.

    def publish_from(self, peer: Peer, publish: Publish) -> bool:
        """Handle a PUBLISH from a client. A denied message is dropped, and usually acknowledged.

        Returns:
            Whether to acknowledge the message; False only if the authorizer says so.

        Raises:
            MQTTError: The connection must be closed.
            Unfinished: The message has passed all checks; finish the lookup, then call `publish`.

        Spec: [MQTT-3.3.5-2]
        """
        topic = publish.topic
        self.metrics.publish_received += 1
        self.limits.check_payload(publish.payload, "a payload")
        recipients = self._answers.get(topic)
        checked = recipients is not None and recipients.checked
        if not checked and not self._is_open(topic):
            self.metrics.publish_denied += 1
            self._log_refusal(
                peer, "PUBLISH to %r dropped: clients must not publish to topics that begin with '$'", topic
            )
            return True
        if self.hooks.authorizer is not None:
            verdict = self.hooks.authorize(peer, Access("publish", topic, publish.qos, publish.retain))
            if not verdict.allowed:
                self.metrics.publish_denied += 1
                if verdict.close:
                    raise AccessDenied(
                        f"PUBLISH to {topic!r} denied: {verdict.reason}", close_reason=verdict.close_reason
                    )
                self._log_refusal(peer, "PUBLISH to %r denied: %s", topic, verdict.reason)
                return verdict.acknowledge
        if self.hooks.on_published is not None:
            self.hooks.on_published(peer, Message(topic, publish.payload, publish.qos, publish.retain))
        self.publish(topic, publish.payload, publish.qos, publish.retain, True)
        return True

    def publish_run(
        self, peer: Peer, topic: str, payloads: list[bytes], packets: bytes = b"", first: Publish | None = None
    ) -> None:
        """Handle consecutive QoS 0 messages without RETAIN from a client to one topic.

        The effect is that of `publish_from` for each message, but each connection gets them in one piece. Only if
        `in_runs` is True.

        Args:
            peer: The client.
            topic: The Topic Name.
            payloads: The payloads.
            packets: The messages as they were received, if they need not be encoded again.
            first: The first of them, if it is an object.

        Raises:
            MQTTError: The connection must be closed.
            Unfinished: Finish the lookup, then repeat this call.
        """
        recipients = self._answers.get(topic)
        if recipients is None or not recipients.checked:
            if not self._is_open(topic):  # `publish_from` refuses and logs each message
                for payload in payloads:
                    self.publish_from(peer, Publish(topic, payload))
                return
            recipients = self._subscriptions.find(topic, True)
        subscribers, groups, _ = recipients
        count = len(payloads)
        metrics = self.metrics
        metrics.publish_received += count
        for subscriber in subscribers:
            outlet = subscriber.outlet
            if outlet is not None:
                if not packets:  # encoded for the first connected subscriber, then shared by all
                    if count == 1 and first is not None:
                        packets = first.encode()  # which has its encoded topic
                    else:
                        packets = b"".join([encode_publish(topic, payload) for payload in payloads])
                if outlet.send(packets):
                    subscriber.overflowing = False
                    metrics.publish_sent += count
                else:
                    self._note_dropped(subscriber, count)
        for group in groups:  # each message of the run goes to another member
            for payload in payloads:
                choice = group.next()
                if choice is not None and (outlet := choice[0].outlet) is not None:
                    sent = outlet.send(encode_publish(topic, payload))
                    self.metrics.publish_sent += self._noted(choice[0], sent)

    def _is_open(self, topic: str) -> bool:
        """Return whether clients may publish to a topic.

        Raises:
            MQTTError: It exceeds a limit.
        """
        self.limits.check_topic(topic, "the Topic Name")
        return not self.is_reserved(topic)

    def is_reserved(self, topic: str) -> bool:
        """Return whether clients must not publish to a topic. Spec: §4.7.2."""
        return topic.startswith("$") and (is_sys(topic) or not self.departures.dollar_topics)

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, checked: bool = False) -> int:
        """Deliver a message, without checks. `checked` is whether clients may publish to the topic.

        Returns:
            The number of subscribers that it was sent to or queued for.

        Raises:
            Unfinished: Finish the lookup, then repeat this call.
            StoreError: The message cannot be retained, because the store cannot be written; nothing has changed.

        Spec: §3.3.1.3, [MQTT-3.3.1-3], [MQTT-3.3.1-9], [MQTT-3.3.1-12]
        """
        subscribers, groups, _ = self._subscriptions.find(topic, checked)
        if retain:
            self._retain(Message(topic, payload, qos, True))  # first: if this fails, nothing is delivered
        # All subscribers share one encoded packet and one Message per QoS. RETAIN is not set on either: only messages
        # that are sent because of a new subscription have it [MQTT-3.3.1-9].
        packet = b""
        messages: dict[int, Message] = {}
        given = 0
        plain = not groups and self.hooks.authorizer is None
        recipients = subscribers.items() if plain else self._choose(subscribers, groups, topic, qos)
        for subscriber, maximum in recipients:
            effective = min(qos, maximum)
            if effective:
                if effective not in messages:
                    messages[effective] = Message(topic, payload, effective)
                given += self.enqueue(subscriber, messages[effective])
            elif (outlet := subscriber.outlet) is not None:  # QoS 0 is not queued for disconnected clients
                packet = packet or encode_publish(topic, payload)
                if outlet.send(packet):  # what `_noted` does, without a call for each subscriber
                    subscriber.overflowing = False
                    given += 1
                else:
                    self._note_dropped(subscriber, 1)
        self.metrics.publish_sent += given
        return given

    def _choose(
        self, subscribers: Mapping[Subscriber, int], groups: Iterable[Group], topic: str, qos: int
    ) -> list[tuple[Subscriber, int]]:
        """Return the subscribers, and a member of each shared subscription, that the authorizer lets have a message."""
        recipients = list(subscribers.items())
        if self.hooks.authorizer is not None:
            recipients = [each for each in recipients if self._may_receive(each[0], topic, min(qos, each[1]), False)]
        recipients += filter(None, [self._member(group, topic, qos) for group in groups])
        return recipients

    def _member(self, group: Group, topic: str, qos: int) -> tuple[Subscriber, int] | None:
        """Return the member of a shared subscription that gets a message, with its granted QoS.

        The message goes to another one if the authorizer denies it to the first. None if no member may have it.
        """
        if self.hooks.authorizer is None:
            return group.next()
        for choice in group.choices():
            if self._may_receive(choice[0], topic, min(qos, choice[1]), False):
                return choice
        return None

    def publish_at_once(self, message: Message) -> int:
        """Deliver a message of the broker or the embedding program, however long that takes."""
        while True:
            try:
                return self.publish(message.topic, message.payload, message.qos, message.retain)
            except Unfinished as unfinished:
                self.go_on(unfinished, inf)

    def go_on(self, unfinished: Unfinished, until: float) -> bool:
        """Continue an interrupted lookup until the time `until` of `time.perf_counter`.

        Returns:
            Whether it is complete; if so, repeat the interrupted call immediately, before any subscription changes.
        """
        while not self._subscriptions.go_on(unfinished):
            if perf_counter() >= until:
                return False
        return True

    def _retain(self, message: Message) -> None:
        """Retain a message, or count it if a limit prevents that.

        Raises:
            StoreError: The store cannot be written; nothing has changed.
        """
        persistence, known = self.persistence, self.retained.get(message.topic)
        if persistence is not None:
            persistence.check_writable()
        kept = self.retained.set(message)
        if is_sys(message.topic):  # from the embedding program
            self.sys.set(message if kept else Message(message.topic, b"", 0, True))
        retained = self.retained.get(message.topic)
        if persistence is not None and (known is not None or retained is not None):
            persistence.retain(message.topic, retained)
        if not kept:
            self.metrics.retained_dropped += 1
            text = "the message to %r is not retained: a limit is reached with %d messages"
            self.notices.log("messages not retained", "", text, message.topic, len(self.retained))

    def recover_retained(self, message: Message) -> None:
        """Restore a stored retained message."""
        self.retained.set(message)
        if is_sys(message.topic):
            self.sys.set(message)

    def enqueue(self, subscriber: Subscriber, message: Message) -> bool:
        """Queue a message in a session. Return False if a limit made the broker drop it."""
        try:
            if not self.memory.allows(subscriber, size_of(message.topic, message.payload) + MESSAGE):
                return self._noted(subscriber, False)
            subscriber.session.publish(message)
        except QueueFull:
            return self._noted(subscriber, False)
        if subscriber.outlet is not None:
            subscriber.outlet.wake()
        return self._noted(subscriber, True)

    def _noted(self, subscriber: Subscriber, taken: bool) -> bool:
        """Count a dropped message, and log the first one of a series. Return `taken`."""
        if taken:
            subscriber.overflowing = False
        else:
            self._note_dropped(subscriber, 1)
        return taken

    def _note_dropped(self, subscriber: Subscriber, count: int) -> None:
        self.metrics.publish_dropped += count
        if not subscriber.overflowing:
            text = "messages for client %s are being dropped because its queue is full"
            self.notices.log("messages dropped", subscriber.client_id, text, subscriber.peer)
        subscriber.overflowing = True

    def _may_receive(self, subscriber: Subscriber, topic: str, qos: int, retain: bool) -> bool:
        """Return whether the authorizer permits a delivery. See also `Review`."""
        unknown = subscriber.outlet is None and not subscriber.known
        return unknown or self._permits(subscriber, topic, qos, retain) is True

    def _permits(self, subscriber: Subscriber, topic: str, qos: int, retain: bool) -> bool | None:
        """Return whether the authorizer permits a delivery; None if it failed, so that the connection was closed."""
        try:
            verdict = self.hooks.authorize(subscriber.peer, Access("receive", topic, qos, retain))
        except BaseException as error:
            contain(error)
            text = "the authorizer failed for client %s"
            self.notices.log("the authorizer failed", subscriber.client_id, text, subscriber.peer, error=error)
            self._end(subscriber, AccessDenied(f"the authorizer failed: {type(error).__name__}"))
            return None
        if not verdict.allowed:
            self._log_refusal(subscriber.peer, "delivery from %r denied: %s", topic, verdict.reason)
            if verdict.close:
                self._end(subscriber, AccessDenied(f"delivery from {topic!r} denied: {verdict.reason}"))
        return verdict.allowed

    def review(self, subscriber: Subscriber) -> Review | None:
        """Return the review of the messages that were queued before a client connected to this process.

        None if there is nothing to review. Otherwise do its `work` before anything is sent to the client.
        """
        if subscriber.known or self.hooks.authorizer is None or not subscriber.session.sender.waiting:
            subscriber.known = True
            return None
        return Review(self, subscriber)

    @staticmethod
    def _end(subscriber: Subscriber, error: MQTTError) -> None:
        if subscriber.outlet is not None:
            subscriber.outlet.end(error)

    def next_retained(self, subscriber: Subscriber, steps: int = 1_000_000) -> Message | None:
        """Return the next retained message for a subscription, in at most `steps` steps.

        Returns:
            None if the steps are not enough, or if there is none (then `subscriber.has_retained` is False).

        Spec: [MQTT-3.3.1-6], [MQTT-3.3.1-8]
        """
        while subscriber.has_retained and steps > 0:
            walk = subscriber.walk
            if walk is None:  # start with the next subscription
                topic_filter = subscriber.walk_filter = next(iter(subscriber.due))
                subscriber.walk_qos, *again = subscriber.due.pop(topic_filter)
                if again:
                    subscriber.due[topic_filter] = tuple(again)
                walk = subscriber.walk = self._retained_for(topic_filter).walk(topic_filter)
            message = walk.next(steps)  # None after many nodes without a match, so that others have their turn
            if walk.done:
                subscriber.walk = None
            if message is None:
                if not walk.done:
                    return None
                steps -= 1
                continue
            steps -= 20  # a message costs about as much as 20 steps, even if the authorizer denies it
            topic, qos = message.topic, min(message.qos, subscriber.walk_qos)
            if topic.count("/") >= self._min_slashes(subscriber.walk_filter) and (
                self.hooks.authorizer is None or self._may_receive(subscriber, topic, qos, True)
            ):
                self.metrics.publish_sent += 1
                return Message(topic, message.payload, qos, True)
        return None

    def _retained_for(self, topic_filter: str) -> Retained:
        return self.sys if is_sys(topic_filter) else self.retained

    def come_back(self, subscriber: Subscriber) -> None:
        """Record that a client has connected again: a search for retained messages finds those stored meanwhile."""
        for topic_filter in subscriber.session.subscriptions:
            self._subscriptions.come_back(topic_filter, subscriber)
        if subscriber.walk is not None:
            subscriber.walk.catch_up(self._retained_for(subscriber.walk_filter).number)

    def _log_refusal(self, peer: Peer, text: str, *arguments: object) -> None:
        """Log that a request of a client was refused."""
        self.notices.log("requests refused", peer.client_id, "client %s: " + text, peer, *arguments)


class Review:
    """The authorizer's review of stored messages, after the client has connected to this process for the first time.

    Until it is complete, none of them is sent, and the client is not `known`. If the connection ends before, the
    messages stay in the session.

    Attributes:
        complete: Whether all messages have been reviewed.
    """

    def __init__(self, router: Router, subscriber: Subscriber) -> None:
        self._router = router
        self._subscriber = subscriber
        self._outlet = subscriber.outlet
        self._left = iter(subscriber.session.sender.queued())
        self._denied: list[int] = []
        self.complete = False

    def work(self, until: float) -> bool:
        """Review messages until the time `until` of `time.perf_counter`. Return whether to call this again."""
        subscriber, outlet = self._subscriber, self._outlet
        if subscriber.outlet is not outlet:  # the connection has ended
            return False
        for token, topic, _, qos, retain in self._left:
            permitted = self._router._permits(subscriber, topic, qos, retain)
            if permitted is False:
                self._denied.append(token)
            if subscriber.outlet is not outlet:  # the authorizer failed, or has closed the connection
                self._withdraw()
                return False
            if perf_counter() >= until:
                return True
        self.complete = subscriber.known = True
        self._withdraw()
        return False

    def _withdraw(self) -> None:
        """Withdraw the messages that were denied."""
        self._subscriber.session.sender.take_out(self._denied)
        self._router.metrics.publish_dropped += len(self._denied)
        self._denied.clear()


def _levels(topic_filter: str) -> int:
    return topic_filter.count("/") + 1
