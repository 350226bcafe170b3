"""Logging of each packet that a client sends or receives, in one line, without payloads and credentials.

`LoggedMachine` replaces the `ClientMachine` of a connection only if the log is enabled, so a disabled log has no cost.
It decodes all sent and received packets a second time.
"""

from __future__ import annotations

from collections.abc import Callable

from mqttws.codec.connecting import ConnAck, Connect
from mqttws.codec.decoder import Decoder
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import PacketIdOnly, Publish
from mqttws.codec.skipping import Oversize, SkippingDecoder
from mqttws.codec.subscribing import SubAck, Subscribe, Unsubscribe
from mqttws.errors import MalformedPacket
from mqttws.hints import Any
from mqttws.protocol.client import ClientMachine

#: The maximum number of Topic Filters or return codes in a line.
MOST = 8


class LoggedMachine(ClientMachine):
    """A `ClientMachine` that logs a line for each packet.

    Args:
        write: A function that logs a line.
        *arguments: See `ClientMachine`.
        **options: See `ClientMachine`.
    """

    __slots__ = ("_received", "_sent", "_write")

    def __init__(self, write: Callable[[str], None], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._write = write
        self._sent = Decoder()
        self._received = SkippingDecoder(self._decoder.max_packet_size)

    def receive_data(self, data: bytes, now: float) -> None:
        """See `Machine.receive_data`."""
        self._log("<-", self._received, data)
        super().receive_data(data, now)

    def payload_buffer(self, most: int) -> memoryview | None:
        """Return None: bytes that are read into the packet would not be logged."""
        return None

    def data_to_send(self, now: float) -> bytes:
        """See `Machine.data_to_send`."""
        data = super().data_to_send(now)
        self._log("->", self._sent, data)
        return data

    def may_overtake(self, now: float, qos: int = 0) -> bool:
        """Return False: a message that is sent immediately would not be logged."""
        return False

    def _log(self, direction: str, decoder: Decoder, data: bytes) -> None:
        if not data or decoder.fault is not None:
            return
        try:
            packets = decoder.feed(data)
            fault = _fault_of(decoder)  # the packets before the fault are logged first
        except MalformedPacket as error:
            packets, fault = [], error
        for packet in packets:
            self._write(f"{direction} {describe(packet)}")
        if fault is not None:
            self._write(f"{direction} malformed: {fault}")


def _fault_of(decoder: Decoder) -> MalformedPacket | None:
    return decoder.fault


def describe(packet: Packet) -> str:
    """Describe a packet in one line, without payloads, user names and passwords."""
    name = type(packet).__name__.upper()
    if isinstance(packet, Publish):
        return _describe_publish(packet, f"{len(packet.payload):,} bytes")
    if isinstance(packet, Oversize):
        return _describe_publish(packet.publish, f"a packet of {packet.size:,} bytes, skipped")
    if isinstance(packet, PacketIdOnly):
        return f"{name} id={packet.packet_id}"
    if isinstance(packet, Connect):
        return f"{name} {_describe_connect(packet)}"
    if isinstance(packet, ConnAck):
        return f"{name} return_code={packet.return_code} session_present={int(packet.session_present)}"
    if isinstance(packet, Subscribe):
        wanted = [f"{topic_filter!r} qos={qos}" for topic_filter, qos in packet.topic_filters[:MOST]]
        return f"{name} id={packet.packet_id} {_joined(wanted, len(packet.topic_filters))}"
    if isinstance(packet, Unsubscribe):
        names = [repr(topic_filter) for topic_filter in packet.topic_filters[:MOST]]
        return f"{name} id={packet.packet_id} {_joined(names, len(packet.topic_filters))}"
    if isinstance(packet, SubAck):
        codes = [str(code) for code in packet.return_codes[:MOST]]
        return f"{name} id={packet.packet_id} return_codes={_joined(codes, len(packet.return_codes))}"
    return name


def _describe_publish(packet: Publish, size: str) -> str:
    flags = f"qos={packet.qos}" + " retain" * packet.retain + " dup" * packet.dup
    identifier = "" if packet.packet_id is None else f" id={packet.packet_id}"
    return f"PUBLISH {packet.topic!r} {flags}{identifier} ({size})"


def _describe_connect(packet: Connect) -> str:
    parts = [f"client_id={packet.client_id!r}", f"keep_alive={packet.keep_alive}"]
    parts += ["clean_session"] * packet.clean_session
    if packet.will is not None:
        parts.append(f"will={packet.will.topic!r} qos={packet.will.qos}" + " retain" * packet.will.retain)
    parts += ["username"] * (packet.username is not None) + ["password"] * (packet.password is not None)
    return " ".join(parts)


def _joined(shown: list[str], count: int) -> str:
    return ", ".join(shown) + (f" and {count - MOST} more" if count > MOST else "")
