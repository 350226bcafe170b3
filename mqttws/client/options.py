"""What a client is told when it is made, and what it tells about itself: options, states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mqttws.client.proxy import ENVIRONMENT
from mqttws.client.reconnect import Reconnect, is_fatal
from mqttws.codec.publishing import Message, Publish
from mqttws.errors import ConnectError, MQTTError
from mqttws.protocol.store import Store

#: Topic Filters as a caller gives them: one, or several, each with a QoS of its own or not.
TopicFilters = str | Sequence[str | tuple[str, int]]

#: What may become of a message where too many wait already; see `Options.overflow`.
OVERFLOWS = ("block", "raise", "drop_oldest", "drop_newest")

#: Seconds that an orderly close may take, where nothing else is said.
CLOSE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class State:
    """The state of a client.

    Attributes:
        name: "connecting"; "connected"; "disrupted", the connection was lost or an attempt failed; "reconnecting",
            an attempt will be made; "disconnected", no attempt will be made.
        error: why, where the name is "disrupted" or "disconnected"; None after `close`.
        delay: seconds until the attempt, where the name is "reconnecting".
        session_present: whether the server had kept the session, where the name is "connected".
    """

    name: str
    error: Exception | None = None
    delay: float | None = None
    session_present: bool | None = None


@dataclass(kw_only=True)
class Options:
    """The options of a client, the same for both drivers.

    Attributes:
        client_id: 1 to 65,535 bytes of UTF-8; None: "mqttws-" and 16 random hexadecimal digits.
        keep_alive: seconds, 0 to 65,535; 0 disables.
        clean_session: whether the server forgets the session when the connection ends. What is not acknowledged is
            sent again and what was subscribed is subscribed again on reconnecting either way.
        will: what the server publishes when the connection ends without a DISCONNECT.
        username: None: from the URL, if it has one.
        password: bytes, or a str that is sent as UTF-8; None: from the URL, if it has one.
        tls: see `tls_context`; None: the default one, where the URL asks for TLS.
        headers: more headers of the WebSocket's upgrade request; iterated over anew for each attempt.
        reconnect: how a lost connection is made again; True: with the defaults of `Reconnect`; False: not.
        timeout: seconds, above 0; bounds one attempt to connect, and each wait that is given no bound of its own.
        on_message: called with each message, instead of iterating over them.
        on_state: called with each `State`.
        on_error: called with what no call is there to be told: a subscription that the server refused to restore.
        manual_ack: whether QoS 1 and 2 messages are acknowledged by `acknowledge` only.
        max_in_flight: how many QoS 1 and 2 messages may be unacknowledged at once, 1 to 65,535.
        max_queued: how many messages may wait to be sent, at least 1.
        max_queued_bytes: how many bytes of topics and payloads may wait to be sent.
        overflow: what a message meets where as many wait already. "block": `publish` waits for room, `publish_nowait`
            raises `QueueFull`; "raise": both raise it; "drop_oldest": the one that has waited longest is dropped, and
            "drop_newest": the new one, and the call of the one that is dropped fails with `QueueFull`.
        store: where messages of QoS 1 and 2, identifiers and subscriptions are kept so that they outlive the process,
            such as `SQLiteStore`. A message is stored before it is sent, and when `publish_nowait` returns; what a
            process has left undone, the next one with the same store and client identifier does. It needs a
            `client_id`, and `clean_session` False. Closed by whoever made it, after the client; of one client at a
            time with each client identifier.
        max_inbound_bytes: how many bytes the messages that wait to be taken may hold before nothing more is read from
            the network, acknowledgements included; at least 1. Each message counts with what the network brought for
            it and 400 bytes for its objects. The messages of one read, 64 KiB, may come on top.
        max_packet_size: bytes; a larger packet from the server ends the connection.
        max_filters: how many Topic Filters go into one SUBSCRIBE or UNSUBSCRIBE, at least 1.
        ping_timeout: seconds; see `ClientMachine`.
        publish_rate: PUBLISH packets a second, above 0, that the server takes of one connection in both directions
            together: messages of QoS 1 and 2 beyond it wait for their turn; None for no bound.
        resend_after: seconds, above 0, after which a message of QoS 1 that is not acknowledged is sent again on the
            same connection; None: only on the next one. For servers that drop what is beyond their rate.
        proxy: "environment": HTTPS_PROXY and NO_PROXY, for wss:// only; the URL of an HTTP proxy; None for none.
        is_fatal: tells an error that ends the client from one that is worth another attempt.
        recover: asked first of all when an attempt has failed, the first one too: True when it has learnt enough to
            make the next attempt differ (a clock's offset, fresh credentials), which is then made at once.

    Raises:
        ValueError: a number is out of its range.
    """

    client_id: str | None = None
    keep_alive: int = 60
    clean_session: bool = True
    will: Message | None = None
    username: str | None = field(default=None, repr=False)
    password: str | bytes | None = field(default=None, repr=False)
    tls: Any = None
    headers: Iterable[tuple[str, str]] = field(default=(), repr=False)
    reconnect: bool | Reconnect = True
    timeout: float = 30.0
    on_message: Callable[[Publish], object] | None = None
    on_state: Callable[[State], object] | None = None
    on_error: Callable[[MQTTError], object] | None = None
    manual_ack: bool = False
    max_in_flight: int = 100
    max_queued: int = 10_000
    max_queued_bytes: int = 64 * 1024 * 1024
    overflow: str = "block"
    store: Store | None = None
    max_inbound_bytes: int = 64 * 1024 * 1024
    max_packet_size: int = 64 * 1024 * 1024
    max_filters: int = 100
    ping_timeout: float | None = None
    publish_rate: float | None = None
    resend_after: float | None = None
    proxy: str | None = field(default=ENVIRONMENT, repr=False)
    is_fatal: Callable[[Exception], bool] = is_fatal
    recover: Callable[[ConnectError], bool] | None = None

    def __post_init__(self) -> None:
        for name in ("max_in_flight", "max_queued", "max_inbound_bytes", "max_filters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_in_flight > 65_535:
            raise ValueError(f"max_in_flight is {self.max_in_flight}; there are 65,535 packet identifiers")
        for name in ("publish_rate", "resend_after"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0, or None")
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}; it must be above 0 seconds")
        if self.overflow not in OVERFLOWS:
            raise ValueError(f"overflow is {self.overflow!r}; it must be one of {', '.join(OVERFLOWS)}")
        if self.store is not None and (self.clean_session or not self.client_id):
            raise ValueError("a store needs a client_id that stays the same, and clean_session=False")
        if iter(self.headers) is self.headers:  # an iterator gives everything to the first attempt
            self.headers = tuple(self.headers)

    @property
    def password_bytes(self) -> bytes | None:
        """The password as it is sent."""
        return self.password.encode() if isinstance(self.password, str) else self.password

    @property
    def policy(self) -> Reconnect | None:
        """How to reconnect; None: not."""
        if isinstance(self.reconnect, Reconnect):
            return self.reconnect
        return Reconnect() if self.reconnect else None
