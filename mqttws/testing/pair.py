"""A clock that the test controls, and a client and a server connected in memory.

No socket is opened, no thread is started, and nothing waits. The test advances the time, and can deliver the bytes in
transit in pieces, or lose them::

    pair = Pair(Connect("c1", clean_session=False)).open()
    pair.client.publish(Message("a/b", b"x", qos=1))
    pair.run()
    assert pair.received_by_server == [...]
    pair.cut()
    pair = pair.again().open()

The server of a pair accepts the connection, grants every subscription, and acknowledges every message. For another
behaviour, set `automatic` to False and handle `pair.server_events` in the test.
"""

from __future__ import annotations

from math import inf

from mqttws.codec.connecting import Connect
from mqttws.codec.publishing import Publish
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.client_handshake import ClientWebSocket
from mqttws.protocol.connection import ClientConnection
from mqttws.protocol.events import (
    ConnectReceived,
    Event,
    SubscribeReceived,
    UnsubscribeReceived,
    UpgradeRequested,
)
from mqttws.protocol.handshake import ServerWebSocket
from mqttws.protocol.plain import Framing
from mqttws.protocol.server import ServerMachine
from mqttws.protocol.server_connection import ServerConnection
from mqttws.protocol.session import Session

__all__ = ["FakeClock", "Pair"]


def _checked(seconds: float) -> float:
    if not 0 <= seconds < inf:
        raise ValueError(f"seconds is {seconds}; it must be finite, and must not be negative, as time cannot go back")
    return seconds


class FakeClock:
    """A clock that only `advance` moves. Call the object to get the time in seconds.

    Args:
        now: The initial time in seconds.

    Attributes:
        now: The time in seconds.
    """

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the time.

        Args:
            seconds: By how many seconds: a finite number, 0 or more.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN.
        """
        self.now += _checked(seconds)


class Pair:
    """A `ClientConnection` and a `ServerConnection`, and the bytes in transit between them.

    Args:
        connect: The client's CONNECT.
        client_session: The client's session; by default a new one.
        server_session: The server's session; None: the server has no session and reports so.
        websocket: Whether to connect over a WebSocket; otherwise over plain TCP.
        clock: The clock of both; by default a new one.
        automatic: Whether the server grants and both sides acknowledge automatically.
        max_filters: See `ClientMachine`.

    Attributes:
        to_server: The bytes from the client that the server has not received yet.
        to_client: The bytes from the server that the client has not received yet.
        client_events: The events of the client, in order.
        server_events: The events of the server, in order.

    Examples:
        >>> from mqttws import Connect, Message
        >>> from mqttws.testing import Pair
        >>> pair = Pair(Connect("c1")).open()
        >>> pair.client.publish(Message("a/b", b"x", qos=1))
        1
        >>> pair.run()
        >>> pair.received_by_server
        [Publish(topic='a/b', payload=b'x', qos=1, retain=False, dup=False, packet_id=1)]
    """

    def __init__(
        self,
        connect: Connect,
        *,
        client_session: Session | None = None,
        server_session: Session | None = None,
        websocket: bool = True,
        clock: FakeClock | None = None,
        automatic: bool = True,
        max_filters: int = 100,
    ) -> None:
        self.connect = connect
        self.clock = clock or FakeClock()
        self.websocket = websocket
        self.automatic = automatic
        self.max_filters = max_filters
        self.client_session = client_session or Session()
        self.session_present = server_session is not None and not connect.clean_session
        self.server_session = server_session if server_session is not None and self.session_present else Session()
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.client_events: list[Event] = []
        self.server_events: list[Event] = []
        now = self.clock()
        self.client = ClientConnection(
            ClientMachine(connect, self.client_session, max_filters=max_filters),
            ClientWebSocket("server.example", "/mqtt") if websocket else Framing(),
            now,
        )
        self.server = ServerConnection(ServerMachine(), ServerWebSocket() if websocket else Framing(), now)
        self.collect()

    @property
    def received_by_client(self) -> list[Publish]:
        """The messages among `client_events`."""
        return [event for event in self.client_events if isinstance(event, Publish)]

    @property
    def received_by_server(self) -> list[Publish]:
        """The messages among `server_events`."""
        return [event for event in self.server_events if isinstance(event, Publish)]

    def open(self) -> Pair:
        """Complete the handshakes.

        Returns:
            The pair itself.

        Raises:
            AssertionError: Client and server are not connected.
        """
        self.run()
        if not (self.client.connected and self.server.connected):
            raise AssertionError(f"the pair did not connect: {self.client_events} {self.server_events}")
        return self

    def again(self) -> Pair:
        """Return a new connection of the same client and the same server, which keep their sessions."""
        return Pair(
            self.connect,
            client_session=self.client_session,
            server_session=self.server_session,
            websocket=self.websocket,
            clock=self.clock,
            automatic=self.automatic,
            max_filters=self.max_filters,
        )

    def collect(self) -> None:
        """Handle the events of both sides, and put their output in transit."""
        self._handle_events()
        self.to_server += self.client.data_to_send(self.clock())
        self.to_client += self.server.data_to_send(self.clock())
        self._handle_events()

    def deliver_to_server(self, count: int | None = None) -> None:
        """Deliver bytes in transit to the server.

        Args:
            count: How many bytes; None: all of them.
        """
        data = bytes(self.to_server[:count])
        del self.to_server[:count]
        if data:
            self.server.receive_data(data, self.clock())
        self.collect()

    def deliver_to_client(self, count: int | None = None) -> None:
        """Deliver bytes in transit to the client.

        Args:
            count: How many bytes; None: all of them.
        """
        data = bytes(self.to_client[:count])
        del self.to_client[:count]
        if data:
            self.client.receive_data(data, self.clock())
        self.collect()

    def run(self) -> None:
        """Deliver bytes in both directions until none are in transit."""
        self.collect()
        while self.to_server or self.to_client:
            self.deliver_to_server()
            self.deliver_to_client()

    def advance(self, seconds: float) -> None:
        """Advance the time. Deadlines of both sides are handled when they are due, and their output is delivered.

        Args:
            seconds: By how many seconds: a finite number, 0 or more.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN.
        """
        end = self.clock() + _checked(seconds)
        while (due := self._next_deadline()) <= end:
            self.clock.advance(max(0.0, due - self.clock()))
            self.client.handle_timeout(self.clock())
            self.server.handle_timeout(self.clock())
            self.run()
        self.clock.advance(end - self.clock())

    def cut(self) -> None:
        """Break the connection, and lose the bytes in transit."""
        self.client.receive_eof(self.clock())
        self.server.receive_eof(self.clock())
        self.collect()
        self.to_server.clear()
        self.to_client.clear()

    def _next_deadline(self) -> float:
        deadlines = (self.client.next_deadline(), self.server.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=inf)

    def _handle_events(self) -> None:
        for event in self.client.events():
            self.client_events.append(event)
            if self.automatic and isinstance(event, Publish):
                self.client.acknowledge(event)
        for event in self.server.events():
            self.server_events.append(event)
            if self.automatic:
                self._answer(event)

    def _answer(self, event: Event) -> None:
        """Answer an event of the server: accept, grant and acknowledge everything."""
        if isinstance(event, UpgradeRequested):
            self.server.accept_upgrade(self.clock())
        elif isinstance(event, ConnectReceived):
            self.server.accept(self.server_session, self.session_present, self.clock())
        elif isinstance(event, SubscribeReceived):
            self.server_session.subscriptions.update(event.subscribe.topic_filters)
            self.server.suback(event.subscribe.packet_id, [qos for _, qos in event.subscribe.topic_filters])
        elif isinstance(event, UnsubscribeReceived):
            for topic_filter in event.unsubscribe.topic_filters:
                self.server_session.subscriptions.pop(topic_filter, None)
            self.server.unsuback(event.unsubscribe.packet_id)
        elif isinstance(event, Publish):
            self.server.acknowledge(event)
