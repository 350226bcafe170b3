"""mqttws without its drivers: many client connections in one process, each a socket and sans-IO objects.

    python hold_mqttws.py hold port=19001 count=10000

A selector moves the bytes. Measured is the memory of an idle connected client: its connection with framing, machine and
session, its socket, and its entry in the selector. The number of connections to 127.0.0.1 is limited by the ephemeral
ports, some 28,000, and by the limit of open files.
"""

from __future__ import annotations

import gc
import selectors
import socket
import time

from timing import main, raise_open_files, resident_kib

from mqttws import ClientConnection, ClientMachine, Connect, Session
from mqttws.protocol.client_handshake import ClientWebSocket

#: The number of simultaneous attempts; less than the backlog of a listener.
SIDE_BY_SIDE = 100
#: The number of connections before the measurement, so that one-time allocations do not count.
FIRST = 100
KEEP_ALIVE = 600


class End:
    """One client: its connection and its socket."""

    __slots__ = ("connection", "socket")

    def __init__(self, port: int, number: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))
        self.connection = ClientConnection(
            ClientMachine(Connect(f"hold-{number}", keep_alive=KEEP_ALIVE), Session()),
            ClientWebSocket(f"127.0.0.1:{port}", "/"),
            time.monotonic(),
        )

    def send(self) -> None:
        """Send pending output, which always fits into the socket's buffer."""
        data = self.connection.data_to_send(time.monotonic())
        if data:
            assert self.socket.send(data) == len(data)

    def receive(self) -> None:
        """Receive bytes, and send the answers."""
        self.connection.receive_data(self.socket.recv(65_536), time.monotonic())
        for _ in self.connection.events():
            pass
        assert not self.connection.closed, self.connection.machine.error
        self.send()


def connect(selector: selectors.BaseSelector, port: int, numbers: range) -> list[End]:
    """Open connections up to their CONNACKs, some at a time. They stay in the selector."""
    ends: list[End] = []
    for start in range(0, len(numbers), SIDE_BY_SIDE):
        some = [End(port, number) for number in numbers[start : start + SIDE_BY_SIDE]]
        for end in some:
            selector.register(end.socket, selectors.EVENT_WRITE, end)
        while not all(end.connection.connected for end in some):
            for key, events in wait(selector):
                if events & selectors.EVENT_WRITE:  # the TCP connection is established
                    selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
                    key.data.send()
                else:
                    key.data.receive()
        ends += some
    return ends


def wait(selector: selectors.BaseSelector) -> list[tuple[selectors.SelectorKey, int]]:
    """Wait for events."""
    ready = selector.select(10)
    assert ready, "nothing came for 10 s"
    return ready


def hold(port: int, count: int) -> dict[str, float]:
    """Open connections and keep them; then let each of them ping, to check that it works.

    Returns:
        KiB of resident memory for each, and connections a second.
    """
    raise_open_files()
    with selectors.DefaultSelector() as selector:
        first = connect(selector, port, range(FIRST))
        gc.collect()
        before, start = resident_kib(), time.perf_counter()
        ends = connect(selector, port, range(FIRST, FIRST + count))
        seconds = time.perf_counter() - start
        gc.collect()
        kib = (resident_kib() - before) / count
        silent = {*first, *ends}
        for end in (*first, *ends):
            deadline = end.connection.next_deadline()
            assert deadline is not None
            end.connection.handle_timeout(deadline)  # as if the deadline had passed
            end.send()
        while silent:
            for key, _ in wait(selector):
                key.data.receive()
                silent.discard(key.data)
        for end in (*first, *ends):
            end.socket.close()
    return {"kib": kib, "rate": count / seconds}


if __name__ == "__main__":
    main({"hold": hold})
