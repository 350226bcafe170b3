"""The server's sans-IO connection. `connection` describes how a driver uses it. Clients do not import this module."""

from __future__ import annotations

from collections.abc import Iterable

from mqttws.errors import ConnectionClosed, LocalProtocolError, MQTTError
from mqttws.protocol.connection import Connection
from mqttws.protocol.handshake import Headers, ServerWebSocket
from mqttws.protocol.machine import CONNECTING, NEW
from mqttws.protocol.plain import Framing
from mqttws.protocol.server import ServerMachine
from mqttws.protocol.session import Session


class ServerConnection(Connection[ServerMachine]):
    """A server's connection.

    Args:
        machine: A new `ServerMachine`.
        framing: A new framing; with a `ServerWebSocket` the first event is `UpgradeRequested`.
        now: The current time in seconds, of any monotonic clock.
        open_timeout: Seconds within which the CONNECT must be received and answered, including the upgrade.
        close_timeout: Seconds to wait for the client during the closing handshake.
    """

    __slots__ = ("_ended",)

    def __init__(
        self,
        machine: ServerMachine,
        framing: Framing,
        now: float,
        *,
        open_timeout: float = 30.0,
        close_timeout: float = 5.0,
    ) -> None:
        self._ended: MQTTError | None = None  # a close frame that has arrived before the CONNECT was answered
        super().__init__(machine, framing, now, open_timeout=open_timeout, close_timeout=close_timeout)

    def receive_run(self, data: bytes, now: float) -> tuple[str, bytes, list[bytes]] | None:
        """Handle bytes from the client like `receive_data`, but return a run of messages instead of reporting it.

        Most reads of a server with many clients contain one small message. This is the shortest way for them.

        Args:
            data: Received bytes, divided anywhere.
            now: The current time in seconds.

        Returns:
            The topic, the packets, and their payloads if `data` consists of messages of QoS 0 without RETAIN that have
            one topic and one size, and no event is waiting. None if it was handled like any other data.
        """
        packets = self._framing.take_whole(data)
        if packets is None:
            self.receive_data(data, now)
            return None
        run = self.machine.receive_run(packets, now)
        if run is None:
            self._settle(now)
            return None
        topic, payloads = run
        return topic, packets, payloads

    def accept_upgrade(self, now: float, headers: Headers = ()) -> None:
        """Answer the upgrade request with 101.

        Args:
            now: The current time in seconds.
            headers: Additional response headers, as (name, value) pairs.

        Raises:
            LocalProtocolError: There is no request to answer, or HTTP does not allow a header.

        Spec: RFC 6455 §4.2.2
        """
        self._apply(self._websocket().accept_upgrade(headers), now)

    def reject_upgrade(self, status: int, now: float, headers: Headers = (), body: bytes = b"") -> None:
        """Answer the upgrade request with a status other than 101, and close.

        Args:
            status: 300 to 599, but not 304.
            now: The current time in seconds.
            headers: Response headers, as (name, value) pairs; Content-Length and Connection are added, and Upgrade if
                the status is 426.
            body: The body of the response.

        Raises:
            LocalProtocolError: There is no request to answer, or HTTP does not allow the status or a header.

        Spec: RFC 6455 §4.2.2
        """
        self._websocket().reject_upgrade(status, headers, body)
        self.close(ConnectionClosed(f"the upgrade was rejected with HTTP status {status}"), now)

    def accept(self, session: Session, session_present: bool, now: float, *, keep_alive: int | None = None) -> None:
        """Accept the CONNECT: send CONNACK 0 and the session's output, then handle the bytes received meanwhile.

        Args:
            session: The session to use.
            session_present: Whether it is a stored session that the client resumes.
            now: The current time in seconds.
            keep_alive: The keep alive in seconds to enforce instead of the client's; 0 disables it.

        Raises:
            LocalProtocolError: There is no CONNECT to answer, or it requests a clean session and one is present.

        Spec: [MQTT-3.1.4-4], [MQTT-3.2.0-1], [MQTT-3.2.2-1] to [MQTT-3.2.2-3]
        """
        self.machine.accept(session, session_present, now, keep_alive=keep_alive)
        if self._ended is not None:
            self.machine.close(self._ended)
        self._settle(now)

    def refuse(self, return_code: int, now: float) -> None:
        """Refuse the CONNECT: send CONNACK and close.

        Args:
            return_code: 1 to 5.
            now: The current time in seconds.

        Raises:
            LocalProtocolError: There is no CONNECT to answer, or the return code is not 1 to 5.

        Spec: [MQTT-3.1.4-5], [MQTT-3.2.2-4], [MQTT-3.2.2-5]
        """
        self.machine.refuse(return_code)
        self._settle(now)

    def suback(self, packet_id: int, return_codes: Iterable[int]) -> None:
        """Answer a SUBSCRIBE.

        Args:
            packet_id: The packet identifier of the SUBSCRIBE.
            return_codes: For each Topic Filter, in order, the granted QoS, or 0x80 for a failure.

        Raises:
            LocalProtocolError: There is no return code, or one is not 0, 1, 2 or 0x80.

        Spec: [MQTT-3.8.4-1], [MQTT-3.8.4-5]
        """
        self.machine.suback(packet_id, return_codes)

    def unsuback(self, packet_id: int) -> None:
        """Answer an UNSUBSCRIBE.

        Args:
            packet_id: The packet identifier of the UNSUBSCRIBE.

        Spec: [MQTT-3.10.4-4]
        """
        self.machine.unsuback(packet_id)

    def _websocket(self) -> ServerWebSocket:
        if not isinstance(self._framing, ServerWebSocket):
            raise LocalProtocolError("plain TCP has no upgrade", "§6")
        return self._framing

    def _on_ended(self, error: MQTTError) -> None:
        # A client may send messages, DISCONNECT and a close frame without waiting for the CONNACK. Spec: §3.1.4
        if self.machine.has_more_than_connect:
            self._ended = error
        else:
            self.machine.close(error)

    def _is_open(self) -> bool:
        return self.machine.state is not NEW and self.machine.state is not CONNECTING

    def _time_out(self) -> None:
        happened = "the client sent no CONNECT" if self.machine.state is NEW else "the CONNECT was not answered"
        self.machine.close(ConnectionClosed(f"{happened} within {self._open_timeout:.3g} s"))
