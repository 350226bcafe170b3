"""A TCP connection for the blocking driver: every address of a name is tried, the next one without waiting long.

Spec: RFC 8305 (Happy Eyeballs)
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Callable
from itertools import zip_longest

#: Seconds before the next address is tried beside the ones under way. Spec: RFC 8305 §5
ATTEMPT_DELAY = 0.25

_Address = tuple[socket.AddressFamily, int, object]


def resolve(host: str, port: int) -> list[_Address]:
    """Resolve a name; IPv6 and IPv4 addresses in turn, each kind in the order of the system.

    Raises:
        OSError: there is no such name, or no answer.

    Spec: RFC 8305 §4
    """
    found = [
        (family, protocol, address)
        for family, _, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ]
    first = [entry for entry in found if entry[0] == found[0][0]]
    others = [entry for entry in found if entry[0] != found[0][0]]
    return [entry for pair in zip_longest(first, others) for entry in pair if entry is not None]


def connect(
    host: str,
    port: int,
    deadline: float,
    clock: Callable[[], float],
    interrupt: socket.socket,
    called_off: Callable[[], bool],
) -> socket.socket:
    """Connect to a name.

    Args:
        host: name or address.
        port: 1 to 65,535.
        deadline: when to give up, by `clock`.
        clock: tells the time.
        interrupt: once this can be read, `called_off` is asked.
        called_off: reads `interrupt`, and tells whether the attempt is over.

    Returns:
        A connected socket that does not block.

    Raises:
        InterruptedError: the attempt was called off.
        TimeoutError: the deadline has passed.
        OSError: every address has failed; the error is that of the last.
    """
    waiting = resolve(host, port)
    pending: set[socket.socket] = set()
    last_error: OSError = TimeoutError(errno.ETIMEDOUT, "no address answered in time")
    next_start = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(interrupt, selectors.EVENT_READ)
        try:
            while waiting or pending:
                now = clock()
                if now >= deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "no address answered in time")
                if waiting and (not pending or now >= next_start):
                    try:
                        started = _start(waiting.pop(0))
                    except OSError as error:
                        last_error = error
                        continue
                    pending.add(started)
                    selector.register(started, selectors.EVENT_WRITE)
                    next_start = now + ATTEMPT_DELAY
                until = min(next_start, deadline) if waiting else deadline
                for key, _ in selector.select(max(0.0, until - now)):
                    if key.fileobj is interrupt:
                        if called_off():
                            raise InterruptedError("the attempt was called off")
                        continue
                    candidate = key.fileobj
                    assert isinstance(candidate, socket.socket)
                    selector.unregister(candidate)
                    pending.discard(candidate)
                    code = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        return candidate
                    candidate.close()
                    last_error = OSError(code, os.strerror(code))
        finally:
            for candidate in pending:
                candidate.close()
    raise last_error


def _start(entry: _Address) -> socket.socket:
    """Begin to connect to one address."""
    family, protocol, address = entry
    candidate = socket.socket(family, socket.SOCK_STREAM, protocol)
    candidate.setblocking(False)
    code = candidate.connect_ex(address)  # type: ignore[arg-type] # an address is whatever getaddrinfo gave
    if code not in (0, errno.EINPROGRESS):
        candidate.close()
        raise OSError(code, os.strerror(code))
    return candidate
