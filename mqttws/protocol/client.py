"""The client's protocol state machine: one connection, from CONNECT to its end.

The packets that a client may receive in each state (§3) are these. Any other packet is a protocol violation::

    connecting   ConnAck
    connected    Publish PubAck PubRec PubRel PubComp SubAck UnsubAck PingResp

The client waits for the CONNACK before it sends anything else (the standard allows more; AWS IoT does not). Then it
restores its state: the subscriptions, if the server has lost them, then unanswered requests and messages in flight.
Messages and requests are numbered in one sequence. These numbers, called tokens, fix the order in which they are sent
on every connection.

Keep alive: the client sends PINGREQ if nothing was sent, or nothing was received, for three quarters of the interval.
The former is required by §3.1.2.10; the latter detects a half-open connection even while messages are published to it.
Any byte from the server counts as activity.
"""

from __future__ import annotations

from itertools import islice

from mqttws.codec.connecting import ConnAck, Connect, Disconnect, PingReq, PingResp
from mqttws.codec.decoder import MAX_PACKET_SIZE
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import Publish, PubRel
from mqttws.codec.skipping import Oversize, SkippingDecoder
from mqttws.codec.subscribing import SubAck, UnsubAck
from mqttws.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionRefused,
    KeepAliveTimeout,
    MalformedPacket,
    MQTTError,
    PacketTooLarge,
    RemoteProtocolError,
    StoreError,
)
from mqttws.hints import TYPE_CHECKING, Final, inf
from mqttws.protocol.events import Connected, Expired, Rejected, Skipped, Subscribed, Unsubscribed
from mqttws.protocol.machine import CONNECTED, CONNECTING, DELIVERY_HANDLERS, NEW, PIECE, Machine
from mqttws.protocol.outgoing import Outgoing, size_of
from mqttws.protocol.session import Answer, Request, Session
from mqttws.protocol.suspects import is_evidence

if TYPE_CHECKING:  # imported for the options that need them
    from mqttws.protocol.pacing import Pace
    from mqttws.protocol.probing import Probing
    from mqttws.protocol.stalling import StallTimer


#: The number of packets that may wait to be sent after a read. A server that reads is owed one PUBACK or PUBREC and one
#: PUBCOMP at most for each packet identifier; one that does not must not fill the memory of the client.
MOST_UNSENT: Final = 2 * 65_535


class ClientMachine(Machine):
    """The client's state machine for one Network Connection.

    Args:
        connect: The CONNECT to send.
        session: The session, which outlives this connection. With `connect.clean_session` the server discards its
            side at the end, but unacknowledged messages are still sent again on the next connection.
        ping_timeout: Seconds to wait for any byte after a PINGREQ; None: a quarter of the keep alive and half a
            second, at most 20.
        max_packet_size: Bytes. A larger packet from the server ends the connection with `PacketTooLarge`.
        max_filters: Maximum number of Topic Filters in a SUBSCRIBE that restores subscriptions (8 at AWS IoT).
        publish_rate: PUBLISH packets per second in both directions together; see `Pace`. None: no limit.
        resend_after: Seconds after which a QoS 1 message that is not acknowledged is sent again, if the server has
            dropped it; see `Pace`. None: only on the next connection.
        ack_timeout: Seconds without any acknowledgement, while one is due, after which the server is pinged and
            `Stalled` is reported; None: never.
        reject_suspects: Whether to stop sending a message or request each time after which the server closes the
            connection; see `suspects`.
        skip_oversize: Whether a PUBLISH larger than `max_packet_size` is acknowledged and discarded, and reported as
            `Skipped`, instead of ending the connection.
    """

    __slots__ = (
        "_connect",
        "_interval",
        "_max_filters",
        "_pace",
        "_ping_sent",
        "_ping_timeout",
        "_probing",
        "_rejects",
        "_skip_oversize",
        "_stall",
    )

    HANDLERS = DELIVERY_HANDLERS | {
        (CONNECTING, ConnAck): "_on_connack",
        (CONNECTED, SubAck): "_on_suback",
        (CONNECTED, UnsubAck): "_on_unsuback",
        (CONNECTED, PingResp): "_on_pingresp",
        (CONNECTED, Oversize): "_on_oversize",
    }

    def __init__(
        self,
        connect: Connect,
        session: Session,
        *,
        ping_timeout: float | None = None,
        max_packet_size: int = MAX_PACKET_SIZE,
        max_filters: int = 100,
        publish_rate: float | None = None,
        resend_after: float | None = None,
        ack_timeout: float | None = None,
        reject_suspects: bool = False,
        skip_oversize: bool = False,
    ) -> None:
        super().__init__(max_packet_size)
        self._decoder = SkippingDecoder(max_packet_size)
        self._skip_oversize = skip_oversize
        self._rejects = reject_suspects
        self._stall: StallTimer | None = None
        if ack_timeout is not None:
            from mqttws.protocol.stalling import StallTimer

            self._stall = StallTimer(session, ack_timeout)
        self._connect = connect
        self._session = session
        self._interval = connect.keep_alive * 0.75
        self._ping_timeout = min(connect.keep_alive / 4 + 0.5, 20.0) if ping_timeout is None else ping_timeout
        self._ping_sent: float | None = None  # when the oldest unanswered PINGREQ was sent
        self._max_filters = max_filters
        self._probing: Probing | None = None  # set while suspects are sent one at a time
        self._pace: Pace | None = None
        if publish_rate is not None or resend_after is not None:
            from mqttws.protocol.pacing import Pace

            self._pace = Pace(session.sender, publish_rate, resend_after)

    def start(self, now: float) -> None:
        """Send CONNECT.

        Args:
            now: The current time in seconds.

        Raises:
            LocalProtocolError: The machine was started before.

        Spec: [MQTT-3.1.0-1]
        """
        self._check_state("start", NEW)
        self.state = CONNECTING
        self._out.append(self._connect.encode())
        self._last_received = now

    def subscribe(self, topic_filters: list[tuple[str, int]]) -> int:
        """Send SUBSCRIBE.

        Args:
            topic_filters: Pairs of a Topic Filter and the requested QoS (0 to 2), at least one.

        Returns:
            A token, which `Subscribed` contains.

        Raises:
            LocalProtocolError: A Topic Filter is not valid, or the machine is not connected.

        Spec: §3.8
        """
        self._check_state("subscribe", CONNECTED)
        return self.session.subscribe(topic_filters)

    def unsubscribe(self, topic_filters: list[str]) -> int:
        """Send UNSUBSCRIBE.

        Args:
            topic_filters: Topic Filters, at least one.

        Returns:
            A token, which `Unsubscribed` contains.

        Raises:
            LocalProtocolError: A Topic Filter is not valid, or the machine is not connected.

        Spec: §3.10
        """
        self._check_state("unsubscribe", CONNECTED)
        return self.session.unsubscribe(topic_filters)

    def may_overtake(self, now: float, qos: int = 0) -> bool:
        """Return whether a message can be sent immediately, before the queue; the caller must then send it.

        Args:
            now: The current time in seconds.
            qos: Its QoS. Messages of QoS 1 and 2 that are timed (`publish_rate`, `resend_after`, `ack_timeout`) must be
                queued.
        """
        session = self._session
        assert session is not None
        if self.state is not CONNECTED or self._out or session.requests or session.sender.waiting or self._probing:
            return False
        if qos and (self._pace is not None or self._stall is not None):
            return False
        if self._pace is not None:
            self._pace.count(now)
        self._last_sent = now
        return True

    def receive_data(self, data: bytes, now: float) -> None:
        """Handle bytes from the server; see `Machine.receive_data`."""
        before = len(self.events)
        Machine.receive_data(self, data, now)  # not `super()`, which costs as much as two calls before Python 3.12
        unsent = len(self._out) + self.session.receiver.owed
        if unsent > MOST_UNSENT:
            self.close(ConnectionClosed(f"the server does not read: {unsent:,} packets wait to be sent"))
        if self._stall is not None and self.state is CONNECTED:
            self._stall.received(now)
        if self._pace is not None:
            self._pace.count(now, sum(isinstance(event, Publish) for event in islice(self.events, before, None)))

    def data_to_send(self, now: float) -> bytes:
        """Return the next bytes to send; see `Machine.data_to_send`. Expired messages are not sent."""
        if self.state is not CONNECTED:
            return super().data_to_send(now)
        if self.session.sender.ages is not None:
            self._expire(now)
        in_flight = 0 if self._pace is None else self._pace.open(now)
        data = super().data_to_send(now)
        if self._pace is not None:
            self._pace.close(in_flight, now)
        if self._stall is not None:
            self._stall.sent(now)
        if self._probing is not None:
            self._probing.written(now)
        return data

    def _expire(self, now: float) -> None:
        """Drop the messages that have expired, and report them."""
        tokens = self.session.sender.expire(now)
        if tokens:
            self.report(Expired(tokens))

    def resume_reading(self, now: float) -> None:
        """Record that the driver has resumed reading; see `Machine.resume_reading`."""
        super().resume_reading(now)
        if self._stall is not None:  # acknowledgements that arrived during the pause are read only now
            self._stall.restart(now)

    def disconnect(self, goodbye: bool = True, queued: bool = True) -> None:
        """Send everything that may be sent now, then DISCONNECT, and close.

        Args:
            goodbye: Whether to send DISCONNECT. Without it the server publishes the Will Message.
            queued: Whether to send queued messages and requests first. Acknowledgements are sent in any case.

        Spec: §3.14, [MQTT-3.14.4-1], [MQTT-3.14.4-2], [MQTT-3.1.2-8]
        """
        if self.state is CONNECTED:
            if queued:
                self._send_ready(inf)
            elif self.session.receiver.unanswered:
                self._send_answers()
            if goodbye:
                self._send(Disconnect())
        self.close()

    def next_deadline(self) -> float | None:
        """Return the time by which `handle_timeout` must be called; see `Machine.next_deadline`."""
        if self.state is not CONNECTED:
            return None
        deadline = self._keep_alive_at()
        sender = self.session.sender
        if sender.ages is not None:
            deadline = _earlier(deadline, sender.next_expiry)
        if self._stall is not None and self._reading:
            deadline = _earlier(deadline, self._stall.deadline)
        if self._pace is not None:
            deadline = _earlier(deadline, self._pace.next_deadline())
        if self._probing is not None:
            deadline = _earlier(deadline, self._probing.late_at)
        return deadline

    def _keep_alive_at(self) -> float | None:
        """Return the time at which to ping the server or to close the connection; None if there is none."""
        if not self._interval:
            return self._dead_at(self._ping_sent) if self._ping_sent is not None and self._reading else None
        ping_at = self._last_sent + self._interval
        if not self._reading:
            return ping_at
        if self._ping_sent is None:
            return min(ping_at, self._last_received + self._interval)
        return min(ping_at, self._dead_at(self._ping_sent))

    def handle_timeout(self, now: float) -> None:
        """Send overdue messages again; send a ping, or close the connection.

        Args:
            now: The current time in seconds.

        Spec: §3.1.2.10, [MQTT-3.1.2-23]
        """
        if self.state is not CONNECTED:
            return
        if self._pace is not None:
            packets, asks = self._pace.overdue(now)
            self._out += packets
            if asks:
                self._send_ping()  # without a timeout: a busy server may answer as late as the keep alive allows
        if self._probing is not None:
            self._probing.expire(now)
        if self.session.sender.ages is not None:
            self._expire(now)
        stalled = self._stall.expire(now) if self._stall is not None and self._reading else None
        if stalled is not None:
            self.report(stalled)
            self._ping(now)
        deadline = self._keep_alive_at()
        if deadline is None or now < deadline:
            return
        # While reading is paused, a PINGRESP may have arrived without being read, so silence proves nothing.
        if self._reading and self._ping_sent is not None and now >= self._dead_at(self._ping_sent):
            silence = now - self._last_received
            self.close(KeepAliveTimeout(f"the server has been silent for {silence:.1f} s and has not answered a ping"))
            return
        self._ping(now)

    def _send_ping(self) -> None:
        self._send(PingReq())
        if self._pace is not None:
            self._pace.pinged()

    def _ping(self, now: float) -> None:
        self._send_ping()
        if self._ping_sent is None:
            self._ping_sent = now

    def _dead_at(self, ping_sent: float) -> float:
        return max(ping_sent, self._last_received) + self._ping_timeout

    def close(self, error: MQTTError | None = None) -> None:
        """End the connection; see `Machine.close`.

        The end may identify a message or request that the server does not accept.
        """
        if self._rejects and self.state is CONNECTED and is_evidence(error):
            probing = self._probing
            alone, is_late = (None, False) if probing is None else (probing.alone, probing.is_late)
            if self.session.suspects.note_end(self.session.unanswered(), alone, is_late):
                assert probing is not None
                assert probing.sent is not None
                self._give_up(*probing.sent)
        super().close(error)

    def _give_up(self, packet_id: int, sent: Outgoing | Request) -> None:
        """Stop sending a message or request that the server does not accept, and report that."""
        session = self.session
        if isinstance(sent, Request):
            self._note_answer(session.reject(packet_id))
        else:
            session.sender.reject(packet_id)
            token, topic, payload = sent[:3]
            self.report(Rejected(token, topic, size_of(topic, payload)))
        if session.store is not None:
            try:
                session.store.commit()
            except StoreError:  # the connection ends anyway; a later process will find out the same
                pass

    def _send_probe(self, probing: Probing) -> bool:
        """Send the next suspect. Return False if there are no more."""
        packet = probing.next()
        if packet is not None:
            self._out.append(packet)
            assert probing.sent is not None
            packet_id, sent = probing.sent
            if self._pace is not None and not isinstance(sent, Request):
                self._pace.alone(packet_id, sent)
        elif probing.over:
            self._probing = None
            self.session.suspects.clear()
            return False
        return True

    def _send_ready(self, space: float = PIECE) -> None:
        """See `Machine._send_ready`. Send requests too, in token order with the messages."""
        session = self._session
        assert session is not None
        if self._probing is not None and self._send_probe(self._probing):
            self._send_answers()
            return
        # Requests and messages share one sequence of tokens: send the messages before each request first, so that a
        # program's SUBSCRIBE and PUBLISH are sent in the order of its calls.
        while session.requests and space > 0:
            token = session.requests[0].token
            if token is not None and session.sender.waiting:
                space = self._send_messages(space, before=token)
                following = session.sender.first_waiting
                if following is not None and following < token:
                    break  # an earlier message needs an identifier, or the next piece
            if not self._send_request():
                break
        if session.requests:  # no message may overtake the remaining requests; only acknowledgements are sent
            space = 0.0
        super()._send_ready(space)

    def _send_requests(self, before: int) -> None:
        """See `Machine._send_requests`."""
        requests = self.session.requests
        while requests and (requests[0].token or 0) < before and self._send_request():
            pass

    def _send_request(self) -> bool:
        """Send the next request. Return False if no packet identifier is free."""
        ready = self.session.next_request()
        if ready is None:
            return False
        packet_id, request = ready
        self._send(request.packet(packet_id))
        return True

    @staticmethod
    def violation(state: str, packet: Packet) -> RemoteProtocolError:
        """Return the error for a packet that the server must not send in a state; see `Machine.violation`."""
        name = type(packet).__name__
        if state is NEW:
            return RemoteProtocolError(f"the server sent {name} before there was a CONNECT", "MQTT-3.1.0-1")
        if state is CONNECTING:
            return RemoteProtocolError(f"the server's first packet is {name}; it must be ConnAck", "MQTT-3.2.0-1")
        if type(packet) is ConnAck:
            return RemoteProtocolError("the server sent ConnAck twice", "§3.2")
        return RemoteProtocolError(f"the server sent {name}, which only a client may send", "§2.2.1")

    def _eof_error(self) -> MQTTError | None:
        if self.state is CONNECTED:
            return super()._eof_error()
        if self.state is CONNECTING:
            return ConnectError("the server closed the connection before it answered the CONNECT")
        return ConnectError(
            "the server closed the connection before it answered the upgrade to a WebSocket; "
            "if this port serves MQTT without WebSocket, the URL must begin with mqtt:// or mqtts://"
        )

    def _remote_fault(self, error: RemoteProtocolError, data: bytes) -> None:
        # One byte decides, so that the error does not depend on how the stream is divided:
        # "H" is the first byte of a PUBACK with flags that it must not have.
        if self.state is CONNECTING and data.startswith(b"H") and error.statement == "MQTT-2.2.2-2":
            error = MalformedPacket(
                "the server's answer to the CONNECT begins with 'H', as a response of HTTP does; "
                "if this port serves MQTT over WebSocket, the URL must begin with ws:// or wss://",
                error.statement,
            )
        self.close(error)

    def _on_connack(self, packet: ConnAck, now: float) -> None:
        if packet.return_code:
            self.close(ConnectionRefused(packet.return_code))
            return
        if packet.session_present and self._connect.clean_session:
            raise RemoteProtocolError("session present is set, although a clean session was requested", "MQTT-3.2.2-1")
        self.state = CONNECTED
        self.report(Connected(packet.session_present))
        self.session.restore(packet.session_present, self._max_filters)
        if not self.session.is_cautious:
            self._send_requests(1)  # the subscriptions that the server has lost
        self._resume(self.session, packet.session_present)
        if self._probing is not None:
            self._ping(now)
        elif self._pace is not None:
            self._pace.resumed(now)

    def _send_again(self, packets: list[tuple[int, PubRel | Publish]]) -> None:
        """See `Machine._send_again`."""
        if not self.session.is_cautious:
            super()._send_again(packets)
            return
        super()._send_again([(0, packet) for _, packet in packets if isinstance(packet, PubRel)])
        resends = [(token, packet) for token, packet in packets if isinstance(packet, Publish)]
        from mqttws.protocol.probing import Probing

        self._probing = Probing(self.session, resends)

    def _on_oversize(self, packet: Oversize, now: float) -> None:
        publish = packet.publish
        if not self._skip_oversize:
            message = f"a message of {packet.size:,} bytes came to {publish.topic!r}, which exceeds max_packet_size"
            raise PacketTooLarge(message, "§2.2.3", publish.topic, packet.size)
        if publish.packet_id is not None:
            if not self.session.receiver.receive(publish, publish.packet_id):
                return  # a duplicate
            self.session.receiver.acknowledge(publish)
        self.report(Skipped(publish.topic, packet.size))

    def _on_suback(self, packet: SubAck, now: float) -> None:
        self._answered(self.session.suback(packet.packet_id, packet.return_codes))

    def _on_unsuback(self, packet: UnsubAck, now: float) -> None:
        self._answered(self.session.unsuback(packet.packet_id))

    def _answered(self, answer: Answer | None) -> None:
        """Commit the change before it is reported: no output follows that would cause a commit."""
        store = self.session.store
        if answer is not None and (store is None or self._commit(store)):
            self._note_answer(answer)

    def _note_answer(self, answer: Answer) -> None:
        """Report the answer to a request once all its parts are answered."""
        request, return_codes = answer
        if not return_codes:
            return
        if request.token is None or request.subscribe:
            self.report(Subscribed(request.token, return_codes))
        else:
            self.report(Unsubscribed(request.token, return_codes))

    def _on_pingresp(self, packet: PingResp, now: float) -> None:
        if self._probing is not None and not self._probing.proven:
            assert self._ping_sent is not None  # it was sent after the CONNACK
            self._probing.prove(now - self._ping_sent)
        self._ping_sent = None
        if self._pace is not None:
            self._pace.answered(now)


def _earlier(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two times; None means never."""
    return one if other is None else other if one is None else min(one, other)
