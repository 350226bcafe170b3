"""The server's protocol state machine: one connection, from CONNECT to its end.

The packets that a server may receive in each state are these. Any other packet is a protocol violation::

    new          Connect
    connecting   (held until the server has accepted or refused)
    connected    Publish PubAck PubRec PubRel PubComp Subscribe Unsubscribe PingReq Disconnect

The machine enforces the rules of one connection. All decisions are made by the broker: whether a client may connect,
which session it resumes, which QoS a subscription is granted, and where messages are delivered. It calls `accept` or
`refuse`, `suback`, `unsuback` and `acknowledge`.
"""

from __future__ import annotations

from collections.abc import Iterable

from mqttws.codec.connecting import ConnAck, Connect, Disconnect, PingReq, PingResp, UnsupportedLevel
from mqttws.codec.decoder import MAX_PACKET_SIZE
from mqttws.codec.packet import Packet
from mqttws.codec.packets import check_first_byte
from mqttws.codec.subscribing import FAILURE, SubAck, Subscribe, UnsubAck, Unsubscribe
from mqttws.errors import (
    ConnectionRefused,
    KeepAliveTimeout,
    LimitExceeded,
    LocalProtocolError,
    MalformedPacket,
    RemoteProtocolError,
)
from mqttws.hints import inf
from mqttws.protocol.events import ConnectReceived, SubscribeReceived, UnsubscribeReceived
from mqttws.protocol.machine import CONNECTED, CONNECTING, DELIVERY_HANDLERS, NEW, Machine
from mqttws.protocol.session import Session

#: How many bytes a client may send after its CONNECT before the CONNACK. Spec: §3.1.4
MAX_AHEAD = 128 * 1024
#: Errors in a CONNECT that must be answered: the violated statement -> the CONNACK return code.
REFUSALS = {"MQTT-3.1.2-2": 1, "MQTT-3.1.3-8": 2}
#: The CONNACK of MQTT 5 with "Unsupported Protocol Version" and no properties. A client of MQTT 5 could not decode
#: that of 3.1.1. Spec: MQTT 5.0 §3.1.2.2, §3.2
_CONNACK_5 = b"\x20\x03\x00\x84\x00"
_PINGRESP = PingResp().encode()
#: Replaces the CONNECT once it is answered, so that its password does not stay in memory.
_NO_CONNECT = Connect()


class ServerMachine(Machine):
    """The server's state machine for one Network Connection.

    Args:
        max_packet_size: Bytes. A larger packet from the client ends the connection.
        max_connect_size: Bytes. A larger CONNECT ends the connection; None: `max_packet_size` applies.
        max_filters: The maximum number of Topic Filters in a SUBSCRIBE or UNSUBSCRIBE; None for no limit.
        packet_timeout: Maximum seconds from the first byte of a packet to its last, for a connected client; None for
            no limit. Without one, a client could stay within its keep alive by sending a single packet very slowly.

    Attributes:
        keep_alive: The keep alive to enforce, in seconds; 0 for none.
        packet_begun: When the first byte of an incomplete packet arrived; None if there is none.
    """

    __slots__ = (
        "_ahead",
        "_connect",
        "_max_packet_size",
        "_packet_timeout",
        "keep_alive",
        "packet_begun",
    )

    HANDLERS = DELIVERY_HANDLERS | {
        (NEW, Connect): "_on_connect",
        (CONNECTED, Subscribe): "_on_subscribe",
        (CONNECTED, Unsubscribe): "_on_unsubscribe",
        (CONNECTED, PingReq): "_on_pingreq",
        (CONNECTED, Disconnect): "_on_disconnect",
    }

    def __init__(
        self,
        *,
        max_packet_size: int = MAX_PACKET_SIZE,
        max_connect_size: int | None = None,
        max_filters: int | None = None,
        packet_timeout: float | None = None,
    ) -> None:
        super().__init__(max_packet_size if max_connect_size is None else max_connect_size)
        self._decoder.max_filters = max_filters
        self._max_packet_size = max_packet_size
        self._packet_timeout = packet_timeout
        self._connect = _NO_CONNECT  # the CONNECT, while it is not answered
        self._ahead: bytearray | None = None  # bytes after the CONNECT, while it is not answered
        self.packet_begun: float | None = None
        self.keep_alive = 0

    def receive_data(self, data: bytes, now: float) -> None:
        """Handle bytes from the client; see `Machine.receive_data`."""
        if self.state is not CONNECTED:
            self._receive_opening(data, now)
            return
        super().receive_data(data, now)
        if not self._decoder.under_way:
            self.packet_begun = None
        elif self.packet_begun is None:
            self.packet_begun = now

    def receive_run(self, data: bytes, now: float) -> tuple[str, list[bytes]] | None:
        """Handle bytes from the client like `receive_data`, but return a run of messages instead of reporting it.

        Args:
            data: Received bytes, divided anywhere.
            now: The current time in seconds.

        Returns:
            The topic and the payloads if `data` consists of messages of QoS 0 without RETAIN that have one topic and
            one size, and no event is waiting. None if it was handled like any other data.
        """
        if self.state is CONNECTED and not self.events:
            run = self._decoder.take_run(data)
            if run is not None:
                self._last_received = now
                return run
        self.receive_data(data, now)
        return None

    def _receive_opening(self, data: bytes, now: float) -> None:
        """Decode only the CONNECT: other limits apply to the bytes after it, which are kept until it is answered."""
        while data and self.state is NEW:
            missing = self._decoder.missing
            super().receive_data(data[:missing], now)
            data = data[missing:]
        if self.state is CONNECTING and data:
            ahead = self._ahead
            if ahead is None:
                ahead = self._ahead = bytearray()
            ahead += data
            try:
                check_first_byte(ahead[0], self._decoder.lenient)  # reject garbage without waiting
            except MalformedPacket as error:
                self._ahead = None
                self.close(error)
            if len(ahead) > MAX_AHEAD:
                self._ahead = None
                self.close(LimitExceeded(f"the client sent over {MAX_AHEAD:,} bytes before it was accepted"))

    @property
    def has_more_than_connect(self) -> bool:
        """Whether bytes after the CONNECT wait until it is answered."""
        return self.state is CONNECTING and self._ahead is not None

    def resume_reading(self, now: float) -> None:
        """Record that the driver has resumed reading; see `Machine.resume_reading`."""
        super().resume_reading(now)
        if self.packet_begun is not None:
            self.packet_begun = now

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
        self._check_state("accept", CONNECTING)
        if session_present and self._connect.clean_session:
            raise LocalProtocolError("session present must not be set for a clean session", "MQTT-3.2.2-1")
        self.keep_alive = self._connect.keep_alive if keep_alive is None else keep_alive
        self.state = CONNECTED
        # In MQTT 3.1 the session present flag is reserved.
        self._out.append(ConnAck(0, session_present and self._connect.protocol_level > 3).encode())
        self._resume(session, session_present)
        self._last_received = now
        self._connect = _NO_CONNECT
        self._decoder.max_packet_size = self._max_packet_size
        if self._ahead is not None:
            ahead, self._ahead = bytes(self._ahead), None
            self.receive_data(ahead, now)

    def refuse(self, return_code: int) -> None:
        """Refuse the CONNECT: send CONNACK and close. Bytes received meanwhile are dropped.

        Args:
            return_code: 1 to 5.

        Raises:
            LocalProtocolError: There is no CONNECT to answer, or the return code is not 1 to 5.

        Spec: [MQTT-3.1.4-5], [MQTT-3.2.2-4], [MQTT-3.2.2-5]
        """
        self._check_state("refuse", CONNECTING)
        if return_code == 0:
            raise LocalProtocolError("the return code of a refusal is 0; it must be 1 to 5", "§3.2.2.3")
        self._out.append(ConnAck(return_code).encode())
        self._connect = _NO_CONNECT
        self._ahead = None
        self.close(ConnectionRefused(return_code))

    def send_encoded(self, packets: bytes, in_turn: bool) -> None:
        """Send encoded PUBLISH packets of QoS 0. A server encodes a message once for all its subscribers.

        Args:
            packets: One or more whole packets.
            in_turn: Whether to send queued messages that may be sent now before them.
        """
        if self.state is CONNECTED:
            assert self._session is not None
            if in_turn and self._session.sender.queue:
                self._send_ready()
            self._out.append(packets)

    def suback(self, packet_id: int, return_codes: Iterable[int]) -> None:
        """Answer a SUBSCRIBE.

        Args:
            packet_id: The packet identifier of the SUBSCRIBE.
            return_codes: For each Topic Filter, in order, the granted QoS, or 0x80 for a failure. MQTT 3.1 has no
                return code for a failure: a client of that version gets 0 instead.

        Spec: [MQTT-3.8.4-1], [MQTT-3.8.4-5]; MQTT 3.1 §3.8
        """
        if self._decoder.lenient:  # MQTT 3.1
            return_codes = [0 if code == FAILURE else code for code in return_codes]
        self._send(SubAck(packet_id, return_codes))

    def unsuback(self, packet_id: int) -> None:
        """Answer an UNSUBSCRIBE.

        Args:
            packet_id: The packet identifier of the UNSUBSCRIBE.

        Spec: [MQTT-3.10.4-4]
        """
        self._send(UnsubAck(packet_id))

    def next_deadline(self) -> float | None:
        """Return the time by which `handle_timeout` must be called; see `Machine.next_deadline`."""
        if self.state is not CONNECTED or not self._reading:
            return None
        deadline = min(self._silent_at(), self._late_at())
        return None if deadline == inf else deadline

    def handle_timeout(self, now: float) -> None:
        """Close the connection if the client is silent, or sends a packet too slowly.

        Args:
            now: The current time in seconds.

        Spec: [MQTT-3.1.2-24]
        """
        if self.state is not CONNECTED or not self._reading:
            return
        if now >= self._silent_at():
            self.close(KeepAliveTimeout(f"the client was silent for 1.5 times its keep alive of {self.keep_alive} s"))
        elif now >= self._late_at():
            self.close(LimitExceeded(f"a packet was not complete {self._packet_timeout:g} s after its first byte"))

    def _silent_at(self) -> float:
        return self._last_received + self.keep_alive * 1.5 if self.keep_alive else inf

    def _late_at(self) -> float:
        if self.packet_begun is None or self._packet_timeout is None:
            return inf
        return self.packet_begun + self._packet_timeout

    def _receive_packets(self, packets: list[Packet], now: float) -> None:
        if packets:  # a packet that is incomplete now began with this data
            self.packet_begun = None
        super()._receive_packets(packets, now)

    @staticmethod
    def violation(state: str, packet: Packet) -> RemoteProtocolError:
        """Return the error for a packet that the client must not send in a state; see `Machine.violation`."""
        name = type(packet).__name__
        if state is NEW:
            return RemoteProtocolError(f"the client's first packet is {name}; it must be Connect", "MQTT-3.1.0-1")
        if type(packet) is Connect:
            return RemoteProtocolError("the client sent Connect twice", "MQTT-3.1.0-2")
        return RemoteProtocolError(f"the client sent {name}, which only a server may send", "§2.2.1")

    def _remote_fault(self, error: RemoteProtocolError, data: bytes) -> None:
        if self.state is NEW and isinstance(error, UnsupportedLevel) and error.level == 5:
            self._out.append(_CONNACK_5)
        elif self.state is NEW and error.statement in REFUSALS:
            self._out.append(ConnAck(REFUSALS[error.statement]).encode())
        self.close(error)

    def _on_connect(self, packet: Connect, now: float) -> None:
        if packet.protocol_level == 3 and not packet.client_id:
            raise RemoteProtocolError("MQTT 3.1 has no empty client identifiers", "MQTT-3.1.3-8")
        self.state = CONNECTING
        self._connect = packet
        self._decoder.lenient = packet.protocol_level == 3
        self.report(ConnectReceived(packet))

    def _on_subscribe(self, packet: Subscribe, now: float) -> None:
        self.report(SubscribeReceived(packet))

    def _on_unsubscribe(self, packet: Unsubscribe, now: float) -> None:
        self.report(UnsubscribeReceived(packet))

    def _on_pingreq(self, packet: PingReq, now: float) -> None:
        self._out.append(_PINGRESP)

    def _on_disconnect(self, packet: Disconnect, now: float) -> None:
        self.close()
