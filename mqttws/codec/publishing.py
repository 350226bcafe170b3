"""PUBLISH, its acknowledgements, and the Application Message.

Spec: §3.3 to §3.7
"""

from __future__ import annotations

from mqttws.codec.memory import Memory
from mqttws.codec.packet import Packet, check_packet_id, shorten
from mqttws.codec.topics import check_topic, is_topic
from mqttws.codec.wire import BYTES, LENGTHS, MAX_REMAINING_LENGTH, Reader, encode_remaining_length
from mqttws.errors import IllFormedText, LocalProtocolError, MalformedPacket
from mqttws.hints import ClassVar, Final, NoReturn, Self

#: QoS 0, for comparison by identity, which is faster than checking value and type (False equals 0). Values that are
#: equal but not identical are handled like the other QoS, where `Message` checks them.
AT_MOST_ONCE: Final = 0
#: Checked Topic Names in recent use -> their encoded form. Only short names; at most about 30 MiB.
_MEMORY: Final[Memory[str, bytes]] = Memory(131_072, 4 * 1024 * 1024)
_TOPICS: Final[dict[str, bytes]] = _MEMORY.table
_TOPIC_MAX_LENGTH: Final = 128
# The fixed header of a PUBLISH whose remaining length is less than 128, by the length of topic and payload together:
# with QoS 1 and 2 the packet identifier adds 2 to that. Only the flags of nearly all traffic have a table, because each
# one takes time when a program starts.
_PLAIN: Final[tuple[bytes, ...]] = tuple(map(BYTES[0x30].__add__, BYTES[:128]))
_RETAINED: Final[tuple[bytes, ...]] = tuple(map(BYTES[0x31].__add__, BYTES[:128]))
_QOS_1: Final[tuple[bytes, ...]] = tuple(map(BYTES[0x32].__add__, BYTES[2:128]))
_QOS_2: Final[tuple[bytes, ...]] = tuple(map(BYTES[0x34].__add__, BYTES[2:128]))


def encode_topic(topic: str) -> bytes:
    """Check and encode a Topic Name that is not in the cache, and offer a short one to the cache.

    Raises:
        LocalProtocolError: See `check_topic`.
    """
    if type(topic) is str and len(topic) <= _TOPIC_MAX_LENGTH and topic.isascii() and is_topic(topic):
        encoded = LENGTHS[len(topic)] + topic.encode()
    else:
        encoded = check_topic(topic)
    if len(encoded) <= _TOPIC_MAX_LENGTH:
        _MEMORY.offer(topic, encoded)
    return encoded


class Message:
    """An Application Message, as it is published and as a will.

    Args:
        topic: A Topic Name, 1 to 65,535 bytes of UTF-8, without wildcards.
        payload: The bytes to deliver, at most 268,435,455 including the topic and 4 more; a str is encoded as UTF-8.
        qos: 0 (at most once), 1 (at least once) or 2 (exactly once).
        retain: Whether the server keeps the message for later subscribers.

    Raises:
        LocalProtocolError: A field breaks a rule of the standard.
        TypeError: The payload is neither bytes-like nor str.

    Spec: §1.2, §3.3
    """

    __slots__ = ("payload", "qos", "retain", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes | bytearray | memoryview | str = b"",
        qos: int = 0,
        retain: bool = False,
    ) -> None:
        try:
            name = _TOPICS.get(topic)
        except TypeError:  # it is not hashable, such as a list of topics: the check has a better message
            name = None
        if name is None:
            name = encode_topic(topic)
        if type(qos) is not int or not 0 <= qos <= 2:
            check_qos(qos)
        data = payload if type(payload) is bytes else as_payload(payload)
        if len(data) > MAX_REMAINING_LENGTH - 2 - len(name):
            raise LocalProtocolError(
                f"the payload has {len(data):,} bytes; the maximum with this topic is "
                f"{MAX_REMAINING_LENGTH - 2 - len(name):,}",
                "§2.2.3",
            )
        self.topic = topic
        self.payload = data
        self.qos = qos
        self.retain = True if retain else False

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (self.topic, self.payload, self.qos, self.retain) == (
            other.topic,
            other.payload,
            other.qos,
            other.retain,
        )

    def __hash__(self) -> int:
        return hash((self.topic, self.payload, self.qos, self.retain))

    def __reduce__(self) -> tuple[object, ...]:
        return Message, (self.topic, self.payload, self.qos, self.retain)

    def __repr__(self) -> str:
        return f"Message(topic={self.topic!r}, payload={shorten(self.payload)}, qos={self.qos}, retain={self.retain})"


def check_qos(qos: int, what: str = "the QoS", statement: str = "MQTT-3.3.1-4") -> None:
    """Check a Quality of Service: 0, 1 or 2. Spec: §4.3, [MQTT-3.3.1-4]."""
    if not isinstance(qos, int) or qos not in (0, 1, 2):  # 1.0 == 1, but cannot be encoded
        raise LocalProtocolError(f"{what} is {qos!r}; it must be 0, 1 or 2", statement)


def as_payload(payload: bytes | bytearray | memoryview | str) -> bytes:
    """Return a payload as bytes; encode a str as UTF-8. Other types raise TypeError: `bytes(5)` would be a mistake."""
    if isinstance(payload, str):
        try:
            return payload.encode()
        except UnicodeEncodeError as error:
            position = error.start
        raise IllFormedText(
            f"the payload contains a lone surrogate at character {position}, which UTF-8 cannot encode", "MQTT-1.5.3-1"
        )
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(f"a payload must be bytes or str, not {type(payload).__name__}")


class Publish(Packet):
    """PUBLISH: transports an Application Message from client to server or from server to client.

    ::

        byte 1       0011 | DUP | QoS (2 bits) | RETAIN
        byte 2..     remaining length
        topic        length (2), UTF-8
        packet id    (2), only with QoS 1 or 2
        payload      the rest; may be empty

    Args:
        topic: The Topic Name.
        payload: The Application Message.
        qos: 0, 1 or 2.
        retain: To a server: keep this message. From a server: this is a retained message.
        dup: Whether the message may have been sent before; False with QoS 0.
        packet_id: 1 to 65,535 with QoS 1 and 2; None with QoS 0.

    Spec: §3.3, [MQTT-2.3.1-1], [MQTT-2.3.1-5], [MQTT-3.3.1-2], [MQTT-3.3.1-4], [MQTT-3.3.2-1], [MQTT-3.3.2-2]
    """

    __slots__ = ("_name", "dup", "packet_id", "payload", "qos", "retain", "topic")

    type = 3
    __match_args__ = ("topic", "payload", "qos", "retain", "dup", "packet_id")

    def __init__(
        self,
        topic: str,
        payload: bytes = b"",
        qos: int = 0,
        retain: bool = False,
        dup: bool = False,
        packet_id: int | None = None,
        _name: bytes | None = None,  # the encoded topic from the decoder's loop, which has made the same checks
    ) -> None:
        if _name is None:
            try:
                _name = _TOPICS.get(topic)
            except TypeError:  # see `Message`
                pass
            if _name is None:
                _name = encode_topic(topic)
                if len(_name) > _TOPIC_MAX_LENGTH:
                    _name = None  # a long one is not kept, because it takes as much memory as the topic
            if packet_id is None:
                if qos or dup:
                    _refuse(qos, dup, packet_id)
            elif packet_id < 1 or packet_id > 65_535 or (qos != 1 and qos != 2):
                _refuse(qos, dup, packet_id)
        self._name = _name
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.dup = dup
        self.packet_id = packet_id

    def encode(self) -> bytes:
        """Return the whole packet, encoded."""
        payload, packet_id = self.payload, self.packet_id
        # What the constructor has checked is not checked again, which makes a short packet a third cheaper, and the
        # encoded topic is not looked up.
        name = self._name or encode_topic(self.topic)
        length = len(name) + len(payload)
        if packet_id is None:
            if length < 128:
                return (_RETAINED if self.retain else _PLAIN)[length] + name + payload
            if length < 16_384:  # as in `encode_publish`
                first = b"\x31" if self.retain else b"\x30"
                return b"".join((first, BYTES[length & 0x7F | 0x80], BYTES[length >> 7], name, payload))
        elif length < 126 and not self.retain and not self.dup:
            header = _QOS_1[length] if self.qos == 1 else _QOS_2[length]
            return b"".join((header, name, BYTES[packet_id >> 8], BYTES[packet_id & 0xFF], payload))
        return encode_publish(self.topic, payload, self.qos, self.retain, self.dup, packet_id)

    @classmethod
    def decode(cls, flags: int, reader: Reader) -> Publish:
        """Decode a PUBLISH; see `Packet.decode`."""
        qos = flags >> 1 & 3
        if qos == 3:  # checked first, because the QoS determines the layout
            raise MalformedPacket("both QoS bits of a Publish are set", "MQTT-3.3.1-4")
        topic = reader.string("the Topic Name")
        packet_id = reader.uint16("the packet identifier") if qos else None
        return cls(topic, reader.rest("the payload"), qos, bool(flags & 1), bool(flags & 8), packet_id)


def _refuse(qos: int, dup: bool, packet_id: int | None) -> NoReturn:
    """Raise the error for these fields of a PUBLISH.

    Spec: [MQTT-2.3.1-1], [MQTT-2.3.1-5], [MQTT-3.3.1-2], [MQTT-3.3.1-4]
    """
    check_qos(qos)
    if qos:
        check_packet_id(0 if packet_id is None else packet_id)
    if dup:
        raise LocalProtocolError("DUP is set with QoS 0", "MQTT-3.3.1-2")
    raise LocalProtocolError(
        f"a Publish of QoS 0 has the packet identifier {packet_id}; it must have none", "MQTT-2.3.1-5"
    )


def encode_publish(
    topic: str,
    payload: bytes,
    qos: int = 0,
    retain: bool = False,
    dup: bool = False,
    packet_id: int | None = None,
) -> bytes:
    """Check the fields of a PUBLISH and encode it: `Publish(...).encode()` without making the object.

    Args:
        topic: The Topic Name.
        payload: The Application Message.
        qos: 0, 1 or 2.
        retain: The RETAIN flag.
        dup: The DUP flag.
        packet_id: 1 to 65,535 with QoS 1 and 2; None with QoS 0.

    Raises:
        LocalProtocolError: A field breaks a rule of the standard.
    """
    try:
        name = _TOPICS.get(topic)
    except TypeError:  # see `Message`
        name = None
    if name is None:
        name = encode_topic(topic)
    length = len(name) + len(payload)
    if packet_id is None:
        if qos or dup:
            _refuse(qos, dup, packet_id)
        if length < 128:
            return (_RETAINED if retain else _PLAIN)[length] + name + payload
        first = b"\x31" if retain else b"\x30"
        if length < 16_384:  # as in `encode_remaining_length`
            return b"".join((first, BYTES[length & 0x7F | 0x80], BYTES[length >> 7], name, payload))
        return b"".join((first, encode_remaining_length(length), name, payload))
    if packet_id < 1 or packet_id > 65_535:
        _refuse(qos, dup, packet_id)
    if qos == 1:
        headers = _QOS_1
    elif qos == 2:
        headers = _QOS_2
    else:
        _refuse(qos, dup, packet_id)
    # With `to_bytes` a packet would take 6 % less time in pure Python, but 40 % more in the compiled build.
    high, low = BYTES[packet_id >> 8], BYTES[packet_id & 0xFF]
    if length < 126 and not retain and not dup:
        return b"".join((headers[length], name, high, low, payload))
    first = BYTES[0x30 | dup << 3 | qos << 1 | retain] if retain or dup else headers[0][:1]
    length += 2
    if 127 < length < 16_384:
        return b"".join((first, BYTES[length & 0x7F | 0x80], BYTES[length >> 7], name, high, low, payload))
    return b"".join((first, encode_remaining_length(length), name, high, low, payload))


class PacketIdOnly(Packet):
    """The base class of the five packets that contain only a packet identifier.

    ::

        byte 1       type | flags
        byte 2       2
        packet id    (2)

    Args:
        packet_id: 1 to 65,535; the identifier of the packet that this one answers.

    Spec: §3.4 to §3.7, §3.11, [MQTT-2.3.1-6], [MQTT-2.3.1-7]
    """

    __slots__ = ("packet_id",)

    __match_args__: ClassVar[tuple[str, ...]] = ("packet_id",)
    #: The first two bytes.
    header: ClassVar[bytes]

    def __init__(self, packet_id: int) -> None:
        if not 0 < packet_id < 65_536:
            check_packet_id(packet_id)
        self.packet_id = packet_id

    def encode(self) -> bytes:
        """Return the whole packet, encoded."""
        return self.header + self.packet_id.to_bytes(2, "big")

    @classmethod
    def decode(cls, flags: int, reader: Reader) -> Self:
        """Decode an acknowledgement; see `Packet.decode`."""
        packet_id = reader.uint16("the packet identifier")
        reader.end()
        return cls(packet_id)


class PubAck(PacketIdOnly):
    """PUBACK: the receiver has accepted ownership of a QoS 1 message. Spec: §3.4."""

    __slots__ = ()
    type = 4
    header = b"\x40\x02"


class PubRec(PacketIdOnly):
    """PUBREC: the receiver has accepted ownership of a QoS 2 message; the first answer. Spec: §3.5."""

    __slots__ = ()
    type = 5
    header = b"\x50\x02"


class PubRel(PacketIdOnly):
    """PUBREL: the sender has received PUBREC and releases the packet identifier. Spec: §3.6, [MQTT-3.6.1-1]."""

    __slots__ = ()
    type = 6
    flags = 0b0010
    flags_statement = "MQTT-3.6.1-1"
    header = b"\x62\x02"


class PubComp(PacketIdOnly):
    """PUBCOMP: the exchange is complete and the packet identifier is free; the last answer. Spec: §3.7."""

    __slots__ = ()
    type = 7
    header = b"\x70\x02"
