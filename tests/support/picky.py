"""A server that closes the connection on a packet that it does not accept, as AWS IoT does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from scripted import Scripted

from mqttws import (
    Disconnect,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)

Make = Callable[..., Any]


class Picky:
    """A server that closes the connection if a Topic Name or Topic Filter contains "poison".

    Attributes:
        taken: the payloads of the accepted messages, in order.
        filters: the granted Topic Filters.
        connections: the number of connections so far.
        refuses: the packet types that it checks.
    """

    def __init__(self, server: Scripted) -> None:
        self.taken: list[bytes] = []
        self.filters: list[str] = []
        self.connections = 0
        self.refuses: tuple[type, ...] = (Publish, Subscribe, Unsubscribe)
        self.stays = False  # after a DISCONNECT
        self._server = server
        self._over = threading.Event()
        self._running = server.soon(self._run)

    def opened(self, make: Make, **options: Any) -> Any:
        """Open a client that is closed at the end of the test, even if it fails."""
        client = make(self._server.url, **options)
        self._server.closing(client)
        return client.open()

    def _run(self) -> None:
        while not self._over.is_set():
            end = self._server.accept()
            self.connections += 1
            end.welcome()
            try:
                self._serve(end)
            except (AssertionError, OSError):  # the client closed
                pass
            end.cut()

    def _serve(self, end: Any) -> None:
        while True:
            packet = end.receive()
            if isinstance(packet, Publish):
                if "poison" in packet.topic and type(packet) in self.refuses:
                    return
                self.taken.append(packet.payload)
                if packet.qos:
                    end.send(PubAck(packet.packet_id) if packet.qos == 1 else PubRec(packet.packet_id))
            elif isinstance(packet, Subscribe):
                names = [name for name, _ in packet.topic_filters]
                if any("poison" in name for name in names) and type(packet) in self.refuses:
                    return
                self.filters += names
                end.send(SubAck(packet.packet_id, [qos for _, qos in packet.topic_filters]))
            elif isinstance(packet, Unsubscribe):
                if any("poison" in name for name in packet.topic_filters) and type(packet) in self.refuses:
                    return
                self.filters = [name for name in self.filters if name not in packet.topic_filters]
                end.send(UnsubAck(packet.packet_id))
            elif isinstance(packet, PubRel):
                end.send(PubComp(packet.packet_id))
            elif isinstance(packet, PingReq):
                end.send("d0 00")
            elif isinstance(packet, Disconnect):
                if not self.stays:
                    self._over.set()
                return
