"""The exceptions that this package raises or reports.

The tree (each name is importable from `mqttws`)::

    MQTTError
      ProtocolError(statement)           a rule of the standard was broken
        LocalProtocolError               by the caller: raised, and nothing has changed
          IllFormedText                  a str that UTF-8 cannot encode; also a ValueError
        RemoteProtocolError              by the peer: reported as the last event
          MalformedPacket                in the bytes of one packet
            PacketTooLarge(topic, size)  the packet is larger than `max_packet_size`
      ConnectError                       an attempt to connect failed
        CertificateError                 the server's certificate cannot be trusted
        HandshakeRejected(status, headers, body)    the answer to the HTTP upgrade was not a usable 101
        ConnectionRefused(return_code)   the CONNACK refused the connection
        ConnectTimeout                   the attempt took too long
      ConnectionClosed                   an established connection ended
        ConnectionBroken                 the network ended it, for example by a reset
        KeepAliveTimeout                 the peer sent nothing within the keep alive
        SessionTakenOver                 the server reported that the client identifier connected elsewhere
        TakeoverSuspected                the server repeatedly accepts connections and closes them
        AccessDenied                     on a server: the client is not permitted to do what it requested
        LimitExceeded                    on a server: the client exceeded a limit
      SessionLost                        the server has lost a session that it should have kept
      Unsupported                        the server is known not to support this, so it was not sent
      PublishRejected(topic, size)       the connection ends each time this message is sent
      SubscribeRejected(topic_filter)    the SUBACK contained 0x80, or the server ends the connection instead
      UnsubscribeRejected(topic_filters) the server ends the connection each time this is sent
      TimedOut                           a call exceeded its timeout; also a TimeoutError
      QueueFull                          a bounded queue is full, and the caller chose not to wait
      MessageExpired                     a message waited too long to be sent
      StoreError                         the store of a durable session cannot be used
      WouldDeadlock                      a blocking wait that only the waiting thread itself could end

`ConnectTimeout` and `KeepAliveTimeout` are also built-in `TimeoutError`s, as `TimedOut` is.

A message says what was found, what was expected and what to do. No message contains a password, a token or a query
string: a signed URL is a credential.
"""

from __future__ import annotations

from collections.abc import Sequence

from mqttws.hints import Any, ClassVar, TypeVar

E = TypeVar("E", bound=BaseException)


class MQTTError(Exception):
    """The base class of all exceptions of this package."""


def to_raise(error: E) -> E:
    """Return a copy of a stored error, to raise.

    If one error is raised again and again, its traceback grows with each time, and keeps the frames of all callers and
    their arguments in memory. It may also make a reference cycle with the object that stores the error.

    Args:
        error: The stored error, which is never raised itself.

    Returns:
        The copy, with the same cause and traceback.
    """
    try:
        parts: Any = error.__reduce_ex__(4)  # as `copy.copy` does, whose import would be slow
        made: E = parts[0](*parts[1])
        if len(parts) > 2 and parts[2]:
            made.__setstate__(parts[2])
    except Exception:  # its constructor does not take its `args`
        made = type(error).__new__(type(error), *error.args)
        made.__dict__.update(error.__dict__)
    made.__cause__, made.__context__ = error.__cause__, error.__context__
    made.__suppress_context__ = error.__suppress_context__
    return made.with_traceback(error.__traceback__)


class ProtocolError(MQTTError):
    """A rule of the standard was broken.

    Attributes:
        statement: The normative statement, such as "MQTT-3.3.1-4", or the section, such as "§2.2.3", if the standard
            does not number the rule.
    """

    def __init__(self, message: str, statement: str) -> None:
        super().__init__(message, statement)
        self.message = message
        self.statement = statement

    def __str__(self) -> str:
        return f"{self.message} [{self.statement}]"


class LocalProtocolError(ProtocolError):
    """The caller requested something that the standard forbids. Nothing was sent, and no state has changed."""


class IllFormedText(LocalProtocolError, ValueError):
    """A str cannot be encoded as UTF-8: it contains a lone surrogate. Spec: [MQTT-1.5.3-1]."""


class RemoteProtocolError(ProtocolError):
    """The peer did something that the standard forbids. The Network Connection is closed."""


class MalformedPacket(RemoteProtocolError):
    """The peer's bytes are not a valid packet of MQTT 3.1.1."""


class PacketTooLarge(MalformedPacket):
    """A packet of the peer is larger than `max_packet_size`.

    Attributes:
        topic: The Topic Name of a PUBLISH, if that much of it has arrived; otherwise None.
        size: Bytes of the whole packet.
    """

    def __init__(self, message: str, statement: str, topic: str | None = None, size: int = 0) -> None:
        super().__init__(message, statement)
        self.topic = topic
        self.size = size


class ConnectError(MQTTError):
    """An attempt to connect failed: name resolution, TCP, TLS, a proxy, the handshake, or a timeout."""


class ConnectTimeout(ConnectError, TimeoutError):
    """The attempt to connect took longer than its timeout."""


class CertificateError(ConnectError):
    """The server's certificate cannot be trusted: unknown authority, wrong name, expired. Nothing was sent over it."""


class HandshakeRejected(ConnectError):
    """The answer to the WebSocket upgrade was not a usable 101.

    Attributes:
        status: The HTTP status code, 100 to 599.
        headers: (name, value) pairs as received, names in lower case.
        body: The start of the response body, at most 4,096 bytes.
        detail: What was wrong with a 101; empty for every other status.
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
    """An established connection ended, and not because this client sent DISCONNECT.

    Attributes:
        code: The WebSocket close code of the peer (1000 to 4999), or None if there was none.
        close_reason: The reason in the peer's close frame; on a server, the reason to send in its own. The message does
            not contain it, because the peer can send any text.
        fate: For the future of a message that is kept: when the message will be sent. Otherwise "".
    """

    def __init__(
        self, message: str = "the connection was closed by the peer", code: int | None = None, close_reason: str = ""
    ) -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code
        self.close_reason = close_reason
        self.fate = ""

    def __str__(self) -> str:
        text = self.message if self.code is None else f"{self.message} (WebSocket close code {self.code})"
        return f"{text}; {self.fate}" if self.fate else text


class ConnectionBroken(ConnectionClosed):
    """The network ended the connection, not the peer: a reset, an unreachable host, a TLS stream that was cut."""


class KeepAliveTimeout(ConnectionClosed, TimeoutError):
    """The peer was silent for longer than the keep alive allows.

    Spec: §3.1.2.10, [MQTT-3.1.2-24]
    """


class SessionTakenOver(ConnectionClosed):
    """The server reported that another connection with the same client identifier took over the session.

    Spec: [MQTT-3.1.4-2]
    """


class TakeoverSuspected(ConnectionClosed):
    """The server accepted several connections in a row and closed each of them cleanly within seconds.

    Another client may use the same client identifier, or the server may forbid what this client does. Neither is
    certain, so the client keeps reconnecting, with growing pauses, unless `end_on` contains this class.
    """


class AccessDenied(ConnectionClosed):
    """On a server: it closed the connection because the client is not permitted to do this. Spec: [MQTT-3.3.5-2]."""


class LimitExceeded(ConnectionClosed):
    """On a server: it closed the connection because the client exceeded a limit."""


class SessionLost(MQTTError):
    """The server no longer has the session that it should have kept (`clean_session=False`).

    Messages that the server held for this client are lost. The client sends its unacknowledged messages again and
    renews its subscriptions.
    """


class Unsupported(MQTTError):
    """The profile of the server (option `server`) states that the server does not support this. Nothing was sent."""


class PublishRejected(MQTTError):
    """The connection ends each time this message is sent.

    The server does not accept it, because it is too large or not permitted; or this process has too little memory.

    Attributes:
        topic: The Topic Name.
        size: Bytes of topic and payload.
    """

    def __init__(self, topic: str, size: int) -> None:
        super().__init__(topic, size)
        self.topic = topic
        self.size = size

    def __str__(self) -> str:
        return (
            f"the connection ended twice when the message of {self.size:,} bytes to {self.topic!r} was sent, and "
            "nothing else: the message is too large or not permitted; it will not be sent again"
        )


class SubscribeRejected(MQTTError):
    """The server refused a Topic Filter.

    Attributes:
        topic_filter: The Topic Filter that was refused.
        closes: Whether the server ended the connection because of it, instead of answering with 0x80.

    Spec: §3.9.3
    """

    def __init__(self, topic_filter: str, closes: bool = False) -> None:
        super().__init__(topic_filter, closes)
        self.topic_filter = topic_filter
        self.closes = closes

    def __str__(self) -> str:
        how = "it ended the connection twice because of it" if self.closes else "SUBACK return code 0x80"
        return f"the server rejected the subscription to {self.topic_filter!r} ({how})"


class UnsubscribeRejected(MQTTError):
    """The server ends the connection each time it receives an UNSUBSCRIBE for these Topic Filters.

    Attributes:
        topic_filters: The refused Topic Filters; their subscriptions still exist.
    """

    def __init__(self, topic_filters: tuple[str, ...]) -> None:
        super().__init__(topic_filters)
        self.topic_filters = topic_filters

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.topic_filters))
        return (
            f"the server ended the connection twice when it received the UNSUBSCRIBE for {names}, and nothing else; it "
            "will not be sent again, and the subscription stands"
        )


class TimedOut(MQTTError, TimeoutError):
    """A call exceeded its timeout."""


class QueueFull(MQTTError):
    """A bounded queue is full. Wait, raise its limit, or choose another policy."""


class MessageExpired(MQTTError):
    """A message was queued for longer than its `expire_after`. It was not sent, and will not be."""


class StoreError(MQTTError):
    """A store cannot be opened, read or written. What it should have stored was neither sent nor acknowledged."""


class WouldDeadlock(MQTTError):
    """A blocking call inside a callback could never return. Use the `_nowait` form there."""
