"""What the embedding program decides, and what it is told: the hooks of a broker and the words they use.

A hook is a plain callable. In the order in which a connection meets them::

    on_upgrade(peer) -> Rejection | None            the WebSocket upgrade: 101, or another status; may be async
    authenticator(peer, connect) -> bool | Accepted | Refused     the CONNECT; may be async
    on_connected(peer)                              the CONNACK 0 is on its way
    authorizer(peer, access) -> bool | Verdict      each PUBLISH, each Topic Filter, each message to be delivered, and
                                                    the will, with the CONNECT and when it is published; not async: it
                                                    stands in the path of every message
    on_published(peer, message)                     a message is accepted, and is routed next; peer None: it is a will,
                                                    or the broker's own
    on_disconnected(peer, error)                    once for each `on_connected`; error None: the client said DISCONNECT

All get the same `Peer` for the whole of a connection, and may keep what they like in its `context`. A hook that
raises ends the connection that it was asked about, and no other.

Where a session outlives its connection, the authorizer goes on being asked what that client may receive, with the
`Peer` of its last connection: `context`, `client_id`, `username`, `scheme` and the addresses are as they were, while
`tls`, `target` and `headers` are gone. What else the authorizer needs is to be kept in `context`. A session that comes
from a store has no `Peer` of this process: messages for it wait without a question, and the authorizer is asked about
all of them when the client is back, before they are sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mqttws.codec.connecting import Connect
from mqttws.codec.publishing import Message
from mqttws.errors import MQTTError

if TYPE_CHECKING:
    import ssl


class Peer:
    """A client's connection, as hooks see it.

    Attributes:
        scheme: the listener's: "ws", "wss", "mqtt" or "mqtts".
        address: the client's IP address and port.
        local_address: the broker's.
        tls: what TLS found out, with `getpeercert()` and `selected_alpn_protocol()`; None without TLS.
        target: path and query of the upgrade request; None over plain TCP. Its query may be a credential.
        headers: (name in lower case, value) pairs of the upgrade request. They may be credentials.
        client_id: once connected; before that as the client gave it, or "".
        username: that of the CONNECT; None before it, or without one.
        context: the hooks' own.
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
        """Let go of what belongs to a connection that is over: some 40 KiB over TLS."""
        self.tls = self.target = None
        self.headers = ()

    def header(self, name: str) -> str | None:
        """Find the first header of that name (in lower case) in the upgrade request."""
        return next((value for key, value in self.headers if key == name), None)

    def __repr__(self) -> str:
        return f"Peer({self})"

    def __str__(self) -> str:
        host, port = self.address
        return f"{self.client_id!r} at {host}:{port} over {self.scheme}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """The answer to an upgrade that is not granted.

    Attributes:
        status: HTTP status, 400 to 599.
        headers: more headers of the response.
        body: of the response.
        reason: for the log.
    """

    status: int = 403
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    reason: str = "the hook rejected it"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a CONNECT that is granted. What is None stays as the client asked.

    Attributes:
        client_id: to be used instead of the client's own.
        keep_alive: seconds to enforce, 0 to 65,535; 0 disables.
        session_expiry: seconds to keep the session after the connection; None: as `Limits.session_expiry`.
        owner: whose session it is; another owner cannot resume it or take it over. None: the user name.
    """

    client_id: str | None = None
    keep_alive: int | None = None
    session_expiry: float | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to a CONNECT that is not granted.

    Attributes:
        return_code: of the CONNACK, 1 to 5. Spec: §3.2.2.3
        reason: for the log.
    """

    return_code: int = 5
    reason: str = "the authenticator refused it"

    def __post_init__(self) -> None:
        if self.return_code not in (1, 2, 3, 4, 5):
            raise ValueError(f"the return code of a refusal is {self.return_code}; it must be 1 to 5")


class Access(NamedTuple):
    """What a client would do.

    Attributes:
        action: "publish" (a will too), "subscribe" or "receive".
        topic: the Topic Name; with "subscribe" the Topic Filter, without the `$share/group/` of a shared subscription:
            a group's name must not be a way around what is decided about the filter.
        qos: the one asked for.
        retain: with "publish": whether the message is to be retained; with "receive": whether it has been.
        group: with "subscribe" to a shared subscription: the name of its group; otherwise "".
    """

    action: Literal["publish", "subscribe", "receive"]
    topic: str
    qos: int
    retain: bool
    group: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an authorizer says. True and False stand for `Verdict(True)` and `Verdict(False)`.

    What is denied: a PUBLISH is acknowledged and dropped, a Topic Filter gets SUBACK 0x80, a message is not
    delivered, a CONNECT with such a will gets CONNACK 5.

    Attributes:
        allowed: whether the client may.
        max_qos: with "subscribe": the highest QoS to grant, 0 to 2.
        close: where it is denied: whether the connection ends over it. Spec: [MQTT-3.3.5-2]
        acknowledge: with "publish", where it is denied and the connection goes on: whether the client is told that
            the message was taken. Not to tell it departs from the standard, which a server that is stood in for may.
        reason: where it is denied: for the log.
        told: where the connection ends over it: the reason that the client is sent in the closing frame of its
            WebSocket, of which 123 bytes fit. Spec: RFC 6455 §5.5.1
    """

    allowed: bool
    max_qos: int = 2
    close: bool = False
    acknowledge: bool = True
    reason: str = "the authorizer denied it"
    told: str = ""


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


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one broker; see the top of the module."""

    on_upgrade: UpgradeHook | None = None
    authenticator: Authenticator | None = None
    authorizer: Authorizer | None = None
    on_connected: ConnectedHook | None = None
    on_disconnected: DisconnectedHook | None = None
    on_published: PublishedHook | None = None

    def authorize(self, peer: Peer, access: Access) -> Verdict:
        """Ask the authorizer, where there is one."""
        if self.authorizer is None:
            return ALLOWED
        verdict = self.authorizer(peer, access)
        if isinstance(verdict, Verdict):
            return verdict
        return ALLOWED if verdict is True else DENIED
