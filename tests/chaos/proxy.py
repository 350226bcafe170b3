"""A failing proxy: each connection through it breaks or freezes after a number of bytes.

A broken connection is closed in order or reset, and part of the data in transit is lost. A frozen one stays open and
transfers nothing, as with a disconnected cable: only a keep alive detects it.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from types import TracebackType

#: The average number of bytes of a connection.
LIFE = 10_000
#: The proportion of connections that freeze instead of breaking.
FREEZES = 0.05


class FaultProxy:
    """A proxy on a free port of 127.0.0.1.

    Args:
        port: the target port.
        seed: the seed of its faults.

    Attributes:
        faults: the number of connections that broke or froze.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.faults = 0
        self._target = port
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._closing = False

    def __enter__(self) -> FaultProxy:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._closing = True
            sockets = [*self._sockets, self._listener]
        for each in sockets:
            _shut(each)
        for thread in self._threads:
            thread.join(10)
        for each in sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                client.close()  # the broker is down
                continue
            with self._lock:
                if self._closing:
                    client.close()
                    server.close()
                    return
                self._sockets |= {client, server}
                line = _Line(self, client, server, int(self._random.expovariate(1 / LIFE)), self._random.random())
                for source, sink in ((client, server), (server, client)):
                    thread = threading.Thread(target=line.carry, args=(source, sink))
                    self._threads.append(thread)
                    thread.start()

    def forget(self, *sockets: socket.socket) -> None:
        """Close the sockets of an ended connection."""
        with self._lock:
            for each in sockets:
                self._sockets.discard(each)
                each.close()


class _Line:
    def __init__(
        self, proxy: FaultProxy, client: socket.socket, server: socket.socket, life: int, chance: float
    ) -> None:
        self._proxy = proxy
        self._ends = (client, server)
        self._life = life
        self._frozen = False
        self._freezes = chance < FREEZES
        self._resets = chance > 0.5
        self._carriers = 2
        for each in self._ends:
            each.settimeout(None)

    def carry(self, source: socket.socket, sink: socket.socket) -> None:
        """Forward bytes in one direction until the connection ends."""
        try:
            while data := source.recv(16_384):
                if self._frozen:
                    continue
                self._life -= len(data)
                if self._life <= 0:
                    self._proxy.faults += 1
                    sink.sendall(data[: self._life])  # the bytes before the break
                    if self._freezes:
                        self._frozen = True
                        continue
                    break
                sink.sendall(data)
        except OSError:
            pass
        self._end()

    def _end(self) -> None:
        if self._resets:
            for each in self._ends:
                try:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                except OSError:
                    pass
        for each in self._ends:
            _shut(each)
        self._carriers -= 1
        if not self._carriers:
            self._proxy.forget(*self._ends)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
