"""The loggers of both drivers. An exception in a logging handler is ignored: it must not stop the network.

`logging` is imported with the first record. A program that has not imported it has set no level and no handler, so that
its records below a warning go nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from mqttws.client.callbacks import callback_name
from mqttws.hints import Any

# As `logging` numbers them.
_WARNING, _ERROR = 30, 40


def write(level: int, message: str, arguments: tuple[object, ...], *, exc_info: bool = False) -> None:
    """Write a log record; never raise."""
    if level < _WARNING and "logging" not in sys.modules:
        return
    try:
        import logging

        logging.getLogger("mqttws").log(level, message, *arguments, exc_info=exc_info)
    except Exception:
        pass


def report(callback: Callable[..., Any]) -> None:
    """Log the exception of a callback. Call this in the except clause."""
    write(_ERROR, "a callback raised an exception: %s", (callback_name(callback),), exc_info=True)


def packet_log() -> Callable[[str, str], None] | None:
    """Return a function that logs one line for a packet, given the client identifier; None if that log is disabled."""
    if "logging" not in sys.modules:
        return None
    import logging

    packets = logging.getLogger("mqttws.packets")

    def write_packet(client_id: str, line: str) -> None:
        try:
            packets.debug("%s %s", client_id, line)
        except Exception:
            pass

    return write_packet if packets.isEnabledFor(logging.DEBUG) else None
