"""A decoder that skips messages that are too large, instead of failing.

A client needs this: a server that keeps the session resends an unacknowledged message on every connection, so a client
that only closed the connection would receive it again and again. The decoder reads the topic and the packet identifier
of such a message and discards its payload as it arrives.
"""

from __future__ import annotations

from mqttws.codec.decoder import Decoder, publish_head
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import Publish
from mqttws.codec.wire import decode_remaining_length


class Oversize(Packet):
    """A PUBLISH that is larger than `max_packet_size`.

    Args:
        publish: The PUBLISH without its payload.
        size: Bytes of the whole packet.
    """

    __slots__ = ("publish", "size")

    __match_args__ = ("publish", "size")

    def __init__(self, publish: Publish, size: int) -> None:
        self.publish = publish
        self.size = size


class SkippingDecoder(Decoder):
    """A `Decoder` that returns an `Oversize` for each PUBLISH that is too large.

    Args:
        max_packet_size: See `Decoder`.
    """

    __slots__ = ()

    def _keep(self, data: bytes | bytearray, packets: list[Packet]) -> None:
        header = decode_remaining_length(data, 1)
        if data[0] >> 4 != Publish.type or header is None or header[0] + header[1] <= self.max_packet_size:
            super()._keep(data, packets)
            return
        length, start = header
        # The offset up to which the packet is decoded. A topic longer than its packet is refused once the packet is
        # complete.
        end = min(publish_head(data, start), start + length)
        if len(data) < end:
            self._missing = end - len(data)
            self._partial += data
            return
        publish = self._decode(data[0], bytes(data[start:end]))
        assert isinstance(publish, Publish)
        packets.append(Oversize(publish, start + length))
        rest = bytes(data[start + length :])
        self._passing = max(0, start + length - len(data))
        if rest:
            self._cut(rest, packets)
