"""The wait of the network thread for its sockets: by `select.poll`, or by `select.select` where there is no `poll`.

A client has two sockets, and a few more while it connects. For so few, `selectors` is slower: its epoll object costs a
file descriptor, and a system call for each change. It also delays a program's first message by its imports.
"""

from __future__ import annotations

import select

from mqttws.hints import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

READ: int = getattr(select, "POLLIN", 1)
WRITE: int = getattr(select, "POLLOUT", 4)


class Poller:
    """The watched sockets. Only one thread at a time uses this object."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._poll: Any = getattr(select, "poll", _Select)()

    def watch(self, connection: socket.socket, events: int) -> None:
        """Set what a socket is watched for. Unwatch a socket before it is closed.

        Args:
            connection: The socket.
            events: `READ`, `WRITE`, or both; 0: it is watched no longer.
        """
        number = connection.fileno()
        if events:
            self._poll.register(number, events)
            self._sockets[number] = connection
        else:
            self._poll.unregister(number)
            del self._sockets[number]

    @property
    def watched(self) -> list[socket.socket]:
        """The watched sockets."""
        return list(self._sockets.values())

    def wait(self, seconds: float | None) -> list[socket.socket]:
        """Wait until a socket is ready, or broken.

        Args:
            seconds: The longest wait; None: no limit.

        Returns:
            The sockets that are ready.
        """
        sockets = self._sockets
        return [sockets[number] for number, _ in self._poll.poll(None if seconds is None else seconds * 1e3)]


class _Select:
    """A substitute for `select.poll`, for Windows."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    def register(self, number: int, events: int) -> None:
        self._events[number] = events

    def unregister(self, number: int) -> None:
        del self._events[number]

    def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
        reading = [number for number, events in self._events.items() if events & READ]
        writing = [number for number, events in self._events.items() if events & WRITE]
        seconds = None if milliseconds is None else milliseconds / 1e3
        # Windows reports a connection that has failed as an exceptional condition.
        ready = select.select(reading, writing, writing, seconds)
        return [(number, 0) for number in set().union(*ready)]
