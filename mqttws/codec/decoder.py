"""A bounded stream of bytes -> packets. One of the two rooms written for speed.

The plain way to decode is `packets.decode`: a packet's first byte and its body. This room adds the cutting of a
stream into packets, and a shortcut for what makes up nearly all traffic:

- `feed` walks over the whole of what arrived in one loop with an offset; nothing is deleted from the front of
  a buffer. What is left over is less than one packet. It is kept in a bytearray, to which later data is
  appended, so that the cost grows with the bytes and not with the number of pieces they come in.
- PUBLISH and the four acknowledgements are built in the loop. Topic Names
  are remembered with their bytes, so that each is decoded and checked once. All else goes the plain way, and so
  does every packet in which the shortcut sees anything amiss: the plain way then finds the words for it.

`tests/codec/test_decoder.py` shows that both ways agree on every input.
"""

from __future__ import annotations

from mqttws.codec.packet import Packet
from mqttws.codec.packets import check_first_byte, decode
from mqttws.codec.publishing import PacketIdOnly, PubAck, PubComp, Publish, PubRec, PubRel
from mqttws.codec.wire import MAX_REMAINING_LENGTH, decode_remaining_length
from mqttws.errors import MalformedPacket

#: The largest packet that the standard allows, fixed header included.
MAX_PACKET_SIZE = MAX_REMAINING_LENGTH + 5

#: First byte -> the class of an acknowledgement.
_ACKS: dict[int, type[PacketIdOnly]] = {0x40: PubAck, 0x50: PubRec, 0x62: PubRel, 0x70: PubComp}
#: The length-prefixed bytes of Topic Names lately seen -> the name, checked. Bounded like the encoder's.
_TOPICS: dict[bytes, str] = {}
_TOPICS_MAX = 1024


class Decoder:
    """Cuts a stream into packets.

    Args:
        max_packet_size: bytes, fixed header included; a larger packet is refused as soon as its fixed header has
            been seen, before its body is kept.
    """

    __slots__ = ("_fault", "_max_packet_size", "_need", "_partial")

    def __init__(self, max_packet_size: int = MAX_PACKET_SIZE) -> None:
        self._max_packet_size = max_packet_size
        self._partial = bytearray()  # the beginning of a packet
        self._need = 0  # how many bytes `_partial` must hold before there is anything to do
        self._fault: MalformedPacket | None = None

    @property
    def fault(self) -> MalformedPacket | None:
        """What ended the stream: the next call of `feed` raises it. None while all is well."""
        return self._fault

    @property
    def under_way(self) -> bool:
        """Whether a packet has begun and is not all there."""
        return bool(self._partial)

    def feed(self, data: bytes) -> list[Packet]:
        """Take bytes from the peer.

        Args:
            data: as many or as few as there are.

        Returns:
            Every packet that `data` completes, in order. The packets in front of a malformed one are returned, and
            the next call raises.

        Raises:
            MalformedPacket: the stream is no MQTT from the first packet not yet returned on. So does each later call.
        """
        packets: list[Packet] = []
        try:
            if self._fault is not None:
                raise self._fault
            if not self._partial:
                self._cut(data, packets)
            else:
                self._partial += data
                if len(self._partial) >= self._need:
                    data = bytes(self._partial)
                    self._partial.clear()
                    self._cut(data, packets)
        except MalformedPacket as fault:
            self._fault = fault
            self._partial.clear()
            if not packets:
                raise
        return packets

    def _cut(self, data: bytes, packets: list[Packet]) -> None:
        """Append the packets that `data` holds, and keep the rest for the next time."""
        position = 0
        end = len(data)
        topics = _TOPICS
        while end - position >= 2:
            first = data[position]
            length = data[position + 1]
            start = position + 2
            if length > 127:
                header = decode_remaining_length(data, position + 1)
                if header is None:
                    break
                length, start = header
            following = start + length
            if following > end or following - position > self._max_packet_size:
                break
            if first & 0xF0 == 0x30 and length > 2 and first & 0x06 != 0x06:
                topic_end = start + 2 + (data[start] << 8 | data[start + 1])
                qos = first >> 1 & 3
                payload_start = topic_end + 2 if qos else topic_end
                if payload_start <= following:
                    encoded = data[start:topic_end]
                    topic = topics.get(encoded)
                    packet_id = data[topic_end] << 8 | data[topic_end + 1] if qos else None
                    if topic is not None and packet_id != 0 and (qos or first < 0x38):
                        publish = Publish.__new__(Publish)
                        publish.topic = topic
                        publish.payload = data[payload_start:following]
                        publish.qos = qos
                        publish.retain = first & 1 == 1
                        publish.dup = first & 8 == 8
                        publish.packet_id = packet_id
                        packets.append(publish)
                        position = following
                        continue
            elif length == 2 and first in _ACKS:
                packet_id = data[start] << 8 | data[start + 1]
                if packet_id:
                    ack = _ACKS[first].__new__(_ACKS[first])
                    ack.packet_id = packet_id
                    packets.append(ack)
                    position = following
                    continue
            packet = decode(first, data[start:following])
            if type(packet) is Publish:
                _remember(packet.topic)
            packets.append(packet)
            position = following
        if position < end:
            self._keep(data[position:])

    def _keep(self, data: bytes) -> None:
        """Keep the beginning of a packet, having checked what can be checked of it already."""
        check_first_byte(data[0])
        header = decode_remaining_length(data, 1)
        if header is None:
            self._need = len(data) + 1
        else:
            length, start = header
            self._need = start + length
            if self._need > self._max_packet_size:
                raise MalformedPacket(
                    f"a packet of {self._need:,} bytes is announced; at most {self._max_packet_size:,} are taken here",
                    "§2.2.3",
                )
        self._partial += data


def _remember(topic: str) -> None:
    """Remember a checked Topic Name by its bytes, unless it is long."""
    encoded = topic.encode()
    if len(encoded) <= 126:
        if len(_TOPICS) >= _TOPICS_MAX:
            _TOPICS.clear()
        _TOPICS[len(encoded).to_bytes(2, "big") + encoded] = topic
