"""A session: what outlives a Network Connection, at either end.

It holds the identifiers, both halves of the QoS flows, the subscriptions, and (at a client) the SUBSCRIBE and
UNSUBSCRIBE requests that are not answered yet. A machine works on it while a connection lasts; between
connections messages and requests wait in it. With a store (`keep_in`) its messages, identifiers and subscriptions
outlive the process, too; requests do not, as their callers do not.

Spec: §3.1.2.4, [MQTT-4.1.0-1], [MQTT-4.1.0-2]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from mqttws.codec.publishing import Message, encode_publish
from mqttws.codec.subscribing import FAILURE, Subscribe, Unsubscribe
from mqttws.errors import LocalProtocolError, RemoteProtocolError
from mqttws.protocol.ages import Age
from mqttws.protocol.journal import Journal
from mqttws.protocol.outgoing import Identifiers
from mqttws.protocol.receiving import Receiver
from mqttws.protocol.sending import Sender
from mqttws.protocol.store import Store
from mqttws.protocol.suspects import SUBSCRIBE, UNSUBSCRIBE, Key, Suspects

#: Used for the requests of a session without any, such as a server's: a deque takes 760 bytes.
_NO_REQUESTS: Final[deque[Any]] = deque(maxlen=0)


class Request:
    """A SUBSCRIBE or UNSUBSCRIBE that is not sent or not answered yet.

    Attributes:
        token: the number by which its caller knows it; None if a connection restores subscriptions.
        subscribe: (Topic Filter, QoS) pairs to subscribe to; empty for an UNSUBSCRIBE.
        unsubscribe: Topic Filters to unsubscribe from; empty for a SUBSCRIBE.
        parts: where a request was split: its parts in order, each with its return code once there is one.
    """

    __slots__ = ("parts", "subscribe", "token", "unsubscribe")

    def __init__(
        self, token: int | None, *, subscribe: Sequence[tuple[str, int]] = (), unsubscribe: Sequence[str] = ()
    ) -> None:
        self.token = token
        self.subscribe = tuple(subscribe)
        self.unsubscribe = tuple(unsubscribe)
        self.parts: dict[Request, int | None] | None = None
        self.packet(1)  # raises for invalid Topic Filters now

    @property
    def keys(self) -> list[tuple[str, str]]:
        """What may be suspected of it, each Topic Filter by itself."""
        if self.subscribe:
            return [(SUBSCRIBE, topic_filter) for topic_filter, _ in self.subscribe]
        return [(UNSUBSCRIBE, topic_filter) for topic_filter in self.unsubscribe]

    def packet(self, packet_id: int) -> Subscribe | Unsubscribe:
        """Make the packet."""
        if self.subscribe:
            return Subscribe(packet_id, self.subscribe)
        return Unsubscribe(packet_id, self.unsubscribe)


#: A request, and its (Topic Filter, return code) pairs; empty for a part of a request whose other parts are unanswered.
Answer = tuple[Request, tuple[tuple[str, int], ...]]


class Session:
    """The state that a client and a server share about one client identifier, as one of them sees it.

    Args:
        max_in_flight: the maximum number of unacknowledged QoS 1 and 2 messages, 1 to 65,535.
        max_queued: the maximum number of messages that wait to be sent.
        max_queued_bytes: the maximum bytes of topics and payloads that wait to be sent.

    Attributes:
        subscriptions: Topic Filter -> QoS; at a client the requested QoS of granted ones, at a server the granted QoS.
        sender: the messages on their way out.
        receiver: the messages that came in and are not done.
        identifiers: the packet identifiers of the way out.
        requests: at a client: the SUBSCRIBE and UNSUBSCRIBE requests to be sent, in order.
        requests_sent: those to be answered, by packet identifier, in order.
        store: what must be committed before a byte leaves; None for nothing.
    """

    __slots__ = (
        "_journal",
        "_suspects",
        "identifiers",
        "receiver",
        "requests",
        "requests_sent",
        "sender",
        "store",
        "subscriptions",
    )

    def __init__(
        self, max_in_flight: int = 100, max_queued: int = 10_000, max_queued_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self.subscriptions: dict[str, int] = {}
        self.identifiers = Identifiers()
        self.sender = Sender(self.identifiers, max_in_flight, max_queued, max_queued_bytes)
        self.receiver = Receiver()
        self.requests: deque[Request] = _NO_REQUESTS
        self.requests_sent: dict[int, Request] = {}
        self.store: Store | None = None
        self._suspects: Suspects | None = None
        self._journal: Journal | None = None

    def keep_in(self, store: Store, client_id: str, now: float = 0.0, wall: float = 0.0) -> None:
        """Let a new session outlive the process: take up what a store holds of it, and note in it all that changes.

        Args:
            store: also of other sessions, if wanted.
            client_id: by which the session is found in it; at most one at a time is in use under each.
            now: seconds, of any clock that only goes forward.
            wall: the same moment in seconds since 1970: ages outlive the process.

        Raises:
            StoreError: the store cannot be read.
        """
        journal = Journal(store, client_id, now, wall)
        self.sender.recover(journal.outgoing())
        self.receiver.recover(journal.incoming())
        self.subscriptions.update(journal.subscriptions())
        self.store = store
        self._journal = self.sender.journal = self.receiver.journal = journal

    def erase(self) -> None:
        """Take a session that is over out of its store, if it has one."""
        if self._journal is not None:
            self._journal.erase()
            self._journal = self.sender.journal = self.receiver.journal = None

    def set_subscription(self, topic_filter: str, qos: int) -> None:
        """Note a subscription that stands now."""
        self.subscriptions[topic_filter] = qos
        if self._journal is not None:
            self._journal.subscribed(topic_filter, qos)

    def discard_subscription(self, topic_filter: str) -> bool:
        """Note that a subscription is gone. Return whether there was one."""
        if self.subscriptions.pop(topic_filter, None) is None:
            return False
        if self._journal is not None:
            self._journal.unsubscribed(topic_filter)
        return True

    def publish(self, message: Message) -> int:
        """Let a message wait for its turn.

        Returns:
            Its token, which `Delivered` will bring back; with QoS 0 `Sent`, or a later one in its place.

        Raises:
            QueueFull: a limit would be exceeded; nothing has changed.
        """
        if not message.qos:
            return self.publish_packet(encode_publish(message.topic, message.payload, 0, message.retain))
        return self.sender.enqueue(message)

    def publish_packet(self, packet: bytes) -> int:
        """Let a message of QoS 0 wait for its turn, encoded: the short way for those who have checked it already.

        Args:
            packet: the whole PUBLISH.

        Returns:
            Its token, which `Sent` will bring back, or a later one.

        Raises:
            QueueFull: a limit would be exceeded; nothing has changed.
        """
        return self.sender.enqueue_packet(packet)

    def limit_age(self, token: int, age: Age) -> None:
        """Note when the message that was published last was, and how long it may wait to be sent.

        When that time is up, `Expired` brings back its token, unless it has been sent once. Between connections
        `sender.expire` has to be called, at `sender.next_expiry`.

        Args:
            token: what `publish` has just returned.
            age: as it is now.
        """
        if self._journal is not None and self._journal.set_clock(age.now, age.wall):
            self.sender.note_ages()
        self.sender.limit_age(token, age.now, age.seconds)

    def subscribe(self, topic_filters: Sequence[tuple[str, int]]) -> int:
        """Let a SUBSCRIBE wait for its turn.

        Args:
            topic_filters: pairs of a Topic Filter and the requested QoS, at least one.

        Returns:
            Its token, which `Subscribed` will bring back.

        Raises:
            LocalProtocolError: a Topic Filter or a QoS is ill-formed; nothing has changed.
        """
        if not topic_filters:
            raise LocalProtocolError("a Subscribe needs at least one Topic Filter", "MQTT-3.8.3-3")
        return self._request(Request(self.sender.next_token(), subscribe=topic_filters))

    def unsubscribe(self, topic_filters: Sequence[str]) -> int:
        """Let an UNSUBSCRIBE wait for its turn.

        Args:
            topic_filters: Topic Filters, at least one.

        Returns:
            Its token, which `Unsubscribed` will bring back.

        Raises:
            LocalProtocolError: a Topic Filter is ill-formed; nothing has changed.
        """
        return self._request(Request(self.sender.next_token(), unsubscribe=topic_filters))

    def _request(self, request: Request) -> int:
        if self.requests is _NO_REQUESTS:
            self.requests = deque()
        self.requests.append(request)
        assert request.token is not None
        return request.token

    def next_request(self) -> tuple[int, Request] | None:
        """Return the next request that may be sent now, with its packet identifier. Spec: [MQTT-2.3.1-2]."""
        if not self.requests:
            return None
        packet_id = self.identifiers.allocate()
        if packet_id is None:
            return None
        request = self.requests_sent[packet_id] = self.requests.popleft()
        return packet_id, request

    def restore(self, session_present: bool, max_filters: int) -> None:
        """Begin a new Network Connection: what the server has lost is asked for again, then what it has not answered.

        Args:
            session_present: whether the server still has the subscriptions.
            max_filters: how many Topic Filters go into one SUBSCRIBE.

        Spec: §3.1.2.4
        """
        for packet_id in self.requests_sent:
            self.identifiers.release(packet_id)
        requests = [*self.requests_sent.values(), *self.requests]
        self.requests_sent.clear()
        if not session_present:
            # What an earlier connection had begun to restore begins anew. (Where the server has kept the session,
            # that was begun in it, and goes on below.)
            requests = [request for request in requests if request.token is not None]
            wanted = iter(self.subscriptions.items())
            batches = []
            while batch := tuple(islice(wanted, max_filters)):
                batches.append(Request(None, subscribe=batch))
            requests = batches + requests
        self.requests = deque(requests)

    def granted(self, packet_id: int, return_codes: Sequence[int]) -> Answer | None:
        """Take a SUBACK: note which Topic Filters stand now.

        Returns:
            The request, and its (Topic Filter, return code) pairs; None if nothing has that identifier, as when a
            PUBACK comes a second time.

        Raises:
            RemoteProtocolError: it answers what is no SUBSCRIBE, or not all of it; nothing has changed.

        Spec: [MQTT-3.8.4-2], [MQTT-3.8.4-5]
        """
        if packet_id not in self.identifiers:
            return None
        request = self.requests_sent.get(packet_id)
        if request is None or not request.subscribe:
            raise RemoteProtocolError(f"a SubAck for {packet_id}, which is not a Subscribe", "MQTT-3.8.4-2")
        if len(return_codes) != len(request.subscribe):
            raise RemoteProtocolError(
                f"a SubAck with {len(return_codes)} return codes for {len(request.subscribe)} Topic Filters",
                "MQTT-3.8.4-5",
            )
        return request, self._conclude(packet_id, request, return_codes)

    def _conclude(self, packet_id: int, request: Request, return_codes: Sequence[int]) -> tuple[tuple[str, int], ...]:
        """Record the outcome of a sent request.

        Returns:
            The return codes with their Topic Filters, all that were asked for; nothing where the request is a part of
            one, and others are not answered yet.
        """
        del self.requests_sent[packet_id]
        self.identifiers.release(packet_id)
        for (topic_filter, qos), return_code in zip(request.subscribe, return_codes, strict=False):
            if return_code == FAILURE:
                self.discard_subscription(topic_filter)
            else:
                self.set_subscription(topic_filter, qos)
                self.suspects.closed_over.discard(topic_filter)
        for topic_filter, return_code in zip(request.unsubscribe, return_codes, strict=False):
            if return_code != FAILURE:
                self.discard_subscription(topic_filter)
        if request.parts is None:
            return tuple(zip((topic_filter for _, topic_filter in request.keys), return_codes, strict=True))
        request.parts[request] = return_codes[0]
        answered = [(part.keys[0][1], code) for part, code in request.parts.items() if code is not None]
        return tuple(answered) if len(answered) == len(request.parts) else ()

    @property
    def suspects(self) -> Suspects:
        """At a client: what the server may end connections over."""
        if self._suspects is None:
            self._suspects = Suspects()
        return self._suspects

    def split_request(self) -> int:
        """Split the next request into one for each Topic Filter. Return their number."""
        request = self.requests.popleft()
        parts = [Request(request.token, subscribe=(pair,)) for pair in request.subscribe]
        parts += [Request(request.token, unsubscribe=(topic_filter,)) for topic_filter in request.unsubscribe]
        codes: dict[Request, int | None] = dict.fromkeys(parts)
        for part in reversed(parts):
            if request.token is not None:  # no call waits for restored subscriptions
                part.parts = codes
            self.requests.appendleft(part)
        return len(parts)

    def unanswered(self) -> set[Key]:
        """Return what is sent and not answered."""
        asked = (key for request in self.requests_sent.values() for key in request.keys)
        return {*self.sender.published_tokens, *asked}

    def reject(self, packet_id: int) -> Answer:
        """Take a request for one Topic Filter, which was sent and is not answered, for refused.

        Returns:
            As `granted`.
        """
        request = self.requests_sent[packet_id]
        for topic_filter, _ in request.subscribe:
            self.suspects.closed_over.add(topic_filter)
        return request, self._conclude(packet_id, request, (FAILURE,))

    def taken_back(self, packet_id: int) -> Answer | None:
        """Take an UNSUBACK: note which Topic Filters are gone.

        Returns:
            As `granted`, with 0 for each Topic Filter.

        Raises:
            RemoteProtocolError: it answers what is no UNSUBSCRIBE; nothing has changed.

        Spec: [MQTT-3.10.4-4]
        """
        if packet_id not in self.identifiers:
            return None
        request = self.requests_sent.get(packet_id)
        if request is None or not request.unsubscribe:
            raise RemoteProtocolError(f"an UnsubAck for {packet_id}, which is not an Unsubscribe", "MQTT-3.10.4-4")
        return request, self._conclude(packet_id, request, [0] * len(request.unsubscribe))

    def owes(self, token: int) -> bool:
        """Return whether a message or request of before a token is not done."""
        oldest = self.sender.oldest
        if oldest is not None and oldest < token:
            return True
        requests = (*self.requests_sent.values(), *self.requests)
        return any(request.token is not None and request.token < token for request in requests)

    def abandon(self, keep_sent: bool = False) -> None:
        """Drop every message on its way out and every request: their calls fail.

        What a store keeps stays, to be sent when there is a connection again.

        Args:
            keep_sent: whether the messages of QoS 1 and 2 that have been sent stay, too: they belong to a session
                that the server keeps. Spec: §3.1.2.4
        """
        self.sender.clear(keep_sent)
        for packet_id in self.requests_sent:
            self.identifiers.release(packet_id)
        self.requests_sent.clear()
        self.requests.clear()
