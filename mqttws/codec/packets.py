"""The table of the fourteen control packets, and the reference decoder of one packet.

The packets are in `connecting`, `publishing` and `subscribing`, which follow the chapters of §3.
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
    """Return the class of a packet from its first byte, and check the flags.

    The flags of CONNECT are checked later: MQTT 3.1 does not fix them, and the version is in the body.

    Args:
        first: The first byte.
        lenient: Whether to accept flags that MQTT 3.1 does not use.

    Raises:
        MalformedPacket: A reserved type, or flags that the type does not allow.

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
        first: Its first byte.
        body: All that follows its fixed header.
        make_reader: Makes a reader from the body and the packet's name.

    Raises:
        MalformedPacket: It breaks a rule of the standard.
    """
    cls = check_first_byte(first)
    # The constructors check both directions and raise LocalProtocolError; here the fault is the peer's. The raise is
    # outside the handler, so that the exception has no context (mypyc does not support `from None`).
    try:
        return cls.decode(first & 0x0F, make_reader(body, cls.__name__))
    except LocalProtocolError as error:
        fault = MalformedPacket(error.message, error.statement)
    raise fault


def clear_unused_bits(first: int, body: bytes | memoryview) -> tuple[int, bytes | memoryview]:
    """Clear the bits of a packet that MQTT 3.1 does not use and MQTT 3.1.1 requires to be 0.

    These are flags of the fixed header (including DUP of SUBSCRIBE, UNSUBSCRIBE and PUBREL, which has no effect here)
    and the six bits beside each QoS in a SUBSCRIBE.

    Returns:
        The first byte and the body, as an MQTT 3.1.1 client would send them.

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
    """Return whether a SUBSCRIBE or UNSUBSCRIBE contains more than `most` Topic Filters, without decoding them."""
    behind = 1 if first >> 4 == Subscribe.type else 0
    position, count, end = 2, 0, len(body)
    while position + 1 < end and count <= most:
        position += 2 + body[position] * 256 + body[position + 1] + behind
        count += 1
    return count > most
