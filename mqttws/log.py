"""What both drivers write to the log named `mqttws`. A handler that raises is at fault itself, and stops nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("mqttws")
packets = logging.getLogger("mqttws.packets")


def write(level: int, message: str, arguments: tuple[object, ...], *, exc_info: bool = False) -> None:
    """Write a record."""
    try:
        logger.log(level, message, *arguments, exc_info=exc_info)
    except Exception:
        pass


def report(callback: Callable[..., Any]) -> None:
    """Write the exception that a callback has raised, from where it is caught."""
    write(logging.ERROR, "a callback raised an exception: %r", (callback,), exc_info=True)


def packet_log() -> Callable[[str, str], None] | None:
    """Return what writes a line for each packet, of the client identifier and the line; None where nobody wants it."""
    return _write_packet if packets.isEnabledFor(logging.DEBUG) else None


def _write_packet(client_id: str, line: str) -> None:
    try:
        packets.debug("%s %s", client_id, line)
    except Exception:
        pass
