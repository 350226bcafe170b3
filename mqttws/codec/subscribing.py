"""SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

Spec: §3.8 to §3.11
"""

from __future__ import annotations

from collections.abc import Iterable

from mqttws.codec.memory import Memory
from mqttws.codec.packet import Packet, check_packet_id, with_fixed_header
from mqttws.codec.publishing import PacketIdOnly, check_qos
from mqttws.codec.topics import check_topic_filter
from mqttws.codec.wire import Reader, encode_uint16
from mqttws.errors import LocalProtocolError
from mqttws.hints import Final

#: The SUBACK return code of a refused Topic Filter; 0, 1 and 2 are the QoS granted. Spec: §3.9.3
FAILURE = 0x80

_QOS: Final = (b"\0", b"\1", b"\2")
#: Checked Topic Filters in recent use -> their encoded form. Only short filters; at most about 1 MiB.
_MEMORY: Final[Memory[str, bytes]] = Memory(4_096, 128 * 1024)
_FILTERS: Final[dict[str, bytes]] = _MEMORY.table
#: The length of the longest filter in the caches of both directions, encoded.
FILTER_MAX_LENGTH: Final = 128


def encode_topic_filter(topic_filter: str) -> bytes:
    """Check and encode a Topic Filter that is not in the cache, and offer a short one to the cache.

    Raises:
        LocalProtocolError: See `check_topic_filter`.
    """
    encoded = check_topic_filter(topic_filter)
    if len(encoded) <= FILTER_MAX_LENGTH:
        _MEMORY.offer(topic_filter, encoded)
    return encoded


class Subscribe(Packet):
    """SUBSCRIBE: a client subscribes to one or more Topic Filters.

    ::

        byte 1       1000 0010
        byte 2..     remaining length
        packet id    (2)
        once or more:
          filter     length (2), UTF-8
          QoS        (1): six bits 0, two bits QoS

    Args:
        packet_id: 1 to 65,535.
        topic_filters: Pairs of a Topic Filter and the requested QoS, at least one.

    Spec: §3.8, [MQTT-3.8.1-1], [MQTT-3.8.3-1] to [MQTT-3.8.3-4]
    """

    __slots__ = ("packet_id", "topic_filters")

    type = 8
    flags = 0b0010
    flags_statement = "MQTT-3.8.1-1"
    __match_args__ = ("packet_id", "topic_filters")

    def __init__(
        self,
        packet_id: int,
        topic_filters: Iterable[tuple[str, int]],
        _checked: bool = False,  # True from the decoder's shortcut, which has made the same checks
    ) -> None:
        self.packet_id = packet_id
        self.topic_filters = tuple(topic_filters)
        if _checked:
            return
        check_packet_id(packet_id)
        if not self.topic_filters:
            raise LocalProtocolError("a Subscribe needs at least one Topic Filter", "MQTT-3.8.3-3")
        for topic_filter, qos in self.topic_filters:
            if type(topic_filter) is not str or topic_filter not in _FILTERS:
                encode_topic_filter(topic_filter)
            if type(qos) is not int or not 0 <= qos <= 2:  # checked here first: formatting the message is slow
                check_qos(qos, f"the QoS requested for {topic_filter!r}", "MQTT-3.8.3-4")

    def encode(self) -> bytes:
        """Return the whole packet, encoded."""
        parts = [encode_uint16(self.packet_id)]
        for topic_filter, qos in self.topic_filters:
            parts.append(_FILTERS.get(topic_filter) or encode_topic_filter(topic_filter))
            parts.append(_QOS[qos])
        return with_fixed_header(b"\x82", b"".join(parts))

    @classmethod
    def decode(cls, flags: int, reader: Reader) -> Subscribe:
        """Decode a SUBSCRIBE; see `Packet.decode`."""
        packet_id = reader.uint16("the packet identifier")
        topic_filters = []
        while reader:
            topic_filters.append((reader.string("a Topic Filter"), reader.uint8("the requested QoS")))
        return cls(packet_id, topic_filters)


class SubAck(Packet):
    """SUBACK: the server's answer to each Topic Filter of a SUBSCRIBE, in the same order.

    ::

        byte 1       1001 0000
        byte 2..     remaining length
        packet id    (2), as in the SUBSCRIBE
        once or more:
          code       (1): 0, 1 or 2, the QoS granted; 0x80, refused

    Args:
        packet_id: The identifier of the SUBSCRIBE, 1 to 65,535.
        return_codes: 0, 1, 2 or 0x80, one for each Topic Filter.

    Spec: §3.9, [MQTT-3.8.4-5], [MQTT-3.9.3-1], [MQTT-3.9.3-2]
    """

    __slots__ = ("packet_id", "return_codes")

    type = 9
    __match_args__ = ("packet_id", "return_codes")

    def __init__(self, packet_id: int, return_codes: Iterable[int], _checked: bool = False) -> None:
        self.packet_id = packet_id
        self.return_codes = tuple(return_codes)
        if _checked:  # see `Subscribe`
            return
        check_packet_id(packet_id)
        if not self.return_codes:
            raise LocalProtocolError("a SubAck needs at least one return code", "MQTT-3.8.4-5")
        for code in self.return_codes:
            if code not in (0, 1, 2, FAILURE):
                raise LocalProtocolError(
                    f"the SubAck return code is {code:#04x}; it must be 0, 1, 2 or 0x80", "MQTT-3.9.3-2"
                )

    def encode(self) -> bytes:
        """Return the whole packet, encoded."""
        return with_fixed_header(b"\x90", encode_uint16(self.packet_id) + bytes(self.return_codes))

    @classmethod
    def decode(cls, flags: int, reader: Reader) -> SubAck:
        """Decode a SUBACK; see `Packet.decode`."""
        return cls(reader.uint16("the packet identifier"), reader.rest("the return codes"))


class Unsubscribe(Packet):
    """UNSUBSCRIBE: a client unsubscribes from one or more Topic Filters.

    ::

        byte 1       1010 0010
        byte 2..     remaining length
        packet id    (2)
        once or more:
          filter     length (2), UTF-8

    Args:
        packet_id: 1 to 65,535.
        topic_filters: Topic Filters, at least one.

    Spec: §3.10, [MQTT-3.10.1-1], [MQTT-3.10.3-1], [MQTT-3.10.3-2]
    """

    __slots__ = ("packet_id", "topic_filters")

    type = 10
    flags = 0b0010
    flags_statement = "MQTT-3.10.1-1"
    __match_args__ = ("packet_id", "topic_filters")

    def __init__(self, packet_id: int, topic_filters: Iterable[str], _checked: bool = False) -> None:
        if isinstance(topic_filters, str):  # its characters would be taken for Topic Filters
            raise TypeError("topic_filters must be a collection of str, not a str")
        self.packet_id = packet_id
        self.topic_filters = tuple(topic_filters)
        if _checked:  # see `Subscribe`
            return
        check_packet_id(packet_id)
        if not self.topic_filters:
            raise LocalProtocolError("an Unsubscribe needs at least one Topic Filter", "MQTT-3.10.3-2")
        for topic_filter in self.topic_filters:
            if type(topic_filter) is not str or topic_filter not in _FILTERS:
                encode_topic_filter(topic_filter)

    def encode(self) -> bytes:
        """Return the whole packet, encoded."""
        parts = [encode_uint16(self.packet_id)]
        for topic_filter in self.topic_filters:
            parts.append(_FILTERS.get(topic_filter) or encode_topic_filter(topic_filter))
        return with_fixed_header(b"\xa2", b"".join(parts))

    @classmethod
    def decode(cls, flags: int, reader: Reader) -> Unsubscribe:
        """Decode an UNSUBSCRIBE; see `Packet.decode`."""
        packet_id = reader.uint16("the packet identifier")
        topic_filters = []
        while reader:
            topic_filters.append(reader.string("a Topic Filter"))
        return cls(packet_id, topic_filters)


class UnsubAck(PacketIdOnly):
    """UNSUBACK: the server has removed the subscriptions. Spec: §3.11."""

    __slots__ = ()
    type = 11
    header = b"\xb0\x02"
