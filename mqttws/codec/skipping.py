"""A decoder that passes over messages that are too large, instead of ending the stream over them.

A client needs it: a server that keeps a session sends what is not acknowledged again on each connection, so that a
client which only closed the connection would never get any further. Of such a message the topic and the packet
identifier are read; its payload is never kept.
"""

from __future__ import annotations

from mqttws.codec.decoder import Decoder
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import Publish
from mqttws.codec.wire import decode_remaining_length


class Oversize(Packet):
    """A PUBLISH that is larger than `max_packet_size`.

    Args:
        publish: the PUBLISH without its payload.
        size: bytes of the whole packet.
    """

    __slots__ = ("publish", "size")

    fields = ("publish", "size")

    def __init__(self, publish: Publish, size: int) -> None:
        self.publish = publish
        self.size = size


class SkippingDecoder(Decoder):
    """A `Decoder` that gives an `Oversize` for each PUBLISH that is too large.

    Args:
        max_packet_size: see `Decoder`.
    """

    __slots__ = ()

    def _keep(self, data: bytes | bytearray, packets: list[Packet]) -> None:
        header = decode_remaining_length(data, 1)
        if data[0] >> 4 != Publish.type or header is None or header[0] + header[1] <= self.max_packet_size:
            super()._keep(data, packets)
            return
        length, start = header
        # The end of what is read of it. While the topic's length is not all there, it is less than that, and more than
        # there is. A topic that is longer than its packet is refused once the packet is there.
        end = start + 2 + int.from_bytes(data[start : start + 2], "big") + (2 if data[0] & 0b0110 else 0)
        end = min(end, start + length)
        if len(data) < end:
            self._need = end
            self._partial += data
            return
        publish = self._decode(data[0], bytes(data[start:end]))
        assert isinstance(publish, Publish)
        packets.append(Oversize(publish, start + length))
        rest = bytes(data[start + length :])
        self._passing = max(0, start + length - len(data))
        if rest:
            self._cut(rest, packets)
