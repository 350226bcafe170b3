"""Decode a stream of bytes into packets, with a limit on their size. This module is written for speed.

The reference decoder is `packets.decode`, which takes a packet's first byte and its body. This module splits a stream
into packets and has a fast path for nearly all traffic:

- `feed` processes the received data in one loop with an offset; nothing is deleted from the front of a buffer. The
  remainder is the beginning of one packet. It is kept in a bytearray, to which later data adds only the bytes that
  complete this packet. The cost is proportional to the number of bytes, not of pieces. A long payload is copied once,
  from the data (`collecting`).
- PUBLISH, the acknowledgements with one packet identifier and the packets without a body are built in the loop. Topic
  Names are cached by their bytes (`memory`), so that each is decoded and checked once. The other packets have functions
  for their bodies (`shortcuts`). If any of these finds something wrong, the reference decoder decodes the packet and
  raises the error.
- Bytes are read by index, and the whole first byte selects the packet, the most frequent first. `high * 256 + low`, and
  comparisons instead of masks, look unusual but are what the interpreter specialises. Only the low byte of a topic's
  length is read, because topics long enough to need the high byte are never cached.
- The constructor of `Publish` does not repeat the checks of the loop: the topic comes from the cache of checked topics,
  the QoS from the first byte, and the packet identifier is not 0. In pure Python the constructor is not even called:
  filling in a blank object takes half the time. The compiled constructor is faster than that.
- Messages of QoS 0 with one topic and one size often follow each other. After two of them, all that begin with the same
  bytes are taken as a run, with one comparison each. The compiled build does not do this, because there the comparison
  would be the slowest step. It compares only the bytes of the topic, which saves the look-up.

`tests/codec/test_decoder.py` checks that both decoders agree on every input.
"""

from __future__ import annotations

from mqttws.codec.collecting import Payload
from mqttws.codec.connecting import Disconnect, PingReq, PingResp
from mqttws.codec.memory import Memory
from mqttws.codec.packet import Packet
from mqttws.codec.packets import check_first_byte, clear_unused_bits, decode, holds_more_filters
from mqttws.codec.publishing import PacketIdOnly, PubAck, PubComp, Publish, PubRec, PubRel
from mqttws.codec.shortcuts import BLANK, read_body
from mqttws.codec.subscribing import UnsubAck
from mqttws.codec.topics import is_topic
from mqttws.codec.wire import MAX_REMAINING_LENGTH, decode_remaining_length, encode_remaining_length
from mqttws.errors import MalformedPacket, PacketTooLarge
from mqttws.hints import Final, i64

#: The largest packet that the standard allows, fixed header included.
MAX_PACKET_SIZE: Final = MAX_REMAINING_LENGTH + 5

#: First byte -> the packet without a body. Packets are never changed, so one object of each is enough.
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
#: The length-prefixed bytes of Topic Names in recent use -> the checked name, and these bytes, which all packets with
#: the topic share: if each kept its own, compiled decoding would take half as long again. Bounded like the encoder's.
_MEMORY: Final[Memory[bytes, tuple[str, bytes]]] = Memory(131_072, 4 * 1024 * 1024)
_TOPICS: Final[dict[bytes, tuple[str, bytes]]] = _MEMORY.table
_TOPIC_MAX_LENGTH: Final = 126
#: First bytes of SUBSCRIBE and UNSUBSCRIBE.
_WITH_FILTERS: Final = (0x82, 0xA2)
#: A shorter body is copied for the reference decoder, which is faster than making a view.
_SHORT: Final = 1024
#: From this remaining length on, an incomplete PUBLISH is kept as its head and its payload.
_LONG: Final = 32 * 1024
#: From this size on, a payload can be read into where it will stay. Shorter ones are better read several at once.
_READ_INTO: Final = 64 * 1024


class Decoder:
    """A decoder that splits a stream of bytes into packets.

    Args:
        max_packet_size: The largest accepted packet in bytes, fixed header included. A larger packet is refused as
            soon as its fixed header has arrived, before its body is buffered.

    Attributes:
        max_packet_size: The same; a change takes effect at the next call of `feed`.
        max_filters: How many Topic Filters a SUBSCRIBE or UNSUBSCRIBE may contain; None sets no limit.
        lenient: Whether to ignore bits that MQTT 3.1 does not use and MQTT 3.1.1 requires to be 0.

    Examples:
        >>> from mqttws import Decoder
        >>> decoder = Decoder()
        >>> decoder.feed(bytes.fromhex("30 05 00 01 61 68"))
        []
        >>> decoder.feed(b"i" + bytes.fromhex("d0 00"))
        [Publish(topic='a', payload=b'hi', qos=0, retain=False, dup=False, packet_id=None), PingResp()]
    """

    __slots__ = ("_fault", "_missing", "_partial", "_passing", "_payload", "lenient", "max_filters", "max_packet_size")

    def __init__(self, max_packet_size: int = MAX_PACKET_SIZE) -> None:
        self.max_packet_size = max_packet_size
        self.max_filters: int | None = None
        self.lenient = False
        self._partial = bytearray()  # the beginning of an incomplete packet
        self._payload: Payload | None = None  # what follows it, if it is the head of a long PUBLISH
        self._missing = 0  # how many more bytes are needed to continue decoding
        self._passing = 0  # how many bytes of a packet are still to be discarded; see `SkippingDecoder`
        self._fault: MalformedPacket | None = None

    @property
    def fault(self) -> MalformedPacket | None:
        """The error that ended the stream, which the next call of `feed` raises; None if there is none."""
        return self._fault

    @property
    def under_way(self) -> bool:
        """Whether a packet has arrived in part."""
        return bool(self._partial) or self._passing > 0

    @property
    def missing(self) -> int:
        """The minimum number of bytes to complete a packet or its fixed header: reading so many never reads further."""
        return self._missing if self._partial else 2

    @property
    def payload_missing(self) -> int:
        """How many bytes are missing from the payload that `payload_buffer` returns memory for; otherwise 0."""
        return self._missing if self._payload is not None and self._payload.size >= _READ_INTO else 0

    def payload_buffer(self, most: int) -> memoryview | None:
        """Return memory for the next bytes, if they belong to a payload of at least 64 KiB; otherwise None.

        Use the memory in a `with` statement, which releases it. A view that is left to the garbage collector, such as
        one in the frames of an exception's traceback, ends Python 3.12.1 with a segmentation fault, and Python 3.13
        writes a BufferError to stderr.

        Args:
            most: The maximum size of the memory, in bytes.
        """
        payload = self._payload
        return payload.space()[:most] if payload is not None and payload.size >= _READ_INTO else None

    def fill(self, count: int) -> bytes:
        """Record that bytes of the stream were written into the `payload_buffer`.

        Args:
            count: The number of bytes, 1 or more.

        Returns:
            The last of them, which is not recorded: pass it to `feed`, as the next byte of the stream.
        """
        assert self._payload is not None
        self._payload.fill(count - 1)
        self._missing -= count - 1
        return bytes(self._payload.space()[:1])

    def feed(self, data: bytes) -> list[Packet]:
        """Decode received bytes.

        Args:
            data: Any number of bytes.

        Returns:
            Every packet that `data` completes, in order. The packets before a malformed one are returned, and the next
            call raises.

        Raises:
            MalformedPacket: The first packet not yet returned is malformed. Each later call raises it again.
        """
        if self._fault is not None:
            raise self._fault
        packets: list[Packet] = []
        try:
            # First complete the packet that earlier data began. It gets only the bytes that it lacks, so the packets
            # after it are decoded where they are, without a copy.
            while self._partial and data:
                part, data = data[: self._missing], data[self._missing :]
                self._missing -= len(part)
                if self._payload is not None:
                    self._payload.add(part)
                else:
                    self._partial += part
                if not self._missing:
                    self._go_on(packets)
            if self._passing:  # inside a packet that is skipped because of its size
                passed = min(self._passing, len(data))
                self._passing -= passed
                data = data[passed:]
            if data:
                self._cut(data, packets)
        except MalformedPacket as fault:
            # The stream ends here: nothing marks where a packet begins after a malformed one. The good packets before
            # it are returned first.
            self._fault = fault
            self._partial = bytearray()
            if not packets:
                raise
        return packets

    def take_run(self, data: bytes) -> tuple[str, list[bytes]] | None:
        """Decode messages of QoS 0 without RETAIN that have one topic and one size, without making packets.

        Args:
            data: Any number of bytes.

        Returns:
            The topic and the payloads. None if `data` is anything else, or the topic is not cached, or a packet is
            incomplete: then nothing has changed, and `feed` decodes `data`.
        """
        end = len(data)
        if end < 4 or data[0] != 0x30 or self._partial or self._passing or self._fault is not None:
            return None
        size = data[1] + 2
        rest = data[3] + 4
        known = _TOPICS.get(data[2:rest])
        if known is None or not rest <= size <= self.max_packet_size or size > 129:  # 129: one byte of length
            return None
        if size == end:
            return known[0], [data[rest:]]
        if end % size:  # not all packets have this size, or the last one is incomplete
            return None
        head = data[:rest]
        payloads = []
        for start in range(0, end, size):
            if not data.startswith(head, start):
                return None
            payloads.append(data[start + rest : start + size])
        return known[0], payloads

    def _cut(self, data: bytes, packets: list[Packet]) -> None:
        """Append the packets that `data` contains, and keep the rest for the next call."""
        position: i64 = 0
        end: i64 = len(data)
        last: i64 = end - 1
        largest: i64 = self.max_packet_size
        most: i64 = largest - 2  # the largest remaining length after the shortest fixed header, of two bytes
        topics = _TOPICS  # locals: the loop reads them faster than globals and attributes
        blank = BLANK
        topic_before: str | None = None  # the topic of the last PUBLISH of QoS 0
        length_before: i64 = 0
        name_before = b""
        # A fixed header has at least two bytes, so the last byte alone cannot start a packet.
        while position < last:
            first: i64 = data[position]
            length: i64 = data[position + 1]
            start: i64 = position + 2
            # Lengths of one byte, and here of two, are read without a call: they cover packets below 16 KiB.
            if length > 127:
                if start < end and data[start] < 128:
                    length += data[start] * 128 - 128
                    start += 1
                else:
                    try:
                        header = decode_remaining_length(data, position + 1)
                    except MalformedPacket:
                        check_first_byte(first, self.lenient)  # an error in the first byte is reported first
                        raise
                    if header is None:
                        break
                    length, start = header
                if start + length - position > largest:
                    break
            # Incomplete or too large: `_keep` below waits for the rest, or refuses the packet by its fixed header.
            following: i64 = start + length
            if following > end or length > most:
                break
            # Every branch below either appends a packet and continues, or falls through to the reference decoder.
            if first < 0x40:
                if length > 2 and first >= 0x30:
                    # The bytes of the topic, with its length, are the cache's key: a hit needs no decoding and no
                    # check. If the topic is longer than the packet, the comparison of `rest` below finds out.
                    rest: i64 = start + 2 + data[start + 1]
                    name = data[start:rest]
                    if blank is None and name == name_before:
                        topic, name = topic_before, name_before
                    else:
                        known = topics.get(name)
                        if known is None:
                            known = _read_topic(name)
                        if known is None:
                            topic = None
                        else:
                            topic, name = known
                    if topic is not None:
                        if first < 0x32:
                            if rest <= following:
                                retain = first == 0x31
                                if blank is None:
                                    packets.append(Publish(topic, data[rest:following], 0, retain, False, None, name))
                                    name_before = name
                                else:
                                    packet = blank(Publish)
                                    packet._name = name
                                    packet.topic = topic
                                    packet.payload = data[rest:following]
                                    packet.qos = 0
                                    packet.retain = retain
                                    packet.dup = False
                                    packet.packet_id = None
                                    packets.append(packet)
                                # A second message with this topic and length: take the rest of the run in one go.
                                # The cache returns one object for each name, so identity is enough.
                                if topic is not topic_before:
                                    topic_before = topic
                                elif length == length_before and blank is not None:
                                    position = _take_run(data, position, rest, following, packets)
                                    continue
                                else:
                                    length_before = length
                                position = following
                                continue
                        elif rest + 2 <= following and (first == 0x32 or first == 0x34 or first in _FLAGS):
                            packet_id = data[rest] * 256 + data[rest + 1]
                            if packet_id:  # 0 is invalid [MQTT-2.3.1-1]
                                payload = data[rest + 2 : following]
                                if first == 0x32:
                                    qos = 1
                                    retain = dup = False
                                elif first == 0x34:
                                    qos = 2
                                    retain = dup = False
                                else:
                                    qos, retain, dup = _FLAGS[first]
                                if blank is None:
                                    packets.append(Publish(topic, payload, qos, retain, dup, packet_id, name))
                                else:
                                    packet = blank(Publish)
                                    packet._name = name
                                    packet.topic = topic
                                    packet.payload = payload
                                    packet.qos = qos
                                    packet.retain = retain
                                    packet.dup = dup
                                    packet.packet_id = packet_id
                                    packets.append(packet)
                                position = following
                                continue
            elif length == 2:  # PUBACK, PUBREC, PUBREL, PUBCOMP and UNSUBACK
                packet_id = data[start] * 256 + data[start + 1]
                if packet_id and (first == 0x40 or first in _ANSWERS):
                    if blank is None:
                        packets.append(_make_answer(first, packet_id))
                    else:
                        answer = blank(PubAck if first == 0x40 else _ANSWERS[first])
                        answer.packet_id = packet_id
                        packets.append(answer)
                    position = following
                    continue
            elif not length and first in _EMPTY:  # PINGREQ, PINGRESP and DISCONNECT
                packets.append(_EMPTY[first])
                position = following
                continue
            # Every other packet, and every packet with an error, which the reference decoder finds again and raises.
            found = None
            if (first < 0x30 or first > 0x3F) and not self.lenient and self.max_filters is None:
                found = read_body(first, data[start:following])
            if found is None:
                body = data[start:following] if length < _SHORT else memoryview(data)[start:following]
                found = self._decode(first, body)
            packets.append(found)
            position = following
        if position < end:
            self._keep(data[position:], packets)

    def _go_on(self, packets: list[Packet]) -> None:
        """Continue with an incomplete packet: decode it if it is complete, or keep it now that more of it is known."""
        partial, self._partial = self._partial, bytearray()
        payload, self._payload = self._payload, None
        header = decode_remaining_length(partial, 1)
        size, start = (0, 0) if header is None else (header[0] + header[1], header[1])
        if payload is not None:
            if size <= self.max_packet_size:
                head = bytes(partial[start:])  # decoded as a packet without a payload
                self._cut(bytes(partial[:1]) + encode_remaining_length(len(head)) + head, packets)
                publish = packets[-1]
                assert isinstance(publish, Publish)
                publish.payload = payload.take()
                return
            partial += payload.take()  # the maximum was lowered meanwhile
        if size == len(partial) <= self.max_packet_size:
            packets.append(self._decode(partial[0], memoryview(partial)[start:]))
        else:
            self._keep(partial, packets)

    def _keep(self, data: bytes | bytearray, packets: list[Packet]) -> None:
        """Keep the beginning of a packet, after checking its first byte and its length."""
        check_first_byte(data[0], self.lenient)
        header = decode_remaining_length(data, 1)
        if header is None:
            self._missing = 1
        else:
            length, start = header
            size = start + length
            if size > self.max_packet_size:
                raise PacketTooLarge(
                    f"a packet has {size:,} bytes; the maximum here is {self.max_packet_size:,}", "§2.2.3", size=size
                )
            self._missing = size - len(data)
            # A long PUBLISH: wait for its head alone, then collect the payload where it will stay (`collecting`).
            if length >= _LONG and data[0] >> 4 == Publish.type:
                head = publish_head(data, start)
                if len(data) < head <= size:
                    self._missing = head - len(data)
                elif head <= size:
                    self._payload = Payload(size - head)
                    self._payload.add(memoryview(data)[head:])
                    data = data[:head]
        self._partial += data

    def _decode(self, first: int, body: bytes | memoryview) -> Packet:
        """Decode a packet with its shortcut if there is one that succeeds, otherwise with the reference decoder."""
        if self.lenient:
            first, body = clear_unused_bits(first, body)
        if (
            self.max_filters is not None
            and first in _WITH_FILTERS
            and holds_more_filters(first, body, self.max_filters)
        ):
            raise MalformedPacket(
                f"a packet contains more than {self.max_filters:,} Topic Filters, the maximum here", "§5.4.8"
            )
        found = read_body(first, bytes(body)) if first < 0x30 or first > 0x3F else None  # a PUBLISH is not copied
        return decode(first, body) if found is None else found


def publish_head(data: bytes | bytearray, start: int) -> int:
    """Return the size of the head of a PUBLISH: its fixed header, Topic Name and packet identifier.

    Until both bytes of the topic's length have arrived, the result is too small, but larger than the data.

    Args:
        data: The beginning of the packet.
        start: The size of its fixed header.
    """
    return start + 2 + int.from_bytes(data[start : start + 2], "big") + (2 if data[0] & 0b0110 else 0)


def _read_topic(encoded: bytes) -> tuple[str, bytes] | None:
    """Decode and check a Topic Name that is not in the cache, and offer it to the cache.

    Args:
        encoded: The length in two bytes, of which the caller read only the low one, and the name in UTF-8.

    Returns:
        The name and `encoded`. None if it is too long for the cache or not valid; the reference decoder then decodes
        the packet.
    """
    if encoded[0] or len(encoded) > _TOPIC_MAX_LENGTH + 2:
        return None
    try:
        topic = encoded[2:].decode()
    except UnicodeDecodeError:
        return None
    if len(encoded) != encoded[1] + 2 or not is_topic(topic):
        return None
    known = topic, encoded
    _MEMORY.offer(encoded, known)
    return known


def _make_answer(first: i64, packet_id: int) -> PacketIdOnly:
    """Make an acknowledgement. In the compiled build a class is called faster by its name than by a table."""
    if first == 0x40:
        return PubAck(packet_id)
    if first == 0x50:
        return PubRec(packet_id)
    if first == 0x62:
        return PubRel(packet_id)
    if first == 0x70:
        return PubComp(packet_id)
    return UnsubAck(packet_id)


def _take_run(data: bytes, start: int, rest: int, position: int, packets: list[Packet]) -> int:
    """Append the packets that follow the last PUBLISH of `packets` and have the same fixed header and topic.

    Args:
        data: Bytes of the stream.
        start: Where that PUBLISH begins.
        rest: Where its payload begins.
        position: Where it ends.
        packets: The list to append to.

    Returns:
        The offset of the first packet that begins differently or is incomplete.
    """
    first = packets[-1]
    assert BLANK is not None
    assert isinstance(first, Publish)
    blank, name, topic, retain = BLANK, first._name, first.topic, first.retain
    head = data[start:rest]
    size = position - start
    last = len(data) - size
    while position <= last and data.startswith(head, position):
        rest += size
        packet = blank(Publish)
        packet._name = name
        packet.topic = topic
        packet.payload = data[rest : position + size]
        packet.qos = 0
        packet.retain = retain
        packet.dup = False
        packet.packet_id = None
        packets.append(packet)
        position += size
    return position
