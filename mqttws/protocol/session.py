"""The session of a client or server: the state that outlives a Network Connection.

It contains the packet identifiers, both sides of the QoS flows, the subscriptions, and at a client the SUBSCRIBE and
UNSUBSCRIBE requests that are not answered yet. While there is a connection, a machine uses it; between connections it
queues messages and requests. With a store (`keep_in`) its messages, identifiers and subscriptions also outlive the
process; requests do not, because their callers do not.

Spec: §3.1.2.4, [MQTT-4.1.0-1], [MQTT-4.1.0-2]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from mqttws.codec.publishing import Message, encode_publish
from mqttws.codec.subscribing import FAILURE, Subscribe, Unsubscribe
from mqttws.errors import LocalProtocolError, QueueFull, RemoteProtocolError
from mqttws.hints import TYPE_CHECKING, Any, Final
from mqttws.protocol.outgoing import Identifiers, size_of
from mqttws.protocol.receiving import Receiver
from mqttws.protocol.sending import Sender
from mqttws.protocol.suspects import SUBSCRIBE, UNSUBSCRIBE, Key, Suspects

if TYPE_CHECKING:  # a session without a store needs none of them
    from mqttws.protocol.ages import Age
    from mqttws.protocol.claims import Claim, Holder
    from mqttws.protocol.journal import Journal
    from mqttws.protocol.store import Store

#: Used for the requests of a session without any, such as a server's: a deque takes 760 bytes.
_NO_REQUESTS: Final[deque[Any]] = deque(maxlen=0)

#: The maximum bytes of the Topic Filters in requests that are not answered, some 65,000 short ones.
MAX_REQUESTED: Final = 64 * 1024 * 1024
#: Bytes added for each Topic Filter, for the objects of its request and of the call in memory.
OVERHEAD: Final = 1_000


class Request:
    """A SUBSCRIBE or UNSUBSCRIBE that is not sent or not answered yet.

    Attributes:
        token: The number that its caller received; None if a connection restores subscriptions.
        subscribe: (Topic Filter, QoS) pairs to subscribe to; empty for an UNSUBSCRIBE.
        unsubscribe: Topic Filters to unsubscribe from; empty for a SUBSCRIBE.
        parts: After a split, all parts in order, each with its return code once it has one; None if not split.
        was_sent: Whether it was sent, on this connection or an earlier one.
    """

    __slots__ = ("parts", "subscribe", "token", "unsubscribe", "was_sent")

    def __init__(
        self, token: int | None, *, subscribe: Sequence[tuple[str, int]] = (), unsubscribe: Sequence[str] = ()
    ) -> None:
        self.token = token
        self.subscribe = tuple(subscribe)
        self.unsubscribe = tuple(unsubscribe)
        self.parts: dict[Request, int | None] | None = None
        self.was_sent = False
        self.packet(1)  # raise an error for invalid Topic Filters now, not when the request is sent

    @property
    def keys(self) -> list[tuple[str, str]]:
        """The keys under which `Suspects` tracks it, one for each Topic Filter."""
        if self.subscribe:
            return [(SUBSCRIBE, topic_filter) for topic_filter, _ in self.subscribe]
        return [(UNSUBSCRIBE, topic_filter) for topic_filter in self.unsubscribe]

    @property
    def size(self) -> int:
        """The bytes that count for `MAX_REQUESTED`."""
        return sum(size_of(topic_filter, b"") + OVERHEAD for _, topic_filter in self.keys)

    def packet(self, packet_id: int) -> Subscribe | Unsubscribe:
        """Return the request as a packet."""
        if self.subscribe:
            return Subscribe(packet_id, self.subscribe)
        return Unsubscribe(packet_id, self.unsubscribe)


#: A request, and its (Topic Filter, return code) pairs; empty for a part of a request whose other parts are unanswered.
Answer = tuple[Request, tuple[tuple[str, int], ...]]


class Session:
    """One side's state of the session between a client and a server.

    Args:
        max_in_flight: The maximum number of unacknowledged QoS 1 and 2 messages, 1 to 65,535.
        max_queued: The maximum number of queued messages, at least 1.
        max_queued_bytes: The maximum bytes of queued topics and payloads.
        max_in_flight_qos2: How many messages may be unacknowledged after one of QoS 2 is sent, at least 1. None: as
            `max_in_flight`.

    Attributes:
        subscriptions: Topic Filter -> QoS: at a client the requested QoS of granted ones, at a server the granted QoS.
        sender: The outgoing messages.
        receiver: The incoming messages that are not completely acknowledged.
        identifiers: The packet identifiers of outgoing packets.
        requests: At a client: the SUBSCRIBE and UNSUBSCRIBE requests to send, in order.
        requests_sent: At a client: the requests that are not answered, by packet identifier, in order.
        store: What to commit before bytes are sent: the claim of this session, or a store; None without one.

    Spec: §3.1.2.4
    """

    __slots__ = (
        "_journal",
        "_requested",
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
        self,
        max_in_flight: int = 100,
        max_queued: int = 10_000,
        max_queued_bytes: int = 64 * 1024 * 1024,
        max_in_flight_qos2: int | None = None,
    ) -> None:
        self.subscriptions: dict[str, int] = {}
        self.identifiers = Identifiers()
        self.sender = Sender(self.identifiers, max_in_flight, max_queued, max_queued_bytes, max_in_flight_qos2)
        self.receiver = Receiver()
        self.requests: deque[Request] = _NO_REQUESTS
        self._requested = 0  # the size of all requests with a token that are not answered
        self.requests_sent: dict[int, Request] = {}
        self.store: Claim | Store | None = None
        self._suspects: Suspects | None = None
        self._journal: Journal | None = None

    def keep_in(
        self, store: Store, client_id: str, now: float = 0.0, wall: float = 0.0, holder: Holder | None = None
    ) -> None:
        """Keep a new session in a store: restore what the store contains of it, and record all changes from now on.

        Args:
            store: The store. Sessions with different client identifiers can share it.
            client_id: The client identifier. A later session that uses the same one takes it over: this one then
                changes nothing in the store, and its commits fail.
            now: The current time in seconds, of any monotonic clock.
            wall: The same moment in seconds since 1970, for ages that outlive the process.
            holder: The owner of the session; None: one that is never in use.

        Raises:
            StoreError: The store cannot be read, or another owner uses it with this client identifier.
        """
        from mqttws.protocol.claims import Claim, Holder
        from mqttws.protocol.journal import Journal

        journal = Journal(store, client_id, now, wall)
        claim = Claim(store, client_id, holder or Holder(), journal)
        self.sender.recover(journal.outgoing())
        self.receiver.recover(journal.incoming())
        self.subscriptions.update(journal.subscriptions())
        self.store = claim
        self._journal = self.sender.journal = self.receiver.journal = journal

    def erase(self) -> None:
        """Delete a session that has ended from its store, if it has one."""
        if self._journal is not None:
            self._journal.erase(self.sender.tokens, self.receiver.received, self.subscriptions)
            self._journal = self.sender.journal = self.receiver.journal = None

    def set_subscription(self, topic_filter: str, qos: int) -> None:
        """Record a subscription.

        Args:
            topic_filter: The Topic Filter.
            qos: The QoS to store; see `subscriptions`.
        """
        self.subscriptions[topic_filter] = qos
        if self._journal is not None:
            self._journal.subscribed(topic_filter, qos)

    def discard_subscription(self, topic_filter: str) -> bool:
        """Remove a subscription. Return whether there was one.

        Args:
            topic_filter: The Topic Filter.
        """
        if self.subscriptions.pop(topic_filter, None) is None:
            return False
        if self._journal is not None:
            self._journal.unsubscribed(topic_filter)
        return True

    def publish(self, message: Message) -> int:
        """Queue a message.

        Args:
            message: The Application Message.

        Returns:
            Its token. The event `Delivered` contains it; with QoS 0, the event `Sent` contains it or a higher one.

        Raises:
            QueueFull: A limit would be exceeded; nothing has changed.
        """
        if not message.qos:
            return self.publish_packet(encode_publish(message.topic, message.payload, 0, message.retain))
        return self.sender.enqueue(message)

    def publish_packet(self, packet: bytes) -> int:
        """Queue an encoded QoS 0 message. This is the fast path for callers that have checked it already.

        Args:
            packet: The whole PUBLISH.

        Returns:
            Its token. The event `Sent` contains it or a higher one.

        Raises:
            QueueFull: A limit would be exceeded; nothing has changed.
        """
        return self.sender.enqueue_packet(packet)

    def limit_age(self, token: int, age: Age) -> None:
        """Record when the message queued last was published, and how long it may wait to be sent.

        If it expires before it is sent, the event `Expired` contains its token. Between connections, call
        `sender.expire` at `sender.next_expiry`.

        Args:
            token: The token that `publish` has just returned.
            age: The time of publishing, and the maximum waiting time.
        """
        if self._journal is not None and self._journal.set_clock(age.now, age.wall):
            self.sender.note_ages()
        self.sender.limit_age(token, age.now, age.seconds)

    def subscribe(self, topic_filters: Sequence[tuple[str, int]]) -> int:
        """Queue a SUBSCRIBE.

        Args:
            topic_filters: Pairs of a Topic Filter and the requested QoS, at least one.

        Returns:
            Its token, which the event `Subscribed` contains.

        Raises:
            LocalProtocolError: A Topic Filter or a QoS is not valid; nothing has changed.
            QueueFull: Too many requests are not answered; nothing has changed.

        Spec: §3.8, [MQTT-3.8.3-3]
        """
        if not topic_filters:
            raise LocalProtocolError("a Subscribe needs at least one Topic Filter", "MQTT-3.8.3-3")
        return self._request(Request(self.sender.next_token(), subscribe=topic_filters))

    def unsubscribe(self, topic_filters: Sequence[str]) -> int:
        """Queue an UNSUBSCRIBE.

        Args:
            topic_filters: Topic Filters, at least one.

        Returns:
            Its token, which the event `Unsubscribed` contains.

        Raises:
            LocalProtocolError: A Topic Filter is not valid; nothing has changed.
            QueueFull: Too many requests are not answered; nothing has changed.

        Spec: §3.10, [MQTT-3.10.3-2]
        """
        return self._request(Request(self.sender.next_token(), unsubscribe=topic_filters))

    def _request(self, request: Request) -> int:
        requested = self._requested + request.size
        if self._requested and requested > MAX_REQUESTED:
            raise QueueFull(f"{self._requested:,} bytes of requests are already queued or not answered; wait")
        if self.requests is _NO_REQUESTS:
            self.requests = deque()
        self._requested = requested
        self.requests.append(request)
        assert request.token is not None
        return request.token

    def withdraw_request(self, token: int) -> bool:
        """Remove a SUBSCRIBE or UNSUBSCRIBE that was not sent. Return whether it was possible.

        Args:
            token: The token that `subscribe` or `unsubscribe` has returned.
        """
        for request in self.requests:
            if request.token == token:
                if request.was_sent or request.parts is not None:  # the server may have it: it is sent again
                    return False
                self._requested -= request.size
                self.requests.remove(request)
                return True
        return False

    def next_request(self) -> tuple[int, Request] | None:
        """Return the next request that may be sent now, with its packet identifier. Spec: [MQTT-2.3.1-2]."""
        if not self.requests:
            return None
        packet_id = self.identifiers.allocate()
        if packet_id is None:
            return None
        request = self.requests_sent[packet_id] = self.requests.popleft()
        request.was_sent = True
        return packet_id, request

    def restore(self, session_present: bool, max_filters: int) -> None:
        """Begin a new Network Connection: queue the subscriptions that the server lost, then unanswered requests.

        Args:
            session_present: Whether the server still has the subscriptions.
            max_filters: The maximum number of Topic Filters in one SUBSCRIBE.

        Spec: §3.1.2.4
        """
        for packet_id in self.requests_sent:
            self.identifiers.release(packet_id)
        requests = [*self.requests_sent.values(), *self.requests]
        self.requests_sent.clear()
        if not session_present:
            # Drop the SUBSCRIBEs by which an earlier connection was restoring subscriptions: all are restored again.
            # (If the session is present, they were meant for it, and the unanswered ones are sent again.)
            requests = [request for request in requests if request.token is not None]
            wanted = iter(self.subscriptions.items())
            batches = []
            while batch := tuple(islice(wanted, max_filters)):
                batches.append(Request(None, subscribe=batch))
            requests = batches + requests
        self.requests = deque(requests) if requests else _NO_REQUESTS

    def suback(self, packet_id: int, return_codes: Sequence[int]) -> Answer | None:
        """Handle a SUBACK: record the granted subscriptions.

        Args:
            packet_id: The packet identifier of the SUBACK.
            return_codes: Its return codes.

        Returns:
            The request, and its (Topic Filter, return code) pairs; None if the identifier is not in use, which can
            result from a repeated acknowledgement.

        Raises:
            RemoteProtocolError: The identifier is not that of a SUBSCRIBE, or the number of return codes is wrong;
                nothing has changed.

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
            The (Topic Filter, return code) pairs of the whole request; empty if it was split, and other parts are not
            answered yet.
        """
        del self.requests_sent[packet_id]
        self.identifiers.release(packet_id)
        if request.token is not None:
            self._requested -= request.size
        for (topic_filter, qos), return_code in zip(request.subscribe, return_codes, strict=False):
            if return_code == FAILURE:
                self.discard_subscription(topic_filter)
            else:
                self.set_subscription(topic_filter, qos)
                if self._suspects is not None:
                    self._suspects.closed_over.discard(topic_filter)
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
        """At a client: the messages and requests that may have caused the server to close connections."""
        if self._suspects is None:
            self._suspects = Suspects()
        return self._suspects

    @property
    def is_cautious(self) -> bool:
        """At a client: whether to send unanswered messages and requests one at a time; see `suspects`."""
        return self._suspects is not None and self._suspects.cautious

    def split_request(self) -> int:
        """Split the next request into one for each Topic Filter. Return their number."""
        request = self.requests.popleft()
        parts = [Request(request.token, subscribe=(pair,)) for pair in request.subscribe]
        parts += [Request(request.token, unsubscribe=(topic_filter,)) for topic_filter in request.unsubscribe]
        codes: dict[Request, int | None] = dict.fromkeys(parts)
        for part in reversed(parts):
            if request.token is not None:  # restored subscriptions have no caller, so their answers are not collected
                part.parts = codes
            self.requests.appendleft(part)
        return len(parts)

    def unanswered(self) -> set[Key]:
        """Return the keys of the messages and requests that were sent and are not answered."""
        asked = (key for request in self.requests_sent.values() for key in request.keys)
        return {*self.sender.published_tokens, *asked}

    def reject(self, packet_id: int) -> Answer:
        """Treat an unanswered request for one Topic Filter as refused.

        Args:
            packet_id: The packet identifier of the request.

        Returns:
            The same as `suback`.
        """
        request = self.requests_sent[packet_id]
        for topic_filter, _ in request.subscribe:
            self.suspects.closed_over.add(topic_filter)
        return request, self._conclude(packet_id, request, (FAILURE,))

    def unsuback(self, packet_id: int) -> Answer | None:
        """Handle an UNSUBACK: remove the subscriptions.

        Args:
            packet_id: The packet identifier of the UNSUBACK.

        Returns:
            The same as `suback`, with 0 for each Topic Filter.

        Raises:
            RemoteProtocolError: The identifier is not that of an UNSUBSCRIBE; nothing has changed.

        Spec: [MQTT-3.10.4-4]
        """
        if packet_id not in self.identifiers:
            return None
        request = self.requests_sent.get(packet_id)
        if request is None or not request.unsubscribe:
            raise RemoteProtocolError(f"an UnsubAck for {packet_id}, which is not an Unsubscribe", "MQTT-3.10.4-4")
        return request, self._conclude(packet_id, request, [0] * len(request.unsubscribe))

    def has_incomplete(self, token: int) -> bool:
        """Return whether a message or request with a lower token is not complete.

        Args:
            token: A token of `Sender.next_token`.
        """
        oldest = self.sender.oldest
        if oldest is not None and oldest < token:
            return True
        requests = (*self.requests_sent.values(), *self.requests)
        return any(request.token is not None and request.token < token for request in requests)

    def abandon(self, keep_sent: bool = False) -> None:
        """Drop all outgoing messages and all requests, whose calls fail.

        Messages in a store are kept, and sent on the next connection.

        Args:
            keep_sent: Whether to keep the QoS 1 and 2 messages in flight too, because they belong to a session that
                the server stores. Spec: §3.1.2.4.
        """
        self.sender.clear(keep_sent)
        for packet_id in self.requests_sent:
            self.identifiers.release(packet_id)
        self.requests_sent.clear()
        self.requests.clear()
        self._requested = 0
