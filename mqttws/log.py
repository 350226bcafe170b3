"""The loggers of both drivers. An exception in a logging handler is ignored: it must not stop the network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("mqttws")
packets = logging.getLogger("mqttws.packets")


def write(level: int, message: str, arguments: tuple[object, ...], *, exc_info: bool = False) -> None:
    """Write a log record; never raise."""
    try:
        logger.log(level, message, *arguments, exc_info=exc_info)
    except Exception:
        pass


def report(callback: Callable[..., Any]) -> None:
    """Log the exception of a callback. Call this in the except clause."""
    write(logging.ERROR, "a callback raised an exception: %r", (callback,), exc_info=True)


def packet_log() -> Callable[[str, str], None] | None:
    """Return a function that logs one line for a packet, given the client identifier; None if that log is disabled."""
    return _write_packet if packets.isEnabledFor(logging.DEBUG) else None


def _write_packet(client_id: str, line: str) -> None:
    try:
        packets.debug("%s %s", client_id, line)
    except Exception:
        pass
