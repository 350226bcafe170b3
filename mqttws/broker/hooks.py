"""The hooks of a broker: callables with which the embedding program makes decisions and receives notifications.

In the order in which a connection calls them::

    on_upgrade(peer) -> Rejection | None            the WebSocket upgrade: 101, or another status; may be async
    authenticator(peer, connect) -> bool | Accepted | Refused     the CONNECT; may be async
    on_connected(peer)                              the CONNACK 0 is on its way
    authorizer(peer, access) -> bool | Verdict      each PUBLISH, each Topic Filter, each message to be delivered, and
                                                    the will, with the CONNECT and when it is published; not async,
                                                    because it is called for every message
    on_published(peer, message)                     a message is accepted, and is routed next; peer None: it is a will,
                                                    a message from the embedding program
    on_disconnected(peer, error)                    once for each `on_connected`; error None: the client sent DISCONNECT
    on_packet(peer, sent, packet)                   each packet that is received, or sent; for debugging and tests: it
                                                    decodes everything a second time. A `MalformedPacket` is the last.
                                                    The compiled build does not call it

All hooks of a connection get the same `Peer` and may store data in its `context`. An exception in a hook closes the
connection that it was called for, and no other; also one that is no `Exception`. Only KeyboardInterrupt ends the event
loop: that of the program after `start_async`, that of the broker's thread after `start`.

If a session outlives its connection, the authorizer is still called for messages to that client, with the `Peer` of its
last connection: `context`, `client_id`, `username`, `scheme` and the addresses are unchanged, but `tls`, `target` and
`headers` are removed. Store anything else that the authorizer needs in `context`. A session from a store has no `Peer`
from this process. Messages for it are queued without a call, and the authorizer is called for all of them when the
client reconnects, before they are sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mqttws.client.callbacks import is_coroutine_function, is_generator_function
from mqttws.codec.connecting import Connect
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import Message
from mqttws.errors import MalformedPacket, MQTTError

if TYPE_CHECKING:
    import ssl


class Peer:
    """A client's connection, for hooks.

    Attributes:
        scheme: The scheme of the listener: "ws", "wss", "mqtt" or "mqtts".
        address: The client's IP address and port.
        local_address: The broker's IP address and port.
        tls: The TLS object, with `getpeercert()` and `selected_alpn_protocol()`; None without TLS.
        target: Path and query of the upgrade request; None over plain TCP. The query can be a credential.
        headers: Pairs of lower-case name and value of the upgrade request. They can be credentials.
        client_id: The client identifier; until the client is connected, the one in its CONNECT, or "".
        username: The user name of the CONNECT; None if there is none, and before the CONNECT.
        context: Free for use by the hooks.
    """

    __slots__ = (
        "address",
        "client_id",
        "context",
        "headers",
        "local_address",
        "scheme",
        "target",
        "tls",
        "username",
    )

    def __init__(
        self,
        scheme: str,
        address: tuple[str, int],
        local_address: tuple[str, int] = ("", 0),
        tls: ssl.SSLObject | None = None,
    ) -> None:
        self.scheme = scheme
        self.address = address
        self.local_address = local_address
        self.tls = tls
        self.target: str | None = None
        self.headers: tuple[tuple[str, str], ...] = ()
        self.client_id = ""
        self.username: str | None = None
        self.context: Any = None

    def leave(self) -> None:
        """Release what belongs to a connection that has ended: about 40 KiB with TLS."""
        self.tls = self.target = None
        self.headers = ()

    def header(self, name: str) -> str | None:
        """Return the value of the first header with a name in the upgrade request, or None.

        Args:
            name: The name in lower case.
        """
        return next((value for key, value in self.headers if key == name), None)

    def __repr__(self) -> str:
        return f"Peer({self})"

    def __str__(self) -> str:
        host, port = self.address
        return f"{self.client_id!r} at {host}:{port} over {self.scheme}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """The answer that rejects an upgrade.

    Attributes:
        status: The HTTP status, 300 to 599, but not 304.
        headers: Additional headers of the response.
        body: The body of the response.
        reason: A text for the log.

    Raises:
        ValueError: The status is out of range.
    """

    status: int = 403
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    reason: str = "the hook rejected it"

    def __post_init__(self) -> None:
        if not 300 <= self.status <= 599 or self.status == 304:
            raise ValueError(f"the status of a rejection is {self.status}; it must be 300 to 599, and not 304")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer that accepts a CONNECT.

    Attributes:
        client_id: A client identifier to use instead of the client's; None keeps the client's.
        keep_alive: The keep alive to enforce, 0 to 65,535 seconds; 0 disables it, None keeps the client's.
        session_expiry: Seconds to keep the session after the connection, 0 or more; None uses `Limits.session_expiry`.
        owner: The owner of the session; another owner cannot resume it or take it over. None uses the user name.

    Raises:
        ValueError: `keep_alive` or `session_expiry` is out of range.
        TypeError: `client_id` or `owner` is not a str.
    """

    client_id: str | None = None
    keep_alive: int | None = None
    session_expiry: float | None = None
    owner: str | None = None

    def __post_init__(self) -> None:
        for name in ("client_id", "owner"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} must be str or None, not {type(value).__name__}")
        if self.keep_alive is not None and not 0 <= self.keep_alive <= 65_535:
            raise ValueError(f"keep_alive is {self.keep_alive}; it must be 0 to 65,535 seconds, or None")
        if self.session_expiry is not None and not self.session_expiry >= 0:
            raise ValueError(f"session_expiry is {self.session_expiry}; it must be 0 or more seconds, or None")


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer that refuses a CONNECT.

    Attributes:
        return_code: The return code of the CONNACK, 1 to 5. Spec: §3.2.2.3.
        reason: A text for the log.

    Raises:
        ValueError: The return code is not 1 to 5.
    """

    return_code: int = 5
    reason: str = "the authenticator refused it"

    def __post_init__(self) -> None:
        if self.return_code not in (1, 2, 3, 4, 5):
            raise ValueError(f"the return code of a refusal is {self.return_code}; it must be 1 to 5")


class Access(NamedTuple):
    """A request of a client that needs permission.

    Attributes:
        action: "publish" (also for a will), "subscribe" or "receive".
        topic: The Topic Name. With "subscribe" the Topic Filter, without the `$share/group/` of a shared subscription:
            sharing a subscription must not bypass the rules for its filter.
        qos: The requested QoS.
        retain: With "publish": whether to retain the message; with "receive": whether it is a retained message.
        group: With "subscribe" to a shared subscription: the name of its group; otherwise "".
    """

    action: Literal["publish", "subscribe", "receive"]
    topic: str
    qos: int
    retain: bool
    group: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision of an authorizer. It may return True or False instead of `Verdict(True)` or `Verdict(False)`.

    The effect of a denial: a PUBLISH is acknowledged and dropped, a Topic Filter gets SUBACK 0x80, a message is not
    delivered, a CONNECT with a denied will gets CONNACK 5.

    Attributes:
        allowed: Whether the request is permitted.
        max_qos: With "subscribe": the highest QoS to grant, 0 to 2.
        close: If denied: whether to close the connection. Spec: [MQTT-3.3.5-2].
        acknowledge: If a "publish" is denied and the connection stays open: whether to acknowledge the message. False
            deviates from the standard, to imitate a server that does so.
        reason: If denied: a text for the log.
        close_reason: If the connection is closed: the reason for the client, in the close frame of its WebSocket. At
            most 123 bytes are sent. Spec: RFC 6455 §5.5.1.
    """

    allowed: bool
    max_qos: int = 2
    close: bool = False
    acknowledge: bool = True
    reason: str = "the authorizer denied it"
    close_reason: str = ""


#: The two verdicts that most authorizers need.
ALLOWED = Verdict(True)
DENIED = Verdict(False)

UpgradeHook = Callable[[Peer], "Rejection | Awaitable[Rejection | None] | None"]
Answer = bool | Accepted | Refused
Authenticator = Callable[[Peer, Connect], "Answer | Awaitable[Answer]"]
Authorizer = Callable[[Peer, Access], "bool | Verdict"]
ConnectedHook = Callable[[Peer], object]
PublishedHook = Callable[["Peer | None", Message], object]
DisconnectedHook = Callable[[Peer, "MQTTError | None"], object]
PacketHook = Callable[[Peer, bool, "Packet | MalformedPacket"], object]


_AWAITED = ("on_upgrade", "authenticator")


def contain(error: BaseException) -> None:
    """Raise KeyboardInterrupt again, which ends the event loop. Everything else that a hook raises ends a connection.

    That includes what is no `Exception`, such as SystemExit, a cancellation, and `pytest.fail`.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one broker; see the module's docstring.

    Raises:
        TypeError: A hook cannot be called, or is a coroutine function and would not be awaited.
    """

    on_upgrade: UpgradeHook | None = None
    authenticator: Authenticator | None = None
    authorizer: Authorizer | None = None
    on_connected: ConnectedHook | None = None
    on_disconnected: DisconnectedHook | None = None
    on_published: PublishedHook | None = None
    on_packet: PacketHook | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            hook = getattr(self, field.name)
            if hook is None:
                continue
            if not callable(hook):
                raise TypeError(f"{field.name} must be a function, not {type(hook).__name__}")
            if field.name not in _AWAITED and is_coroutine_function(hook):
                raise TypeError(f"{field.name} is a coroutine function; only {' and '.join(_AWAITED)} are awaited")
            if is_generator_function(hook):
                raise TypeError(f"{field.name} is a generator function: a call of it would not run its body")

    def authorize(self, peer: Peer, access: Access) -> Verdict:
        """Return the authorizer's verdict; without an authorizer everything is permitted."""
        if self.authorizer is None:
            return ALLOWED
        verdict = self.authorizer(peer, access)
        if isinstance(verdict, Verdict):
            return verdict
        return ALLOWED if verdict is True else DENIED
