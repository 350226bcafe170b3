"""Helpers for sockets and for asyncio's transports, shared by the drivers and the broker."""

from __future__ import annotations

import _socket
import sys

from mqttws.hints import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import socket

#: Seconds after which the next address is tried in parallel. Spec: RFC 8305 §5
ATTEMPT_DELAY = 0.25

#: The size of one read in bytes; a larger one costs more than it saves, except within a long message.
READ_SIZE = 64 * 1024
LONG_READ_SIZE = 256 * 1024
#: The size of a read of which a long message is expected to be the beginning.
READ_HEAD = 8 * 1024

#: Only Linux has this option.
_QUICKACK: int | None = getattr(_socket, "TCP_QUICKACK", None)


def socket_module() -> Any:
    """Return the module `socket` if the program has imported it; otherwise `_socket`, the part of it written in C.

    `socket` adds what a client does not need, and imports `enum` and `selectors` for it, which would delay a program's
    first message. A program that replaces functions of `socket`, to look up names itself for example, has imported it.
    """
    if "socket" in sys.modules:
        import socket  # waits if another thread is importing it right now

        return socket
    return _socket


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two sockets that are connected to each other, and do not block."""
    module = socket_module()
    if not hasattr(module, "socketpair"):  # on Windows it is written in Python
        import socket as module
    first, second = module.socketpair()
    first.setblocking(False)
    second.setblocking(False)
    return first, second


def close(connection: socket.socket) -> None:
    """Close a socket. Do nothing if the program has closed its file descriptor, by `os.closerange` for example."""
    try:
        connection.close()
    except OSError:
        pass


def unix_address(path: str) -> tuple[int, int, object]:
    """Return the address of a Unix socket: family, protocol and path.

    Raises:
        OSError: This system has no Unix sockets.
    """
    family = getattr(_socket, "AF_UNIX", None)
    if family is None:
        raise OSError("this system has no Unix sockets")
    return family, 0, path


def is_address(host: str) -> bool:
    """Return whether `host` is an IP address, not a name."""
    return ":" in host or host.replace(".", "").isdigit()


def acknowledge_at_once(connection: Any) -> None:
    """Make TCP acknowledge the data just read immediately, instead of up to 40 ms later.

    A server with Nagle's algorithm enabled, such as Mosquitto's WebSocket listener, holds back its next answers until
    the acknowledgement. The system resets the option, so it is set after each read.

    Args:
        connection: A socket, or the socket object of an asyncio transport; None does nothing.
    """
    if _QUICKACK is not None and connection is not None:
        try:
            connection.setsockopt(_socket.IPPROTO_TCP, _QUICKACK, 1)
        except OSError:  # not TCP, or closed: the next read reports it
            pass


def read_size(missing: int, encrypted: bool, before: int) -> int:
    """Return the size of the next read in bytes.

    A long message is read up to its end, and not further, so that its payload is copied once at most. Another one often
    follows. So the read after it is short: it takes the head of the next message, and little of its payload. Over TLS
    the sizes of what is read and what is decrypted differ.

    Args:
        missing: How many bytes are missing from a long message of which a part has arrived; 0 if there is none.
        encrypted: Whether the bytes are those of TLS.
        before: The size of the last read, as returned by this function.
    """
    if encrypted:
        return LONG_READ_SIZE if missing >= LONG_READ_SIZE else READ_SIZE
    if missing >= READ_SIZE // 2:
        return min(missing, LONG_READ_SIZE)
    return READ_SIZE if before in (READ_SIZE, READ_HEAD) else READ_HEAD


def limit_reads(transport: asyncio.BaseTransport, size: int = READ_SIZE) -> None:
    """Limit each read of a transport to a number of bytes.

    asyncio reads up to 256 KiB and allocates that much for every read, however little arrives. If the allocator has to
    get the memory from the system and return it, this takes 13 us. A TLS transport reuses one buffer of that size and
    is left unchanged.
    """
    if hasattr(transport, "max_size"):
        transport.max_size = size


def free(transport: asyncio.BaseTransport) -> None:
    """Break the reference cycles of a transport whose connection is lost, so that it is freed immediately.

    Before Python 3.14, asyncio's transports hold references to their bound methods: `_read_ready_cb`, and from 3.12 on
    also `_write_ready`. The garbage collector would free them, but runs rarely in a program that makes little garbage.
    """
    attributes = getattr(transport, "__dict__", {})
    attributes.pop("_read_ready_cb", None)
    attributes.pop("_write_ready", None)
