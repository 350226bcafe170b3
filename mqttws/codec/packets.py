"""The table of the fourteen control packets, and the way from one packet's bytes to its object.

The packets themselves stand in `connecting`, `publishing` and `subscribing`, as chapters of §3.
"""

from __future__ import annotations

from collections.abc import Callable

from mqttws.codec.connecting import ConnAck, Connect, Disconnect, PingReq, PingResp
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import PubAck, PubComp, Publish, PubRec, PubRel
from mqttws.codec.subscribing import SubAck, Subscribe, UnsubAck, Unsubscribe
from mqttws.codec.wire import Reader
from mqttws.errors import LocalProtocolError, MalformedPacket

#: Control packet type -> its class. Types 0 and 15 are reserved. Spec: §2.2.1, table 2.1
PACKETS: dict[int, type[Packet]] = {
    packet.type: packet
    for packet in (
        Connect, ConnAck, Publish, PubAck, PubRec, PubRel, PubComp,
        Subscribe, SubAck, Unsubscribe, UnsubAck, PingReq, PingResp, Disconnect,
    )
}  # fmt: skip


def check_first_byte(first: int, lenient: bool = False) -> type[Packet]:
    """Find the class of a packet by its first byte, and check its flags; those of a CONNECT depend on what is in it.

    Args:
        first: the byte.
        lenient: whether flags that MQTT 3.1 does not use may be set.

    Raises:
        MalformedPacket: a reserved type, or flags that the type does not allow.

    Spec: §2.2.1, §2.2.2, [MQTT-2.2.2-1], [MQTT-2.2.2-2]
    """
    cls = PACKETS.get(first >> 4)
    if cls is None:
        raise MalformedPacket(f"control packet type {first >> 4} is reserved", "§2.2.1")
    if not lenient and cls is not Publish and cls is not Connect and first & 0x0F != cls.flags:
        raise MalformedPacket(
            f"the flags of {cls.__name__} are {first & 0x0F:04b}; they must be {cls.flags:04b}", cls.flags_statement
        )
    return cls


def decode(
    first: int, body: bytes | memoryview, make_reader: Callable[[bytes | memoryview, str], Reader] = Reader
) -> Packet:
    """Decode one packet.

    Args:
        first: its first byte.
        body: all that follows its fixed header.
        make_reader: makes what walks over the body, from the body and the packet's name.

    Raises:
        MalformedPacket: it breaks a rule of the standard.
    """
    cls = check_first_byte(first)
    # The constructors check for both directions; here the peer is to blame. The fault is raised behind the handler, and
    # so without a chain (mypyc does not know `from None`).
    try:
        return cls.decode(first & 0x0F, make_reader(body, cls.__name__))
    except LocalProtocolError as error:
        fault = MalformedPacket(error.message, error.statement)
    raise fault


def clear_unused_bits(first: int, body: bytes | memoryview) -> tuple[int, bytes | memoryview]:
    """Clear the bits of a packet that MQTT 3.1 calls unused, and that 3.1.1 wants to be 0.

    They are flags of the fixed header (DUP of SUBSCRIBE, UNSUBSCRIBE and PUBREL among them, which means nothing here),
    and those beside the QoS in a SUBSCRIBE.

    Returns:
        The first byte and the body, as a client of 3.1.1 would send them.

    Spec: MQTT 3.1 §2.1, §3
    """
    cls = PACKETS.get(first >> 4)
    if cls is None or cls is Publish:
        return first, body
    if cls is Subscribe:
        cleared = bytearray(body)
        position = 2
        while position + 2 < len(cleared):
            position += 2 + cleared[position] * 256 + cleared[position + 1]
            if position < len(cleared):
                cleared[position] &= 0x03
            position += 1
        body = bytes(cleared)
    return first & 0xF0 | cls.flags, body


def holds_more_filters(first: int, body: bytes | memoryview, most: int) -> bool:
    """Tell whether a SUBSCRIBE or UNSUBSCRIBE holds more than so many Topic Filters, without a look at any of them."""
    behind = 1 if first >> 4 == Subscribe.type else 0
    position, count, end = 2, 0, len(body)
    while position + 1 < end and count <= most:
        position += 2 + body[position] * 256 + body[position + 1] + behind
        count += 1
    return count > most
