"""The limits of a broker, and the effect of exceeding each.

Everything that a client can make grow has a limit here, with a default. `None` means no limit. "Beyond:" states the
effect of exceeding a limit. Refused and dropped items are logged, at a bounded rate (see `notices`), and dropped items
are counted.

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
    """The limits of a broker.

    Attributes:
        max_packet_size: Bytes of one packet from a client, fixed header included. Beyond: the connection is closed as
            soon as the header has arrived.
        max_connect_size: Bytes of a CONNECT, fixed header included. Beyond: the same.
        max_connections: Open Network Connections; fewer if the process may not open enough file descriptors. Beyond:
            the oldest connection without a CONNACK is closed, first those that have sent no CONNECT; if there is none,
            the new connection.
        max_connections_per_address: The same for one address; None by default, because all clients behind a proxy have
            the same address.
        max_pending_per_address: Connections from one address without a CONNACK. Beyond: the oldest of them is closed,
            first those that have sent no CONNECT.
        max_pending_bytes: Bytes buffered for all connections without a CONNACK. Beyond: those with the most bytes are
            closed.
        connect_timeout: Seconds for TLS, the upgrade and CONNECT together, including the hooks. Beyond: closed.
        packet_timeout: Seconds from the first byte of a packet to its last. The bytes of an incomplete packet count
            as activity for the keep alive, but not for longer than this. Beyond: closed.
        stall_timeout: Seconds in which a client must read some of the data that waits for it. Beyond: closed.
        max_write_buffer: Bytes that wait to be written to one connection, with 50 for the memory overhead of a QoS 0
            packet. Beyond: QoS 0 messages for it are dropped.
        max_in_flight: Unacknowledged QoS 1 and 2 messages for one client, 1 to 65,535. Beyond: further messages wait.
        max_queued: Messages that wait for one client, connected or not. Beyond: the newest is dropped.
        max_queued_bytes: Bytes of topics and payloads that wait for one client. Beyond: the newest is dropped.
        max_sessions: Sessions that are kept after their connections; clean sessions are limited by the connections.
            Beyond: of the disconnected sessions without queued messages, the one disconnected longest is dropped; if
            there is none, CONNACK 3.
        max_sessions_per_user: The same for one user; only with an authenticator.
        max_sessions_per_address: The same for one address, that of the last connection. Not applied to loopback,
            because it is the address of all clients behind a proxy on this machine.
        session_expiry: Seconds for which the session of a disconnected client is kept; None keeps it as long as the
            broker runs.
        max_session_bytes: Bytes of all sessions together: queued and in-flight messages, Topic Filters, packet
            identifiers, and the user names of sessions that are kept. The memory overhead is included: 250 bytes for a
            message (50 for one of QoS 0), 300 for a level of a Topic Filter, 100 for an identifier. Beyond: sessions
            that use more than their share get no more messages (QoS 0 or queued) and no more Topic Filters (SUBACK
            0x80), and no session is kept for a further user name (CONNACK 3).
        max_unreleased: Packet identifiers of QoS 2 that one client has used and not released. Beyond: closed.
        max_retained: Retained messages. Beyond: a message is delivered but not retained.
        max_retained_bytes: Bytes of their topics and payloads. Beyond: the same.
        max_retained_levels: Levels of their topics in total; each takes about 300 bytes of memory. Beyond: the same.
        max_subscriptions: Topic Filters of one client. Beyond: SUBACK 0x80.
        max_subscription_levels: Levels of the Topic Filters of one client in total. Beyond: SUBACK 0x80.
        max_subscription_bytes: Bytes of the Topic Filters of one client in total. Beyond: SUBACK 0x80.
        max_filters: Topic Filters in one SUBSCRIBE or UNSUBSCRIBE. Beyond: closed.
        max_topic_levels: Levels of a Topic Name or Topic Filter. Beyond: closed.
        max_topic_bytes: Bytes of a Topic Name or Topic Filter. Beyond: closed.
        max_client_id_bytes: Bytes of a client identifier. Beyond: CONNACK 2.
        max_payload: Bytes of the payload of a PUBLISH or a will. Beyond: closed, or CONNACK 5 for a will.
        publish_rate: PUBLISH packets per second from one connection, with bursts of up to one second's worth. Beyond:
            reading is paused until the rate is met.
        byte_rate: Bytes per second of one connection, in both directions together, with bursts of up to one second's
            worth. Beyond: reading is paused until the rate is met.
        stored_rate: Messages per second that a resumed session gets of those that were stored for it. Beyond: they
            wait, and so do newer messages of QoS 1 and 2, which must not overtake them. What was in flight is sent
            again immediately.
        control_characters: Whether topics and client identifiers may contain control characters and non-characters.
            If False, the connection is closed; a client identifier gets CONNACK 2.
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
    stored_rate: float | None = None
    control_characters: bool = False

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and name != "control_characters" and not value > 0:
                raise ValueError(f"Limits.{name} is {value!r}; it must be above 0")
        if self.max_in_flight > 65_535:
            raise ValueError(f"Limits.max_in_flight is {self.max_in_flight}; at most 65,535 packet identifiers exist")

    def check_topic(self, topic: str, what: str) -> None:
        """Check a well-formed Topic Name or Topic Filter against the limits.

        Args:
            topic: The Topic Name or Topic Filter.
            what: Its name in an error message.

        Raises:
            LimitExceeded: It has too many levels or bytes.
            RemoteProtocolError: It contains a control character or a non-character.

        Spec: §1.5.3, §4.7.3
        """
        levels = topic.count("/") + 1
        if levels > self.max_topic_levels:
            raise LimitExceeded(f"{what} has {levels:,} levels; the maximum here is {self.max_topic_levels}")
        if self.max_topic_bytes is not None and len(topic.encode()) > self.max_topic_bytes:
            raise LimitExceeded(
                f"{what} has {len(topic.encode()):,} bytes; the maximum here is {self.max_topic_bytes:,}"
            )
        if not self.control_characters and (found := _UNWANTED.search(topic)):
            raise RemoteProtocolError(f"{what} contains U+{ord(found[0]):04X}, which is not accepted here", "§1.5.3")

    def check_payload(self, payload: bytes, what: str) -> None:
        """Check the size of a payload.

        Args:
            payload: The payload.
            what: Its name in an error message.

        Raises:
            LimitExceeded: It is too long.
        """
        if self.max_payload is not None and len(payload) > self.max_payload:
            raise LimitExceeded(f"{what} has {len(payload):,} bytes; the maximum here is {self.max_payload:,}")

    def objection_to_client_id(self, client_id: str) -> str | None:
        """Return the reason for refusing a client identifier, or None.

        Args:
            client_id: The client identifier.
        """
        size = len(client_id.encode())
        if size > self.max_client_id_bytes:
            return f"the client identifier has {size:,} bytes; the maximum here is {self.max_client_id_bytes:,}"
        if not self.control_characters and (found := _UNWANTED.search(client_id)):
            return f"the client identifier contains U+{ord(found[0]):04X}, which is not accepted here"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Departures:
    """Deviations from the standard, to imitate a server that has them. The defaults follow the standard.

    Attributes:
        parent_level: Whether "a/#" matches "a". Spec: §4.7.1.2.
        retained_for_wildcards: Whether a Topic Filter with a wildcard receives retained messages. Spec: §3.3.1.3.
        dollar_topics: Whether clients can publish to topics that begin with "$", except "$SYS". Spec: §4.7.2.
        lenient_websocket: Whether to accept WebSocket clients that violate RFC 6455 in harmless ways; see
            `mqttws.protocol.lenient`. Spec: RFC 6455 §4.1.
        names_limits: Whether the WebSocket close frame names the limit that a client exceeded. Spec: RFC 6455 §5.5.1.
    """

    parent_level: bool = True
    retained_for_wildcards: bool = True
    dollar_topics: bool = False
    lenient_websocket: bool = False
    names_limits: bool = False
