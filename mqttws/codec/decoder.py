"""A bounded stream of bytes -> packets. One of the two rooms written for speed.

The plain way to decode is `packets.decode`: a packet's first byte and its body. This room adds the cutting of a
stream into packets, and a shortcut for what makes up nearly all traffic:

- `feed` walks over the whole of what arrived in one loop with an offset; nothing is deleted from the front of
  a buffer. What is left over is the beginning of one packet. It is kept in a bytearray, which takes from later data
  what completes that packet and no more: the cost grows with the bytes and not with the number of pieces they come
  in, and a long payload is copied once, out of that bytearray or out of the data.
- PUBLISH, the acknowledgements of one packet identifier and the packets without a body are built in the loop. Topic
  Names are remembered with their bytes (`memory`), so that each is decoded and checked once. The other packets have
  functions for their bodies (`shortcuts`). A packet in which any of these sees something amiss goes the plain way,
  which finds the words for it.
- Bytes are read by index and dispatched on the whole first byte, the likeliest first. `high * 256 + low`, and
  comparisons in the place of masks, look odd and are what the interpreter specialises. Of a topic's length only the low
  byte is read: no topic is remembered whose length needs the high one.
- What the loop has checked, the constructor of `Publish` does not check again: the topic comes out of the memory of
  checked ones, the QoS out of the first byte, and the packet identifier is not 0. Pure Python does not even call it: to
  fill in a blank object takes half the time. The compiled constructor is faster than that.
- Messages of QoS 0 of one topic and one size often come one after the other. Behind two of them, all that begin with
  the very same bytes are taken as a run, with one comparison each; compiled, that comparison would take longest.

`tests/codec/test_decoder.py` shows that both ways agree on every input.
"""

from __future__ import annotations

from typing import Final

from mqttws.codec.connecting import Disconnect, PingReq, PingResp
from mqttws.codec.memory import Memory
from mqttws.codec.packet import Packet
from mqttws.codec.packets import check_first_byte, clear_unused_bits, decode, holds_more_filters
from mqttws.codec.publishing import PacketIdOnly, PubAck, PubComp, Publish, PubRec, PubRel
from mqttws.codec.shortcuts import BLANK, SHORTCUTS
from mqttws.codec.subscribing import UnsubAck
from mqttws.codec.topics import is_topic
from mqttws.codec.wire import MAX_REMAINING_LENGTH, decode_remaining_length
from mqttws.errors import MalformedPacket, PacketTooLarge

#: The largest packet that the standard allows, fixed header included.
MAX_PACKET_SIZE: Final = MAX_REMAINING_LENGTH + 5

#: First byte -> the packet that has no body. Packets are not changed once made, so that one of each does.
_EMPTY: Final[dict[int, Packet]] = {0xC0: PingReq(), 0xD0: PingResp(), 0xE0: Disconnect()}
#: First byte of a PUBLISH of QoS 1 or 2 -> QoS, RETAIN, DUP.
_FLAGS: Final[dict[int, tuple[int, bool, bool]]] = {
    0x30 | dup << 3 | qos << 1 | retain: (qos, bool(retain), bool(dup))
    for qos in (1, 2)
    for retain in (0, 1)
    for dup in (0, 1)
}
#: First byte -> the other acknowledgements.
_ANSWERS: Final[dict[int, type[PacketIdOnly]]] = {0x50: PubRec, 0x62: PubRel, 0x70: PubComp, 0xB0: UnsubAck}
#: The length-prefixed bytes of Topic Names lately seen -> the name, checked. Bounded like the encoder's.
_MEMORY: Final[Memory[bytes, str]] = Memory(16_384)
_TOPICS: Final[dict[bytes, str]] = _MEMORY.table
_TOPIC_MAX_LENGTH: Final = 126
#: First bytes of SUBSCRIBE and UNSUBSCRIBE.
_WITH_FILTERS: Final = (0x82, 0xA2)
#: A shorter body is copied for the plain way: a view takes longer to make.
_SHORT: Final = 1024


class Decoder:
    """Cuts a stream into packets.

    Args:
        max_packet_size: bytes, fixed header included; a larger packet is refused as soon as its fixed header has
            been seen, before its body is kept.

    Attributes:
        max_packet_size: the same; what is changed counts from the next call of `feed` on.
        max_filters: how many Topic Filters a SUBSCRIBE or UNSUBSCRIBE may hold; None for any number.
        lenient: whether bits that MQTT 3.1 does not use, and 3.1.1 wants to be 0, are ignored.
    """

    __slots__ = ("_fault", "_need", "_partial", "_passing", "lenient", "max_filters", "max_packet_size")

    def __init__(self, max_packet_size: int = MAX_PACKET_SIZE) -> None:
        self.max_packet_size = max_packet_size
        self.max_filters: int | None = None
        self.lenient = False
        self._partial = bytearray()  # the beginning of a packet
        self._need = 0  # how many bytes `_partial` must hold before there is anything to do
        self._passing = 0  # how many bytes of a packet are still to be passed over; see `SkippingDecoder`
        self._fault: MalformedPacket | None = None

    @property
    def fault(self) -> MalformedPacket | None:
        """What ended the stream: the next call of `feed` raises it. None while all is well."""
        return self._fault

    @property
    def under_way(self) -> bool:
        """Whether a packet has begun and is not all there."""
        return bool(self._partial) or self._passing > 0

    @property
    def missing(self) -> int:
        """How many bytes it takes at the least to complete a packet, or its fixed header: these are not of the next."""
        return self._need - len(self._partial) if self._partial else 2

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
        if self._fault is not None:
            raise self._fault
        packets: list[Packet] = []
        try:
            while self._partial and data:
                missing = self._need - len(self._partial)
                self._partial += data[:missing]
                data = data[missing:]
                if len(self._partial) == self._need:
                    self._go_on(packets)
            if self._passing:
                passed = min(self._passing, len(data))
                self._passing -= passed
                data = data[passed:]
            if data:
                self._cut(data, packets)
        except MalformedPacket as fault:
            self._fault = fault
            self._partial = bytearray()
            if not packets:
                raise
        return packets

    def _cut(self, data: bytes, packets: list[Packet]) -> None:
        """Append the packets that `data` holds, and keep the rest for the next time."""
        position = 0
        end = len(data)
        last = end - 1
        largest = self.max_packet_size
        most = largest - 2  # of what follows the shortest fixed header
        topics = _TOPICS
        blank = BLANK
        topic_before: str | None = None  # of the last PUBLISH of QoS 0
        length_before = 0
        while position < last:
            first = data[position]
            length = data[position + 1]
            start = position + 2
            if length > 127:
                if start < end and data[start] < 128:
                    length += data[start] * 128 - 128
                    start += 1
                else:
                    try:
                        header = decode_remaining_length(data, position + 1)
                    except MalformedPacket:
                        check_first_byte(first)  # what is wrong there comes first
                        raise
                    if header is None:
                        break
                    length, start = header
                if start + length - position > largest:
                    break
            following = start + length
            if following > end or length > most:
                break
            if first < 0x40:
                if length > 2 and first >= 0x30:
                    rest = start + 2 + data[start + 1]
                    topic = topics.get(data[start:rest])
                    if topic is None:
                        topic = _read_topic(data[start:rest])
                    if topic is not None:
                        if first < 0x32:
                            if rest <= following:
                                retain = first == 0x31
                                if blank is None:
                                    packets.append(Publish(topic, data[rest:following], 0, retain, False, None, True))
                                else:
                                    packet = blank(Publish)
                                    packet.topic = topic
                                    packet.payload = data[rest:following]
                                    packet.qos = 0
                                    packet.retain = retain
                                    packet.dup = False
                                    packet.packet_id = None
                                    packets.append(packet)
                                if topic is not topic_before:
                                    topic_before = topic
                                elif length == length_before and blank is not None:
                                    position = _take_run(data, position, rest, following, packets)
                                    continue
                                else:
                                    length_before = length
                                position = following
                                continue
                        elif rest + 2 <= following and (first == 0x32 or first in _FLAGS):
                            packet_id = data[rest] * 256 + data[rest + 1]
                            if packet_id:
                                payload = data[rest + 2 : following]
                                if first == 0x32:
                                    qos = 1
                                    retain = dup = False
                                else:
                                    qos, retain, dup = _FLAGS[first]
                                if blank is None:
                                    packets.append(Publish(topic, payload, qos, retain, dup, packet_id, True))
                                else:
                                    packet = blank(Publish)
                                    packet.topic = topic
                                    packet.payload = payload
                                    packet.qos = qos
                                    packet.retain = retain
                                    packet.dup = dup
                                    packet.packet_id = packet_id
                                    packets.append(packet)
                                position = following
                                continue
            elif length == 2:
                packet_id = data[start] * 256 + data[start + 1]
                if packet_id:
                    if first == 0x40:
                        if blank is None:
                            packets.append(PubAck(packet_id))
                        else:
                            answer = blank(PubAck)
                            answer.packet_id = packet_id
                            packets.append(answer)
                        position = following
                        continue
                    if first in _ANSWERS:
                        packets.append(_ANSWERS[first](packet_id))
                        position = following
                        continue
            elif not length and first in _EMPTY:
                packets.append(_EMPTY[first])
                position = following
                continue
            body = data[start:following] if length < _SHORT else memoryview(data)[start:following]
            packets.append(self._decode(first, body))
            position = following
        if position < end:
            self._keep(data[position:], packets)

    def _go_on(self, packets: list[Packet]) -> None:
        """Act on the beginning of a packet that has grown: now its length is known, or it is whole."""
        partial, self._partial = self._partial, bytearray()
        header = decode_remaining_length(partial, 1)
        if header is not None and header[0] + header[1] == len(partial) <= self.max_packet_size:
            packets.append(self._decode(partial[0], memoryview(partial)[header[1] :]))
        else:
            self._keep(partial, packets)

    def _keep(self, data: bytes | bytearray, packets: list[Packet]) -> None:
        """Keep the beginning of a packet, having checked what can be checked of it already."""
        check_first_byte(data[0], self.lenient)
        header = decode_remaining_length(data, 1)
        if header is None:
            self._need = len(data) + 1
        else:
            length, start = header
            self._need = start + length
            if self._need > self.max_packet_size:
                raise PacketTooLarge(
                    f"a packet of {self._need:,} bytes is announced; at most {self.max_packet_size:,} are taken here",
                    "§2.2.3",
                    size=self._need,
                )
        self._partial += data

    def _decode(self, first: int, body: bytes | memoryview) -> Packet:
        if self.lenient:
            first, body = clear_unused_bits(first, body)
        if (
            self.max_filters is not None
            and first in _WITH_FILTERS
            and holds_more_filters(first, body, self.max_filters)
        ):
            raise MalformedPacket(
                f"a packet holds over {self.max_filters:,} Topic Filters, more than are taken here", "§5.4.8"
            )
        return _decode(first, body)


def _decode(first: int, body: bytes | memoryview) -> Packet:
    """Decode a packet by its shortcut, or else the plain way."""
    shortcut = SHORTCUTS.get(first)
    if shortcut is not None:
        found = shortcut(bytes(body))
        if found is not None:
            return found
    return decode(first, body)


def _read_topic(encoded: bytes) -> str | None:
    """Read a Topic Name that is not remembered, and offer it to the memory.

    Args:
        encoded: its length in two bytes, of which only the low one was read, and its UTF-8 form.

    Returns:
        None where it is too long for the memory, or anything is amiss: the plain way is to decode the packet.
    """
    if encoded[0] or len(encoded) > _TOPIC_MAX_LENGTH + 2:
        return None
    try:
        topic = str(encoded[2:], "utf-8")
    except UnicodeDecodeError:
        return None
    if len(encoded) != encoded[1] + 2 or not is_topic(topic):
        return None
    _MEMORY.offer(encoded, topic)
    return topic


def _take_run(data: bytes, start: int, rest: int, position: int, packets: list[Packet]) -> int:
    """Append the packets behind a PUBLISH of QoS 0, the last of `packets`, that have its very fixed header and topic.

    Args:
        data: bytes of the stream.
        start: where that PUBLISH begins.
        rest: where its payload does.
        position: where it ends.
        packets: what is taken is appended to it.

    Returns:
        The offset of the first packet that begins otherwise, or is not all there.
    """
    first = packets[-1]
    assert BLANK is not None
    assert isinstance(first, Publish)
    blank, topic, retain = BLANK, first.topic, first.retain
    head = data[start:rest]
    size = position - start
    last = len(data) - size
    while position <= last and data.startswith(head, position):
        rest += size
        packet = blank(Publish)
        packet.topic = topic
        packet.payload = data[rest : position + size]
        packet.qos = 0
        packet.retain = retain
        packet.dup = False
        packet.packet_id = None
        packets.append(packet)
        position += size
    return position
