"""TCP connections of the asyncio client: the addresses of a name are tried in turn, without waiting for each to fail.

The `resolver` looks up names, not the event loop, whose executor belongs to the program.

Spec: RFC 8305 (Happy Eyeballs)
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable

from mqttws.client.endpoints import Endpoints
from mqttws.resolver import Address, look_up
from mqttws.sockets import ATTEMPT_DELAY, is_address, unix_address


async def connect(
    host: str,
    port: int,
    make_protocol: Callable[[], asyncio.Protocol],
    endpoints: Endpoints,
    *,
    resolved: Callable[[float], object],
    unix_socket: str | None = None,
    bind_address: str | None = None,
) -> None:
    """Make a TCP connection.

    Args:
        host: Name or address of the host.
        port: 1 to 65,535.
        make_protocol: Creates the protocol of the connection.
        endpoints: Orders the addresses of a name, and records which one was reached.
        resolved: Called with the time at which a name was looked up, in seconds of `time.monotonic`.
        unix_socket: Path of a Unix socket to connect to instead; None for none.
        bind_address: The address of this machine to connect from; None: the system chooses.

    Raises:
        OSError: The name does not exist, or every address has failed; the error is that of the last one.
    """
    loop = asyncio.get_running_loop()
    local = (bind_address, 0) if bind_address is not None else None
    if unix_socket is not None:
        addresses = [unix_address(unix_socket)]
    elif is_address(host):
        await loop.create_connection(make_protocol, host, port, local_addr=local)
        return
    else:
        addresses = endpoints.sort(await _resolve(host, port))
        resolved(time.monotonic())
    connection, address = await _race(addresses, local)
    endpoints.reached(address)
    try:
        if unix_socket is not None:
            await loop.create_unix_connection(make_protocol, sock=connection)
        else:
            await loop.create_connection(make_protocol, sock=connection)
    except BaseException:
        connection.close()
        raise


async def _resolve(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    resolved: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not resolved.done():
            resolved.set_result(None)

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(note)
        except RuntimeError:  # the loop is closed
            pass

    lookup = look_up(host, port)
    lookup.watch(wake)
    await resolved
    assert lookup.outcome is not None
    if isinstance(lookup.outcome, OSError):
        raise lookup.outcome
    return lookup.outcome


async def _race(addresses: list[Address], local: tuple[str, int] | None) -> tuple[socket.socket, Address]:
    """Connect to addresses concurrently, each starting `ATTEMPT_DELAY` seconds after the one before.

    Returns:
        The first socket that is connected, and its address.
    """
    loop = asyncio.get_running_loop()
    waiting = list(addresses)
    attempts: dict[asyncio.Task[None], tuple[socket.socket, Address]] = {}
    failure: OSError = OSError(errno.EHOSTUNREACH, "the name has no address")
    try:
        while waiting or attempts:
            if waiting:
                entry = waiting.pop(0)
                family, protocol, address = entry
                candidate = None
                try:
                    candidate = socket.socket(family, socket.SOCK_STREAM, protocol)
                    candidate.setblocking(False)
                    if local is not None:
                        candidate.bind(local)
                except OSError as error:
                    failure = error
                    if candidate is not None:
                        candidate.close()
                    continue
                task = loop.create_task(loop.sock_connect(candidate, address))  # type: ignore[arg-type]
                attempts[task] = candidate, entry
            delay = ATTEMPT_DELAY if waiting else None
            done, _ = await asyncio.wait(attempts, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                candidate, entry = attempts.pop(task)
                reason = asyncio.CancelledError() if task.cancelled() else task.exception()
                if reason is None:
                    return candidate, entry
                candidate.close()
                if isinstance(reason, OSError):
                    failure = reason
        raise failure
    finally:
        for task in attempts:
            task.cancel()
        if attempts:  # a socket must not be closed while the loop watches it
            await asyncio.wait(attempts)
        for task, (candidate, _) in attempts.items():
            if not task.cancelled():
                task.exception()  # mark it as retrieved, or asyncio logs it
            candidate.close()
