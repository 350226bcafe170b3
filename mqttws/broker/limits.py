"""The bounds of a broker, and what lies beyond each of them.

Everything that a client can make grow has its bound here, with a default. `None` means none. What happens beyond a
bound is said at each; whatever is refused or dropped is logged, at a bounded rate (see `notices`), and what is dropped
is counted.

Spec: §4.7.3, §5.4.8
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mqttws.errors import LimitExceeded, RemoteProtocolError

_KIB = 1024
_MIB = 1024 * 1024

#: Control characters and non-characters, which the standard advises against. Spec: §1.5.3
_UNWANTED = re.compile(
    "[\x01-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
    + "]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of a broker.

    Attributes:
        max_packet_size: bytes of one packet from a client, fixed header included. Beyond: closed, from the header.
        max_connect_size: bytes of a CONNECT, fixed header included. Beyond: closed, from the header.
        max_connections: Network Connections at once. Beyond: of those that have no CONNACK the oldest is closed; where
            there is none, the new one.
        max_connections_per_address: the same for one address; None by default, since a proxy makes one address of all
            clients.
        max_pending_per_address: connections of one address that have no CONNACK. Beyond: the oldest of them is closed.
        max_pending_bytes: bytes that all connections without a CONNACK hold together. Beyond: the oldest are closed.
        connect_timeout: seconds for TLS, upgrade and CONNECT together, and for the hooks that decide. Beyond: closed.
        packet_timeout: seconds from the first byte of a packet to its last. The bytes of a packet under way count as
            a sign of life for the keep alive, but not for longer than this. Beyond: closed.
        stall_timeout: seconds in which a client must read something of what waits for it. Beyond: closed.
        max_write_buffer: bytes that wait in the broker for one connection. Beyond: QoS 0 messages for it are dropped.
        max_in_flight: QoS 1 and 2 messages sent to one client and not acknowledged, 1 to 65,535. Beyond: they wait.
        max_queued: messages that wait for one client, connected or not. Beyond: the newest is dropped.
        max_queued_bytes: bytes of topics and payloads that wait for one client. Beyond: the newest is dropped.
        max_sessions: sessions that outlive their connections; clean ones are bounded by the connections. Beyond: of
            those whose clients are away and for whom nothing waits, the one that has been away longest is dropped;
            where there is none, CONNACK 3.
        max_sessions_per_user: the same for one user, where there is an authenticator.
        max_sessions_per_address: the same for one address, that of the last connection; loopback has no such bound,
            since a proxy on this machine makes it the address of all clients.
        session_expiry: seconds for which the session of a client that is away is kept; None for as long as the
            broker runs.
        max_session_bytes: bytes of all sessions together: what waits or is in flight, Topic Filters and packet
            identifiers; a message counts 250, a level of a Topic Filter 300, an identifier 150 bytes more, which is
            what they take in memory. Beyond: those that hold more than their share get no more messages (QoS 0 or
            queued) and Topic Filters (SUBACK 0x80).
        max_unreleased: packet identifiers of QoS 2 that one client has used and not released. Beyond: closed.
        max_retained: retained messages. Beyond: a message is delivered and not retained.
        max_retained_bytes: bytes of their topics and payloads. Beyond: the same.
        max_retained_levels: levels of their topics, taken together; each takes some 300 bytes of memory. Beyond: the
            same.
        max_subscriptions: Topic Filters of one client. Beyond: SUBACK 0x80.
        max_subscription_levels: levels of the Topic Filters of one client, taken together. Beyond: SUBACK 0x80.
        max_subscription_bytes: bytes of the Topic Filters of one client, taken together. Beyond: SUBACK 0x80.
        max_filters: Topic Filters in one SUBSCRIBE or UNSUBSCRIBE. Beyond: closed.
        max_topic_levels: levels of a Topic Name or Topic Filter. Beyond: closed.
        max_topic_bytes: bytes of a Topic Name or Topic Filter. Beyond: closed.
        max_client_id_bytes: bytes of a client identifier. Beyond: CONNACK 2.
        max_payload: bytes of the payload of a PUBLISH or a will. Beyond: closed, or CONNACK 5 for a will.
        publish_rate: PUBLISH packets a second from one connection, with bursts of one second's worth. Beyond: the
            broker reads no further until their time has come.
        byte_rate: bytes a second of one connection, in both directions together, with bursts of one second's worth.
            Beyond: the broker reads no further until their time has come.
        control_characters: whether topics and client identifiers may hold control characters and non-characters.
            If not: closed, and CONNACK 2 for a client identifier.
    """

    max_packet_size: int = _MIB
    max_connect_size: int = 64 * _KIB
    max_connections: int = 1_000
    max_connections_per_address: int | None = None
    max_pending_per_address: int = 250
    max_pending_bytes: int = 8 * _MIB
    connect_timeout: float = 10.0
    packet_timeout: float = 60.0
    stall_timeout: float = 60.0
    max_write_buffer: int = 4 * _MIB
    max_in_flight: int = 100
    max_queued: int = 10_000
    max_queued_bytes: int = 16 * _MIB
    max_session_bytes: int | None = 32 * _MIB
    max_unreleased: int = 10_000
    max_sessions: int = 10_000
    max_sessions_per_user: int | None = 1_000
    max_sessions_per_address: int | None = 1_000
    session_expiry: float | None = 86_400.0
    max_retained: int = 10_000
    max_retained_bytes: int = 16 * _MIB
    max_retained_levels: int = 100_000
    max_subscriptions: int = 1_000
    max_subscription_levels: int = 10_000
    max_subscription_bytes: int = 256 * _KIB
    max_filters: int | None = 1_000
    max_topic_levels: int = 201
    max_topic_bytes: int | None = None
    max_client_id_bytes: int = _KIB
    max_payload: int | None = None
    publish_rate: float | None = None
    byte_rate: float | None = None
    control_characters: bool = False

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and name != "control_characters" and not value > 0:
                raise ValueError(f"Limits.{name} is {value!r}; it must be above 0")
        if self.max_in_flight > 65_535:
            raise ValueError(f"Limits.max_in_flight is {self.max_in_flight}; at most 65,535 packet identifiers exist")

    def check_topic(self, topic: str, what: str) -> None:
        """Check a well-formed Topic Name or Topic Filter against the bounds.

        Raises:
            LimitExceeded: it is too deep or too long.
            RemoteProtocolError: it holds a control character or a non-character.

        Spec: §1.5.3, §4.7.3
        """
        levels = topic.count("/") + 1
        if levels > self.max_topic_levels:
            raise LimitExceeded(f"{what} has {levels:,} levels; at most {self.max_topic_levels} are taken here")
        if self.max_topic_bytes is not None and len(topic.encode()) > self.max_topic_bytes:
            raise LimitExceeded(
                f"{what} takes {len(topic.encode()):,} bytes; at most {self.max_topic_bytes:,} are taken here"
            )
        if not self.control_characters and (found := _UNWANTED.search(topic)):
            raise RemoteProtocolError(f"{what} holds U+{ord(found[0]):04X}, which is not taken here", "§1.5.3")

    def check_payload(self, payload: bytes, what: str) -> None:
        """Check the size of a payload.

        Raises:
            LimitExceeded: it is too long.
        """
        if self.max_payload is not None and len(payload) > self.max_payload:
            raise LimitExceeded(f"{what} takes {len(payload):,} bytes; at most {self.max_payload:,} are taken here")

    def objection_to_client_id(self, client_id: str) -> str | None:
        """Say what is wrong with a client identifier; None for nothing."""
        size = len(client_id.encode())
        if size > self.max_client_id_bytes:
            return f"the client identifier takes {size:,} bytes; at most {self.max_client_id_bytes:,} are taken here"
        if not self.control_characters and (found := _UNWANTED.search(client_id)):
            return f"the client identifier holds U+{ord(found[0]):04X}, which is not taken here"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Departures:
    """Where a broker departs from the standard, because a server that it stands in for does. By default nowhere.

    Attributes:
        parent_level: whether "a/#" matches "a". Spec: §4.7.1.2
        retained_for_wildcards: whether a Topic Filter with a wildcard brings retained messages. Spec: §3.3.1.3
        dollar_topics: whether clients reach each other through topics that begin with "$" (those of "$SYS" apart).
            Spec: §4.7.2
        lenient_websocket: whether WebSocket clients are met half-way that hold to less of their standard than it asks;
            see `mqttws.protocol.lenient`. Spec: RFC 6455 §4.1
        tells_limits: whether a client whose connection ends over a bound is sent which one, in the closing frame of its
            WebSocket. Spec: RFC 6455 §5.5.1
    """

    parent_level: bool = True
    retained_for_wildcards: bool = True
    dollar_topics: bool = False
    lenient_websocket: bool = False
    tells_limits: bool = False
