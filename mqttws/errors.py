"""Every error that this package raises or reports.

The tree (each name is importable from `mqttws`)::

    MQTTError
      ProtocolError(statement)           a rule of the standard was broken
        LocalProtocolError               by the caller: raised, and nothing has changed
          IllFormedText                  a str that has no UTF-8 form; also a ValueError
        RemoteProtocolError              by the peer: reported as the last event
          MalformedPacket                in the bytes of one packet
            PacketTooLarge(topic, size)  it is larger than `max_packet_size`
      ConnectError                       an attempt to connect failed
        CertificateError                 the server's certificate cannot be trusted
        HandshakeRejected(status, headers, body)    the HTTP upgrade was answered by something else than 101
        ConnectionRefused(return_code)   the CONNACK carried a refusal
        ConnectTimeout                   the attempt took too long
      ConnectionClosed                   an established connection ended
        ConnectionBroken                 the network ended it: a reset, for example
        KeepAliveTimeout                 the peer fell silent
        SessionTakenOver                 the same client identifier connected elsewhere, said the server
        TakeoverSuspected                the server accepts connections and closes them, again and again
        AccessDenied                     a server: the client asked for what it may not do
        LimitExceeded                    a server: the client went beyond a bound
      SessionLost                        the server no longer had a session that it was to keep
      PublishRejected(topic, size)       the server ends the connection each time this message is sent
      SubscribeRejected(topic_filter)    the SUBACK carried 0x80, or the server ends the connection instead
      TimedOut                           a call took longer than its time-out; also a TimeoutError
      QueueFull                          a bounded queue is full, and the caller chose not to wait
      StoreError                         the store of a durable session cannot be used
      WouldDeadlock                      a wait that only the waiting thread itself could end

`ConnectTimeout` and `KeepAliveTimeout` are also built-in `TimeoutError`s, as `TimedOut` is.

A message says what was seen, what was expected and what to do. None ever holds a password, a token or a
query string: a signed URL is a credential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class MQTTError(Exception):
    """The root of the tree: catch this to catch everything of ours."""


class ProtocolError(MQTTError):
    """A rule of the standard was broken.

    Attributes:
        statement: the normative statement, such as "MQTT-3.3.1-4"; a section, such as "§2.2.3", where
            the standard has given the rule no number.
    """

    def __init__(self, message: str, statement: str) -> None:
        super().__init__(message, statement)
        self.message = message
        self.statement = statement

    def __str__(self) -> str:
        return f"{self.message} [{self.statement}]"


class LocalProtocolError(ProtocolError):
    """The caller asked for something that the standard forbids. Nothing was sent and nothing has changed."""


class IllFormedText(LocalProtocolError, ValueError):
    """A str has no UTF-8 form: it holds a lone surrogate. Spec: [MQTT-1.5.3-1]."""


class RemoteProtocolError(ProtocolError):
    """The peer did something that the standard forbids. The Network Connection is closed."""


class MalformedPacket(RemoteProtocolError):
    """The peer's bytes are no packet of MQTT 3.1.1."""


class PacketTooLarge(MalformedPacket):
    """A packet of the peer is larger than `max_packet_size`.

    Attributes:
        topic: the Topic Name of a PUBLISH, where its beginning has arrived; None for another packet.
        size: bytes of the whole packet.
    """

    def __init__(self, message: str, statement: str, topic: str | None = None, size: int = 0) -> None:
        super().__init__(message, statement)
        self.topic = topic
        self.size = size


class ConnectError(MQTTError):
    """An attempt to connect failed: name resolution, TCP, TLS, a proxy, the handshake, or a time-out."""


class ConnectTimeout(ConnectError, TimeoutError):
    """The attempt to connect took longer than it may."""


class CertificateError(ConnectError):
    """The server's certificate cannot be trusted: unknown authority, wrong name, expired. Nothing was sent."""


class HandshakeRejected(ConnectError):
    """The WebSocket upgrade was answered, but not by a usable 101.

    Attributes:
        status: the HTTP status code, 100 to 599.
        headers: (name, value) pairs as received, names in lower case.
        body: the start of the response body, at most 4,096 bytes.
    """

    def __init__(
        self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b"", detail: str = ""
    ) -> None:
        super().__init__(status, tuple(headers), body, detail)
        self.status = status
        self.headers = tuple(headers)
        self.body = body
        self.detail = detail

    def __str__(self) -> str:
        return f"the WebSocket handshake was rejected with HTTP status {self.status}" + (
            f": {self.detail}" if self.detail else ""
        )

    def __repr__(self) -> str:
        return f"HandshakeRejected(status={self.status}, detail={self.detail!r})"


class ConnectionRefused(ConnectError):
    """The server answered CONNECT with a refusal.

    Attributes:
        return_code: 1 to 5, as in table 3.1 of the standard.

    Spec: §3.2.2.3
    """

    MEANINGS: ClassVar[dict[int, str]] = {
        1: "unacceptable protocol version",
        2: "client identifier rejected",
        3: "server unavailable",
        4: "bad user name or password",
        5: "not authorized",
    }

    def __init__(self, return_code: int) -> None:
        super().__init__(return_code)
        self.return_code = return_code

    def __str__(self) -> str:
        return f"the server refused the connection: {self.MEANINGS[self.return_code]} (return code {self.return_code})"


class ConnectionClosed(MQTTError):
    """An established connection ended without a DISCONNECT of ours.

    Attributes:
        code: the WebSocket close code of the peer (1000 to 4999), or None where there was none.
        said: the reason in the closing frame of the peer; at a server, the one to be sent in its own. It is not in the
            message: a peer may say anything.
    """

    def __init__(
        self, message: str = "the connection was closed by the peer", code: int | None = None, said: str = ""
    ) -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code
        self.said = said

    def __str__(self) -> str:
        return self.message if self.code is None else f"{self.message} (WebSocket close code {self.code})"


class ConnectionBroken(ConnectionClosed):
    """The network ended the connection, not the peer: a reset, an unreachable host, a TLS stream that was cut."""


class KeepAliveTimeout(ConnectionClosed, TimeoutError):
    """The peer was silent for longer than the keep alive allows.

    Spec: §3.1.2.10, [MQTT-3.1.2-24]
    """


class SessionTakenOver(ConnectionClosed):
    """Another connection with the same client identifier took the session over, as the server itself has said.

    Spec: [MQTT-3.1.4-2]
    """


class TakeoverSuspected(ConnectionClosed):
    """The server accepted several connections in a row and closed each in order within seconds.

    Another client may use the same client identifier, or the server may forbid what this client does. It is no proof:
    the client goes on with growing pauses, unless `end_on` names this class.
    """


class AccessDenied(ConnectionClosed):
    """At a server: the client was cut off because it may not do what it asked for. Spec: [MQTT-3.3.5-2]."""


class LimitExceeded(ConnectionClosed):
    """At a server: the client was cut off because it went beyond a bound."""


class SessionLost(MQTTError):
    """The server no longer had the session that it was to keep (`clean_session=False`).

    Messages that it held for this client are gone. What this client has not had acknowledged is sent again, and the
    subscriptions are made again.
    """


class PublishRejected(MQTTError):
    """The server ends the connection each time it receives this message: it is too large for it, or not allowed.

    Attributes:
        topic: the Topic Name.
        size: bytes of topic and payload.
    """

    def __init__(self, topic: str, size: int) -> None:
        super().__init__(topic, size)
        self.topic = topic
        self.size = size

    def __str__(self) -> str:
        return (
            f"the server ended the connection twice when it received the message of {self.size:,} bytes to "
            f"{self.topic!r}, and nothing else: it is too large, or not allowed; it will not be sent again"
        )


class SubscribeRejected(MQTTError):
    """The server refused a Topic Filter.

    Attributes:
        topic_filter: the Topic Filter that was refused.
        closes: whether the server ended the connection over it, instead of answering with 0x80.

    Spec: §3.9.3
    """

    def __init__(self, topic_filter: str, closes: bool = False) -> None:
        super().__init__(topic_filter, closes)
        self.topic_filter = topic_filter
        self.closes = closes

    def __str__(self) -> str:
        how = "it ended the connection over it twice" if self.closes else "SUBACK return code 0x80"
        return f"the server rejected the subscription to {self.topic_filter!r} ({how})"


class TimedOut(MQTTError, TimeoutError):
    """A call took longer than its time-out."""


class QueueFull(MQTTError):
    """A bounded queue is full. Wait, raise its bound, or choose another policy."""


class StoreError(MQTTError):
    """A store cannot be opened, read or written. What it was to keep has not been sent, and nobody was told it was."""


class WouldDeadlock(MQTTError):
    """A blocking call inside a callback could never end. Use the `_nowait` form there."""
