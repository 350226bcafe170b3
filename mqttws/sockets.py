"""What the drivers and the broker need of sockets and of asyncio's transports, beyond their interfaces."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

#: Seconds before the next address is tried beside the ones under way. Spec: RFC 8305 §5
ATTEMPT_DELAY = 0.25

#: Bytes asked of a socket at once; more costs more than it brings.
READ_SIZE = 64 * 1024

#: Linux has it.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def unix_address(path: str) -> tuple[socket.AddressFamily, int, object]:
    """Return a Unix socket as an address to connect to.

    Raises:
        OSError: this system has no Unix sockets.
    """
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError("this system has no Unix sockets")
    return family, 0, path


def is_address(host: str) -> bool:
    """Tell an IP address from a name."""
    return ":" in host or host.replace(".", "").isdigit()


def acknowledge_at_once(connection: Any) -> None:
    """Have the system acknowledge, on the level of TCP, what was just read, and not up to 40 ms later.

    A server that leaves Nagle's algorithm on, as Mosquitto's WebSocket listener does, keeps the next answers to itself
    until then. The system forgets the wish again and again, so that it is for each read.

    Args:
        connection: a socket, or what an event loop shows of its own; None for none.
    """
    if _QUICKACK is not None and connection is not None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        except OSError:  # no TCP, or no longer there: the next read tells
            pass


def read_less(transport: asyncio.BaseTransport) -> None:
    """Have a transport ask for no more than `READ_SIZE` at once.

    Asyncio's ask for 256 KiB. However little a read brings, so much is set aside for it, and where the allocator has to
    fetch it from the system and give it back, that takes 13 us. A TLS transport has one buffer of that size, which
    it keeps; it is left as it is.
    """
    if hasattr(transport, "max_size"):
        transport.max_size = READ_SIZE


def free(transport: asyncio.BaseTransport) -> None:
    """Break the reference cycles of a transport whose connection is lost, so that it is freed immediately.

    Before Python 3.14, asyncio's transports keep bound methods of their own: `_read_ready_cb`, and from 3.12 on also
    `_write_ready`. The garbage collector would free them, but runs rarely where little garbage is made.
    """
    attributes = getattr(transport, "__dict__", {})
    attributes.pop("_read_ready_cb", None)
    attributes.pop("_write_ready", None)
