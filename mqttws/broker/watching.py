"""A `ServerMachine` that passes each packet of a connection to the hook `on_packet`.

It is used only if there is such a hook, so that there is no cost without one. It decodes all received and sent packets
a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mqttws.codec.decoder import Decoder
from mqttws.codec.packet import Packet
from mqttws.errors import MalformedPacket
from mqttws.protocol.server import ServerMachine

#: A function that takes whether the broker sent a packet; and the packet, or the error if it is malformed.
Note = Callable[[bool, "Packet | MalformedPacket"], object]


class WatchedMachine(ServerMachine):
    """A `ServerMachine` that reports each packet.

    Args:
        note: A function that is called with each packet, in the order in which they are received and sent.
        **options: See `ServerMachine`.
    """

    __slots__ = ("_note", "_received", "_sent")

    def __init__(self, note: Note, **options: Any) -> None:
        super().__init__(**options)
        self._note = note
        self._sent = Decoder()
        self._received = Decoder(self._max_packet_size)
        self._received.lenient = True  # the CONNECT, which selects the rules, is not decoded yet

    def receive_data(self, data: bytes, now: float) -> None:
        """See `Machine.receive_data`."""
        self._show(False, self._received, data)
        super().receive_data(data, now)

    def receive_run(self, data: bytes, now: float) -> tuple[str, list[bytes]] | None:
        """See `ServerMachine.receive_run`: here every packet is reported, one by one."""
        self.receive_data(data, now)
        return None

    def data_to_send(self, now: float) -> bytes:
        """See `Machine.data_to_send`."""
        data = super().data_to_send(now)
        self._show(True, self._sent, data)
        return data

    def _show(self, sent: bool, decoder: Decoder, data: bytes) -> None:
        if not data or decoder.fault is not None:
            return
        packets: list[Packet] = []
        fault: MalformedPacket | None = None
        try:
            packets = decoder.feed(data)
        except MalformedPacket as error:
            fault = error
        for packet in packets:
            self._note(sent, packet)
        fault = fault or _fault_of(decoder)  # report the packets before the fault first
        if fault is not None:
            self._note(sent, fault)


def _fault_of(decoder: Decoder) -> MalformedPacket | None:
    return decoder.fault
